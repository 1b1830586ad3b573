"""Results and labels as pictures: 3D boxes in the image, and the view from above.

Each class has its colour; an object's front is crossed in the image and is the tip in the view from above.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.objects import Objects, box_corners

COLOURS = {"Car": (255, 150, 30), "Pedestrian": (70, 190, 255), "Cyclist": (250, 90, 210)}
OTHER = (190, 190, 190)
INK, PAPER, GRID = (28, 32, 38), (255, 255, 255), (214, 218, 224)
NEAR = 0.2  # metres: edges are cut off at this depth
LEAST_WIDTH = 1000  # pixels: smaller images are enlarged by a whole factor before boxes are drawn,
MOST_HEIGHT = 4000  # but not to more than this
MOST_SIDE = 2000  # pixels: of the view from above beside a tall image
SMALL = 60  # pixels: lower boxes are drawn with thin lines
SUBPIXEL = 4  # fractional bits of OpenCV's coordinates

_RING = ((0, 1), (1, 2), (2, 3), (3, 0))
#: bottom, top and posts of `box_corners`, then the cross over the front
EDGES = np.array([*_RING, *((a + 4, b + 4) for a, b in _RING), *((k, k + 4) for k in range(4)), (0, 5), (1, 4)])


def colour_of(kind: str) -> tuple[int, int, int]:
    """RGB of a class; grey for types that are not classes of the network."""
    return COLOURS.get(kind, OTHER)


def project_segments(segments: np.ndarray, projection: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [m, 2, 2] of the segments [n, 2, 3] in front of the camera, by P2 [3, 4], and their indices, int64 [m].

    A segment that passes through the camera's plane is cut off at the depth NEAR.
    """
    kept = np.flatnonzero((segments[..., 2] > NEAR).any(1))
    first, second = segments[kept, 0], segments[kept, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = ((NEAR - first[:, 2:]) / (second[:, 2:] - first[:, 2:])).clip(0, 1)
    crossing = first + part * (second - first)
    first, second = (np.where(end[:, 2:] > NEAR, end, crossing) for end in (first, second))
    ends = np.stack([first, second], 1)
    pixels = ends @ projection[:, :3].T + projection[:, 3]
    return pixels[..., :2] / pixels[..., 2:], kept


def _line(canvas: np.ndarray, ends: np.ndarray, colour: tuple, thickness: int) -> None:
    whole = np.clip(ends, -8000, 8000) * 2**SUBPIXEL
    first, second = whole.round().astype(int).tolist()
    cv2.line(canvas, first, second, colour, thickness, cv2.LINE_AA, SUBPIXEL)


def draw_boxes(picture: Image.Image, objects: Objects, projection: np.ndarray) -> Image.Image:
    """The image with the 3D boxes of `objects`, the farthest first, and their class, score and distance.

    DontCare, which has no 3D box, gets a thin 2D box.
    """
    enlarged = max(1, min(-(-LEAST_WIDTH // picture.width), MOST_HEIGHT // picture.height))
    if enlarged > 1:
        picture = picture.resize((picture.width * enlarged, picture.height * enlarged), Image.Resampling.BICUBIC)
    # the centre of pixel (0, 0) is at u = v = 0, before and after
    scale = np.array([[enlarged, 0, (enlarged - 1) / 2], [0, enlarged, (enlarged - 1) / 2], [0, 0, 1]])
    projection = scale @ np.asarray(projection, np.float64)
    canvas = np.array(picture)
    thickness = max(1, round(picture.width / 700))
    corners = box_corners(objects.sizes, objects.positions, objects.rotations)
    tags = []
    for k in np.argsort(-objects.positions[:, 2], kind="stable"):
        kind, colour = objects.types[k], colour_of(objects.types[k])
        if kind == "DontCare":
            x1, y1, x2, y2 = (objects.boxes[k] * enlarged).round().astype(int).tolist()
            cv2.rectangle(canvas, (x1, y1), (x2, y2), OTHER, 1, cv2.LINE_AA)
            continue
        lines, _ = project_segments(corners[k][EDGES], projection)
        small = np.ptp(lines[..., 1]) < SMALL if len(lines) else False
        for paint, wide in ((colour, 1),) if small else ((INK, thickness + 2), (colour, thickness)):
            for ends in lines:
                _line(canvas, ends, paint, wide)
        if len(lines):
            score = "" if objects.scores is None else f" {objects.scores[k]:.2f}"
            anchor = lines[:, :, 0].mean(), lines[:, :, 1].min()
            tags.append((anchor, f"{kind}{score} {objects.positions[k, 2]:.0f} m", colour))
    picture = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(11, picture.width // 90))
    for (x, y), text, colour in tags:
        anchor = float(np.clip(x, 0, picture.width)), float(np.clip(y - 3, font.size, picture.height))
        pen.text(anchor, text, colour, font, anchor="mb", stroke_width=2, stroke_fill=INK)
    return picture


def view_from_above(objects: Objects, side: int, far: float) -> Image.Image:
    """The objects' outlines over a grid in metres, `side` x `side` pixels; the camera is at the bottom, in the middle.

    z goes from 0 to `far`, x from -far/2 to far/2.
    """
    canvas = np.full((side, side, 3), PAPER, np.uint8)
    margin = side // 12
    metre = (side - 1.5 * margin) / far

    def to_pixels(x, z) -> np.ndarray:
        return np.stack([side / 2 + np.asarray(x) * metre, side - margin - np.asarray(z) * metre], -1)

    step = 5 if far <= 30 else 10
    across = np.arange(-(far // 2 // step) * step, far / 2 + 0.01, step)
    along = np.arange(0, far + 0.01, step)
    for x in across:
        _line(canvas, to_pixels([x, x], [0, far]), GRID, 1)
    for z in along:
        _line(canvas, to_pixels([-far / 2, far / 2], [z, z]), GRID, 1)
    outlines = box_corners(objects.sizes, objects.positions, objects.rotations)[:, :4, ::2]
    for k in range(len(objects)):
        if objects.types[k] == "DontCare":
            continue
        colour, ring = colour_of(objects.types[k]), outlines[k]
        points = (to_pixels(*ring.T) * 2**SUBPIXEL).clip(-1e6, 1e6).round().astype(np.int32)
        cv2.fillPoly(canvas, [points], [(255 + 2 * c) // 3 for c in colour], cv2.LINE_AA, SUBPIXEL)
        front, rear = (ring[0] + ring[1]) / 2, (ring[2] + ring[3]) / 2
        nose = front + 0.35 * (front - rear)
        for first, second in ((ring[0], nose), (ring[1], nose), *zip(ring, np.roll(ring, -1, 0), strict=True)):
            _line(canvas, to_pixels(*np.stack([first, second], 1)), INK, 1)
    picture = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, side // 32))
    for z in along[1:]:
        pen.text(tuple(to_pixels(-far / 2 + 0.01 * far, z)), f"{z:.0f} m", INK, font, anchor="lt")
    for x in across[1:-1]:
        pen.text((to_pixels(x, 0)[0], side - 0.8 * margin), f"{x:.0f}", INK, font, anchor="mt")
    tip = to_pixels(0, 0)
    pen.polygon([tuple(tip + [dx * margin / 4, dz * margin / 3]) for dx, dz in ((0, -1), (-1, 0.6), (1, 0.6))], INK)
    return picture


def range_of(all_objects: Sequence[Objects]) -> float:
    """The depth that a view from above shows: up to the farthest object, in tens of metres, 20 to 80."""
    depths = [z for objects in all_objects for z in objects.positions[:, 2] if np.isfinite(z)]
    return float(np.clip(np.ceil((max(depths, default=0) + 2) / 10) * 10, 20, 80))


def draw_results(picture: Image.Image, projection: np.ndarray, rows: Sequence[tuple[str, Objects]]) -> Image.Image:
    """Named rows ("results", "labels"), one below the other: the image with boxes, beside it the view from above."""
    far = range_of([objects for _, objects in rows])
    drawn = [draw_boxes(picture, objects, projection) for _, objects in rows]
    width, height = drawn[0].size
    side = min(max(height, 360), MOST_SIDE)
    tall = max(height, side)
    band = max(14, width // 60)
    canvas = Image.new("RGB", (width + side, len(rows) * (tall + band)), PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(round(0.8 * band))
    for k, (name, objects) in enumerate(rows):
        top = k * (tall + band)
        present = [kind for kind in COLOURS if kind in objects.types]
        pen.text((6, top + band / 2), name, INK, font, anchor="lm")
        x = 12 + pen.textlength(name, font) + band
        for kind in present:
            pen.rectangle((x, top + 0.25 * band, x + 0.5 * band, top + 0.75 * band), colour_of(kind), INK)
            pen.text((x + 0.7 * band, top + band / 2), kind, INK, font, anchor="lm")
            x += 1.4 * band + pen.textlength(kind, font)
        canvas.paste(drawn[k], (0, top + band))
        canvas.paste(view_from_above(objects, side, far), (width, top + band))
    return canvas
