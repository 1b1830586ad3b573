"""Pictures in, pictures with boxes, labels and scores out.

    python demo.py --image_path FILE_OR_FOLDER --weights output/train/latest --output_dir output/demo
    python demo.py --image_path data/mini/val2017 --annotations data/mini/annotations/instances_val2017.json

For each picture NAME.* writes NAME_boxes.png and NAME_boxes.json, below --output_dir in the picture's own sub-folder.
With --annotations instead of --weights the boxes of that COCO file are drawn; with both, they stand to the left of the
detections.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from tqdm import tqdm

from shared import InputError, run
from shared.files import atomic_write, atomic_write_text
from shared.running.options import fraction, positive_int

from datasets import collate, eval_transform, load_image, prepare_target, read_annotations
from datasets.categories import CATEGORIES
from drawing import Labelled, draw_boxes, side_by_side
from inference import NO_WEIGHTS, Predictor, build_predictor, load_network, parse_for_weights
from models import PostProcess
from options import FOLDER, build_parser

#: accepted endings of file names in a folder, compared in lower case
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


def find_pictures(path: str | Path, output_dir: str | Path) -> list[Path]:
    """The picture `path`, or all pictures below the folder `path`, sorted, links followed.

    Hidden files are passed over, and so is `output_dir`, which may lie in that folder. InputError when there is none.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give --image_path a picture or a folder of pictures")
    if not path.is_dir():
        return [path]
    output = Path(output_dir).resolve()
    if output == path.resolve():
        raise InputError(f"--output_dir {output_dir}: the folder of the pictures themselves; give another one")
    pictures, seen = [], {output}
    for folder, subfolders, names in os.walk(path, followlinks=True):
        if Path(folder).resolve() in seen:
            subfolders.clear()
            continue
        seen.add(Path(folder).resolve())
        pictures += [Path(folder) / name for name in names if name.lower().endswith(EXTENSIONS) and name[0] != "."]
    if not pictures:
        raise InputError(f"{path}: no pictures in it ({' '.join(EXTENSIONS)}); give another folder, or one file")
    return sorted(pictures)


def read_picture(path: str | Path) -> Image.Image:
    """The picture in `path` as RGB, turned as its EXIF orientation says. InputError as `load_image` raises it."""
    return ImageOps.exif_transpose(load_image(path))


