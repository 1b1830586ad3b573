"""The demo's files: results against the official code's, boxes where closed forms say, bad input."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from shared import InputError

import demo
import drawing
from datasets import read_calibration, read_objects
from datasets.objects import parse_objects
from golden_files import DATA, formula_weights, golden
from models import build_model
from options import parse_options

P2 = np.array([(300.0, 0, 320, 0), (0, 300, 96, 0), (0, 0, 1, 0)])
#: 2 m wide, 1 m high, 4 m long, 10 m ahead on the ground 1.5 m below, looking to the right
AHEAD = "Car 0 0 0 0 0 0 0 1.00 2.00 4.00 0.00 1.50 10.00 0.00"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    paddle.seed(3)
    path = tmp_path_factory.mktemp("weights") / "random.pdparams"
    paddle.save(build_model(parse_options([])).state_dict(), str(path))
    return path


def words_of(root: Path, output_dir: Path, *words) -> list[str]:
    where = ["--image_path", root / "training/image_2", "--output_dir", output_dir, "--input_size", 128, 64]
    return [str(word) for word in (*where, *words)]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails(words: list, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        demo.main([str(word) for word in words])
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# ---------------------------------------------------------------------------------------------------------- golden file

if DATA:  # the real frame

    def test_golden_lines(tmp_path):
        """The whole way, from an official checkpoint and KITTI's own folders to the text."""
        import torch

        state = {name: torch.from_numpy(array) for name, array in formula_weights("full").items()}
        torch.save({"epoch": 140, "model_state": state, "optimizer_state": {}}, tmp_path / "official.pth")
        picture = DATA / "kitti_object/training/image_2/000000.png"
        words = ["--image_path", picture, "--weights", tmp_path / "official.pth", "--output_dir", tmp_path / "out"]
        assert demo.main([str(word) for word in (*words, "--threshold", 0)]) == 0
        found = (tmp_path / "out/000000.txt").read_text().splitlines()
        wanted = golden("full")["post/lines_threshold_0"].tolist()
        assert [line.split()[:3] for line in found] == [line.split()[:3] for line in wanted]
        numbers = [[list(map(float, line.split()[3:])) for line in lines] for lines in (found, wanted)]
        np.testing.assert_allclose(*numbers, rtol=0, atol=0.011)


# ------------------------------------------------------------------------------------------------------------- pictures


def coloured(picture: Image.Image, colour: tuple) -> np.ndarray:
    return np.abs(np.asarray(picture).astype(int) - colour).max(-1) < 60


def test_boxes_are_drawn_where_the_projection_says():
    """On black: each edge's middle has the class's colour, at the same place in an enlarged picture."""
    objects = parse_objects([AHEAD], "label")
    x, y, z = (-2, 2), (0.5, 1.5), (9, 11)
    points = [(0, y[0], z[0]), (0, y[1], z[0]), (0, y[0], z[1]), (0, y[1], z[1])]  # middles of the long edges
    points += [(a, b, 10) for a in x for b in y] + [(2, 1, 10)]  # of the side ones; the front's cross
    for width, height in ((640, 192), (1280, 384)):
        enlarged = 1280 // width
        scaled = np.diag([width / 640, height / 192, 1]) @ P2
        drawn = drawing.draw_boxes(Image.new("RGB", (width, height)), objects, scaled)
        assert drawn.size == (1280, 384)
        on = coloured(drawn, drawing.COLOURS["Car"])
        for point in points:
            u, v = (scaled @ [*point, 1])[:2] / point[2] * enlarged + (enlarged - 1) / 2
            assert on[round(v) - 1 : round(v) + 2, round(u) - 1 : round(u) + 2].any(), point
        u, v = (scaled @ [-2, 1, 10, 1])[:2] / 10 * enlarged
        assert not on[round(v) - 3 : round(v) + 4, round(u) - 3 : round(u) + 4].any()  # the rear has no cross
        rows, columns = np.nonzero(on)
        below = rows > 2 * 96  # the text stands above
        assert columns[below].min() == pytest.approx(2 * (320 - 300 * 2 / 9), abs=4)
        assert rows.max() == pytest.approx(2 * (96 + 300 * 1.5 / 9), abs=4)


@pytest.mark.parametrize(("size", "drawn"), [((1, 300), (13 + 2000, 3900 + 14)), ((300, 1), (1200 + 360, 360 + 20))])
def test_a_thin_picture_is_not_drawn_at_the_size_of_the_memory(size, drawn):
    nothing = parse_objects([], Path("no.txt"))
    found = drawing.draw_results(Image.new("RGB", size), np.eye(3, 4), [("results", nothing)])
    assert found.size == drawn


def test_segments_through_the_camera_are_cut():
    segments = np.array([[(0, 0, -5.0), (0, 0, -1)], [(1, 1, -1), (1, 1, 3)], [(1, 1, 2), (2, 1, 4)]])
    pixels, kept = drawing.project_segments(segments, P2)
    assert kept.tolist() == [1, 2]
    np.testing.assert_allclose(pixels[0, 0], [320 + 300 / drawing.NEAR, 96 + 300 / drawing.NEAR])
    np.testing.assert_allclose(pixels[1], [(470, 246), (470, 171)])


