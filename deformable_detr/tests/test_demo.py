"""The demo's files: detections against the network's own, what is drawn, ground truth, and bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from shared import InputError
from shared.weights import write_pdparams

import demo
import drawing
from data_sets import lay_out
from datasets import pad_images, read_annotations, transforms
from datasets.annotations import create_index
from drawing import Labelled, colour_of, draw_boxes, side_by_side
from mini.things import KINDS
from models import PostProcess, build_model
from options import parse_options

SMALL = (
    "--backbone resnet18 --backbone_norm batch --hidden_dim 32 --nheads 4 --enc_layers 1 --dec_layers 1 "
    "--dim_feedforward 32 --num_queries 20 --val_size 64 --max_size 100"
).split()
SIZE = (120, 90)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """(weight file, the network in eval mode) of random weights."""
    paddle.seed(1)
    model = build_model(parse_options(SMALL))
    model.eval()
    path = tmp_path_factory.mktemp("weights") / "small.pdparams"
    write_pdparams(path, model.state_dict())
    return path, model


def picture(size: tuple[int, int] = SIZE, seed: int = 0) -> Image.Image:
    """Coloured patches."""
    generator = np.random.default_rng(seed)
    patches = Image.fromarray(generator.integers(0, 256, (4, 6, 3), np.uint8))
    return patches.resize(size, Image.Resampling.BICUBIC)


def run_demo(network, image_path: Path, output_dir: Path, *words: str) -> None:
    where = ["--image_path", str(image_path), "--output_dir", str(output_dir)]
    demo.main([*SMALL, "--weights", str(network[0]), *where, *words])


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


# -------------------- Detections


def expected(network, image: Image.Image) -> dict[str, np.ndarray]:
    """What the network finds in a picture, written down anew from its parts."""
    size = transforms.resized_size(image.size, 64, 100)
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    pixels = np.float32((pixels - transforms.MEAN) / transforms.STD)
    images, mask = pad_images([pixels])
    with paddle.no_grad():
        outputs = network[1](paddle.to_tensor(images), paddle.to_tensor(mask))
    return PostProcess()(outputs, [[image.height, image.width]])[0]


def test_detections_are_the_networks(network, tmp_path):
    image = picture()
    image.save(tmp_path / "patches.png")
    run_demo(network, tmp_path / "patches.png", tmp_path / "out", "--top", "7")
    wanted, found = expected(network, image), read_json(tmp_path / "out/patches_boxes.json")
    assert (found["width"], found["height"]) == SIZE and len(found["detections"]) == 7
    for entry, score, label, box in zip(found["detections"], *(wanted[k] for k in ("scores", "labels", "boxes")),
                                        strict=False):  # fmt: skip
        assert entry["category_id"] == label and entry["score"] == pytest.approx(score, abs=1e-5)
        x, y, w, h = entry["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], box, atol=0.02)


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.9])
def test_threshold(network, tmp_path, threshold):
    image = picture()
    image.save(tmp_path / "patches.png")
    run_demo(network, tmp_path / "patches.png", tmp_path / "out", "--threshold", str(threshold))
    found = read_json(tmp_path / "out/patches_boxes.json")["detections"]
    scores = expected(network, image)["scores"]
    assert len(found) == (scores >= threshold).sum()
    assert [entry["score"] for entry in found] == sorted((entry["score"] for entry in found), reverse=True)


def test_names(network):
    assert demo.class_names(91, None)[17] == "cat" and demo.class_names(20, None) == {}
    coco = create_index({"images": [], "annotations": [], "categories": [{"id": 17, "name": "tiger"}, {"id": 3}]})
    names = demo.class_names(91, coco)
    assert (names[17], names[18], names[3]) == ("tiger", "dog", "3") and demo.class_names(20, coco)[17] == "tiger"
    found = {"scores": np.float32([0.5]), "labels": np.int64([12]), "boxes": np.float32([[1, 2, 3, 4]])}
    assert demo.detected_boxes(found, names) == [Labelled((1, 2, 3, 4), "class 12 0.50", 12)]


# -------------------- Drawing

GREY = Image.new("RGB", (800, 600), (90, 90, 90))


def pixels_of(image: Image.Image, category: int) -> np.ndarray:
    """[n, 2] (x, y) of the pixels that have a category's colour."""
    return np.argwhere((np.asarray(image) == colour_of(category)).all(2))[:, ::-1]


