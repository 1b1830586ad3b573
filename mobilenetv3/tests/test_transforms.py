"""Presets, augmentation and mixing: the port against the torch twin, Paddle's transforms and closed forms."""

import numpy as np
import paddle
import pytest
import torch
from PIL import Image

from data_sets import (
    TOLERANCE,
    options,
    picture,
    port_eval,
    port_eval_pixels,
    port_operation,
    port_train,
    twin_eval,
    twin_eval_pixels,
    twin_train,
)
from datasets import autoaugment, build_transform, mixing, transforms
from datasets.mixing import build_mixing
from options import parse_options
from reference import data as twin

# --------------------------------------------------------------------------------------------------------------------
# Port against twin and against Paddle's transforms, on drawn pictures
# --------------------------------------------------------------------------------------------------------------------

ODD_SIZES = [(231, 200), (100, 71), (224, 224), (257, 256), (121, 333), (640, 41), (1, 1), (9, 500), (300, 225)]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("resize, crop", [(256, 224), (232, 224), (40, 57), (64, 61)])
def test_eval_equals_twin_and_paddle(resize, crop, interpolation):
    opts = options(val_resize_size=resize, val_crop_size=crop, interpolation=interpolation)
    official = paddle.vision.transforms
    for size in ODD_SIZES:
        if max(size) / min(size) * resize > 5000:
            continue
        image = picture(*size)
        pixels = port_eval_pixels(image, opts)
        np.testing.assert_array_equal(pixels, twin_eval_pixels(image, opts))
        np.testing.assert_array_equal(port_eval(image, opts), twin_eval(image, opts))
        resized = official.Resize(resize, interpolation)(image)
        if min(resized.size) >= crop:  # its padding differs
            np.testing.assert_array_equal(pixels, np.asarray(official.CenterCrop(crop)(resized)))
        tensor = official.Normalize(transforms.MEAN.ravel().tolist(), transforms.STD.ravel().tolist())(
            official.ToTensor()(Image.fromarray(pixels))
        )
        np.testing.assert_allclose(port_eval(image, opts), tensor.numpy(), **TOLERANCE)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("policy", [None, "imagenet"])
def test_train_equals_twin(policy, interpolation):
    opts = options(train_crop_size=63, auto_augment=policy, random_erase=0.5, interpolation=interpolation)
    for seed in range(60):
        image = picture(*ODD_SIZES[seed % len(ODD_SIZES)])
        ours = port_train(image, opts, transforms.Draws(np.random.default_rng([seed, 1, 2])))
        np.testing.assert_array_equal(ours, twin_train(image, opts, twin.Draws(seed, 1, 2)))
        assert ours.dtype == np.float32 and ours.shape == (3, 63, 63)


def test_operations_equal_twin():
    image = picture(72, 56)
    names = sorted({name for pairs in [autoaugment.POLICIES["imagenet"]] for pair in pairs for name, _, _ in pair})
    for name in [*names, *autoaugment.SIGNED]:
        magnitudes = autoaugment.AUTO_SPACE.magnitudes(name, image.size)
        for m in [0.0] if magnitudes is None else magnitudes.tolist():
            for signed in {m, -m if name in autoaugment.SIGNED else m}:
                for interpolation in ("nearest", "bilinear"):
                    ours = port_operation(image, name, signed, interpolation)
                    assert ours == twin.apply_operation(image, name, signed, interpolation), (name, signed)


def test_imagenet_policy_equals_twin():
    pairs = []
    for start in range(0, len(twin.POLICY), 3):
        letter, tenths, level = twin.POLICY[start : start + 3]
        probability = np.float32(1 if tenths == "T" else int(tenths) / 10)
        pairs.append((twin.LETTERS[letter], probability, None if level == "-" else int(level)))
    assert [step for pair in autoaugment.POLICIES["imagenet"] for step in pair] == pairs


