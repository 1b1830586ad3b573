"""The demo's files: disparities and colours against the official code's, laser points on the picture, bad input."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.tests.scripts import call_script

import demo
from convert import load_network
from data_sets import CALIBRATION, SIZE, drawn_image, official_folder, picture_test, refused, write_calibration
from engine import dygraph_predictor
from golden_files import DATA, close, files_of, golden
from options import parse_options

folders = pytest.mark.parametrize("folder", files_of("demo"))
full_folders = pytest.mark.parametrize("folder", [name for name in files_of("demo") if name != "committed"])
LEVELS = 8  # of a JPEG's decoded grey levels


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """(weights folder, their predictor)."""
    folder = official_folder(tmp_path_factory.mktemp("official") / "weights", stereo=True)
    return folder, dygraph_predictor(load_network(parse_options(["--weights", str(folder)])))


def drawn(size: tuple[int, int] = (200, 90), number: int = 0) -> Image.Image:
    return drawn_image(*size, number)


def words_of(weights: Path, image_path: Path, output_dir: Path | None, *words: str) -> list[str]:
    where = ["--weights", str(weights), "--image_path", str(image_path)]
    return [*where, *(["--output_dir", str(output_dir)] if output_dir else []), *map(str, words)]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails(words: list[str], *parts: str) -> None:
    refused(demo.main, words, *parts)


# ------------------------------------------------------------------------------------------------------ golden figures


def check_colours(written: Image.Image, file) -> None:
    assert list(written.size) == file["post/colormap_shape"].tolist()
    decoded = np.asarray(written).transpose(2, 0, 1).astype(int)
    assert np.abs(decoded[:, ::16, ::16] - file["post/colormap_jpeg"].astype(int)).max() <= LEVELS
    mean, spread, largest = file["post/colormap_jpeg/stats"]
    assert abs(decoded.mean() - mean) < 0.1 and abs(decoded.std() - spread) < 0.1 and abs(decoded.max() - largest) < 2


@folders
def test_golden_colours(folder):
    """From the official run's own disparity."""
    file = golden(folder, "demo")
    raw = (file["post/disp"] - np.float32(0.01)) / np.float32(9.99)
    stream = io.BytesIO()
    demo.colour_map(raw, tuple(file["post/colormap_shape"].tolist())).save(stream, "JPEG")
    check_colours(Image.open(stream), file)


@picture_test
@full_folders
def test_golden_files(folder, tmp_path):
    """The whole way, from the picture and the weights."""
    file = golden(folder, "demo")
    with Image.open(DATA / str(file["meta/source"])) as source:
        source.convert("RGB").save(tmp_path / "picture.png")
    weights = official_folder(tmp_path / "weights", file, stereo=True)
    for words in ([], ["--pred_metric_depth"]):
        assert demo.main(words_of(weights, tmp_path / "picture.png", tmp_path / "out", *words)) == 0
    assert names_in(tmp_path / "out") == sorted([*file["post/files"].tolist(), "picture_side_by_side.png"])
    for kind in ("disp", "depth"):
        array = np.load(tmp_path / f"out/picture_{kind}.npy")
        assert array.dtype == np.float32
        close(array, file[f"post/{kind}"], 1e-4, kind)
    with Image.open(tmp_path / "out/picture_disp.jpeg") as written:
        check_colours(written, file)


# --------------------------------------------------------------------------------------------------------- what it does


def test_files_of_pictures_of_any_size(network, tmp_path):
    weights, predict = network
    images = {f"street{number}": drawn(size) for number, size in enumerate([(200, 90), (90, 200), (33, 33), (1, 1)])}
    (tmp_path / "in").mkdir()
    for name, image in images.items():
        image.save(tmp_path / f"in/{name}.png")
    assert demo.main(words_of(weights, tmp_path / "in", tmp_path / "out", "--ext", "png")) == 0
    endings = ("disp.jpeg", "disp.npy", "side_by_side.png")
    assert names_in(tmp_path / "out") == sorted(f"{name}_{ending}" for name in images for ending in endings)
    for name, image in images.items():
        small = np.asarray(image.resize(SIZE[::-1], Image.Resampling.LANCZOS), np.float32) / 255
        raw = predict(small.transpose(2, 0, 1)[None])
        disparity = np.load(tmp_path / f"out/{name}_disp.npy")
        assert disparity.shape == (1, 1, *SIZE) and disparity.dtype == np.float32
        close(disparity, 0.01 + 9.99 * raw, 1e-6)
        colours = demo.colour_map(raw, image.size)
        both = np.asarray(Image.open(tmp_path / f"out/{name}_side_by_side.png"))
        width, height = image.size
        np.testing.assert_array_equal(both[:height, :width], np.asarray(image))
        np.testing.assert_array_equal(both[-height:, -width:], np.asarray(colours))
        assert (both.shape[0] > height) == (width > height) and (both.shape[1] > width) == (width <= height)


