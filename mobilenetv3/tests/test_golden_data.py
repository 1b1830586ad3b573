"""The data side, port and twin, against the golden figures of torchvision 0.28 (NOTES 9.6)."""

import os

import numpy as np
import pytest
from PIL import Image

from data_sets import (
    SIDES,
    TOLERANCE,
    Recorded,
    cases,
    check_normalised,
    options,
    photo,
    photo_test,
    sides,
)
from datasets import autoaugment, transforms
from reference import data as twin

# --------------------------------------------------------------------------------------------------------------------
# Golden: folders and operations
# --------------------------------------------------------------------------------------------------------------------


@sides
@pytest.mark.parametrize("golden, case", cases("data/folder/(.+)/classes"))
def test_golden_folder(golden, case, side, tmp_path):
    layout = f"data/folder/{case}/layout"
    for name in golden[layout if layout in golden.files else f"data/folder/{case}/samples"]:
        path = tmp_path / str(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    classes, samples = SIDES["listing"][side](tmp_path)
    assert classes == golden[f"data/folder/{case}/classes"].tolist()
    names = [os.path.relpath(path, tmp_path) for path, _ in samples]
    assert names == golden[f"data/folder/{case}/samples"].tolist()
    assert [label for _, label in samples] == golden[f"data/folder/{case}/targets"].tolist()


@pytest.mark.parametrize("golden, name", cases("data/auto/space/(.+)"))
def test_golden_magnitudes(golden, name):
    width, height = 192, 224  # NOTES 9.6
    *expected, signed = golden[f"data/auto/space/{name}"]
    assert (name in autoaugment.SIGNED) == bool(signed)
    magnitudes = autoaugment.AUTO_SPACE.magnitudes(name, (width, height))
    twins = twin.magnitude_table(width, height).get(name)
    if len(expected) == 1:
        assert magnitudes is None and twins is None
    else:
        np.testing.assert_allclose(magnitudes, expected, **TOLERANCE)
        np.testing.assert_allclose(twins.numpy(), expected, **TOLERANCE)


@sides
@pytest.mark.parametrize("golden, case", cases("meta/auto/(.+)/op"))
def test_golden_operation(golden, case, side):
    image = Image.fromarray(golden["data/auto/input"])
    name, magnitude = str(golden[f"meta/auto/{case}/op"]), float(golden[f"meta/auto/{case}/magnitude"])
    compared = 0
    for interpolation in ("nearest", "bilinear"):
        key = f"data/auto/{case}/{interpolation}"
        if key in golden.files:
            result = SIDES["operation"][side](image, name, magnitude, interpolation)
            np.testing.assert_array_equal(np.asarray(result), golden[key])
            compared += 1
    assert compared


# --------------------------------------------------------------------------------------------------------------------
# Golden: presets on photographs
# --------------------------------------------------------------------------------------------------------------------


@photo_test
@sides
@pytest.mark.parametrize("golden, case", cases("data/((?:eval|eval232)/[0-9]+)/normalised/slice"))
def test_golden_eval(golden, case, side):
    preset, index = case.split("/")
    image = photo(golden, int(index))
    opts = options(val_resize_size=int(preset.removeprefix("eval") or 256))
    if f"data/{case}/uint8" in golden.files:
        np.testing.assert_array_equal(SIDES["eval_pixels"][side](image, opts), golden[f"data/{case}/uint8"])
    check_normalised(SIDES["eval"][side](image, opts), golden, f"data/{case}")


@photo_test
@sides
@pytest.mark.parametrize("golden, case", cases("data/odd/([0-9]+)/uint8_slice"))
def test_golden_odd_sizes(golden, case, side):
    width, height = golden["meta/odd_sizes"][int(case)].tolist()
    image = photo(golden, 3).crop((0, 0, width, height))
    resized = transforms.resize_shorter(image, 256, Image.Resampling.BILINEAR)
    assert resized.size == tuple(golden[f"data/odd/{case}/resized_size"])
    pixels = SIDES["eval_pixels"][side](image, options())
    np.testing.assert_array_equal(pixels[::4, ::4], golden[f"data/odd/{case}/uint8_slice"])
    mean, crop = golden[f"data/odd/{case}/padded_stats"]
    padded = SIDES["eval_pixels"][side](image, options(val_crop_size=int(crop)))
    assert padded.shape == (crop, crop, 3)
    np.testing.assert_allclose(padded.mean(dtype=np.float64), mean, **TOLERANCE)


@photo_test
@sides
@pytest.mark.parametrize("golden, case", cases("data/((?:train|train_erase)/[0-9]+)/draws"))
def test_golden_train(golden, case, side):
    preset, index = case.split("/")
    opts = options(auto_augment="imagenet", random_erase=1.0 if preset == "train_erase" else 0.2)
    image = photo(golden, int(index))

    def of(name):
        return golden[f"data/{case}/{name}"]

    rows, (_, flip, _, erase) = of("draws"), of("draw_starts")
    draws = Recorded(rows[:flip])
    left, top, right, bottom = SIDES["crop_box"][side](*image.size, draws)
    assert [top, left, bottom - top, right - left] == of("crop_ijhw").tolist() and not draws.rows
    crop = image.crop((left, top, right, bottom)).resize((224, 224), Image.Resampling.BILINEAR)
    draws = Recorded(rows[flip:erase])
    augmented = SIDES["augment"][side](crop, opts, draws)
    assert not draws.rows
    for name, pixels in (("crop", np.asarray(crop)), ("augmented", augmented)):
        for part, expected in (("slice", pixels[::7, ::7]), ("full", pixels)):
            if f"data/{case}/{name}/{part}" in golden.files:
                np.testing.assert_array_equal(expected, of(f"{name}/{part}"))

    draws = Recorded(rows[erase:])
    erased = SIDES["erase"][side](np.ones((3, 224, 224), np.float32), opts.random_erase, draws)
    assert not draws.rows
    box = of("erased_box").tolist()
    expected = np.ones((3, 224, 224), np.float32)
    if box[0] >= 0:
        expected[:, box[0] : box[2] + 1, box[1] : box[3] + 1] = 0
    np.testing.assert_array_equal(erased, expected)

    draws = Recorded(rows)
    check_normalised(SIDES["train"][side](image, opts, draws), golden, f"data/{case}")
    assert not draws.rows
