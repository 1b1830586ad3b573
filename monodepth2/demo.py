"""Pictures in, disparities out (NOTES 7.9).

    python demo.py --image_path FILE_OR_FOLDER --weights W --output_dir O
    python demo.py --image_path STREETS --ext png --weights W --output_dir O --pred_metric_depth
    python demo.py --image_path 000000.png --weights W --output_dir O --velodyne 000000.bin --calib 000000.txt

For each picture NAME.* writes NAME_disp.npy (scaled disparity float32 [1, 1, h, w] at the network's size; with
--pred_metric_depth also NAME_depth.npy, in metres), NAME_disp.jpeg (the disparity in colours, at the picture's
size) and NAME_side_by_side.png (the picture with it). A laser scan also gives NAME_velodyne.png, the real depth on the
picture. Without --output_dir the files go beside the pictures. A picture that cannot be read is reported, the others
are done all the same, and the exit status is 2.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import paddle
from matplotlib.colors import Normalize
from paddle.nn import functional as F
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from shared import InputError, run
from shared.weights import atomic_write, one_line

from datasets.images import load_image
from datasets.velodyne import read_calibration, read_points
from inference import Predictor, build_predictor, load_network, parse_for_weights
from metrics import STEREO_SCALE
from models import disp_to_depth
from options import build_parser

#: endings of what this script writes, which it does not take for pictures to read
OWN = ("_disp.jpg", "_disp.jpeg", "_side_by_side.png", "_velodyne.png")
FARTHEST = 80.0  # metres: the far end of a scan's colours at most
GAP = 8  # pixels between the pictures of one canvas
INK = (28, 32, 38)


def find_pictures(path: str, ext: str) -> list[Path]:
    """The picture `path`, or the pictures *.ext in the folder `path`, sorted. InputError when there is none."""
    where = Path(path)
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise InputError(f"{path}: no such file or folder; give --image_path a picture or a folder of pictures")
    found = [
        file
        for file in sorted(where.iterdir())
        if file.suffix.lower() == f".{ext}" and file.name[0] != "." and not file.name.lower().endswith(OWN)
    ]
    if not found:
        raise InputError(f"{path}: no .{ext} pictures in it; give --ext another ending, or one picture")
    return found


def read_picture(path: Path) -> Image.Image:
    """The picture in `path` as RGB, any transparency dropped, not turned by its EXIF orientation, as the reference.

    InputError if it cannot be read, or has 16 bits or more a sample, which would be cut off.
    """
    picture = load_image(path)
    with Image.open(path) as header:
        if header.mode[0] in "IF":
            raise InputError(f"{path}: has more than 8 bits a sample; save it with 8")
    return picture


def predict_picture(predict: Predictor, picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """The raw disparity float32 [1, 1, h, w] of a picture; `size` = (width, height) of the network."""
    small = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), np.float32) / 255
    return predict(np.ascontiguousarray(small.transpose(2, 0, 1)[None]))


def colour_map(disparity: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Raw disparity [1, 1, h, w] in magma's colours at `size` = (width, height), bright is near.

    From its minimum to its 95th percentile, both of the resized disparity.
    """
    resized = F.interpolate(paddle.to_tensor(disparity), size[::-1], mode="bilinear", align_corners=False)
    values = resized.numpy()[0, 0]
    norm = Normalize(float(values.min()), float(np.percentile(values, 95)))
    colours = matplotlib.colormaps["magma"](norm(values))[:, :, :3]
    return Image.fromarray((colours * 255).astype(np.uint8))


def side_by_side(picture: Image.Image, colours: Image.Image) -> Image.Image:
    """Both pictures, of one size, on one canvas: one below the other where they are wide, else side by side."""
    width, height = picture.size
    step = (0, height + GAP) if width > height else (width + GAP, 0)
    canvas = Image.new("RGB", (width + step[0], height + step[1]), "white")
    canvas.paste(picture)
    canvas.paste(colours, step)
    return canvas