def test_magnitudes_round_as_torch():
    for space in (autoaugment.AUTO_SPACE, autoaugment.RAND_SPACE, autoaugment.WIDE_SPACE, autoaugment.AUGMIX_SPACE):
        for side in (1, 56, 176, 193, 224, 333):
            expected = torch.linspace(0.0, space.translate(side), space.bins).numpy()
            np.testing.assert_array_max_ulp(space.magnitudes("TranslateX", (side, 7)), expected, 1)
            np.testing.assert_array_equal(
                space.magnitudes("TranslateX", (side, 7)), space.magnitudes("TranslateY", (7, side))
            )


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn", "ra", "ta_wide", "augmix"])
def test_policies_at_every_magnitude(policy):
    image = picture(40, 33)
    before = image.tobytes()
    strengths = {"ra": range(31), "augmix": range(1, 11)}.get(policy, [0])
    results = []
    for strength in strengths:
        key = {"ra": "ra_magnitude", "augmix": "augmix_severity"}.get(policy, "ra_magnitude")
        for interpolation in transforms.RESAMPLE:
            opts = options(auto_augment=policy, train_crop_size=32, interpolation=interpolation, **{key: strength})
            transform = build_transform(opts, train=True)
            for seed in range(40 // len(strengths) + 2):
                first, second = (transform(image, transforms.Draws(np.random.default_rng(seed))) for _ in range(2))
                np.testing.assert_array_equal(first, second)
                assert first.shape == (3, 32, 32) and np.isfinite(first).all()
                results.append(first.tobytes())
    assert len(set(results)) > len(results) / 2
    assert image.tobytes() == before


@pytest.mark.parametrize("space", ["AUTO_SPACE", "RAND_SPACE", "WIDE_SPACE", "AUGMIX_SPACE"])
def test_operations_at_every_level(space):
    image = picture(40, 33)
    space = getattr(autoaugment, space)
    for name in autoaugment.OPERATIONS:
        magnitudes = space.magnitudes(name, image.size)
        assert (magnitudes is None) == (name in ("Identity", "AutoContrast", "Equalize", "Invert"))
        for m in [0.0] if magnitudes is None else magnitudes.tolist():
            for signed in (m, -m) if name in autoaugment.SIGNED else (m,):
                result = autoaugment.OPERATIONS[name](image, signed, Image.Resampling.BILINEAR)
                assert (result.size, result.mode) == (image.size, "RGB")
        if magnitudes is not None and name not in ("Posterize", "Solarize"):
            weakest = autoaugment.OPERATIONS[name](image, float(magnitudes[0]), Image.Resampling.BILINEAR)
            assert weakest == image


def test_augmix_is_a_convex_blend():
    flat = Image.new("RGB", (24, 20), (90, 90, 90))
    kept = autoaugment.AugMix(3, Image.Resampling.BILINEAR)

    class Draws(transforms.Draws):
        def dirichlet(self, size):
            return np.eye(size, dtype=np.float32)[0]  # all weight on the picture itself

    assert kept(flat, Draws(np.random.default_rng(0))) == flat


def test_crop_falls_back_to_the_centre():
    class Misfit:
        """Asks for the largest area at the widest aspect: never fits a tall sliver."""

        def uniform(self, low, high):
            return high

    for width, height in [(10, 400), (400, 10)]:
        if width < height:
            assert transforms.crop_box(width, height, Misfit()) == (193, 0, 13, 10)
            assert twin.crop_box(width, height, Misfit()) == (0, 193, 10, 206)
        else:
            assert transforms.crop_box(width, height, Misfit()) == (0, 193, 10, 13)
            assert twin.crop_box(width, height, Misfit()) == (193, 0, 206, 10)


def test_erasing_is_the_mean_colour_and_keeps_its_probability():
    transform = transforms.ClassificationPresetTrain(40, Image.Resampling.BILINEAR, None, 0.3)
    erased = [
        (transform.erase(np.ones((3, 40, 40), np.float32), transforms.Draws(np.random.default_rng(seed))) == 0).mean()
        for seed in range(400)
    ]
    areas = [area for area in erased if area]
    assert 0.23 < len(areas) / len(erased) < 0.37
    assert min(areas) > 0.015 and max(areas) < 0.35


def test_draws_are_float32_uniforms():
    draws = transforms.Draws(np.random.default_rng(0))
    values = [draws.uniform(-0.3, 1.2) for _ in range(4000)]
    assert all(value == np.float32(value) for value in values)
    assert np.float32(-0.3) <= min(values) < -0.29 and 1.19 < max(values) <= np.float32(1.2)
    assert {draws.randint(3) for _ in range(50)} == {0, 1, 2}
    assert draws.dirichlet(3).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "argv",
    [
        "--interpolation lanczos",
        "--auto_augment cutout",
        "--ra_magnitude 31",
        "--augmix_severity 11",
        "--random_erase 1.5",
        "--train_crop_size 0",
        "--val_crop_size 100000",
        "--cutmix_alpha -1",
        "--mixup_alpha nan",
    ],
)
def test_bad_values_are_refused(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_options(argv.split())
    assert argv.split()[0] in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------------
# Mixup and cutmix
# --------------------------------------------------------------------------------------------------------------------


def batch(n=5, height=12, width=16, classes=7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, 3, height, width)).astype(np.float32), rng.integers(0, classes, n)


