"""Pictures that people bring: read, found, named and worked through."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from shared import InputError
from shared.pictures import find_pictures, output_stems, read_picture, work_through
from shared.tests.fuzz import fuzz_reader

RED = (200, 30, 40)


def coloured(mode: str) -> Image.Image:
    image = Image.new("RGB", (32, 24), RED)
    if mode == "RGBA":
        return Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 120)))
    return image.quantize(8) if mode == "P" else image.convert(mode)


def noise(path: Path, size: tuple[int, int] = (60, 60), seed: int = 0, **settings) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path, **settings)
    return path


# -------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("mode", "end"),
    [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("CMYK", "tif"), ("RGB", "bmp"), ("RGB", "webp"), ("RGB", "png"),
     ("L", "png"), ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("1", "png")],
)  # fmt: skip
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, end):
    path = tmp_path / f"picture.{end}"
    coloured(mode).save(path, quality=100)
    image = read_picture(path)
    assert image.mode == "RGB" and image.size == (32, 24)
    pixels = np.asarray(image).astype(int).reshape(-1, 3)
    if mode == "1":
        assert set(np.unique(pixels).tolist()) == {0, 255}
        return
    grey = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
    assert np.abs(pixels - ((grey,) * 3 if mode in ("L", "LA") else RED)).max() <= 4


def test_a_cmyk_jpeg_of_adobe_is_not_inverted(tmp_path):
    """Such files hold inverted inks, which their Adobe marker says; Pillow writes and reads them so."""
    coloured("CMYK").save(tmp_path / "ink.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "ink.jpg").read_bytes()
    assert np.abs(np.asarray(read_picture(tmp_path / "ink.jpg")).astype(int) - RED).max() <= 4


def test_the_content_says_the_format_and_a_profile_changes_nothing(tmp_path):
    path = noise(tmp_path / "png-named.jpg", format="PNG", icc_profile=ImageCms.ImageCmsProfile(
        ImageCms.createProfile("sRGB")).tobytes())  # fmt: skip
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(read_picture(path)), np.asarray(image))


@pytest.mark.parametrize("end", ["png", "jpg"])
def test_orientation_of_exif(tmp_path, end):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    path = noise(tmp_path / f"turned.{end}", (80, 48), exif=exif)
    asked, as_stored = read_picture(path, upright=True), read_picture(path)
    assert asked.size == (48, 80) and as_stored.size == (80, 48)
    np.testing.assert_array_equal(np.asarray(asked), np.asarray(as_stored.transpose(Image.Transpose.ROTATE_270)))


def test_more_bits_than_rgb_holds(tmp_path):
    for mode in ("uint16", "int32", "float32"):
        Image.fromarray(np.full((8, 8), 40000, mode)).save(tmp_path / "deep.tif")
        with pytest.raises(InputError, match="deep.tif: has more than 8 bits a sample"):
            read_picture(tmp_path / "deep.tif")


def test_another_way_to_decode(tmp_path):
    path = noise(tmp_path / "a.png")
    assert read_picture(path, lambda image: image.convert("L")).mode == "L"

    def refuse(image):
        raise InputError("as the folder says")

    with pytest.raises(InputError, match="^as the folder says$"):
        read_picture(path, refuse)


@pytest.mark.parametrize("how", ["missing", "empty", "text", "truncated", "folder"])
@pytest.mark.parametrize("end", ["jpg", "png"])
def test_pictures_that_cannot_be_read(tmp_path, how, end):
    path = noise(tmp_path / f"new\nline.{end}")
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes({"empty": b"", "text": b"no picture", "truncated": content[: len(content) // 2]}[how])
    says = {"empty": "an empty file", "text": "not a picture", "missing": "No such file", "folder": "directory"}
    with pytest.raises(InputError, match=f"cannot be read as a picture .*{says.get(how, '')}.*; replace") as caught:
        read_picture(path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["jpg", "png", "bmp", "tif"])
def test_damaged_pictures(tmp_path, end):
    path = noise(tmp_path / f"a.{end}", (24, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fuzz_reader(lambda path: read_picture(path).load(), path, path.read_bytes(), 300) > 20


# --------------------------------------------------------------------------------------------------------------- demos


def test_folders_are_searched(tmp_path):
    root = tmp_path / "in"
    for name in "b/one.png a/deep/two.jpg three.PNG .hidden.png notes.txt three_boxes.png out/x.png".split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()

    def found(**settings):
        paths = find_pictures(root, root / "out", own=("_boxes.png",), **settings)
        return [path.relative_to(root).as_posix() for path in paths]

    assert found() == ["a/deep/two.jpg", "b/one.png", "three.PNG"]  # none of those that a first run has written
    assert found(recursive=False) == ["three.PNG"] and found(endings=[".jpg"]) == ["a/deep/two.jpg"]
    assert find_pictures(root / "notes.txt") == [root / "notes.txt"]  # a file that is named is taken as it is
    for path, output, says in (
        (root, root, "folder of the pictures themselves"),
        (tmp_path / "none", None, "no such file or folder"),
        (root / "b", root / "b" / ".", "folder of the pictures themselves"),
    ):
        with pytest.raises(InputError, match=says):
            find_pictures(path, output)
    with pytest.raises(InputError, match=r"no pictures in it \(.gif\)"):
        find_pictures(root, endings=[".gif"])


def test_links_are_followed_and_a_circle_ends(tmp_path):
    root = tmp_path / "in"
    noise(root / "real/one.png"), noise(tmp_path / "elsewhere/two.png")
    (root / "real/circle").symlink_to(root)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    found = find_pictures(root, tmp_path / "out")
    assert [path.relative_to(root).as_posix() for path in found] == ["link/two.png", "real/one.png"]


def test_names_of_what_is_written(tmp_path):
    """In the picture's sub-folder; with the suffix for all where two would have the same name."""
    pictures, out = [tmp_path / "a/one.png", tmp_path / "two.jpg"], Path("out")
    assert output_stems(pictures, tmp_path, out) == [out / "a/one", out / "two"]
    pictures.append(tmp_path / "two.JPG")
    assert output_stems(pictures, tmp_path, out) == [out / "a/one.png", out / "two.jpg", out / "two.JPG"]
    assert output_stems(pictures[:1], pictures[0], out) == [out / "one"]


def work(picture: Path, stem: Path) -> str:
    read_picture(picture)
    stem.parent.mkdir(exist_ok=True)
    stem.touch()
    return f"{picture.name} done"


def test_one_bad_picture_among_others(tmp_path, capsys):
    pictures = [tmp_path / "a.png", noise(tmp_path / "b.png"), tmp_path / "c.png"]
    (tmp_path / "a.png").write_text("no picture")
    out = tmp_path / "out"
    stems = output_stems(pictures, tmp_path, out)
    assert work_through(pictures, stems, out, work) == 2
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "a.png" in errors[0] and "c.png" in errors[1]
    assert said.out.splitlines() == ["b.png done", f"1 of 3 pictures done; files in {out}"]
    assert [path.name for path in out.iterdir()] == ["b"]
    assert work_through(pictures[1:2], stems[1:2], out, work) == 0


def test_the_only_picture_is_bad(tmp_path):
    with pytest.raises(InputError, match="none.png: cannot be read"):
        work_through([tmp_path / "none.png"], [tmp_path / "out/none"], tmp_path / "out", work)
    assert not (tmp_path / "out").exists()