# --------------------------------------------------------------------------------------------------------- laser scans


def read_projection(path: str) -> np.ndarray:
    """Points of the scanner -> pixels of the left colour camera, float64 [3, 4].

    `path` is a folder of KITTI raw's calibration (calib_cam_to_cam.txt, calib_velo_to_cam.txt) or a KITTI object
    calibration file (P2, R0_rect, Tr_velo_to_cam). InputError for anything else.
    """
    if Path(path).is_dir():
        return read_calibration(Path(path)).projections[2]
    try:
        lines = [line.split(":", 1) for line in Path(path).read_text(encoding="utf-8").splitlines() if ":" in line]
        entries = {key.strip(): np.array(values.split(), float) for key, values in lines}
        rectify, to_camera = np.eye(4), np.eye(4)
        rectify[:3, :3] = entries["R0_rect"].reshape(3, 3)
        to_camera[:3] = entries["Tr_velo_to_cam"].reshape(3, 4)
        projection = entries["P2"].reshape(3, 4)
        if not (np.isfinite(projection).all() and np.isfinite(rectify).all() and np.isfinite(to_camera).all()):
            raise ValueError("a number is not finite")
        return projection @ rectify @ to_camera
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give --calib a folder or file of KITTI"
        ) from error
    except (ValueError, KeyError) as error:
        text = "give a KITTI object calibration with P2, R0_rect and Tr_velo_to_cam, or a folder of KITTI raw's"
        raise InputError(one_line(f"{path}: not understood ({error}); {text}")) from error


