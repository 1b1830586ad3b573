"""Augmentation policies on PIL images: AutoAugment, RandAugment, TrivialAugment, AugMix (NOTES 3.12 to 3.15).

Tables and magnitudes are torchvision 0.28's; the operations are plain Pillow and equal its results on PIL images bit
for bit. One difference is intended: the reference's AugMix turns PIL images into tensors, this one does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps


def _affine(matrix: Callable[[float], tuple]) -> Callable:
    """The operation whose output-to-input matrix, about the top left corner, is `matrix(magnitude)`."""
    return lambda image, m, resample: image.transform(image.size, Image.Transform.AFFINE, matrix(m), resample)


def _enhance(enhancer: type) -> Callable:
    return lambda image, m, resample: enhancer(image).enhance(1.0 + m)


def _posterize(image: Image.Image, m: float, resample: Image.Resampling) -> Image.Image:
    # AugMix's last level keeps 0 bits, which Pillow refuses
    return ImageOps.posterize(image, int(m)) if int(m) else Image.new("RGB", image.size)


#: name -> (RGB image, signed magnitude, resample) -> RGB image of the same size, filled up with black
OPERATIONS = {
    "Identity": lambda image, m, resample: image,
    "ShearX": _affine(lambda m: (1, m, 0, 0, 1, 0)),
    "ShearY": _affine(lambda m: (1, 0, 0, m, 1, 0)),
    "TranslateX": _affine(lambda m: (1, 0, -int(m), 0, 1, 0)),
    "TranslateY": _affine(lambda m: (1, 0, 0, 0, 1, -int(m))),
    "Rotate": lambda image, m, resample: image.rotate(m, resample),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "Posterize": _posterize,
    "Solarize": lambda image, m, resample: ImageOps.solarize(image, m),
    "AutoContrast": lambda image, m, resample: ImageOps.autocontrast(image),
    "Equalize": lambda image, m, resample: ImageOps.equalize(image),
    "Invert": lambda image, m, resample: ImageOps.invert(image),
}
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
ENHANCERS = ("Brightness", "Color", "Contrast", "Sharpness")
#: operations whose magnitude may be negated
SIGNED = frozenset(GEOMETRIC + ENHANCERS)


def _linspace(first: float, last: float, bins: int) -> np.ndarray:
    """float32 [bins] from `first` to `last`, rounded as torch.linspace on the CPU: a float32 step, counted from the
    nearer end, each value rounded once."""
    first, last = np.float32(first), np.float32(last)
    step = np.float64((last - first) / np.float32(bins - 1))
    rank = np.arange(bins)
    return np.where(rank < bins // 2, first + step * rank, last - step * (bins - 1 - rank)).astype(np.float32)


@dataclass(frozen=True)
class Space:
    """The magnitude of each operation at its last of `bins` levels; level 0 changes nothing."""

    bins: int
    shear: float
    translate: Callable[[int], float]  # pixels, of the length of the side
    rotate: float  # degrees
    enhance: float
    bits: tuple[int, int]  # Posterize: bits kept at level 0, and how many fewer at the last level

    def magnitudes(self, name: str, size: tuple[int, int]) -> np.ndarray | None:
        """Unsigned magnitudes float32 [bins] of operation `name` on an image of `size` (width, height).

        None for the operations that have no magnitude.
        """
        strongest = dict.fromkeys(ENHANCERS, self.enhance) | dict.fromkeys(("ShearX", "ShearY"), self.shear)
        strongest |= {"TranslateX": self.translate(size[0]), "TranslateY": self.translate(size[1])}
        strongest |= {"Rotate": self.rotate}
        if name in strongest:
            return _linspace(0, strongest[name], self.bins)
        if name == "Solarize":
            return _linspace(255, 0, self.bins)
        if name == "Posterize":
            most, fewer = self.bits
            return (most - np.round(np.arange(self.bins) * fewer / (self.bins - 1))).astype(np.float32)
        return None


AUTO_SPACE = Space(10, 0.3, lambda side: 150 / 331 * side, 30, 0.9, (8, 4))
RAND_SPACE = Space(31, 0.3, lambda side: 150 / 331 * side, 30, 0.9, (8, 4))
WIDE_SPACE = Space(31, 0.99, lambda side: 32, 135, 0.99, (8, 6))
AUGMIX_SPACE = Space(10, 0.3, lambda side: side / 3, 30, 0.9, (4, 4))

RAND_OPERATIONS = ("Identity", *GEOMETRIC, *ENHANCERS, "Posterize", "Solarize", "AutoContrast", "Equalize")
AUGMIX_OPERATIONS = (*GEOMETRIC, "Posterize", "Solarize", "AutoContrast", "Equalize", *ENHANCERS)

# Cubuk et al. 2019: 25 sub-policies of two operations, each with its probability and level
_TABLES = {
    "imagenet": """
        Posterize .4 8, Rotate .6 9;   Solarize .6 5, AutoContrast .6; Equalize .8, Equalize .6
        Posterize .6 7, Posterize .6 6; Equalize .4, Solarize .2 4;    Equalize .4, Rotate .8 8
        Solarize .6 3, Equalize .6;    Posterize .8 5, Equalize 1;     Rotate .2 3, Solarize .6 8
        Equalize .6, Posterize .4 6;   Rotate .8 8, Color .4 0;        Rotate .4 9, Equalize .6
        Equalize 0, Equalize .8;       Invert .6, Equalize 1;          Color .6 4, Contrast 1 8
        Rotate .8 8, Color 1 2;        Color .8 8, Solarize .8 7;      Sharpness .4 7, Invert .6
        ShearX .6 5, Equalize 1;       Color .4 0, Equalize .6;        Equalize .4, Solarize .2 4
        Solarize .6 5, AutoContrast .6; Invert .6, Equalize 1;         Color .6 4, Contrast 1 8
        Equalize .8, Equalize .6""",
    "cifar10": """
        Invert .1, Contrast .2 6;      Rotate .7 2, TranslateX .3 9;   Sharpness .8 1, Sharpness .9 3
        ShearY .5 8, TranslateY .7 9;  AutoContrast .5, Equalize .9;   ShearY .2 7, Posterize .3 7
        Color .4 3, Brightness .6 7;   Sharpness .3 9, Brightness .7 9; Equalize .6, Equalize .5
        Contrast .6 7, Sharpness .6 5; Color .7 7, TranslateX .5 8;    Equalize .3, AutoContrast .4
        TranslateY .4 3, Sharpness .2 6; Brightness .9 6, Color .2 8;  Solarize .5 2, Invert 0
        Equalize .2, AutoContrast .6;  Equalize .2, Equalize .6;       Color .9 9, Equalize .6
        AutoContrast .8, Solarize .2 8; Brightness .1 3, Color .7 0;   Solarize .4 5, AutoContrast .9
        TranslateY .9 9, TranslateY .7 9; AutoContrast .9, Solarize .8 3; Equalize .8, Invert .1
        TranslateY .7 9, AutoContrast .9""",
    "svhn": """
        ShearX .9 4, Invert .2;        ShearY .9 8, Invert .7;         Equalize .6, Solarize .6 6
        Invert .9, Equalize .6;        Equalize .6, Rotate .9 3;       ShearX .9 4, AutoContrast .8
        ShearY .9 8, Invert .4;        ShearY .9 5, Solarize .2 6;     Invert .9, AutoContrast .8
        Equalize .6, Rotate .9 3;      ShearX .9 4, Solarize .3 3;     ShearY .8 8, Invert .7
        Equalize .9, TranslateY .6 6;  Invert .9, Equalize .6;         Contrast .3 3, Rotate .8 4
        Invert .8, TranslateY 0 2;     ShearY .7 6, Solarize .4 8;     Invert .6, Rotate .8 4
        ShearY .3 7, TranslateX .9 3;  ShearX .1 6, Invert .6;         Solarize .7 2, TranslateY .6 7
        ShearY .8 4, Invert .8;        ShearX .7 9, TranslateY .8 3;   ShearY .8 5, AutoContrast .7
        ShearX .7 2, Invert .1""",
}


def _step(text: str) -> tuple[str, np.float32, int | None]:
    """'Rotate .6 9' -> ("Rotate", 0.6, 9)."""
    name, probability, *level = text.split()
    return name, np.float32(probability), int(level[0]) if level else None


#: dataset -> 25 pairs of (operation, probability float32, level or None)
POLICIES = {
    dataset: [tuple(map(_step, pair.split(","))) for pair in table.replace("\n", ";").split(";") if pair.strip()]
    for dataset, table in _TABLES.items()
}


class AutoAugment:
    """One of 25 sub-policies of two operations. Draws: 1 sub-policy, 2 probabilities, 2 signs (NOTES 3.12)."""

    def __init__(self, dataset: str, resample: Image.Resampling):
        self.pairs, self.resample = POLICIES[dataset], resample

    def __call__(self, image: Image.Image, draws) -> Image.Image:
        pair = self.pairs[draws.randint(len(self.pairs))]
        probabilities = [draws.rand() for _ in pair]
        signs = [draws.randint(2) for _ in pair]
        for (name, probability, level), drawn, sign in zip(pair, probabilities, signs, strict=True):
            if drawn <= probability:
                magnitude = 0.0 if level is None else float(AUTO_SPACE.magnitudes(name, image.size)[level])
                if name in SIGNED and sign == 0:
                    magnitude = -magnitude
                image = OPERATIONS[name](image, magnitude, self.resample)
        return image


def _random_operation(image, draws, space: Space, names: Sequence[str], level: Callable[[], int], resample):
    """One of `names` at `level()`. Draws: operation, what `level` draws if it has one, sign if it has one."""
    name = names[draws.randint(len(names))]
    magnitudes = space.magnitudes(name, image.size)
    magnitude = 0.0 if magnitudes is None else float(magnitudes[level()])
    if name in SIGNED and draws.randint(2):
        magnitude = -magnitude
    return OPERATIONS[name](image, magnitude, resample)


class RandAugment:
    """Two random operations at one fixed level of 31 (Cubuk et al. 2020)."""

    def __init__(self, level: int, resample: Image.Resampling):
        self.level, self.resample = level, resample

    def __call__(self, image: Image.Image, draws) -> Image.Image:
        for _ in range(2):
            image = _random_operation(image, draws, RAND_SPACE, RAND_OPERATIONS, lambda: self.level, self.resample)
        return image


class TrivialAugmentWide:
    """One random operation at a random level of 31, in a wide space (Müller and Hutter 2021)."""

    def __init__(self, resample: Image.Resampling):
        self.resample = resample

    def __call__(self, image: Image.Image, draws) -> Image.Image:
        def level() -> int:
            return draws.randint(WIDE_SPACE.bins)

        return _random_operation(image, draws, WIDE_SPACE, RAND_OPERATIONS, level, self.resample)


class AugMix:
    """The image blended with three chains of one to three operations each (Hendrycks et al. 2020)."""

    WIDTH, DEPTH = 3, 3

    def __init__(self, severity: int, resample: Image.Resampling):
        self.severity, self.resample = severity, resample

    def __call__(self, image: Image.Image, draws) -> Image.Image:
        def level() -> int:
            return draws.randint(self.severity)

        kept, blended = draws.dirichlet(2)
        weights = draws.dirichlet(self.WIDTH) * blended
        mix = kept * np.asarray(image, np.float32)
        for weight in weights:
            chain = image
            for _ in range(1 + draws.randint(self.DEPTH)):
                chain = _random_operation(chain, draws, AUGMIX_SPACE, AUGMIX_OPERATIONS, level, self.resample)
            mix += weight * np.asarray(chain, np.float32)
        return Image.fromarray(mix.astype(np.uint8))  # truncated, as in the reference


def build_policy(
    name: str | None, resample: Image.Resampling, ra_magnitude: int, augmix_severity: int
) -> Callable[[Image.Image, object], Image.Image] | None:
    """The policy of --auto_augment, called `policy(image, draws)`; None for None."""
    if name == "ra":
        return RandAugment(ra_magnitude, resample)
    if name == "ta_wide":
        return TrivialAugmentWide(resample)
    if name == "augmix":
        return AugMix(augmix_severity, resample)
    return AutoAugment(name, resample) if name else None
