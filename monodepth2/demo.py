"""Images in, disparities out (NOTES 7.9).

    python demo.py --image_path FILE_OR_FOLDER --weights W --output_dir O
    python demo.py --image_path STREETS --ext png --weights W --output_dir O --pred_metric_depth
    python demo.py --image_path 000000.png --weights W --output_dir O --velodyne 000000.bin --calib 000000.txt

For each image NAME.* writes NAME_disp.npy (scaled disparity float32 [1, 1, h, w] at the network's size; with
--pred_metric_depth also NAME_depth.npy, in metres), NAME_disp.jpeg (the disparity in colours, at the image's size) and
NAME_side_by_side.png (the image with it). A laser scan also gives NAME_velodyne.png, its depth drawn on the image.
Without --output_dir the files go beside the images. An image that cannot be read is reported, the others are processed,
and the exit status is 2.
"""

from shared import InputError, run, set_up

set_up()

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import paddle
from matplotlib.colors import Normalize
from paddle.nn import functional as F
from PIL import Image, ImageDraw, ImageFont

from shared.files import atomic_write
from shared.pictures import find_pictures, output_stems, read_picture, work_through
from shared.running.launch import use_device
from shared.running.options import Group

from convert import load_network, parse_options_for_weights
from datasets.transforms import pyramid, to_array
from datasets.velodyne import read_calibration, read_points, read_values
from engine import Predictor, dygraph_predictor
from metrics import STEREO_SCALE
from models.geometry import disp_to_depth
from options import build_parser

#: endings of what this script writes, which it does not read
OWN = ("_disp.jpg", "_disp.jpeg", "_side_by_side.png", "_velodyne.png")
FARTHEST = 80.0  # metres: the far end of a scan's colours at most
GAP = 8  # pixels between the two parts of a canvas
INK = (28, 32, 38)


