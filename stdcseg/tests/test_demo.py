"""The demo's files: label pictures against the network's own argmax, overlays, summary, and bad input."""

import json

import numpy as np
import paddle
import pytest
from PIL import Image

from shared import InputError
from shared.weights import write_pdparams

import demo
from constants import CLASS_NAMES, PALETTE, to_label_ids
from data_sets import one_line, picture
from datasets import normalise
from models import build_model, resize_bilinear
from options import parse_options

NARROW = ["--base", "8"]
SIZE = (192, 128)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """(weight file, the network in eval mode) of random weights whose classes mix."""
    paddle.seed(1)
    model = build_model(parse_options(NARROW))
    model.eval()
    path = tmp_path_factory.mktemp("weights") / "narrow.pdparams"
    write_pdparams(path, model.state_dict())
    return path, model


def run_demo(network, image_path, output_dir, *words) -> dict:
    path, _ = network
    where = ["--image_path", str(image_path), "--output_dir", str(output_dir)]
    demo.main([*NARROW, "--weights", str(path), *where, *words])
    return json.loads((output_dir / "summary.json").read_text())


def expected_labels(network, image: Image.Image, scale: float) -> np.ndarray:
    """The argmax of the logits at the picture's size."""
    images = paddle.to_tensor(normalise(np.asarray(image)))[None]
    height, width = images.shape[2:]
    with paddle.no_grad():
        logits = network[1].segment(resize_bilinear(images, (int(height * scale), int(width * scale))))
    return resize_bilinear(logits, (height, width)).numpy().argmax(1)[0]


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
def test_labels_are_the_argmax(network, tmp_path, scale):
    image = picture(*SIZE)
    image.save(tmp_path / "street.png")
    summary = run_demo(network, tmp_path / "street.png", tmp_path / "out", "--scale", str(scale))
    expected = expected_labels(network, image, scale)
    assert len(np.unique(expected)) > 2
    with Image.open(tmp_path / "out/street_labels.png") as written:
        assert written.mode == "P" and written.size == SIZE
        np.testing.assert_array_equal(np.asarray(written), expected)
        np.testing.assert_array_equal(np.asarray(written.convert("RGB")), PALETTE[expected])
        assert written.getpalette()[: PALETTE.size] == PALETTE.ravel().tolist()
    entry = summary["street.png"]
    assert (entry["width"], entry["height"]) == SIZE
    shares = list(entry["shares"].values())
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    assert {CLASS_NAMES.index(name) for name in entry["shares"]} == set(np.unique(expected).tolist())
    assert entry["shares"][CLASS_NAMES[np.bincount(expected.ravel()).argmax()]] == shares[0]


def test_label_ids_are_those_of_the_test_server(network, tmp_path):
    image = picture(*SIZE)
    image.save(tmp_path / "street.png")
    run_demo(network, tmp_path / "street.png", tmp_path / "out", "--label_ids")
    expected = expected_labels(network, image, 0.5)
    with Image.open(tmp_path / "out/street_labels.png") as written:
        np.testing.assert_array_equal(np.asarray(written), to_label_ids(expected))
        np.testing.assert_array_equal(np.asarray(written.convert("RGB")), PALETTE[expected])


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_overlay_blends_colours_over_the_picture(network, tmp_path, alpha):
    image = picture(500, 240)
    image.save(tmp_path / "street.png")
    run_demo(network, tmp_path / "street.png", tmp_path / "out", "--alpha", str(alpha))
    colours = PALETTE[expected_labels(network, image, 0.5)].astype(float)
    with Image.open(tmp_path / "out/street_overlay.png") as written:
        assert written.mode == "RGB" and written.width == 500 and written.height > 240
        top = np.asarray(written, float)[:240]
    np.testing.assert_allclose(top, (1 - alpha) * np.asarray(image, float) + alpha * colours, rtol=0, atol=1)


