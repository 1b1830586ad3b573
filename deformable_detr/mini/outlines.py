"""Masks as COCO writes them: polygons along the edges of pixels, boxes, and run lengths for crowds."""

import cv2
import numpy as np


def mask_box(mask: np.ndarray) -> list[float]:
    """[x, y, width, height] of the pixels of a mask, bool [H, W], which must have one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return [float(left), float(top), float(columns[-1] + 1 - left), float(rows[-1] + 1 - top)]


def mask_counts(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths of a mask: down the columns, beginning with the number of zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes.tolist(), flat.size]).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def mask_polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons [x0, y0, x1, y1, ...] along pixel edges that cover exactly the pixels of a mask, bool [H, W].

    COCO's polygons know no holes: a part that has one is cut in two through it.
    """
    polygons = []
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        part = labels == number
        outside = cv2.connectedComponents(np.pad(~part, 1, constant_values=True).astype(np.uint8), connectivity=8)[1]
        holes = outside[1:-1, 1:-1] > outside[0, 0]
        if not holes.any():
            polygons.append(_outline(part))
            continue
        column = int(np.argwhere(holes)[0, 1]) + 1
        for half in (slice(0, column), slice(column, None)):
            piece = np.zeros_like(part)
            piece[:, half] = part[:, half]
            polygons += mask_polygons(piece)
    return polygons


def _outline(part: np.ndarray) -> list[float]:
    """The corners of one connected part without holes, in order round it."""
    filled = np.pad(part, 1)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Each pixel's four edges, clockwise, where its neighbour is none of the part's.
    for (down, right), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        rows, columns = np.nonzero(filled & ~np.roll(filled, (-down, -right), (0, 1)))
        for y, x in zip((rows - 1).tolist(), (columns - 1).tolist(), strict=True):
            edges.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    point = first = min(edges)
    before, outline = (0, 0), []
    while edges:
        ways = edges[point]
        # Where two pixels meet at a corner only, turn right: that stays with the pixel one comes from.
        way = ways[0]
        if len(ways) > 1:
            way = next(w for w in ways if (w[0] - point[0], w[1] - point[1]) == (-before[1], before[0]))
        ways.remove(way)
        if not ways:
            del edges[point]
        step = (way[0] - point[0], way[1] - point[1])
        if step != before:
            outline += [float(point[0]), float(point[1])]
        point, before = way, step
        if point == first and not edges:
            break
    return outline
