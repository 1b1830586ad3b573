"""Pictures and annotation files of every kind, good and bad: read right, or refused with one line."""

import shutil

import numpy as np
import pytest
from PIL import Image

from shared import InputError

from data_sets import annotation, edit, lay_out, small_options, small_set
from datasets import build_dataset, load_image

RED, SOFT = (200, 40, 90), 4  # a colour, and how far a JPEG may be off


def coloured(mode: str) -> Image.Image:
    """A plain picture of RED as `mode` stores it (its grey for "L")."""
    image = Image.new("RGB", (32, 24), RED)
    if mode == "P":
        return image.quantize(8)
    if mode == "RGBA":
        return Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 120)))
    return image.convert(mode)


@pytest.mark.parametrize("mode, end", [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("RGB", "png"), ("L", "png"),
                                       ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("1", "png")])  # fmt: skip
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, end):
    coloured(mode).save(tmp_path / f"picture.{end}", quality=100)
    image = load_image(tmp_path / f"picture.{end}")
    assert image.mode == "RGB" and image.size == (32, 24)
    pixels = np.asarray(image).astype(int).reshape(-1, 3)
    if mode == "1":
        assert set(np.unique(pixels).tolist()) == {0, 255}
        return
    grey = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
    expected = (grey,) * 3 if mode in ("L", "LA") else RED
    assert np.abs(pixels - expected).max() <= SOFT


def test_a_cmyk_jpeg_of_adobe_is_not_inverted(tmp_path):
    """Such files hold inverted inks, which their Adobe marker says; Pillow writes and reads them so."""
    coloured("CMYK").save(tmp_path / "ink.jpg", quality=100)
    content = (tmp_path / "ink.jpg").read_bytes()
    assert b"Adobe" in content
    assert np.abs(np.asarray(load_image(tmp_path / "ink.jpg")).astype(int) - RED).max() <= SOFT


def test_more_bits_than_rgb_holds(tmp_path):
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="deep.png: has more than 8 bits a sample"):
        load_image(tmp_path / "deep.png")


