"""Pictures in, labelled pictures out: the five most probable classes beside each picture.

    python demo.py --image_path FILE_OR_FOLDER --weights output/best --output_dir output/demo

Class names come from the checkpoint, from --class_names FILE (a name a line), or, for 1000 outputs, from ImageNet.
Also writes predictions.json.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from shared import InputError, run
from shared.weights import atomic_write, atomic_write_text

from convert import load_official
from datasets import SYNSETS, build_transform, label_names, load_image
from datasets.folder import list_images
from evaluate import dygraph_predictor
from models import build_model
from options import build_parser, parse_options_for_weights

TOP = 5
HEIGHT = 360  # of a labelled picture
PANEL = 360  # width of the panel beside it
INK, FAINT, BAR, BEST = (28, 32, 38), (120, 128, 138), (168, 190, 214), (46, 111, 176)


def find_pictures(path: str) -> list[Path]:
    """The picture `path`, or every picture below the folder `path`. InputError when there is none."""
    if Path(path).is_dir():
        pictures = [Path(name) for name in list_images(path)]
        if not pictures:
            raise InputError(f"{path}: no pictures in it; give a folder with .jpg or .png files, or one file")
        return pictures
    if not Path(path).exists():
        raise InputError(f"{path}: no such file or folder; give --image_path a picture or a folder of pictures")
    return [Path(path)]


def read_class_names(path: str, expected: int) -> list[str]:
    """A name a line. InputError when the file is missing or its length is not `expected`."""
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); give a text file, a class name a line") from error
    if len(names) != expected:
        raise InputError(f"{path}: has {len(names)} lines but the network has {expected} outputs; give one name each")
    return names


def softmax(logits: np.ndarray) -> np.ndarray:
    """float [N, K] -> probabilities float64 [N, K]."""
    exponent = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return exponent / exponent.sum(1, keepdims=True)


def draw(picture: Image.Image, labels: Sequence[str], probabilities: Sequence[float]) -> Image.Image:
    """The picture (RGB) with a panel of its classes and their probabilities, the most probable first."""
    scale = HEIGHT / picture.height
    width = min(max(round(picture.width * scale), 1), 3 * HEIGHT)
    canvas = Image.new("RGB", (width + PANEL, HEIGHT), "white")
    canvas.paste(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS))
    pen = ImageDraw.Draw(canvas)
    left, right = width + 20, width + PANEL - 20
    row = HEIGHT // TOP
    for place, (label, probability) in enumerate(zip(labels, probabilities, strict=True)):
        top = place * row + 8
        font = ImageFont.load_default(19 if place == 0 else 16)
        percent = f"{100 * probability:.1f} %"
        percent_width = pen.textlength(percent, font)
        pen.text((left, top), _fit(pen, label, font, right - left - percent_width - 10), INK, font)
        pen.text((right - percent_width, top), percent, INK if place == 0 else FAINT, font)
        line = (left, top + 32, right, top + 38)
        pen.rounded_rectangle(line, 3, (236, 239, 242))
        filled = left + probability * (right - left)
        if filled - left >= 1:
            pen.rounded_rectangle((left, line[1], filled, line[3]), 3, BEST if place == 0 else BAR)
    return canvas


def _fit(pen: ImageDraw.ImageDraw, text: str, font, width: float) -> str:
    """The first of a label's synonyms, shortened until it fits."""
    text = text.split(",")[0]
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network", "preprocessing"))
    parser.add_argument("--image_path", default=None, metavar="PATH", help="a picture, or a folder of pictures")
    parser.add_argument("--class_names", default=None, metavar="FILE", help="class names, one a line")
    options, remembered = parse_options_for_weights(argv, parser)
    if not options.image_path:
        raise InputError("--image_path is missing: give a picture or a folder of pictures")
    pictures = find_pictures(options.image_path)
    paddle.set_device(options.device)
    model = build_model(options)
    load_official(model, options.weights)
    classes = remembered.get("classes") or (list(SYNSETS) if options.num_classes == len(SYNSETS) else None)
    names = label_names(classes) if classes else [f"class {index}" for index in range(options.num_classes)]
    if options.class_names:
        names = read_class_names(options.class_names, options.num_classes)
    predict = dygraph_predictor(model)
    transform = build_transform(options, train=False)

    root = Path(options.image_path)
    output_dir = Path(options.output_dir)
    predictions, failed = {}, 0
    for path in tqdm(pictures, desc="demo", unit="picture", leave=False, disable=None):
        try:
            picture = load_image(path)
        except InputError as error:
            if len(pictures) == 1:
                raise
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        images = transform(picture, None)[None]
        probabilities = softmax(predict(paddle.to_tensor(images)))[0]
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        relative = path.relative_to(root) if root.is_dir() else Path(path.name)
        labels, shares = [names[i] for i in best], [float(probabilities[i]) for i in best]
        labelled = draw(picture, labels, shares)
        target = output_dir / relative.with_name(relative.name + ".top5.png")
        atomic_write(target, lambda file, labelled=labelled: labelled.save(file, "PNG"))
        predictions[relative.as_posix()] = [
            {"index": int(index), "class": label, "probability": share}
            for index, label, share in zip(best, labels, shares, strict=True)
        ]
        tqdm.write(
            f"{relative}: " + ", ".join(f"{n.split(',')[0]} {p:.3f}" for n, p in zip(labels, shares, strict=True))
        )
    atomic_write_text(output_dir / "predictions.json", json.dumps(predictions, indent=1) + "\n")
    print(f"{len(pictures) - failed} of {len(pictures)} pictures done; files in {output_dir}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
