"""The labels of Cityscapes and the 19 classes that are trained and evaluated (NOTES 3.3)."""

from typing import NamedTuple

import numpy as np

#: train id of the pixels that losses and metrics ignore
IGNORE = 255


class Label(NamedTuple):
    """One row of the table: `id` as in the labelIds files, `train_id` 0..18, IGNORE or -1, `colour` in RGB."""

    id: int
    name: str
    train_id: int
    colour: tuple[int, int, int]
    category: str


LABELS = tuple(
    Label(*row)
    for row in [
        (0, "unlabeled", 255, (0, 0, 0), "void"),
        (1, "ego vehicle", 255, (0, 0, 0), "void"),
        (2, "rectification border", 255, (0, 0, 0), "void"),
        (3, "out of roi", 255, (0, 0, 0), "void"),
        (4, "static", 255, (0, 0, 0), "void"),
        (5, "dynamic", 255, (111, 74, 0), "void"),
        (6, "ground", 255, (81, 0, 81), "void"),
        (7, "road", 0, (128, 64, 128), "flat"),
        (8, "sidewalk", 1, (244, 35, 232), "flat"),
        (9, "parking", 255, (250, 170, 160), "flat"),
        (10, "rail track", 255, (230, 150, 140), "flat"),
        (11, "building", 2, (70, 70, 70), "construction"),
        (12, "wall", 3, (102, 102, 156), "construction"),
        (13, "fence", 4, (190, 153, 153), "construction"),
        (14, "guard rail", 255, (180, 165, 180), "construction"),
        (15, "bridge", 255, (150, 100, 100), "construction"),
        (16, "tunnel", 255, (150, 120, 90), "construction"),
        (17, "pole", 5, (153, 153, 153), "object"),
        (18, "polegroup", 255, (153, 153, 153), "object"),
        (19, "traffic light", 6, (250, 170, 30), "object"),
        (20, "traffic sign", 7, (220, 220, 0), "object"),
        (21, "vegetation", 8, (107, 142, 35), "nature"),
        (22, "terrain", 9, (152, 251, 152), "nature"),
        (23, "sky", 10, (70, 130, 180), "sky"),
        (24, "person", 11, (220, 20, 60), "human"),
        (25, "rider", 12, (255, 0, 0), "human"),
        (26, "car", 13, (0, 0, 142), "vehicle"),
        (27, "truck", 14, (0, 0, 70), "vehicle"),
        (28, "bus", 15, (0, 60, 100), "vehicle"),
        (29, "caravan", 255, (0, 0, 90), "vehicle"),
        (30, "trailer", 255, (0, 0, 110), "vehicle"),
        (31, "train", 16, (0, 80, 100), "vehicle"),
        (32, "motorcycle", 17, (0, 0, 230), "vehicle"),
        (33, "bicycle", 18, (119, 11, 32), "vehicle"),
        (-1, "license plate", -1, (0, 0, 142), "vehicle"),
    ]
)

_EVALUATED = sorted((label for label in LABELS if 0 <= label.train_id < IGNORE), key=lambda label: label.train_id)

#: names of the 19 classes, in the order of their train ids
CLASS_NAMES = tuple(label.name for label in _EVALUATED)
#: their colours, uint8 [19, 3] in RGB
PALETTE = np.array([label.colour for label in _EVALUATED], np.uint8)


def class_names(num_classes: int) -> list[str]:
    """Cityscapes' names of its 19 classes, numbers for any other count."""
    return list(CLASS_NAMES) if num_classes == len(CLASS_NAMES) else [f"class {k}" for k in range(num_classes)]


# ids without a row stay as they are, as in the reference; the last entry is that of id -1
_TRAIN_ID_OF = np.append(np.arange(256), -1)
_ID_OF = np.zeros(256, np.uint8)
for _label in LABELS:
    _TRAIN_ID_OF[_label.id] = _label.train_id
for _label in _EVALUATED:
    _ID_OF[_label.train_id] = _label.id


def to_train_ids(ids: np.ndarray) -> np.ndarray:
    """Label ids -1..255, integers of any shape -> train ids, int64: 0..18 or IGNORE; -1 and 34..254 stay themselves."""
    return _TRAIN_ID_OF[ids]


def to_label_ids(train_ids: np.ndarray) -> np.ndarray:
    """Train ids 0..255 -> label ids, uint8, as the Cityscapes test server wants them; other values become 0."""
    return _ID_OF[train_ids]
