"""The data side against the golden figures of torchvision 0.28, against the torch twin, and against itself."""

import argparse
import os
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from PIL import Image

from shared import InputError
from shared.pictures import read_picture

from datasets import autoaugment, build_dataset, build_loader, build_transform, classes_for, mixing, transforms
from datasets.folder import ImageFolder, find_classes, list_images
from datasets.imagenet import CLASS_NAMES, SYNSETS, label_names
from datasets.mixing import build_mixing
from datasets.sampling import RASampler
from golden_files import PHOTOS, files_of
from options import parse_options
from reference import data as twin

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}

# --------------------------------------------------------------------------------------------------------------------
# Golden files: the committed one (what needs no photographs), and the full one in $GOLDEN with the photographs in
# $PHOTOS. Everything about a case is read from its file.
# --------------------------------------------------------------------------------------------------------------------

GOLDEN = files_of("data")


def cases(pattern: str) -> list:
    """One (file, group 1 of `pattern`) for each match among the keys of each golden file."""
    found = []
    for name, golden in GOLDEN.items():
        keys = dict.fromkeys(match[1] for key in golden.files if (match := re.fullmatch(pattern, key)))
        found += [pytest.param(golden, key, id=f"{name}-{key}") for key in keys]
    return found


def photo_test(function):
    """A test that needs photographs: without them there is no such test, rather than one that is skipped."""
    return function if PHOTOS else None


def photo(golden, index: int) -> Image.Image:
    images = golden["meta/images"]
    return read_picture(PHOTOS / str(images[index % len(images)]))


def options(**changes) -> argparse.Namespace:
    """The defaults, with these changes."""
    return argparse.Namespace(**(vars(parse_options([])) | changes))


class Recorded:
    """Draws that replay recorded rows (kind, low, high, value) and refuse any other request."""

    def __init__(self, rows: np.ndarray):
        self.rows = [tuple(row) for row in rows]

    def _next(self, kind: int, low: float, high: float) -> float:
        recorded_kind, recorded_low, recorded_high, value = self.rows.pop(0)
        assert kind == recorded_kind
        assert (low, high) == pytest.approx((recorded_low, recorded_high), rel=1e-6)
        return value

    def uniform(self, low: float, high: float) -> float:
        return self._next(0, low, high)

    def rand(self) -> float:
        return self._next(1, 0, 1)

    def randint(self, high: int) -> int:
        return int(self._next(2, 0, high))


def check_normalised(pixels, golden, key: str) -> None:
    pixels = np.asarray(pixels)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[..., ::7, ::7], golden[f"{key}/normalised/slice"], **TOLERANCE)
    stats = pixels.astype(np.float64)
    stats = [stats.mean(), stats.std(ddof=1), np.abs(stats).max()]
    np.testing.assert_allclose(stats, golden[f"{key}/normalised/stats"], **TOLERANCE)


# What follows gives both sides one form: PIL or torch in, numpy out.


def port_eval_pixels(image, opts):
    return np.asarray(build_transform(opts, train=False).crop(image))


def twin_eval_pixels(image, opts):
    sizes = opts.val_resize_size, opts.val_crop_size
    return twin.eval_pixels(image, *sizes, opts.interpolation).permute(1, 2, 0).numpy()


def port_eval(image, opts):
    return build_transform(opts, train=False)(image, None)


def twin_eval(image, opts):
    return twin.eval_tensor(image, opts).numpy()


def port_train(image, opts, draws):
    return build_transform(opts, train=True)(image, draws)


def twin_train(image, opts, draws):
    return twin.train_tensor(image, opts, draws).numpy()


def port_crop_box(width, height, draws):
    top, left, h, w = transforms.crop_box(width, height, draws)
    return left, top, left + w, top + h


def port_erase(pixels, probability, draws):
    return transforms.ClassificationPresetTrain(1, None, None, probability).erase(pixels, draws)


def twin_erase(pixels, probability, draws):
    return twin.erase(torch.from_numpy(pixels), probability, draws).numpy()


def port_augment(image, opts, draws):
    return np.asarray(build_transform(opts, train=True).augment(image, draws))


def twin_augment(image, opts, draws):
    """The twin's flip and policy on an image that is already cropped."""
    if draws.rand() < 0.5:
        image = Image.fromarray(np.asarray(image)[:, ::-1].copy())
    return np.asarray(twin.auto_augment(image, opts.interpolation, draws))


def port_operation(image, name, magnitude, interpolation):
    return autoaugment.OPERATIONS[name](image, magnitude, transforms.RESAMPLE[interpolation])


def port_listing(root):
    folder = ImageFolder(root, transform=None)
    return folder.classes, folder.samples


