"""Segment images and draw the result.

    python demo.py --image_path FILE_OR_FOLDER --weights output/best --output_dir output/demo
    python demo.py --image_path CITYSCAPES/leftImg8bit/test --weights W --output_dir SUBMISSION --label_ids

For each image NAME.* writes NAME_overlay.png (the colours of the classes over the image, a legend below it) and
NAME_labels.png (the class of each pixel as palette index: train ids, or with --label_ids the ids of the Cityscapes
test server), below --output_dir in the image's own sub-folder. Also writes summary.json, the share of each class.
"""

from shared import InputError, run, set_up

set_up()

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from PIL import Image, ImageDraw, ImageFont

from shared.files import atomic_write, write_json
from shared.pictures import find_pictures, output_stems, work_through
from shared.running.launch import use_device
from shared.running.options import Group, positive_float, probability

from constants import CLASS_NAMES, PALETTE, class_names, to_label_ids
from convert import load_official
from datasets import load_image, normalise
from engine import dygraph_segment, predict
from metrics import Protocol
from models import build_model
from options import build_parser, parse_options_for_weights

INK, FAINT, EDGE = (28, 32, 38), (112, 120, 130), (205, 210, 216)
NARROWEST = 480  # smallest width of an overlay, so that the legend has room


def palette_for(num_classes: int) -> np.ndarray:
    """uint8 [num_classes, 3]: Cityscapes' colours for its 19 classes, hues a golden angle apart for any other count."""
    if num_classes == len(CLASS_NAMES):
        return PALETTE
    hues = (k * 0.618034 % 1 for k in range(num_classes))
    colours = [colorsys.hsv_to_rgb(hue, 0.75 - 0.3 * (k % 2), 0.95 - 0.3 * (k % 3 == 2)) for k, hue in enumerate(hues)]
    return np.round(255 * np.array(colours)).astype(np.uint8)


