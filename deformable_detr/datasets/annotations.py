"""COCO annotation files, read whole and checked before anything is computed from them."""

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

from pycocotools.coco import COCO

from shared import InputError
from shared.files import one_line, read_json

_LARGEST_ID = 2**53  # detections carry ids as float64
_LARGEST = 1e9  # pixels: no image has more, and sums and products stay finite
_FIX = "check that it is a COCO instances file"


def read_annotations(path: str | Path, num_classes: int | None = None) -> COCO:
    """The annotation file as pycocotools indexes it, without the outlines, which only masks need.

    InputError, naming the file and the entry, for anything that would fail in training or evaluation: no `images`,
    `annotations` or `categories`; ids that are missing or there twice; an annotation of an unknown image or category; a
    box that is not four finite numbers; a category id that a network of `num_classes` logits does not have.
    """
    path = Path(path)
    content = read_json(path, "COCO annotations", _FIX)
    try:
        _check(content, num_classes)
    except _Invalid as error:
        raise InputError(one_line(f"{path}: {error}")) from error
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
        annotation.setdefault("iscrowd", 0)  # pycocotools reads it in every one
    return create_index(content)


def create_index(content: dict) -> COCO:
    """pycocotools' index of an annotation file's content, without its messages."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def usable(bbox: list, width: int, height: int) -> bool:
    """Whether a box [x, y, w, h] has an area inside its image."""
    x, y, w, h = bbox
    return max(x, 0) < min(x + w, width) and max(y, 0) < min(y + h, height)


def is_crowd(annotation: dict) -> bool:
    """Whether `iscrowd` is there and not 0: crowds are not targets (NOTES 2.2)."""
    return bool(annotation.get("iscrowd", 0))


def note_unusable(coco: COCO, path: str | Path) -> None:
    """Count the boxes without an area inside their image, and report them in one line.

    They are left out of the targets (NOTES 2.2), while the evaluation uses the annotation file as it is (NOTES 7.2).
    """
    left_out = [
        annotation["id"]
        for annotation in coco.dataset["annotations"]
        if not is_crowd(annotation)
        and not usable(annotation["bbox"], *(coco.imgs[annotation["image_id"]][side] for side in ("width", "height")))
    ]
    if left_out:
        some = ", ".join(map(str, left_out[:5])) + (", ..." if len(left_out) > 5 else "")
        boxes = "1 box lies" if len(left_out) == 1 else f"{len(left_out)} boxes lie"
        print(
            f"note: {path}: {boxes} outside the picture or without size, left out of training (annotation {some})",
            file=sys.stderr,
        )


# -------------------- Checks


class _Invalid(Exception):
    """What is wrong with the file and how to correct it."""


def _is_id(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_ID


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST  # no NaN


def _check(content, num_classes: int | None) -> None:
    if not isinstance(content, dict):
        raise _Invalid(f"holds a {type(content).__name__}, not a dictionary; {_FIX}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise _Invalid(f"has no list of `{key}`; {_FIX}")
        if not content[key] and key != "annotations":
            raise _Invalid(f"its list of `{key}` is empty; {_FIX}")
    categories = _ids(content["categories"], "category")
    images = _ids(content["images"], "image", _check_image)
    if num_classes is not None:
        outside = sorted(number for number in categories if not 0 <= number < num_classes)
        if outside:
            raise _Invalid(
                f"category id {outside[-1]} does not fit {num_classes} classes, numbers 0 to {num_classes - 1}; give "
                "--num_classes as the largest id + 1"
            )

    def check(annotation: dict) -> None:
        _check_annotation(annotation, images, categories)

    _ids(content["annotations"], "annotation", check)


def _ids(entries: list, kind: str, check: Callable[[dict], None] | None = None) -> set[int]:
    """The ids of a list's entries; `check` is called with every entry."""
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")):
            raise _Invalid(f"{kind} number {index} (counted from 0) has no whole number as `id`; {_FIX}")
        if entry["id"] in seen:
            raise _Invalid(f"{kind} id {entry['id']} is there twice; give each {kind} an id of its own")
        seen.add(entry["id"])
        if check:
            check(entry)
    return seen


def _check_image(image: dict) -> None:
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        raise _Invalid(f"image {image['id']} has no `file_name`; {_FIX}")
    for side in ("width", "height"):
        if not _is_id(image.get(side)) or image[side] < 1:
            raise _Invalid(f"image {image['id']} has no positive whole number as `{side}`; {_FIX}")


def _check_annotation(annotation: dict, images: set[int], categories: set[int]) -> None:
    name = f"annotation {annotation['id']}"
    if annotation["id"] == 0:
        raise _Invalid("has an annotation id 0, which pycocotools takes for no annotation; count them from 1")
    for key, known in (("image_id", images), ("category_id", categories)):
        value = annotation.get(key)
        if not _is_id(value):
            raise _Invalid(f"{name} has no whole number as `{key}`; {_FIX}")
        if value not in known:
            kind = "images" if key == "image_id" else "categories"
            raise _Invalid(
                f"{name} has {key} {value}, which is not among the `{kind}`; add it or remove the annotation"
            )
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise _Invalid(f"{name} has the bbox {str(bbox)[:60]}, wanted are four finite numbers [x, y, width, height]")
    if not _is_number(annotation.get("area")):
        raise _Invalid(f"{name} has the area {str(annotation.get('area'))[:40]}, wanted is a finite number of pixels")
    if annotation.get("iscrowd", 0) not in (0, 1):
        raise _Invalid(f"{name} has the iscrowd {str(annotation['iscrowd'])[:40]}, wanted is 0 or 1")