def test_legend_shows_the_classes_in_order_of_their_share():
    labels = np.repeat([8, 0, 13, 10], [300, 200, 90, 10])[None].repeat(200, 0)
    overlay = np.asarray(demo.draw_overlay(picture(600, 200), labels, PALETTE, CLASS_NAMES, 0.5))
    strip = overlay[201]
    np.testing.assert_array_equal(strip, PALETTE[labels[0]])  # each class's share of the width
    legend = overlay[210:]
    seen = {k: int((legend == PALETTE[k]).all(2).sum()) for k in range(len(PALETTE))}
    assert {k for k, pixels in seen.items() if pixels > 50} == {8, 0, 13, 10}
    first = [np.argwhere((legend == PALETTE[k]).all(2))[:, ::-1].min(0).tolist() for k in (8, 0, 13, 10)]
    assert first == sorted(first)  # by column, then from the top
    assert (legend.reshape(-1, 3) == demo.INK).all(1).any()


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (64, 48), (1242, 375)])
@pytest.mark.parametrize("classes", [1, 19])
def test_legends_of_any_picture_fit_their_canvas(size, classes):
    labels = np.arange(size[0] * size[1]).reshape(size[1], size[0]) % classes
    overlay = np.asarray(demo.draw_overlay(picture(*size), labels, PALETTE, CLASS_NAMES, 0.5))
    assert overlay.shape[1] == max(size[0], demo.NARROWEST)
    margins = overlay[size[1] :]
    strip = max(6, size[1] // 2)
    assert (margins[strip:, -4:] == 255).all() and (margins[-4:] == 255).all()  # nothing runs into the border
    for k in np.unique(labels):
        assert (margins == PALETTE[k]).all(2).any()


def test_folders_keep_their_form(network, tmp_path):
    for name in ("b/one.png", "a/deep/two.jpg", "three.PNG", ".hidden.png", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(*SIZE, seed=len(name)).save(tmp_path / "in" / name, "PNG" if name.lower().endswith("txt") else None)
    output = tmp_path / "in" / "out"  # inside the pictures' own folder: a second run must not read the first's
    for _ in range(2):
        summary = run_demo(network, tmp_path / "in", output)
        assert list(summary) == ["a/deep/two.jpg", "b/one.png", "three.PNG"]
        written = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.*"))
        ends = ("labels", "overlay")
        assert written == sorted(
            ["summary.json", *(f"{name}_{end}.png" for name in ("a/deep/two", "b/one", "three") for end in ends)]
        )


def test_exif_orientation(network, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    picture(80, 48).save(tmp_path / "turned.png", exif=exif)
    summary = run_demo(network, tmp_path / "turned.png", tmp_path / "out")
    assert (summary["turned.png"]["width"], summary["turned.png"]["height"]) == (48, 80)


def test_any_number_of_classes(tmp_path):
    model = build_model(parse_options([*NARROW, "--num_classes", "30"]))
    write_pdparams(tmp_path / "thirty.pdparams", model.state_dict())
    picture(40, 40).convert("L").save(tmp_path / "grey.png")
    words = [*NARROW, "--num_classes", "30", "--weights", str(tmp_path / "thirty.pdparams")]
    words += ["--image_path", str(tmp_path / "grey.png"), "--output_dir", str(tmp_path / "out")]
    demo.main(words)
    shares = json.loads((tmp_path / "out/summary.json").read_text())["grey.png"]["shares"]
    assert set(shares) <= {f"class {k}" for k in range(30)}
    assert len(np.unique(demo.palette_for(30), axis=0)) == 30
    with pytest.raises(InputError, match="--label_ids"):
        demo.main([*words, "--label_ids"])


def test_bad_images(network, tmp_path, capsys):
    """One among others is told and the others are done; the only one is the error."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_text("no picture")
    with pytest.raises(InputError) as caught:
        run_demo(network, tmp_path / "in", tmp_path / "out")
    one_line(caught, tmp_path / "in/a.png", "cannot be read as a picture")
    assert not (tmp_path / "out").exists()
    picture(*SIZE).save(tmp_path / "in/b.png")
    words = ["--weights", network[0], "--image_path", tmp_path / "in", "--output_dir", tmp_path / "out"]
    assert demo.main([*NARROW, *map(str, words)]) == 2
    told = capsys.readouterr()
    assert "1 of 2 pictures done" in told.out and "in/a.png" in told.err
    assert [path.name for path in (tmp_path / "out").glob("*_labels.png")] == ["b_labels.png"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--image_path", "{in}", "--output_dir", "{in}"], "folder of the pictures themselves"),
        (["--image_path", "{in}/one.png", "--scale", "0.001"], "one.png: scale 0.001 leaves nothing"),
        (["--image_path", "{in}", "--output_dir", "{in}/one.png"], "not written"),
        ([], "--image_path is missing"),
    ],
)
def test_bad_options(network, tmp_path, words, told):
    (tmp_path / "in").mkdir()
    picture(*SIZE).save(tmp_path / "in/one.png")
    words = [word.replace("{in}", str(tmp_path / "in")) for word in words]
    if "--output_dir" not in words:
        words += ["--output_dir", str(tmp_path / "out")]
    with pytest.raises(InputError, match=told) as caught:
        demo.main([*NARROW, "--weights", str(network[0]), *words])
    one_line(caught)


@pytest.mark.parametrize("words", [["--alpha", "1.5"], ["--alpha", "x"], ["--scale", "0"], ["--scale", "-1"]])
def test_options_out_of_range_are_refused(network, words):
    with pytest.raises(SystemExit) as caught:
        demo.main([*NARROW, "--weights", str(network[0]), "--image_path", "x", *words])
    assert caught.value.code == 2