def fractions_of(labels: np.ndarray, num_classes: int) -> dict[int, float]:
    """{class: fraction of the pixels} of the classes in a label map, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=num_classes)
    order = np.argsort(-counts, kind="stable")
    return {int(k): float(counts[k] / labels.size) for k in order if counts[k]}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %" if fraction >= 0.0005 else "< 0.1 %"


def draw_overlay(
    image: Image.Image, labels: np.ndarray, palette: np.ndarray, names: Sequence[str], alpha: float
) -> Image.Image:
    """`image` under the colours of its classes, opaque at `alpha` 1; below it a strip of their fractions and a legend.

    labels int [H, W] of the image's size, palette uint8 [K, 3] and the K names of the classes.
    """
    fractions = fractions_of(labels, len(names))
    em = max(12, round(math.sqrt(image.width * image.height) / 48))  # size of the letters
    strip = max(6, round(0.5 * em))
    width = max(image.width, NARROWEST)
    legend = _draw_legend({names[k]: (fractions[k], tuple(palette[k].tolist())) for k in fractions}, width, em)
    canvas = Image.new("RGB", (width, image.height + strip + legend.height), "white")
    left = (width - image.width) // 2
    canvas.paste(Image.blend(image, Image.fromarray(palette[labels]), alpha), (left, 0))
    canvas.paste(legend, (0, image.height + strip))
    pen = ImageDraw.Draw(canvas)
    ends = np.round(np.cumsum(list(fractions.values())) * image.width).astype(int).tolist()
    for k, begin, end in zip(fractions, [0, *ends], ends, strict=False):
        if end > begin:  # Pillow draws the last row and column too
            box = (left + begin, image.height, left + end - 1, image.height + strip - 1)
            pen.rectangle(box, tuple(palette[k].tolist()))
    return canvas


def _draw_legend(entries: dict[str, tuple[float, tuple]], width: int, em: int) -> Image.Image:
    """Name, fraction and colour of each class in columns; `em` is the size of the letters."""
    font = ImageFont.load_default(em)
    name_width = max(map(font.getlength, entries))
    percent_width = max(font.getlength(_percent(fraction)) for fraction, _ in entries.values())
    entry = math.ceil(1.5 * em + name_width + 1.2 * em + percent_width)  # colour, name, gap, fraction
    columns = min(len(entries), max(1, width // (entry + 2 * em)))
    rows, line = math.ceil(len(entries) / columns), round(1.7 * em)
    legend = Image.new("RGB", (width, em + rows * line + round(0.4 * em)), "white")
    pen = ImageDraw.Draw(legend)
    for index, (name, (fraction, colour)) in enumerate(entries.items()):
        column, row = divmod(index, rows)
        x, y = em + column * (width // columns), em + row * line
        pen.rounded_rectangle((x, y, x + em, y + em), em // 5, colour, EDGE)
        baseline = y + round(0.86 * em)
        pen.text((x + 1.5 * em, baseline), name, INK, font, anchor="ls")
        pen.text((x + entry, baseline), _percent(fraction), FAINT, font, anchor="rs")
    return legend


class Demo:
    """Segments one image after the other, writes its files and remembers its summary."""

    def __init__(self, options, segment):
        self.options, self.segment = options, segment
        self.names, self.palette = class_names(options.num_classes), palette_for(options.num_classes)
        values = np.arange(options.num_classes, dtype=np.uint8)
        #: of the classes in the label file
        self.values = to_label_ids(values).astype(np.uint8) if options.label_ids else values
        self.colours = np.zeros((256, 3), np.uint8)
        self.colours[self.values] = self.palette
        self.summary: dict[str, dict] = {}

    def __call__(self, path: Path, stem: Path) -> str:
        """Write the two files of an image; returns its largest classes as a line. InputError names the image."""
        image = load_image(path, upright=True)
        images = paddle.to_tensor(normalise(np.asarray(image)))[None]
        try:
            labels = predict(self.segment, images, Protocol((self.options.scale,)))[0]
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        label_file = Image.fromarray(self.values[labels])
        label_file.putpalette(self.colours.tobytes())
        overlay = draw_overlay(image, labels, self.palette, self.names, self.options.alpha)
        for ending, picture in (("overlay", overlay), ("labels", label_file)):
            file_name = stem.with_name(f"{stem.name}_{ending}.png")
            atomic_write(file_name, lambda file, picture=picture: picture.save(file, "PNG"))
        shares = {self.names[k]: part for k, part in fractions_of(labels, self.options.num_classes).items()}
        root = Path(self.options.image_path)
        name = path.relative_to(root) if root.is_dir() else Path(path.name)
        self.summary[name.as_posix()] = {"width": image.width, "height": image.height, "shares": shares}
        return f"{name}: {', '.join(f'{name} {_percent(part)}' for name, part in list(shares.items())[:5])}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network"))
    add = Group(parser, "demo").add
    add("--image_path", default=None, metavar="PATH", help="an image, or a folder of images with sub-folders")
    help_text = "at which the network sees the images: 0.5 is the paper's Seg50, 0.75 its Seg75"
    add("--scale", type=positive_float, default=0.5, metavar="S", help=help_text)
    add("--alpha", type=probability, default=0.55, metavar="A", help="opacity of the colours in the overlay")
    help_text = "write Cityscapes label ids instead of train ids, for the test server"
    add("--label_ids", action="store_true", help=help_text)
    options = parse_options_for_weights(argv, parser)
    if not options.image_path:
        raise InputError("--image_path is missing: give an image or a folder of images")
    if options.label_ids and options.num_classes != len(CLASS_NAMES):
        raise InputError(f"--label_ids: these are ids of Cityscapes' 19 classes, the network has {options.num_classes}")
    if options.num_classes > 256:
        raise InputError(f"--num_classes {options.num_classes}: a palette image holds 256 classes at most")
    pictures = find_pictures(options.image_path, options.output_dir)
    use_device(options.device)
    model = build_model(options)
    load_official(model, options.weights)
    output_dir = Path(options.output_dir)
    demo = Demo(options, dygraph_segment(model))
    status = work_through(pictures, output_stems(pictures, Path(options.image_path), output_dir), output_dir, demo)
    write_json(output_dir / "summary.json", demo.summary)
    return status


if __name__ == "__main__":
    run(main)