def project_scan(points: np.ndarray, projection: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The points [n, 4] (x forward, y left, z up) that a picture of `size` = (width, height) shows.

    Returns their pixels int64 [m, 2] (column, row) and depths float64 [m] in metres, the farthest first.
    """
    points = points[points[:, 0] >= 0, :3].astype(np.float64)
    seen = points @ projection[:, :3].T + projection[:, 3]
    seen = seen[seen[:, 2] > 0]
    places = np.round(seen[:, :2] / seen[:, 2:]) - 1  # pixels as in the ground truth (NOTES 2.9)
    inside = ((places >= 0) & (places < size)).all(1)
    places, depth = places[inside].astype(np.int64), seen[inside, 2]
    order = np.argsort(-depth, kind="stable")
    return places[order], depth[order]


def draw_scan(picture: Image.Image, places: np.ndarray, depth: np.ndarray) -> Image.Image:
    """The picture with the points of `project_scan` in colours of their depth, and below it a bar of those colours.

    The bar ends at a multiple of 10 m, beyond which 2 % of the points lie at most, or at 80 m.
    """
    far = FARTHEST
    if depth.size:
        far = min(10.0 * np.ceil(np.percentile(depth, 98) / 10), FARTHEST)
    width, height = picture.size
    palette = matplotlib.colormaps["turbo_r"]
    em = max(12, round(np.sqrt(width * height) / 45))  # size of the letters
    canvas = Image.new("RGB", (max(width, 16 * em), height + 3 * em), "white")
    pixels = np.array(picture)
    colours = (palette(np.clip(depth / far, 0, 1))[:, :3] * 255).astype(np.uint8)
    radius = max(1, round(np.sqrt(width * height) / 500))
    side = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    offsets = offsets[(offsets**2).sum(1) <= radius**2 + 1]
    # point by point, so that a near one covers all of a far one: numpy keeps the last of equal places
    spots = (places[:, None] + offsets).clip(0, np.array(picture.size) - 1).reshape(-1, 2)
    pixels[spots[:, 1], spots[:, 0]] = np.repeat(colours, len(offsets), axis=0)
    canvas.paste(Image.fromarray(pixels), ((canvas.width - width) // 2, 0))

    bar = np.linspace(0, 1, canvas.width - 4 * em)
    strip = np.repeat((palette(bar)[None, :, :3] * 255).astype(np.uint8), em, axis=0)
    canvas.paste(Image.fromarray(strip), (2 * em, height + em // 2))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(em)
    for metres in np.linspace(0, far, 5):
        x = 2 * em + metres / far * (len(bar) - 1)
        pen.text((x, height + 1.6 * em), f"{metres:g} m", INK, font, anchor="mt")
    return canvas


# ------------------------------------------------------------------------------------------------------------------ all


def _save(path: Path, picture: Image.Image, kind: str) -> None:
    atomic_write(path, lambda file: picture.save(file, kind))


def _names(pictures: Sequence[Path]) -> list[str]:
    """What each picture's files begin with: its name without ending, or with it where two would be the same."""
    bare = [path.stem for path in pictures]
    return [path.name if bare.count(path.stem) > 1 else path.stem for path in pictures]


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "network"))
    group = parser.add_argument_group("demo")

    def add(name: str, **settings) -> None:
        group.add_argument(f"--{name}", f"--{name.replace('_', '-')}", **settings)

    add("image_path", default=None, metavar="PATH", help="a picture, or a folder of pictures")
    add("output_dir", default=None, metavar="DIR", help="where the files go; default: beside the pictures")
    group.add_argument("--ext", default="jpg", choices=["jpg", "jpeg", "png"], help="which pictures of a folder")
    add("pred_metric_depth", action="store_true", help="depth in metres, for weights trained with stereo pairs")
    group.add_argument("--velodyne", default=None, metavar="BIN", help="also draw this laser scan on the picture")
    group.add_argument(
        "--calib", default=None, metavar="PATH", help="the scan's calibration: KITTI raw's folder, or file"
    )
    options = parse_for_weights(argv, parser)
    if not options.image_path:
        raise InputError("--image_path is missing: give a picture or a folder of pictures")
    pictures = find_pictures(options.image_path, options.ext)
    scan = None
    if options.velodyne or options.calib:
        if not options.velodyne or not options.calib or len(pictures) > 1:
            raise InputError("--velodyne and --calib belong together and to one picture; give both, and one picture")
        scan = read_points(Path(options.velodyne)), read_projection(options.calib)
    paddle.set_device(options.device)
    model = load_network(options)
    if options.pred_metric_depth and not bool(model.use_stereo):
        print("note: the weights were trained without stereo pairs, so their depth is in no known unit, not in metres")
    predict = build_predictor(model, options, "dygraph")

    failed = 0
    bar = tqdm(pictures, desc="demo", unit="picture", leave=False, disable=None)
    for path, name in zip(bar, _names(pictures), strict=True):
        folder = Path(options.output_dir or path.parent)
        try:
            picture = read_picture(path)
        except InputError as error:
            if len(pictures) == 1:
                raise
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        raw = predict_picture(predict, picture, (options.width, options.height))
        scaled, depth = disp_to_depth(raw, options.min_depth, options.max_depth)
        arrays = {"disp": scaled} | ({"depth": STEREO_SCALE * depth} if options.pred_metric_depth else {})
        for kind, array in arrays.items():
            atomic_write(folder / f"{name}_{kind}.npy", lambda file, array=array: np.save(file, array))
        colours = colour_map(raw, picture.size)
        _save(folder / f"{name}_disp.jpeg", colours, "JPEG")
        _save(folder / f"{name}_side_by_side.png", side_by_side(picture, colours), "PNG")
        if scan:
            shown = project_scan(*scan, picture.size)
            _save(folder / f"{name}_velodyne.png", draw_scan(picture, *shown), "PNG")
            tqdm.write(f"{path}: {len(shown[1])} points of the scan in the picture")
        tqdm.write(f"{path}: {kind} {array.min():.4g} to {array.max():.4g}")
    done = len(pictures) - failed
    print(f"{done} of {len(pictures)} pictures done; files in {options.output_dir or 'their own folders'}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