sides = pytest.mark.parametrize("side", ["port", "twin"])
SIDES = {
    "eval_pixels": {"port": port_eval_pixels, "twin": twin_eval_pixels},
    "eval": {"port": port_eval, "twin": twin_eval},
    "train": {"port": port_train, "twin": twin_train},
    "crop_box": {"port": port_crop_box, "twin": twin.crop_box},
    "erase": {"port": port_erase, "twin": twin_erase},
    "augment": {"port": port_augment, "twin": twin_augment},
    "operation": {"port": port_operation, "twin": twin.apply_operation},
    "listing": {"port": port_listing, "twin": twin.listing},
}


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


# --------------------------------------------------------------------------------------------------------------------
# Port against twin and against Paddle's transforms, on drawn pictures
# --------------------------------------------------------------------------------------------------------------------

ODD_SIZES = [(231, 200), (100, 71), (224, 224), (257, 256), (121, 333), (640, 41), (1, 1), (9, 500), (300, 225)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A drawn RGB picture with smooth areas, edges and noise."""
    rng = np.random.default_rng([seed, width, height])
    blobs = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(blobs).astype(int) + noise).clip(0, 255).astype(np.uint8))


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
# Folders and files
# --------------------------------------------------------------------------------------------------------------------


def write_images(root: Path, layout: dict[str, int], size=(50, 40)) -> Path:
    """`layout[class folder]` small pictures: JPEG, PNG, grey in turn."""
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = picture(*size, seed=number)
            image = image.convert("L") if number % 3 == 2 else image
            image.save(root / folder / f"{number:03d}{('.JPEG', '.png', '.jpg')[number % 3]}")
    return root


@pytest.mark.parametrize("train", [True, False])
def test_samples_equal_twin(tmp_path, train):
    opts = options(
        data_path=tmp_path,
        seed=5,
        train_crop_size=32,
        val_resize_size=48,
        val_crop_size=32,
        auto_augment="imagenet",
        random_erase=0.5,
    )
    split = "train" if train else "val"
    root = write_images(tmp_path / split, {"b": 4, "B": 3, "a/deep": 5})
    dataset = build_dataset(opts, split)
    classes, samples = twin.listing(root)
    assert (dataset.classes, dataset.samples) == (classes, samples)
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            image, label = dataset[index]
            assert label.dtype == np.int64 and image.dtype == np.float32
            expected, rank = twin.sample(root, index, opts, epoch, seed=5, train=train)
            np.testing.assert_array_equal(image, expected.numpy())
            assert label == rank


def test_links_hidden_files_and_odd_names(tmp_path):
    root = write_images(tmp_path / "root", {"a": 1, "a/x": 1, "a/x-y": 1, ".hidden": 1})
    outside = write_images(tmp_path / "outside", {"c": 2})
    (root / "linked").symlink_to(outside / "c")
    (root / "a" / "loop.jpg").symlink_to(root / "a" / "000.JPEG")
    (root / "a" / "folder.jpg").mkdir()
    (root / "a" / "name without ending jpg").touch()
    (root / "a" / "jpg").touch()
    classes, samples = port_listing(root)
    assert classes == [".hidden", "a", "linked"]
    names = [os.path.relpath(path, root) for path, _ in samples]
    expected = ["a/000.JPEG", "a/loop.jpg", "a/x/000.JPEG", "a/x-y/000.JPEG"]
    assert names == [".hidden/000.JPEG", *sorted(expected[:2]), expected[2], expected[3], *names[5:]]
    assert names[5:] == ["linked/000.JPEG", "linked/001.png"]


def test_link_to_a_parent_is_refused(tmp_path):
    root = write_images(tmp_path / "root", {"a": 1})
    (root / "a" / "again").symlink_to(root)
    with pytest.raises(InputError, match="parent folders"):
        list_images(root / "a")


def one_line(caught, *parts) -> None:
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


def test_empty_classes(tmp_path):
    root = write_images(tmp_path, {"a": 1, "b": 0, "c": 2, "d": 0})
    (root / "d" / "notes.txt").touch()
    with pytest.raises(InputError) as caught:
        ImageFolder(root, None)
    one_line(caught, root, "b, d", "add images")
    many = write_images(tmp_path / "many", {f"{n:03d}": 0 for n in range(200)})
    with pytest.raises(InputError) as caught:
        ImageFolder(many, None)
    one_line(caught, "195 more folders")


def test_missing_folders(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "bare").mkdir()
    for root, words in [("nowhere", "no such folder"), ("file", "not a folder"), ("bare", "no class folders")]:
        with pytest.raises(InputError) as caught:
            find_classes(tmp_path / root)
        one_line(caught, tmp_path / root, words)
    for data_path, words in [
        (None, "--data_path is missing"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "bare", "no folder val/"),
    ]:
        with pytest.raises(InputError) as caught:
            build_dataset(options(data_path=data_path), "val")
        one_line(caught, words, "train/ and val/", "mini.py")


# --------------------------------------------------------------------------------------------------------------------
# Repeated augmentation
# --------------------------------------------------------------------------------------------------------------------


def test_repeats_give_different_views(tmp_path):
    write_images(tmp_path / "train", {"a": 6})
    dataset = build_dataset(options(data_path=tmp_path, train_crop_size=24), "train")
    np.testing.assert_array_equal(dataset[2][0], dataset[2, 0][0])
    np.testing.assert_array_equal(dataset[2, 1][0], dataset[2, 1][0])
    assert not np.array_equal(dataset[2, 0][0], dataset[2, 1][0])
    [(images, labels)] = build_loader(dataset, RASampler(6, 6, repeats=3), workers=0)
    assert images.shape == [6, 3, 24, 24] and labels.tolist() == [0] * 6


def views(start: int = 0, **settings) -> list:
    sampler = RASampler(repeats=settings.pop("repeats", 3), **settings)
    sampler.set_epoch(1, start)
    assert len(list(sampler)) == len(sampler) == max(sampler.steps_per_epoch - start, 0)
    return list(sampler)


@pytest.mark.parametrize("length", [600, 256, 100])
def test_repeated_augmentation(length):
    world, repeats = 4, 3
    ranks = [sum(views(length=length, batch_size=16, rank=r, world=world), []) for r in range(world)]
    assert {len(rank) for rank in ranks} == {(length // 256 * 256 or length) // world}
    whole = [key for group in zip(*ranks, strict=True) for key in group]
    order = np.random.default_rng([0, 1]).permutation(length).tolist()
    assert whole == [(index, repeat) for index in order for repeat in range(repeats)][: len(whole)]
    for group in zip(*ranks, strict=True):  # processes never see one view twice at one step
        assert len(set(group)) == world


def test_resume_in_the_middle_of_an_epoch_of_repeats():
    settings = {"length": 31, "batch_size": 4, "rank": 1, "world": 2, "repeats": 2}
    whole = views(**settings)
    for start in range(len(whole) + 2):
        assert views(start, **settings) == whole[start:]


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


# --------------------------------------------------------------------------------------------------------------------
# Class names
# --------------------------------------------------------------------------------------------------------------------

# NOTES 3.3
INDEX_OF = {
    "n01532829": 12,
    "n01770081": 70,
    "n01873310": 103,
    "n01930112": 111,
    "n02086910": 157,
    "n02097130": 197,
    "n02102040": 217,
    "n03743016": 649,
    "n04264628": 810,
    "n04366367": 839,
    "n04370456": 841,
    "n04404412": 851,
    "n04456115": 862,
    "n04525305": 886,
    "n07714571": 936,
    "n12057211": 986,
}


def test_synsets():
    assert len(SYNSETS) == len(set(SYNSETS)) == len(CLASS_NAMES) == 1000
    assert list(SYNSETS) == sorted(SYNSETS)
    assert (SYNSETS[0], CLASS_NAMES[0], SYNSETS[-1]) == ("n01440764", "tench, Tinca tinca", "n15075141")
    assert CLASS_NAMES[8] == "hen" and all(CLASS_NAMES)
    assert {synset: SYNSETS.index(synset) for synset in INDEX_OF} == INDEX_OF


def test_label_names():
    assert label_names(["n01514859", "n01440764"]) == ["hen", "tench, Tinca tinca"]
    assert label_names(["n01514859", "cat"]) == ["n01514859", "cat"]


def test_part_of_imagenet_is_labelled_by_synset(tmp_path):
    root = write_images(tmp_path / "val", dict.fromkeys(INDEX_OF, 1))
    classes = classes_for(root, 1000)
    dataset = build_dataset(options(data_path=tmp_path), "val", classes)
    assert dataset.targets == list(INDEX_OF.values()) and dataset.classes == list(SYNSETS)
    assert classes_for(root, 16) is None
    assert build_dataset(options(data_path=tmp_path), "val").targets == list(range(16))


def test_classes_of_the_network_come_first(tmp_path):
    root = write_images(tmp_path / "val", {"cat": 1, "dog": 2})
    names = ["dog", "bird", "cat"]
    assert classes_for(root, 3, names) == names
    assert build_dataset(options(data_path=tmp_path), "val", names).targets == [2, 0, 0]
    assert classes_for(root, 1000) is None
    with pytest.raises(InputError) as caught:
        build_dataset(options(data_path=tmp_path), "val", ["dog", "bird"])
    one_line(caught, root, "cat", "remove the folder")
    with pytest.raises(InputError) as caught:
        classes_for(root, 2, names)
    one_line(caught, "--num_classes 3")
    with pytest.raises(InputError) as caught:
        classes_for(root, 1)
    one_line(caught, root, "--num_classes 2")


@photo_test
def test_photographs_are_labelled_by_synset():
    dataset = ImageFolder(PHOTOS, build_transform(options(), train=False), classes=classes_for(PHOTOS, len(SYNSETS)))
    for path, label in dataset.samples:
        assert SYNSETS[label] == Path(path).relative_to(PHOTOS).parts[0]
    expected = port_eval(read_picture(dataset.samples[0][0]), options())
    np.testing.assert_array_equal(dataset[0][0], expected)
