"""Pictures in, labelled pictures out: the five most probable classes beside each picture.

    python demo.py --image_path FILE_OR_FOLDER --weights output/best --output_dir output/demo

Class names come from the checkpoint, from --class_names FILE (a name per line), or, for 1000 outputs, from ImageNet.
Also writes predictions.json.
"""

from shared import InputError, run, set_up

set_up()

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from PIL import Image, ImageDraw, ImageFont

from shared.files import atomic_write, write_json
from shared.pictures import find_pictures, output_stems, read_picture, work_through
from shared.running.launch import use_device

from convert import load_official
from datasets.folder import EXTENSIONS
from datasets.imagenet import SYNSETS, label_names
from datasets.transforms import build_transform
from engine import predict
from models import build_model
from options import build_parser, parse_options_for_weights, remembered_classes

TOP = 5
ENDING = ".top5.png"
HEIGHT = 360  # of a labelled picture
PANEL = 360  # width of the panel beside it
INK, FAINT, BAR, BEST, TRACK = (28, 32, 38), (120, 128, 138), (168, 190, 214), (46, 111, 176), (236, 239, 242)


def class_names(file: str | None, classes: Sequence[str] | None, num_classes: int) -> list[str]:
    """What to call each output: a line of `file`, or a class of the checkpoint or of ImageNet, or its index.

    InputError when the file cannot be read or has another number of lines.
    """
    if file is None:
        classes = classes or (SYNSETS if num_classes == len(SYNSETS) else None)
        return label_names(classes) if classes else [f"class {index}" for index in range(num_classes)]
    try:
        names = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: cannot be read as text ({error}); give a text file, a class name per line"
        ) from error
    if len(names) != num_classes:
        raise InputError(
            f"{file}: has {len(names)} lines but the network has {num_classes} outputs; give one name each"
        )
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
    for rank, (label, probability) in enumerate(zip(labels, probabilities, strict=True)):
        top = rank * (HEIGHT // TOP) + 8
        font = ImageFont.load_default(19 if rank == 0 else 16)
        percent = f"{100 * probability:.1f} %"
        percent_width = pen.textlength(percent, font)
        pen.text((left, top), _fit(pen, label, font, right - left - percent_width - 10), INK, font)
        pen.text((right - percent_width, top), percent, INK if rank == 0 else FAINT, font)
        pen.rounded_rectangle((left, top + 32, right, top + 38), 3, TRACK)
        filled = probability * (right - left)
        if filled >= 1:
            pen.rounded_rectangle((left, top + 32, left + filled, top + 38), 3, BEST if rank == 0 else BAR)
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
    parser.add_argument("--class_names", default=None, metavar="FILE", help="class names, one per line")
    options = parse_options_for_weights(argv, parser)
    if not options.image_path:
        raise InputError("--image_path is missing: give a picture or a folder of pictures")
    root, output_dir = Path(options.image_path), Path(options.output_dir)
    pictures = find_pictures(root, output_dir, EXTENSIONS, own=(ENDING,))
    use_device(options.device)
    model = build_model(options)
    load_official(model, options.weights)
    names = class_names(options.class_names, remembered_classes(options.weights), options.num_classes)
    transform = build_transform(options, train=False)
    predictions = {}

    def work(path: Path, stem: Path) -> str:
        picture = read_picture(path)
        probabilities = softmax(predict(model, paddle.to_tensor(transform(picture)[None])))[0]
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        labels, values = [names[i] for i in best], probabilities[best].tolist()
        labelled = draw(picture, labels, values)
        atomic_write(stem.with_name(stem.name + ENDING), lambda file: labelled.save(file, "PNG"))
        name = path.relative_to(root) if root.is_dir() else Path(path.name)
        rows = list(zip(best.tolist(), labels, values, strict=True))
        predictions[name.as_posix()] = [{"index": i, "class": label, "probability": p} for i, label, p in rows]
        return f"{name}: " + ", ".join(f"{label.split(',')[0]} {p:.3f}" for _, label, p in rows)

    status = work_through(pictures, output_stems(pictures, root, output_dir), output_dir, work)
    write_json(output_dir / "predictions.json", predictions)
    return status


if __name__ == "__main__":
    run(main)
