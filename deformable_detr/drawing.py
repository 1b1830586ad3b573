"""Boxes with labels drawn over pictures."""

import colorsys
import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

SMALLEST = 640  # long side of a drawn picture; smaller ones are enlarged, so that labels can be read
LIGHT, DARK = (255, 255, 255), (16, 18, 22)


class Labelled(NamedTuple):
    """A box [x0, y0, x1, y1] in pixels of the picture, its text, and the category that gives its colour."""

    box: tuple[float, float, float, float]
    text: str
    category: int
    crowd: bool = False


def colour_of(category: int) -> tuple[int, int, int]:
    """A strong colour for each category; those of neighbouring ids, and of the mini data's, are far apart."""
    hue, kind = category * 0.2328 % 1, category % 3
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.65, 0.95)[kind], (0.95, 1.0, 0.75)[kind])
    return round(255 * red), round(255 * green), round(255 * blue)


def ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Dark or light letters, whichever can be read on `colour`."""
    red, green, blue = colour
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else LIGHT


def draw_boxes(picture: Image.Image, boxes: Sequence[Labelled], title: str = "") -> Image.Image:
    """An RGB picture with `boxes`, the first on top, and `title` below it; enlarged to SMALLEST if it is smaller.

    Boxes are cut at the picture's edges; those without a finite side are left out. Crowds have dashed frames.
    """
    factor = max(1.0, SMALLEST / max(picture.size))
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    canvas = picture.resize(size, Image.Resampling.BICUBIC) if size != picture.size else picture.copy()
    em = max(12, round(math.sqrt(size[0] * size[1]) / 42))  # size of the letters
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(em)
    line = max(2, round(em / 6))
    frames = [frame for frame in (_frame(entry, factor, size) for entry in boxes) if frame]
    for entry, corners in reversed(frames):
        _outline(pen, corners, colour_of(entry.category), line, entry.crowd)
    taken: list[tuple[float, float, float, float]] = []
    chips = []
    for entry, corners in frames:
        width, height = font.getlength(entry.text) + 0.6 * em, 1.25 * em
        label = _label_corners(corners, (width, height), size, taken)
        taken.append(label)
        chips.append((entry, label))
    for entry, (left, top, right, bottom) in reversed(chips):
        colour = colour_of(entry.category)
        pen.rectangle((left, top, right, bottom), colour)
        pen.text((left + 0.3 * em, top + 0.97 * em), entry.text, ink_on(colour), font, anchor="ls")
    return _with_title(canvas, title, em) if title else canvas


def _frame(entry: Labelled, factor: float, size: tuple[int, ...]):
    """(entry, its corners on the canvas), or None where it does not overlap the canvas."""
    if not all(map(math.isfinite, entry.box)):
        return None
    x0, y0, x1, y1 = (
        min(max(value * factor, 0), side - 1) for value, side in zip(entry.box, (*size, *size), strict=True)
    )
    return (entry, (x0, y0, x1, y1)) if x1 > x0 and y1 > y0 else None


def _outline(pen: ImageDraw.ImageDraw, corners, colour, line: int, dashed: bool) -> None:
    x0, y0, x1, y1 = corners
    pen.rectangle(corners, outline=colour, width=line)
    if dashed:
        for x in range(round(x0), round(x1), 6 * line):
            for y in (y0, y1 - line + 1):
                pen.rectangle((x, y, min(x + 2 * line, x1), y + line - 1), LIGHT)
        for y in range(round(y0), round(y1), 6 * line):
            for x in (x0, x1 - line + 1):
                pen.rectangle((x, y, x + line - 1, min(y + 2 * line, y1)), LIGHT)


def _label_corners(corners, label: tuple[float, float], size: tuple[int, ...], taken: list):
    """The corners of a label: above its box, inside or below it, wherever it covers least of the earlier labels."""
    (x0, y0, x1, y1), (width, height) = corners, label
    left = min(max(x0, 0), max(size[0] - width, 0))
    right = min(max(x1 - width, 0), max(size[0] - width, 0))
    tries = [(left, y0 - height), (left, y0), (right, y0 - height), (right, y0), (left, y1 - height), (left, y1)]
    tries += [(right, y1 - height), (right, y1)]
    inside = [(x, y) for x, y in tries if 0 <= y <= size[1] - height] or [(left, max(min(y0, size[1] - height), 0))]

    def covered(corner: tuple[float, float]) -> float:
        x, y = corner
        return sum(
            max(0, min(x + width, c) - max(x, a)) * max(0, min(y + height, d) - max(y, b)) for a, b, c, d in taken
        )

    x, y = min(inside, key=covered)  # the first of equals
    return x, y, x + width, y + height


def _with_title(canvas: Image.Image, title: str, em: int) -> Image.Image:
    whole = Image.new("RGB", (canvas.width, canvas.height + round(1.7 * em)), "white")
    whole.paste(canvas)
    ImageDraw.Draw(whole).text((0.4 * em, canvas.height + 1.2 * em), title, DARK, ImageFont.load_default(em), "ls")
    return whole


def side_by_side(left: Image.Image, right: Image.Image | None = None) -> Image.Image:
    """Two drawn pictures in one, a white gap between them; one alone stays as it is."""
    if right is None:
        return left
    gap = max(6, left.width // 100)
    whole = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), "white")
    whole.paste(left)
    whole.paste(right, (left.width + gap, 0))
    return whole
