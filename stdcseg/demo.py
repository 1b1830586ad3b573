"""Pictures in, segmented pictures out.

    python demo.py --image_path FILE_OR_FOLDER --weights output/best --output_dir output/demo
    python demo.py --image_path CITYSCAPES/leftImg8bit/test --weights W --output_dir SUBMISSION --label_ids

For each picture NAME.* writes NAME_overlay.png (the classes' colours over the picture, a legend below it) and
NAME_labels.png (the class of each pixel as palette index: train ids, or with --label_ids what the Cityscapes server
takes), below --output_dir in the picture's own sub-folder. Also writes summary.json, the share of each class.
"""

import argparse
import colorsys
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import paddle
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

from shared import InputError, run
from shared.running.options import positive_float
from shared.weights import atomic_write, atomic_write_text

from convert import load_official
from datasets import CLASS_NAMES, PALETTE, load_image, normalise, to_label_ids
from evaluate import class_names, dygraph_segment
from inference import predict_scaled
from models import build_model
from options import build_parser, parse_options_for_weights

#: accepted endings of file names in a folder, compared in lower case
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
INK, FAINT, EDGE = (28, 32, 38), (112, 120, 130), (205, 210, 216)
NARROWEST = 480  # canvas of an overlay, so that the legend has room


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
    """The picture in `path` as RGB, turned as its EXIF orientation says. InputError as `datasets.load_image` raises."""
    return ImageOps.exif_transpose(load_image(path))


def palette_for(num_classes: int) -> np.ndarray:
    """uint8 [num_classes, 3]: Cityscapes' colours for its 19 classes, hues a golden angle apart for any other count."""
    if num_classes == len(CLASS_NAMES):
        return PALETTE
    hues = (k * 0.618034 % 1 for k in range(num_classes))
    colours = [colorsys.hsv_to_rgb(hue, 0.75 - 0.3 * (k % 2), 0.95 - 0.3 * (k % 3 == 2)) for k, hue in enumerate(hues)]
    return np.round(255 * np.array(colours)).astype(np.uint8)