def test_metric_depth(network, tmp_path, capsys):
    weights, _ = network
    drawn().save(tmp_path / "street.png")
    demo.main(words_of(weights, tmp_path / "street.png", tmp_path / "a"))
    demo.main(words_of(weights, tmp_path / "street.png", tmp_path / "b", "--pred_metric_depth"))
    assert set(names_in(tmp_path / "b")) - set(names_in(tmp_path / "a")) == {"street_depth.npy"}
    disparity, depth = np.load(tmp_path / "a/street_disp.npy"), np.load(tmp_path / "b/street_depth.npy")
    close(depth * disparity, np.full_like(depth, 5.4), 1e-6)
    assert "note" not in capsys.readouterr().out
    mono = official_folder(tmp_path / "mono")
    demo.main(words_of(mono, tmp_path / "street.png", tmp_path / "b", "--pred_metric_depth"))
    assert "without stereo pairs" in capsys.readouterr().out


def test_colours_follow_the_disparity():
    raw = np.linspace(0.1, 0.5, 12, dtype=np.float32).reshape(1, 1, 1, 12)
    colours = np.asarray(demo.colour_map(raw, (12, 1)))[0]
    assert colours[0].tolist() == [0, 0, 3] and colours[-1].tolist() == [251, 252, 191]  # magma's ends
    assert (np.diff(colours.sum(1, dtype=int)) >= 0).all()
    flat = np.asarray(demo.colour_map(np.full((1, 1, 2, 3), 0.3, np.float32), (6, 4)))
    assert flat.shape == (4, 6, 3) and (flat == flat[0, 0]).all()


def test_orientation_of_exif_is_left_alone(network, tmp_path):
    """The reference does not rotate images, and a rotated one would not fit its camera."""
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn().save(tmp_path / "street.jpg", exif=exif)
    demo.main(words_of(network[0], tmp_path / "street.jpg", tmp_path / "out"))
    assert Image.open(tmp_path / "out/street_disp.jpeg").size == (200, 90)


def test_folders(network, tmp_path):
    """Pictures of the wanted ending, beside which the files go; a second run does not read the first's."""
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("b.jpg", "a.JPG", "c.png", ".hidden.jpg", "sub/d.jpg", "old_disp.jpg"):
        drawn(number=len(name)).save(tmp_path / "in" / name)
    for ext, found in (("jpg", ["a", "b"]), ("png", ["c"]), ("jpg", ["a", "b"])):
        before = set(names_in(tmp_path / "in"))
        assert demo.main(words_of(network[0], tmp_path / "in", None, "--ext", ext)) == 0
        endings = ("disp.jpeg", "disp.npy", "side_by_side.png")
        made = {f"{name}_{ending}" for name in found for ending in endings}
        assert set(names_in(tmp_path / "in")) == before | made
    fails(words_of(network[0], tmp_path / "in/sub", tmp_path / "out", "--ext", "png"), "no pictures in it (.png)")
    fails(words_of(network[0], tmp_path / "in", tmp_path / "out", "--ext", "jpeg"), "no pictures in it (.jpeg)")


# ----------------------------------------------------------------------------------------------------------- bad input


def test_bad_images_of_a_folder(network, tmp_path, capsys):
    """One line each, the others processed, exit status 2; alone, one is an error and nothing is written."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/text.jpg").write_bytes(b"no picture")
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(tmp_path / "in/deep.jpg", "PNG")
    drawn().save(tmp_path / "in/a.jpg")
    drawn().save(tmp_path / "in/z.jpg")
    fails(words_of(network[0], tmp_path / "in/text.jpg", tmp_path / "out"), "text.jpg: cannot be read")
    assert not (tmp_path / "out").exists()
    assert demo.main(words_of(network[0], tmp_path / "in", tmp_path / "out")) == 2
    told = capsys.readouterr()
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "deep.jpg" in errors[0] and "text.jpg" in errors[1]
    assert "2 of 4 pictures done" in told.out and len(names_in(tmp_path / "out")) == 6


def test_bad_options(network, tmp_path):
    weights, _ = network
    drawn().save(tmp_path / "a.png")
    fails(["--weights", str(weights)], "--image_path is missing")
    fails(["--image_path", str(tmp_path / "a.png")], "--weights is missing")
    fails(words_of(weights, tmp_path / "none.png", tmp_path / "out"), "none.png: no such file")
    fails(words_of(tmp_path / "none", tmp_path / "a.png", tmp_path / "out"), "no such file or folder")
    fails(words_of(weights, tmp_path / "a.png", tmp_path / "a.png"), "not written")
    fails(words_of(weights, tmp_path / "a.png", tmp_path / "out", "--velodyne", "x.bin"), "belong together")


def test_exit_status(tmp_path):
    """As a script: one line, status 2."""
    done = call_script(Path(demo.__file__), "--image_path", tmp_path / "none.png")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: ") and "--weights" in done.stderr


# ---------------------------------------------------------------------------------------------------------- laser scans


OBJECT = "P2: 100 0 50 0 0 100 20 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n\n"


def at_pixels(*points: tuple[float, float, float]) -> np.ndarray:
    """Scanner points [n, 4] that OBJECT's camera sees at pixel (u, v) with depth d."""
    u, v, d = np.array(points, float).T
    return np.stack([d, -(u + 1 - 50) / 100 * d, -(v + 1 - 20) / 100 * d, d], 1).astype("<f4")


