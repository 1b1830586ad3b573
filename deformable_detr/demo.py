"""Pictures in, pictures with boxes, labels and scores out.

    python demo.py --image_path FILE_OR_FOLDER --weights output/train/latest --output_dir output/demo
    python demo.py --image_path data/mini/val2017 --annotations data/mini/annotations/instances_val2017.json

For each picture NAME.* writes NAME_boxes.png and NAME_boxes.json, below --output_dir in the picture's own sub-folder.
With --annotations instead of --weights the boxes of that COCO file are drawn; with both, they stand to the left of the
detections.
"""

from shared import InputError, run, set_up

set_up()

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from shared.files import atomic_write, write_json
from shared.pictures import find_pictures, output_stems, read_picture, work_through
from shared.running.launch import use_device
from shared.running.options import Group, fraction, positive_int

from datasets import collate, eval_transform, prepare_target, read_annotations
from datasets.categories import CATEGORIES
from deploy import load_network
from drawing import Labelled, draw_boxes, side_by_side
from engine import Network, predict
from models import PostProcess
from options import FOLDER, NO_WEIGHTS, build_parser, parse_options_for_weights


def detect(network: Network, picture: Image.Image, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Detections of one picture at --val_size: scores, labels, boxes in pixels of `picture`, the best first."""
    sample = eval_transform(options)(picture, prepare_target(0, [], picture.size))
    images, mask, _ = collate([sample])
    return PostProcess()(predict(network, images, mask), sample[1]["orig_size"][None])[0]


def best(detections: Mapping[str, np.ndarray], threshold: float, top: int | None) -> dict[str, np.ndarray]:
    """The `top` best detections; without `top` those whose score is at least `threshold`."""
    count = int((detections["scores"] >= threshold).sum()) if top is None else top
    return {key: value[:count] for key, value in detections.items()}


def class_names(num_classes: int, coco: COCO | None) -> dict[int, str]:
    """{label: name}: the annotation file's; COCO's for other labels of a network with COCO's 91 classes."""
    names = dict(CATEGORIES) if num_classes == 91 else {}
    if coco is not None:
        names |= {number: category.get("name") or str(number) for number, category in coco.cats.items()}
    return names


def detected_boxes(detections: Mapping[str, np.ndarray], names: Mapping[int, str]) -> list[Labelled]:
    """Detections as labelled boxes."""
    rows = zip(*(detections[key].tolist() for key in ("scores", "labels", "boxes")), strict=True)
    return [
        Labelled(tuple(box), f"{names.get(label, f'class {label}')} {score:.2f}", label) for score, label, box in rows
    ]


def annotated_boxes(coco: COCO, image_id: int, names: Mapping[int, str]) -> list[Labelled]:
    """The annotations of one image, crowds too, as labelled boxes: the smallest on top."""
    annotations = sorted(coco.imgToAnns.get(image_id, []), key=lambda annotation: annotation["area"])
    boxes = []
    for annotation in annotations:
        (x, y, w, h), label, crowd = annotation["bbox"], annotation["category_id"], bool(annotation["iscrowd"])
        boxes.append(Labelled((x, y, x + w, y + h), names[label] + (" (crowd)" if crowd else ""), label, crowd))
    return boxes


def as_json(picture: Image.Image, detections: Mapping[str, np.ndarray], names: Mapping[int, str]) -> dict:
    """The content of NAME_boxes.json: the picture's size and its detections, boxes as COCO's [x, y, width, height]."""
    entries = []
    for score, label, (x0, y0, x1, y1) in zip(
        *(detections[key].tolist() for key in ("scores", "labels", "boxes")), strict=True
    ):
        name = names.get(label, f"class {label}")
        entries.append({"category_id": label, "category": name, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    return {"width": picture.width, "height": picture.height, "detections": entries}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser(__doc__, ("run", "network", "sizes"))
    group = Group(parser, "demo")
    text = "a picture, or a folder of pictures with sub-folders"
    group.add("--image_path", default=None, metavar="PATH", help=text)
    default = str(FOLDER / "output" / "demo")
    group.add("--output_dir", default=default, metavar="DIR", help="folder of the results")
    group.add("--threshold", type=fraction, default=0.3, metavar="S", help="smallest score that is drawn")
    text = "draw the N best of each picture, whatever their score"
    group.add("--top", type=positive_int, default=None, metavar="N", help=text)
    text = "COCO annotation file whose boxes are drawn for pictures of its file names"
    group.add("--annotations", default=None, metavar="JSON", help=text)
    group.add("--format", default="png", choices=["png", "jpg"], help="of the pictures that are written")
    options = parse_options_for_weights(argv, parser, needed=False)
    if not options.image_path:
        raise InputError("--image_path is missing: give a picture or a folder of pictures")
    if not options.weights and not options.annotations:
        raise InputError(f"--weights is missing: {NO_WEIGHTS}, or --annotations")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    root, output_dir = Path(options.image_path), Path(options.output_dir)
    pictures = find_pictures(root, output_dir)
    coco = read_annotations(options.annotations) if options.annotations else None
    ids = {entry["file_name"]: entry["id"] for entry in coco.dataset["images"]} if coco else {}
    if coco and not any(path.name in ids for path in pictures):
        raise InputError(
            f"--annotations {options.annotations}: names none of the pictures; give the file of this split"
        )
    use_device(options.device)
    network = load_network(options) if options.weights else None
    names = class_names(options.num_classes, coco)

    def work(path: Path, stem: Path) -> str | None:
        picture, drawn, line = read_picture(path, upright=True), [], None
        if path.name in ids:
            boxes = annotated_boxes(coco, ids[path.name], names)
            drawn.append(draw_boxes(picture, boxes, f"annotated: {len(boxes)}"))
        if network:
            detections = best(detect(network, picture, options), options.threshold, options.top)
            kind = f"the best {options.top}" if options.top else f"score from {options.threshold:g}"
            boxes = detected_boxes(detections, names)
            drawn.append(draw_boxes(picture, boxes, f"detected: {len(boxes)} ({kind})"))
            write_json(stem.with_name(f"{stem.name}_boxes.json"), as_json(picture, detections, names))
            line = f"{path}: {len(boxes)} detections"
        if drawn:
            image, kind = side_by_side(*drawn), {"png": "PNG", "jpg": "JPEG"}[options.format]
            atomic_write(stem.with_name(f"{stem.name}_boxes.{options.format}"), lambda file: image.save(file, kind))
        return line

    return work_through(pictures, output_stems(pictures, root, output_dir), output_dir, work)


if __name__ == "__main__":
    run(main)