@pytest.mark.parametrize("how", ["missing", "empty", "text", "truncated", "folder"])
@pytest.mark.parametrize("end", ["jpg", "png"])
def test_pictures_that_cannot_be_read(tmp_path, how, end):
    path = tmp_path / f"picture.{end}"
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes({"empty": b"", "text": b"no picture", "truncated": content[: len(content) // 2]}[how])
    with pytest.raises(InputError, match="cannot be read as a picture") as caught:
        load_image(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def drop(key: str):
    return lambda content: content.pop(key)


def put(key: str, value):
    return lambda content: content.update({key: value})


WRONG = {
    "no categories": (drop("categories"), "has no list of `categories`"),
    "empty categories": (put("categories", []), "its list of `categories` is empty"),
    "no images": (drop("images"), "has no list of `images`"),
    "no annotations": (drop("annotations"), "has no list of `annotations`"),
    "categories a dictionary": (put("categories", {"1": "one"}), "has no list of `categories`"),
    "category without id": (edit("categories", 1, id=None), "category number 1 .* has no whole number as `id`"),
    "category id a word": (edit("categories", 0, id="1"), "category number 0 .* has no whole number as `id`"),
    "category twice": (edit("categories", 1, id=1), "category id 1 is there twice"),
    "category id too large": (edit("categories", 0, id=6), "category id 6 does not fit 6 classes"),
    "image twice": (edit("images", 2, id=90), "image id 90 is there twice"),
    "image without name": (edit("images", 2, file_name=None), "image 88 has no `file_name`"),
    "image without width": (edit("images", 2, width=None), "image 88 has no positive whole number as `width`"),
    "annotation twice": (edit("annotations", 2, id=1), "annotation id 1 is there twice"),
    "annotation id 0": (edit("annotations", 2, id=0), "has an annotation id 0, which pycocotools takes for no annot"),
    "id beyond float64": (edit("images", 2, id=2**60), "image number 2 .* has no whole number as `id`"),
    "a number without end": (edit("annotations", 0, bbox=[1, 2, 10**400, 3]), "annotation 1 has the bbox"),
    "unknown image": (edit("annotations", 2, image_id=9), "annotation 3 has image_id 9, which is not among the `im"),
    "unknown category": (edit("annotations", 2, category_id=2), "annotation 3 has category_id 2, which is not among"),
    "no category id": (edit("annotations", 2, category_id=None), "annotation 3 has no whole number as `category_id`"),
    "no box": (edit("annotations", 0, bbox=None), "annotation 1 has the bbox None, wanted are four finite"),
    "box of three": (edit("annotations", 0, bbox=[1, 2, 3]), r"annotation 1 has the bbox \[1, 2, 3\], wanted"),
    "box of NaN": (edit("annotations", 0, bbox=[1, 2, float("nan"), 3]), r"annotation 1 has the bbox \[1, 2, nan"),
    "box of infinity": (edit("annotations", 0, bbox=[1, 2, float("inf"), 3]), "annotation 1 has the bbox"),
    "box of words": (edit("annotations", 0, bbox=["1", 2, 3, 4]), "annotation 1 has the bbox"),
    "no area": (edit("annotations", 0, area=None), "annotation 1 has the area None"),
    "iscrowd a word": (edit("annotations", 0, iscrowd="yes"), "annotation 1 has the iscrowd yes"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_annotations(tmp_path, name):
    change, said = WRONG[name]
    root = lay_out(tmp_path, change=change)
    with pytest.raises(InputError, match=said) as caught:
        small_set(root)
    line = str(caught.value)
    assert line.startswith(str(root / "annotations/instances_train2017.json")) and "\n" not in line


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"3", b"[" * 100000])
def test_files_that_are_no_annotations(tmp_path, content):
    root = lay_out(tmp_path)
    (root / "annotations/instances_train2017.json").write_bytes(content)
    with pytest.raises(InputError, match="instances_train2017.json: (not JSON|holds a)") as caught:
        small_set(root)
    assert "\n" not in str(caught.value)


def test_boxes_that_no_picture_shows_are_left_out_and_said_once(tmp_path, capsys):
    def change(content: dict) -> None:
        image = content["images"][1]
        for number, box in enumerate([[60, 1, 5, 5], [1, 1, 0, 5], [1, 50, 9, 9], [1, 1, 9, 9], [0, 0, 9, 0]]):
            content["annotations"].append(annotation(box, id=100 + number, image_id=image["id"]))
        content["annotations"].append(annotation([0, 0, 0, 0], id=200, image_id=image["id"], iscrowd=1))

    root = lay_out(tmp_path, change=change)
    dataset = small_set(root, augment=False)
    for _ in range(2):
        target = dataset[dataset.ids.index(89)][1]
        assert len(target["boxes"]) == 2  # the data set's own one, and the good one of these
    said = capsys.readouterr().err
    assert dataset.left_out == 4 and said.count("\n") == 1
    assert "4 boxes lie outside the picture or without size, left out of training (annotation 100, 101, 102" in said


def test_a_picture_of_another_size_than_its_annotations_say(tmp_path):
    dataset = small_set(lay_out(tmp_path, change=edit("images", 0, width=49)))
    with pytest.raises(InputError, match="000.png: is 50x44, .*instances_train2017.json says 49x44"):
        dataset[6]


@pytest.mark.parametrize(
    "missing, said",
    [
        ("train2017", "has no folder train2017/"),
        ("annotations", "has no file annotations/instances_train2017.json"),
        ("", "no such folder"),
        (None, "--data_path is missing: it must hold train2017/ .*mini.py draws"),
    ],
)
def test_missing_folders(tmp_path, missing, said):
    root = lay_out(tmp_path / "coco")
    if missing is not None:
        shutil.rmtree(root / missing)
    options = small_options(root)
    options.data_path = None if missing is None else options.data_path
    with pytest.raises(InputError, match=said):
        build_dataset(options, "train")


def test_a_crop_larger_than_the_pictures(tmp_path):
    root = lay_out(tmp_path)
    with pytest.raises(
        InputError, match="--crop_range 50: a crop of that side does not fit pictures of --crop_sides 36"
    ):
        build_dataset(small_options(root, "--crop_range", "50", "60"), "train")