def test_frames_stand_on_their_boxes():
    drawn = draw_boxes(GREY, [Labelled((100, 200, 300, 500), "", 5)])
    places = pixels_of(drawn, 5)
    below_label = places[places[:, 1] > 230]
    assert below_label[:, 0].min() == 100 and below_label[:, 0].max() == 300 and below_label[:, 1].max() == 500
    inside = np.asarray(drawn)[240:490, 120:280]
    assert (inside == 90).all() and drawn.size == GREY.size


def test_labels_are_written_in_ink_that_can_be_read():
    for category in range(91):
        drawn = draw_boxes(GREY, [Labelled((100, 200, 500, 500), "umbrella 0.97", category)])
        colour = np.array(colour_of(category), float)
        ink = np.array(drawing.ink_on(colour_of(category)), float)
        assert np.abs(colour - ink).max() > 90
        chip = np.asarray(drawn, float)[170:200, 100:260]
        assert (np.abs(chip - ink).max(2) < 8).sum() > 100  # the letters
    assert len({colour_of(category) for category in range(91)}) == 91
    drawn = [np.array(colour_of(kind.category_id), float) for kind in KINDS]  # of the mini data
    assert min(np.abs(one - two).max() for n, one in enumerate(drawn) for two in drawn[:n]) > 60


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (190, 150), (1280, 720)])
def test_any_picture_and_any_box(size):
    boxes = [(-50, -50, 5000, 5000), (0, 0, 0, 0), (9, 9, 2, 2), (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)]
    boxes += [(x, y, x + 3, y + 3) for x in range(0, size[0], 40) for y in range(0, size[1], 40)]
    drawn = draw_boxes(picture(size), [Labelled(box, f"thing {n}", n) for n, box in enumerate(boxes)], "title")
    assert max(drawn.width, drawn.height) >= drawing.SMALLEST and len(pixels_of(drawn, 0)) > 10


def test_labels_keep_clear_of_each_other():
    """Boxes that begin near one corner: their labels find places of their own."""
    boxes = [
        Labelled((100 + 6 * n, 100 + 6 * n, 400 + 60 * n, 300 + 60 * n), f"person 0.9{n}", 20 + n) for n in range(4)
    ]
    drawn = draw_boxes(GREY, boxes)
    alone = [len(pixels_of(draw_boxes(GREY, [box]), box.category)) for box in boxes]
    together = [len(pixels_of(drawn, box.category)) for box in boxes]
    assert all(many > 0.75 * one for many, one in zip(together, alone, strict=True))


def test_the_best_is_on_top():
    first, second = Labelled((100, 100, 400, 400), "", 1), Labelled((100, 100, 400, 400), "", 2)
    for one, two in ((first, second), (second, first)):
        drawn = draw_boxes(GREY, [one, two])
        right = pixels_of(drawn, one.category)
        assert (right[:, 0] == 400).sum() > 200


def test_crowds_are_dashed():
    def light(crowd: bool) -> int:
        drawn = draw_boxes(GREY, [Labelled((100, 100, 400, 400), "", 3, crowd)])
        return int((np.asarray(drawn)[140:, 390:] == 255).all(2).sum())

    assert light(True) > 100 and light(False) == 0


def test_side_by_side():
    both = side_by_side(GREY, picture((300, 700)))
    assert both.height == 700 and both.width > 1100
    np.testing.assert_array_equal(np.asarray(both)[:600, :800], np.asarray(GREY))


# -------------------- Ground truth


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    def crowd(content: dict) -> None:
        content["annotations"][0] |= {"iscrowd": 1}

    return lay_out(tmp_path_factory.mktemp("coco"), 5, "val", crowd)


def truth_words(root: Path) -> list[str]:
    return ["--annotations", str(root / "annotations/instances_val2017.json")]