def test_mixup_closed_form():
    images, labels = batch()
    targets = np.eye(7, dtype=np.float32)[labels]
    mixed, soft = mixing.mixup(images, targets, 0.3)
    for n in range(len(images)):
        np.testing.assert_allclose(mixed[n], 0.3 * images[n] + 0.7 * images[n - 1], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(soft[n], 0.3 * targets[n] + 0.7 * targets[n - 1], rtol=1e-6)
    for given in (images, targets):
        x = torch.from_numpy(given)
        expected = x.clone().mul_(0.3).add_(x.roll(1, 0).mul_(1 - 0.3))
        np.testing.assert_array_equal(mixing.mixup(given, targets, 0.3)[0], expected.numpy())


@pytest.mark.parametrize("centre, box", [((8, 6), (4, 12, 3, 9)), ((0, 11), (0, 4, 8, 12)), ((15, 0), (11, 16, 0, 3))])
def test_cutmix_closed_form(centre, box):
    images, labels = batch()
    targets = np.eye(7, dtype=np.float32)[labels]
    mixed, soft = mixing.cutmix(images, targets, 0.75, centre)  # half sizes int(.25 * 16), int(.25 * 12)
    left, right, top, bottom = box
    expected = images.copy()
    for n in range(len(images)):
        expected[n, :, top:bottom, left:right] = images[n - 1, :, top:bottom, left:right]
    np.testing.assert_array_equal(mixed, expected)
    area = (right - left) * (bottom - top) / (12 * 16)
    np.testing.assert_allclose(soft, (1 - area) * targets + area * np.roll(targets, 1, 0), rtol=1e-6, atol=1e-7)


def test_mixing_draws_and_choice():
    images, labels = batch()
    untouched = images.copy()
    assert build_mixing(options()) is None
    mix = build_mixing(options(mixup_alpha=0.2, cutmix_alpha=1.0, seed=4, num_classes=7))
    kinds = []
    for step in range(200):
        mixed, soft = mix(images, labels, 1, step)
        again, _ = mix(images, labels, 1, step)
        np.testing.assert_array_equal(mixed, again)
        assert mixed.dtype == soft.dtype == np.float32 and soft.shape == (5, 7)
        np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
        kinds.append(np.isin(mixed, images).all())
    assert 70 < sum(kinds) < 130
    assert not np.array_equal(mix(images, labels, 0, 0)[0], mix(images, labels, 0, 1)[0])
    np.testing.assert_array_equal(images, untouched)
    for changes, cut in (({"mixup_alpha": 1.0}, False), ({"cutmix_alpha": 1.0}, True)):
        only = build_mixing(options(**changes, num_classes=7))
        assert all(np.isin(only(images, labels, 0, step)[0], images).all() == cut for step in range(10))