def test_view_from_above_by_hand():
    """The outline is filled at its place, and its tip is ahead of the front."""
    side, far = 600, 20.0
    view = drawing.view_from_above(parse_objects([AHEAD], "label"), side, far)
    metre = (side - 1.5 * (side // 12)) / far

    def at(x: float, z: float) -> np.ndarray:
        return np.asarray(view)[round(side - side // 12 - z * metre), round(side / 2 + x * metre)].astype(int)

    fill = np.array([(255 + 2 * c) // 3 for c in drawing.COLOURS["Car"]])
    for inside in ((0, 10), (-1.8, 9.2), (1.8, 10.8)):
        assert np.abs(at(*inside) - fill).max() <= 2
    for outside in ((-2.2, 9.7), (0.3, 8.8), (0.3, 11.2), (4.1, 10)):
        assert at(*outside).min() >= min(drawing.GRID)
    tip = [at(2 + 0.35 * 4 - 0.03 * k, 10) for k in range(-3, 4)]
    assert min(pixel.max() for pixel in tip) < 150  # the lines meet there


def test_range():
    def objects(*depths):
        return parse_objects([AHEAD.replace("10.00", f"{z:.2f}") for z in depths], "label")

    far = [drawing.range_of([objects(*depths)]) for depths in ((), (4,), (18.5,), (33, 60), (200,))]
    assert far == [20, 20, 30, 70, 80]


# ---------------------------------------------------------------------------------------------------------------- files


def test_network_and_labels(mini, weights, tmp_path):
    words = words_of(
        mini, tmp_path / "out", "--weights", weights, "--threshold", 0, "--label", mini / "training/label_2"
    )
    assert demo.main(words) == 0
    names = [f"{number:06d}{end}" for number in range(7) for end in (".txt", "_3d.png")]
    assert names_in(tmp_path / "out") == names
    for number in range(7):
        objects = read_objects(tmp_path / f"out/{number:06d}.txt")
        assert (objects.sizes >= 0).all() and set(objects.types) <= set(drawing.COLOURS)
        with Image.open(tmp_path / f"out/{number:06d}_3d.png") as drawn:
            assert drawn.size == (1280 + 384, 2 * (384 + 21))
    (tmp_path / "out/other.PNG").write_bytes(b"")  # the only picture: the demo's own are not read again
    where = ["--image_path", tmp_path / "out", "--output_dir", tmp_path / "again"]
    fails([*where, "--results", mini / "training/label_2"], "other.PNG: cannot be read as a picture")


def test_results_are_drawn_without_a_network(mini, tmp_path):
    """Labels given as results: the picture is what `draw_results` draws."""
    assert demo.main(words_of(mini, tmp_path, "--results", mini / "training/label_2")) == 0
    assert names_in(tmp_path) == [f"{number:06d}_3d.png" for number in range(7)]
    for number in range(0, 7, 3):
        objects = read_objects(mini / f"training/label_2/{number:06d}.txt")
        camera = read_calibration(mini / f"training/calib/{number:06d}.txt")
        with Image.open(mini / f"training/image_2/{number:06d}.png") as picture:
            expected = drawing.draw_results(picture.convert("RGB"), camera.P2, [("results", objects)])
        with Image.open(tmp_path / f"{number:06d}_3d.png") as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_cameras(mini, tmp_path):
    path = mini / "training/image_2/000001.png"
    beside = read_calibration(mini / "training/calib/000001.txt").P2
    other = tmp_path / "camera.txt"
    other.write_text("P2: " + " ".join(map(str, P2.ravel())) + "\n")

    def camera(*words: str) -> np.ndarray:
        return demo.camera_of(demo.parse(["--image_path", str(path), "--results", "x", *words]), path, (640, 192)).P2

    np.testing.assert_array_equal(camera(), beside)
    np.testing.assert_array_equal(camera("--calib", str(mini / "training/calib")), beside)
    np.testing.assert_array_equal(camera("--calib", str(other)), P2.astype(np.float32))
    np.testing.assert_array_equal(camera("--fx", "300", "--cx", "320", "--cy", "96"), P2.astype(np.float32))
    assert camera("--fx", "300", "--fy", "200")[:2, :3].tolist() == [[300, 0, 319.5], [0, 200, 95.5]]


def test_one_bad_picture_among_others(mini, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.jpg", "c.jpeg"):
        with Image.open(mini / "training/image_2/000000.png") as picture:
            picture.save(folder / name)
    (folder / "b.jpg").write_bytes(b"no")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(AHEAD + "\n")
    words = ["--image_path", folder, "--results", tmp_path / "labels", "--fx", 300, "--output_dir", tmp_path / "out"]
    assert demo.main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert names_in(tmp_path / "out") == ["a_3d.png"]
    assert "b.jpg: cannot be read as a picture" in captured.err and "c.txt: no such file" in captured.err
    assert "1 of 3 pictures done" in captured.out


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_words(mini, tmp_path):
    picture, results = mini / "training/image_2/000000.png", mini / "training/label_2"
    there = ["--image_path", picture, "--output_dir", tmp_path]
    fails(["--image_path", picture], "--weights is missing")
    fails(["--image_path", picture, "--weights", tmp_path / "none.pdparams"], "no such file")
    fails(["--results", results], "--image_path is missing")
    fails(["--image_path", tmp_path / "none", "--results", results], "no such file or folder")
    fails(["--image_path", tmp_path, "--results", results], "no pictures in it")
    fails([*there, "--results", results, "--weights", results], "give one of them")
    fails([*there, "--results", tmp_path], "000000.txt", "no such file")
    fails([*there, "--results", results, "--cx", 3], "--cx", "goes with --fx")
    fails([*there, "--results", results, "--fx", 3, "--calib", mini], "--fx", "without --calib")
    fails([*there, "--results", results, "--calib", tmp_path], "000000.txt", "no such file")
    fails([*there, "--results", results, "--label", tmp_path], "000000.txt", "no such file")
    lonely = tmp_path / "lonely.png"
    Image.new("RGB", (64, 32)).save(lonely)
    fails(["--image_path", lonely, "--results", results / "000000.txt"], "its camera is not known", "--fx")
    assert names_in(tmp_path) == ["lonely.png"]