def detect_picture(predict: Predictor, picture: Image.Image, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Detections of one picture at --val_size: scores, labels, boxes in pixels of `picture`, the best first."""
    image, target = eval_transform(options)(picture, prepare_target(0, [], picture.size))
    images, mask = collate([image])
    outputs = predict(paddle.to_tensor(images), paddle.to_tensor(mask))
    return PostProcess()(outputs, target["orig_size"][None])[0]


def chosen(found: Mapping[str, np.ndarray], threshold: float, top: int | None) -> dict[str, np.ndarray]:
    """The `top` best detections; without `top` those whose score is at least `threshold`."""
    count = int((found["scores"] >= threshold).sum()) if top is None else top
    return {key: value[:count] for key, value in found.items()}


def class_names(num_classes: int, coco: COCO | None) -> dict[int, str]:
    """{label: name}: the annotation file's; COCO's for other labels of a network with COCO's 91 classes."""
    names = dict(CATEGORIES) if num_classes == 91 else {}
    if coco is not None:
        names |= {number: category.get("name") or str(number) for number, category in coco.cats.items()}
    return names


def detected_boxes(found: Mapping[str, np.ndarray], names: Mapping[int, str]) -> list[Labelled]:
    """Detections as what is drawn."""
    return [
        Labelled(tuple(box), f"{names.get(label, f'class {label}')} {score:.2f}", label)
        for score, label, box in zip(found["scores"], found["labels"].tolist(), found["boxes"].tolist(), strict=True)
    ]


def annotated_boxes(coco: COCO, image_id: int, names: Mapping[int, str]) -> list[Labelled]:
    """The boxes of one picture's annotations, crowds too, as what is drawn: the smallest on top."""
    annotations = sorted(coco.imgToAnns.get(image_id, []), key=lambda annotation: annotation["area"])
    boxes = []
    for annotation in annotations:
        (x, y, w, h), label, crowd = annotation["bbox"], annotation["category_id"], bool(annotation["iscrowd"])
        boxes.append(Labelled((x, y, x + w, y + h), names[label] + (" (crowd)" if crowd else ""), label, crowd))
    return boxes


def as_json(picture: Image.Image, found: Mapping[str, np.ndarray], names: Mapping[int, str]) -> str:
    """What NAME_boxes.json holds: the picture's size and its detections, boxes as COCO's [x, y, width, height]."""
    detections = []
    for score, label, (x0, y0, x1, y1) in zip(
        *(found[key].tolist() for key in ("scores", "labels", "boxes")), strict=True
    ):
        name = names.get(label, f"class {label}")
        detections.append({"category_id": label, "category": name, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    return json.dumps({"width": picture.width, "height": picture.height, "detections": detections}, indent=1) + "\n"


def _targets(pictures: Sequence[Path], root: Path, output_dir: Path) -> list[Path]:
    """Where each picture's files go, without their ending: in its sub-folder, under its name.

    The name is without suffix, or with it for all pictures when two would have the same.
    """
    places = [path.relative_to(root) if root.is_dir() else Path(path.name) for path in pictures]
    bare = [place.with_suffix("") for place in places]
    return [output_dir / place for place in (bare if len(set(bare)) == len(bare) else places)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "network", "sizes"))
    group = parser.add_argument_group("demo")

    def add(name: str, **settings) -> None:
        group.add_argument(f"--{name}", f"--{name.replace('_', '-')}", **settings)

    add("image_path", default=None, metavar="PATH", help="a picture, or a folder of pictures with sub-folders")
    add("output_dir", default=str(FOLDER / "output" / "demo"), metavar="DIR", help="where the files go")
    group.add_argument("--threshold", type=fraction, default=0.3, metavar="S", help="least score that is shown")
    text = "show the N best of each picture, whatever their score"
    group.add_argument("--top", type=positive_int, default=None, metavar="N", help=text)
    text = "COCO annotation file whose boxes are drawn for pictures of its file names"
    group.add_argument("--annotations", default=None, metavar="JSON", help=text)
    group.add_argument("--format", default="png", choices=["png", "jpg"], help="of the pictures that are written")
    options = parse_for_weights(argv, parser, required=False)
    if not options.image_path:
        raise InputError("--image_path is missing: give a picture or a folder of pictures")
    if not options.weights and not options.annotations:
        raise InputError(f"{NO_WEIGHTS}, or --annotations")
    pictures = find_pictures(options.image_path, options.output_dir)
    coco = read_annotations(options.annotations) if options.annotations else None
    ids = {entry["file_name"]: entry["id"] for entry in coco.dataset["images"]} if coco else {}
    if coco and not any(path.name in ids for path in pictures):
        raise InputError(
            f"--annotations {options.annotations}: names none of the pictures; give the file of this split"
        )
    paddle.set_device(options.device)
    predict = build_predictor(load_network(options), options, "dygraph") if options.weights else None

    names = class_names(options.num_classes, coco)
    root, output_dir = Path(options.image_path), Path(options.output_dir)
    failed = 0
    bar = tqdm(pictures, desc="demo", unit="picture", leave=False, disable=None)
    for path, target in zip(bar, _targets(pictures, root, output_dir), strict=True):
        try:
            picture = read_picture(path)
        except InputError as error:
            if len(pictures) == 1:
                raise
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        drawn = []
        if path.name in ids:
            boxes = annotated_boxes(coco, ids[path.name], names)
            drawn.append(draw_boxes(picture, boxes, f"annotated: {len(boxes)}"))
        if predict:
            found = chosen(detect_picture(predict, picture, options), options.threshold, options.top)
            kind = f"the best {options.top}" if options.top else f"score from {options.threshold:g}"
            count = len(found["scores"])
            title = f"detected: {count} ({kind})"
            drawn.append(draw_boxes(picture, detected_boxes(found, names), title))
            atomic_write_text(target.with_name(f"{target.name}_boxes.json"), as_json(picture, found, names))
            tqdm.write(f"{path}: {count} detections")
        if drawn:
            image = drawn[0] if len(drawn) == 1 else side_by_side(*drawn)
            kind = {"png": "PNG", "jpg": "JPEG"}[options.format]
            atomic_write(
                target.with_name(f"{target.name}_boxes.{options.format}"),
                lambda file, image=image, kind=kind: image.save(file, kind),
            )
    print(f"{len(pictures) - failed} of {len(pictures)} pictures done; files in {output_dir}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