def test_ground_truth_without_weights(root, tmp_path):
    words = ["--image_path", str(root / "val2017"), "--output_dir", str(tmp_path), *truth_words(root)]
    demo.main(words)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:03d}_boxes.png" for n in range(5)]
    with Image.open(tmp_path / "001_boxes.png") as drawn:
        first, drawn = drawn.size, drawn.convert("RGB")
    assert first[0] == drawing.SMALLEST
    coco = read_annotations(root / "annotations/instances_val2017.json")
    [annotation] = coco.imgToAnns[89]
    assert annotation["iscrowd"] == 1
    boxes = demo.annotated_boxes(coco, 89, demo.class_names(6, coco))
    assert [box.text for box in boxes] == [coco.cats[annotation["category_id"]]["name"] + " (crowd)"]
    x, y, w, h = annotation["bbox"]
    assert boxes[0].box == (x, y, x + w, y + h) and boxes[0].crowd
    assert len(pixels_of(drawn, annotation["category_id"])) > 100


def test_ground_truth_beside_detections(network, root, tmp_path):
    run_demo(network, root / "val2017", tmp_path, *truth_words(root), "--format", "jpg", "--top", "2")
    for number in range(5):
        with Image.open(tmp_path / f"{number:03d}_boxes.jpg") as drawn:
            assert drawn.format == "JPEG" and drawn.width > 2 * drawing.SMALLEST
        assert len(read_json(tmp_path / f"{number:03d}_boxes.json")["detections"]) == 2


# --------------------------------------------------------------------------------------------------------------------
# Files and bad input (folders, names, orientation, bad pictures: shared/tests/test_pictures.py)
# --------------------------------------------------------------------------------------------------------------------


def test_a_turned_picture_in_a_sub_folder(network, tmp_path):
    """Results lie in the same sub-folder; inside the pictures' own folder a second run does not read the first's."""
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    (tmp_path / "deep").mkdir()
    picture((80, 48)).save(tmp_path / "deep/turned.jpg", exif=exif)
    for _ in range(2):
        run_demo(network, tmp_path, tmp_path / "out")
        names = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "out").rglob("*.*"))
        assert names == ["out/deep/turned_boxes.json", "out/deep/turned_boxes.png"]
    content = read_json(tmp_path / "out/deep/turned_boxes.json")
    assert (content["width"], content["height"]) == (48, 80)


def test_one_bad_picture_among_others(network, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_text("no picture")
    picture().save(tmp_path / "in/b.png")
    words = ["--weights", network[0], "--image_path", tmp_path / "in", "--output_dir", tmp_path / "out"]
    assert demo.main([*SMALL, *map(str, words)]) == 2
    said = capsys.readouterr()
    assert "1 of 2 pictures done" in said.out and "in/a.png" in said.err
    assert [path.name for path in (tmp_path / "out").glob("*_boxes.png")] == ["b_boxes.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image_path", "{in}", "--output_dir", "{in}"], "folder of the pictures themselves"),
        (["--image_path", "{in}", "--output_dir", "{in}/one.png"], "not written"),
        (["--image_path", "{in}/none"], "no such file or folder"),
        (["--image_path", "{in}", "--annotations", "{in}/one.png"], "one.png: cannot be read as COCO annotations"),
        (["--image_path", "{in}", "--annotations", "{truth}"], "names none of the pictures"),
        ([], "--image_path is missing"),
    ],
)
def test_bad_options(network, root, tmp_path, words, said):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in/one.png")
    truth = truth_words(root)[1]
    words = [word.replace("{in}", str(tmp_path / "in")).replace("{truth}", truth) for word in words]
    if "--output_dir" not in words:
        words += ["--output_dir", str(tmp_path / "out")]
    with pytest.raises(InputError, match=said) as caught:
        demo.main([*SMALL, "--weights", str(network[0]), *words])
    assert "\n" not in str(caught.value)


def test_neither_weights_nor_annotations(tmp_path):
    picture().save(tmp_path / "one.png")
    with pytest.raises(InputError, match="--weights is missing: give .* or --annotations"):
        demo.main(["--image_path", str(tmp_path / "one.png")])


def test_bad_input_is_one_line_and_status_2(tmp_path):
    script = Path(demo.__file__)
    done = subprocess.run([sys.executable, str(script), "--image_path", "x.png"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--threshold", "1.5"], ["--top", "0"], ["--format", "gif"]])
def test_options_out_of_range_are_refused(words):
    with pytest.raises(SystemExit) as caught:
        demo.main(["--image_path", "x", *words])
    assert caught.value.code == 2