def predict_image(predictor: Predictor, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """The raw disparity float32 [1, 1, h, w] of an image; `size` = (height, width) of the network."""
    return predictor(to_array(pyramid(image, *size, 0, "lanczos")[0])[None])


def colour_map(disparity: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Raw disparity [1, 1, h, w] in magma's colours at `size` = (width, height); bright is near.

    From the minimum to the 95th percentile of the resized disparity.
    """
    resized = F.interpolate(paddle.to_tensor(disparity), size[::-1], mode="bilinear", align_corners=False)
    values = resized.numpy()[0, 0]
    norm = Normalize(float(values.min()), float(np.percentile(values, 95)))
    colours = matplotlib.colormaps["magma"](norm(values))[:, :, :3]
    return Image.fromarray((colours * 255).astype(np.uint8))


def side_by_side(image: Image.Image, colours: Image.Image) -> Image.Image:
    """Both, of one size, on one canvas: wide ones one below the other, others side by side."""
    width, height = image.size
    step = (0, height + GAP) if width > height else (width + GAP, 0)
    canvas = Image.new("RGB", (width + step[0], height + step[1]), "white")
    canvas.paste(image)
    canvas.paste(colours, step)
    return canvas


# ------------------------------------------------------------------------------------ laser scans


def read_projection(path: str) -> np.ndarray:
    """The projection from scanner points to pixels of the left colour camera, float64 [3, 4].

    `path` is a folder of KITTI raw's calibration (calib_cam_to_cam.txt, calib_velo_to_cam.txt) or a KITTI object
    calibration file (P2, R0_rect, Tr_velo_to_cam). InputError for anything else.
    """
    if Path(path).is_dir():
        return read_calibration(Path(path)).projections[2]
    values = read_values(Path(path), {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)})
    rectify, to_camera = np.eye(4), np.eye(4)
    rectify[:3, :3], to_camera[:3] = values["R0_rect"], values["Tr_velo_to_cam"]
    return values["P2"] @ rectify @ to_camera


def project_scan(points: np.ndarray, projection: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The points of a scan [n, 4] (x forward, y left, z up) inside an image of `size` = (width, height).

    Returns their pixels int64 [m, 2] (column, row) and depths float64 [m] in metres, the farthest first.
    """
    points = points[points[:, 0] >= 0, :3].astype(np.float64)
    projected = points @ projection[:, :3].T + projection[:, 3]
    projected = projected[projected[:, 2] > 0]
    pixels = np.round(projected[:, :2] / projected[:, 2:]) - 1  # as in the ground truth (NOTES 2.9)
    inside = ((pixels >= 0) & (pixels < size)).all(1)
    pixels, depth = pixels[inside].astype(np.int64), projected[inside, 2]
    order = np.argsort(-depth, kind="stable")
    return pixels[order], depth[order]


def draw_scan(image: Image.Image, pixels: np.ndarray, depth: np.ndarray) -> Image.Image:
    """The image with the points of `project_scan` in colours of their depth, and a colour bar below it.

    The bar ends at a multiple of 10 m that at most 2 % of the points exceed, or at 80 m.
    """
    far = FARTHEST
    if depth.size:
        far = min(10.0 * np.ceil(np.percentile(depth, 98) / 10), FARTHEST)
    width, height = image.size
    palette = matplotlib.colormaps["turbo_r"]
    em = max(12, round(np.sqrt(width * height) / 45))  # size of the letters
    canvas = Image.new("RGB", (max(width, 16 * em), height + 3 * em), "white")
    painted = np.array(image)
    colours = (palette(np.clip(depth / far, 0, 1))[:, :3] * 255).astype(np.uint8)
    radius = max(1, round(np.sqrt(width * height) / 500))
    side = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    offsets = offsets[(offsets**2).sum(1) <= radius**2 + 1]
    # in the points' order, so that near ones cover far ones: numpy keeps the last of equal pixels
    spots = (pixels[:, None] + offsets).clip(0, np.array(image.size) - 1).reshape(-1, 2)
    painted[spots[:, 1], spots[:, 0]] = np.repeat(colours, len(offsets), axis=0)
    canvas.paste(Image.fromarray(painted), ((canvas.width - width) // 2, 0))

    bar = np.linspace(0, 1, canvas.width - 4 * em)
    strip = np.repeat((palette(bar)[None, :, :3] * 255).astype(np.uint8), em, axis=0)
    canvas.paste(Image.fromarray(strip), (2 * em, height + em // 2))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(em)
    for metres in np.linspace(0, far, 5):
        x = 2 * em + metres / far * (len(bar) - 1)
        pen.text((x, height + 1.6 * em), f"{metres:g} m", INK, font, anchor="mt")
    return canvas


# ------------------------------------------------------------------------------------ the script


def _save(path: Path, image: Image.Image) -> None:
    kind = "JPEG" if path.suffix == ".jpeg" else "PNG"
    atomic_write(path, lambda file: image.save(file, kind))


class Demo:
    """Predicts one image after the other and writes its files."""

    def __init__(self, options: argparse.Namespace, predictor: Predictor, scan: tuple | None):
        self.options, self.predictor, self.scan = options, predictor, scan

    def __call__(self, path: Path, stem: Path) -> str:
        """Write the files of an image; returns a line about them. InputError for an image that cannot be read."""
        options, image, lines = self.options, read_picture(path), []
        raw = predict_image(self.predictor, image, (options.height, options.width))
        scaled, depth = disp_to_depth(raw, options.min_depth, options.max_depth)
        arrays = {"disp": scaled} | ({"depth": STEREO_SCALE * depth} if options.pred_metric_depth else {})
        for kind, array in arrays.items():
            atomic_write(stem.with_name(f"{stem.name}_{kind}.npy"), lambda file, array=array: np.save(file, array))
        colours = colour_map(raw, image.size)
        canvases = {"_disp.jpeg": colours, "_side_by_side.png": side_by_side(image, colours)}
        if self.scan:
            pixels, depths = project_scan(*self.scan, image.size)
            canvases["_velodyne.png"] = draw_scan(image, pixels, depths)
            lines.append(f"{path}: {len(depths)} points of the scan in the image")
        for ending, canvas in canvases.items():
            kind = "JPEG" if ending.endswith("jpeg") else "PNG"
            atomic_write(
                stem.with_name(stem.name + ending), lambda file, canvas=canvas, kind=kind: canvas.save(file, kind)
            )
        name, array = list(arrays.items())[-1]
        return "\n".join([*lines, f"{path}: {name} {array.min():.4g} to {array.max():.4g}"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "network"))
    group = Group(parser, "demo")
    group.add("--image_path", default=None, metavar="PATH", help="an image, or a folder of images")
    group.add("--output_dir", default=None, metavar="DIR", help="where the files go; default: beside the images")
    group.add("--ext", default="jpg", choices=["jpg", "jpeg", "png"], help="which images of a folder")
    group.add("--pred_metric_depth", action="store_true", help="depth in metres, for weights trained with stereo pairs")
    group.add("--velodyne", default=None, metavar="BIN", help="also draw this laser scan on the image")
    group.add("--calib", default=None, metavar="PATH", help="the scan's calibration: KITTI raw's folder, or file")
    options = parse_options_for_weights(argv, parser, own_size=True)
    if not options.image_path:
        raise InputError("--image_path is missing: give an image or a folder of images")
    root = Path(options.image_path)
    images = find_pictures(root, options.output_dir, (f".{options.ext}",), OWN, recursive=False)
    scan = None
    if options.velodyne or options.calib:
        if not options.velodyne or not options.calib or len(images) > 1:
            raise InputError("--velodyne and --calib belong together and to one image; give both, and one image")
        scan = read_points(Path(options.velodyne)), read_projection(options.calib)
    use_device(options.device)
    model = load_network(options)
    if options.pred_metric_depth and not bool(model.use_stereo):
        print("note: the weights were trained without stereo pairs, so their depth has no known unit")
    folder = Path(options.output_dir) if options.output_dir else images[0].parent
    demo = Demo(options, dygraph_predictor(model), scan)
    return work_through(images, output_stems(images, root, folder), folder, demo)


if __name__ == "__main__":
    run(main)