def test_points_are_projected_and_sorted(tmp_path):
    (tmp_path / "calib.txt").write_text(OBJECT)
    projection = demo.read_projection(str(tmp_path / "calib.txt"))
    points = at_pixels(
        (3, 4, 10), (99, 39, 70), (0, 0, 30), (-1, 5, 10), (100, 5, 10), (5, -1, 10), (5, 40, 10), (7, 7, -5)
    )
    places, depth = demo.project_scan(points, projection, (100, 40))
    assert places.tolist() == [[99, 39], [0, 0], [3, 4]]
    close(depth, np.array([70, 30, 10]), 1e-6)


def test_scan_is_drawn(tmp_path):
    image = Image.new("RGB", (400, 200), (9, 9, 9))
    places, depth = np.array([[100, 50], [300, 150], [301, 150]]), np.array([90.0, 60, 5])
    canvas = np.asarray(demo.draw_scan(image, places, depth))
    assert canvas.shape[1] == 400 and canvas.shape[0] > 200
    top = canvas[:200]
    far, near = top[50, 100], top[150, 301]
    assert far[2] > far[0] and near[0] > near[2]  # blue is far, red near
    assert (top[150, 300] == near).all()  # the near point covers the far one
    painted = (top != 9).any(2)
    assert painted[48:53, 98:103].any() and painted.sum() < 40
    black = demo.draw_scan(image, places[:0], depth[:0])
    assert (np.asarray(black)[:200] == 9).all()  # no point in the picture
    bar = canvas[200:][12]
    assert bar[60, 0] > bar[60, 2] and bar[-60, 2] > bar[-60, 0]  # the same colours, near at the left


def test_scan_beside_a_picture(network, tmp_path):
    drawn((100, 40)).save(tmp_path / "street.png")
    (tmp_path / "calib.txt").write_text(OBJECT)
    at_pixels((30, 20, 5), (70, 30, 50)).tofile(tmp_path / "scan.bin")
    scan = ["--velodyne", tmp_path / "scan.bin", "--calib", tmp_path / "calib.txt"]
    demo.main(words_of(network[0], tmp_path / "street.png", tmp_path / "out", *scan))
    assert "street_velodyne.png" in names_in(tmp_path / "out")
    drawn((100, 40)).save(tmp_path / "other.png")
    words = words_of(network[0], tmp_path, tmp_path / "out", "--ext", "png", *scan)
    fails(words, "one image")


def test_both_calibrations_agree(tmp_path):
    """A KITTI raw folder and an object file of the same numbers."""
    write_calibration(tmp_path)
    lines = [line for name in CALIBRATION for line in (tmp_path / name).read_text().splitlines() if line.strip()]
    values = dict(line.split(": ", 1) for line in lines)
    rotation, shift = np.array(values["R"].split(), float).reshape(3, 3), np.array(values["T"].split(), float)
    to_camera = " ".join(map(repr, np.column_stack([rotation, shift]).ravel().tolist()))
    (tmp_path / "object.txt").write_text(
        f"P2: {values['P_rect_02']}\nR0_rect: {values['R_rect_00']}\nTr_velo_to_cam: {to_camera}\n"
    )
    folder, single = (demo.read_projection(str(path)) for path in (tmp_path, tmp_path / "object.txt"))
    np.testing.assert_allclose(single, folder, rtol=1e-12)


@pytest.mark.parametrize("text", ["", "P2: 1 2\n", OBJECT.replace("R0_rect", "other"), OBJECT.replace("50", "x")])
def test_bad_calibration(network, tmp_path, text):
    drawn().save(tmp_path / "street.png")
    (tmp_path / "calib.txt").write_text(text)
    at_pixels((30, 20, 5)).tofile(tmp_path / "scan.bin")
    scan = ["--velodyne", tmp_path / "scan.bin", "--calib", tmp_path / "calib.txt"]
    fails(words_of(network[0], tmp_path / "street.png", tmp_path / "out", *scan), "calib.txt: ")


@picture_test
def test_real_scan(network, tmp_path):
    """A KITTI object frame: most of its points lie in the picture's lower half, near ones lower than far ones."""
    root = DATA / "kitti_object/training"
    scan = ["--velodyne", root / "velodyne/000000.bin", "--calib", root / "calib/000000.txt"]
    demo.main(words_of(network[0], root / "image_2/000000.png", tmp_path, *scan))
    canvas = np.asarray(Image.open(tmp_path / "000000_velodyne.png"))
    picture = np.asarray(Image.open(root / "image_2/000000.png").convert("RGB"))
    painted = (canvas[: len(picture)] != picture).any(2)
    half = len(picture) // 2
    assert painted[half:].mean() > 0.1 > painted[: half // 2].mean()