def shares_of(labels: np.ndarray, num_classes: int) -> dict[int, float]:
    """{class: share of the pixels} of the classes in a label map, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=num_classes)
    order = np.argsort(-counts, kind="stable")
    return {int(k): float(counts[k] / labels.size) for k in order if counts[k]}


def indexed(values: np.ndarray, colours: np.ndarray) -> Image.Image:
    """uint8 [H, W] as a palette picture; `colours` uint8 [256, 3] belong to the values 0 to 255."""
    picture = Image.fromarray(values)
    picture.putpalette(colours.tobytes())
    return picture


def draw_overlay(
    picture: Image.Image, labels: np.ndarray, palette: np.ndarray, names: Sequence[str], alpha: float
) -> Image.Image:
    """`picture` under the colours of its classes, `alpha` of 1 opaque; below it their shares as a strip and a legend.

    labels int [H, W] of the picture's size, palette uint8 [K, 3] and the K names of the classes.
    """
    shares = shares_of(labels, len(names))
    colours = {k: tuple(palette[k].tolist()) for k in shares}
    em = max(12, round(math.sqrt(picture.width * picture.height) / 48))  # size of the letters
    font = ImageFont.load_default(em)
    name_width = max(font.getlength(names[k]) for k in shares)
    share_width = max(font.getlength(_percent(share)) for share in shares.values())
    entry = math.ceil(1.5 * em + name_width + 1.2 * em + share_width)  # colour, name, gap, share
    width = max(picture.width, NARROWEST)
    columns = min(len(shares), max(1, width // (entry + 2 * em)))
    rows = math.ceil(len(shares) / columns)
    line, strip = round(1.7 * em), max(6, round(0.5 * em))
    legend_top = picture.height + strip + em

    canvas = Image.new("RGB", (width, legend_top + rows * line + round(0.4 * em)), "white")
    left = (width - picture.width) // 2
    canvas.paste(Image.blend(picture, Image.fromarray(palette[labels]), alpha), (left, 0))
    pen = ImageDraw.Draw(canvas)
    ends = np.round(np.cumsum(list(shares.values())) * picture.width).astype(int).tolist()
    for k, begin, end in zip(shares, [0, *ends], ends, strict=False):
        if end > begin:  # Pillow draws the last row and column too
            box = (left + begin, picture.height, left + end - 1, picture.height + strip - 1)
            pen.rectangle(box, colours[k])
    for place, (k, share) in enumerate(shares.items()):
        column, row = divmod(place, rows)
        x, y = em + column * (width // columns), legend_top + row * line
        pen.rounded_rectangle((x, y, x + em, y + em), em // 5, colours[k], EDGE)
        baseline = y + round(0.86 * em)
        pen.text((x + 1.5 * em, baseline), names[k], INK, font, anchor="ls")
        pen.text((x + entry, baseline), _percent(share), FAINT, font, anchor="rs")
    return canvas


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _targets(pictures: Sequence[Path], root: Path, output_dir: Path) -> list[Path]:
    """Where each picture's files go, without their ending: in its sub-folder, under its name.

    The name is without suffix, or with it for all pictures when two would have the same.
    """
    places = [path.relative_to(root) if root.is_dir() else Path(path.name) for path in pictures]
    bare = [place.with_suffix("") for place in places]
    return [output_dir / place for place in (bare if len(set(bare)) == len(bare) else places)]


def _segmented(segment: Callable, picture: Image.Image, path: Path, scale: float) -> np.ndarray:
    """Labels [H, W] of a picture. InputError, which names it, where it is too small for the network."""
    images = paddle.to_tensor(normalise(np.asarray(picture)))[None]
    try:
        return predict_scaled(segment, images, scale, images.shape[2:])[0]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network"))
    group = parser.add_argument_group("demo")
    text = "a picture, or a folder of pictures with sub-folders"
    group.add_argument("--image_path", "--image-path", default=None, metavar="PATH", help=text)
    text = "at which the network sees the pictures: 0.5 is the paper's Seg50, 0.75 its Seg75"
    group.add_argument("--scale", type=positive_float, default=0.5, metavar="S", help=text)
    group.add_argument("--alpha", type=_share, default=0.55, metavar="A", help="share of the colours in the overlay")
    text = "write Cityscapes label ids instead of train ids, for the test server"
    group.add_argument("--label_ids", "--label-ids", action="store_true", help=text)
    options = parse_options_for_weights(argv, parser)
    if not options.image_path:
        raise InputError("--image_path is missing: give a picture or a folder of pictures")
    if options.label_ids and options.num_classes != len(CLASS_NAMES):
        raise InputError(f"--label_ids: these are ids of Cityscapes' 19 classes, the network has {options.num_classes}")
    if options.num_classes > 256:
        raise InputError(f"--num_classes {options.num_classes}: a palette picture holds 256 classes at most")
    pictures = find_pictures(options.image_path, options.output_dir)
    paddle.set_device(options.device)
    model = build_model(options)
    load_official(model, options.weights)
    segment = dygraph_segment(model)

    names, palette = class_names(options.num_classes), palette_for(options.num_classes)
    values = np.arange(options.num_classes, dtype=np.uint8)  # of the classes in the label picture
    if options.label_ids:
        values = to_label_ids(values).astype(np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    colours[values] = palette
    root, output_dir = Path(options.image_path), Path(options.output_dir)
    targets = _targets(pictures, root, output_dir)
    summary, failed = {}, 0
    bar = tqdm(pictures, desc="demo", unit="picture", leave=False, disable=None)
    for path, target in zip(bar, targets, strict=True):
        try:
            picture = read_picture(path)
            labels = _segmented(segment, picture, path, options.scale)
        except InputError as error:
            if len(pictures) == 1:
                raise
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        overlay = draw_overlay(picture, labels, palette, names, options.alpha)
        for ending, image in (("overlay", overlay), ("labels", indexed(values[labels], colours))):
            file_name = target.with_name(f"{target.name}_{ending}.png")
            atomic_write(file_name, lambda file, image=image: image.save(file, "PNG"))
        shares = {names[k]: share for k, share in shares_of(labels, options.num_classes).items()}
        name = path.relative_to(root) if root.is_dir() else Path(path.name)
        summary[name.as_posix()] = {"width": picture.width, "height": picture.height, "shares": shares}
        most = ", ".join(f"{name} {_percent(share)}" for name, share in list(shares.items())[:5])
        tqdm.write(f"{name}: {most}")
    atomic_write_text(output_dir / "summary.json", json.dumps(summary, indent=1) + "\n")
    print(f"{len(pictures) - failed} of {len(pictures)} pictures done; files in {output_dir}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
