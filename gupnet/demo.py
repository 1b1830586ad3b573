"""Pictures in, 3D boxes out.

    python demo.py --image_path FILE_OR_FOLDER --weights W --output_dir O --calib FILE_OR_FOLDER
    python demo.py --image_path street.jpg --weights W --output_dir O --fx 721.5 --cx 609.6 --cy 172.9
    python demo.py --image_path KITTI/training/image_2 --weights W --output_dir O --label KITTI/training/label_2
    python demo.py --image_path KITTI/training/image_2 --results OUT/data --output_dir O

For each picture NAME.* writes NAME_3d.png, the picture with the 3D boxes and beside it the view from above, with
--label those of the labels too; and NAME.txt, the results as KITTI writes them. With --results, result or label files
are drawn and no network runs. The camera is that of --calib, else that of --fx, --fy, --cx, --cy, else, as KITTI has
it, that of ../calib/NAME.txt beside the picture's folder. A picture that cannot be done is reported, the others are
done all the same, and the exit status is 2.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import paddle
from PIL import Image
from tqdm import tqdm

from shared import InputError, run
from shared.running.options import positive_float
from shared.weights import atomic_write, atomic_write_text

from constants import DOWN_RATIO
from datasets import Calibration, Objects, load_image, network_input, parse_objects, read_calibration, read_objects
from decoding import decode_detections, result_lines
from drawing import sheet
from inference import Predictor, build_predictor, load_network
from options import build_parser, parse_options, parse_options_for_weights

OWN = "_3d.png"  # ending of what this script draws, which it does not take for pictures to read
ENDINGS = (".png", ".jpg", ".jpeg")
_LENGTHS = ("fx", "fy", "cx", "cy")


def find_pictures(path: str) -> list[Path]:
    """The picture `path`, or those in the folder `path`, sorted. InputError when there is none."""
    where = Path(path)
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise InputError(f"--image_path {path}: no such file or folder; give a picture or a folder of pictures")
    found = [
        file
        for file in sorted(where.iterdir())
        if file.suffix.lower() in ENDINGS and file.name[0] != "." and not file.name.endswith(OWN)
    ]
    if not found:
        raise InputError(f"--image_path {path}: no pictures in it ({', '.join(ENDINGS)}); give another folder")
    return found


def file_for(option: str, path: str, picture: Path) -> Path:
    """The text file of a picture: `path` itself, or NAME.txt in the folder `path`. InputError if it is missing."""
    where = Path(path)
    file = where / f"{picture.stem}.txt" if where.is_dir() else where
    if not file.is_file():
        raise InputError(f"--{option} {file}: no such file; give a file, or a folder with {picture.stem}.txt")
    return file


def camera_of(options: argparse.Namespace, path: Path, size: tuple[int, int]) -> Calibration:
    """The camera that took a picture of `size` (W, H), as the options say. InputError if nothing says it."""
    if options.calib:
        return read_calibration(file_for("calib", options.calib, path))
    if options.fx:
        fx, fy = options.fx, options.fy or options.fx
        cx, cy = options.cx or (size[0] - 1) / 2, options.cy or (size[1] - 1) / 2
        return Calibration(np.array([(fx, 0, cx, 0), (0, fy, cy, 0), (0, 0, 1, 0)], np.float32))
    beside = path.resolve().parent.parent / "calib" / f"{path.stem}.txt"
    if beside.is_file():
        return read_calibration(beside)
    raise InputError(f"{path}: its camera is not known; give --calib, or --fx (and --cx, --cy) in pixels")


def detect(predict: Predictor, picture: Image.Image, camera: Calibration, options: argparse.Namespace) -> str:
    """A picture's results as lines."""
    size, input_size = np.array(picture.size), tuple(options.input_size)
    image, coord_range, _ = network_input(picture, size / 2, size.astype(np.float64), input_size)
    detections = predict(image[None], coord_range[None], camera.P2[None])
    ratio = size / [side // DOWN_RATIO for side in input_size]
    info = {"img_id": np.array([0]), "bbox_downsample_ratio": ratio[None]}
    return result_lines(decode_detections(detections, info, [camera.P2], options.threshold)[0])


def names_of(pictures: Sequence[Path]) -> list[str]:
    """What each picture's files begin with: its name without ending, or with it where two would be the same."""
    bare = [path.stem for path in pictures]
    return [path.name if bare.count(path.stem) > 1 else path.stem for path in pictures]


def build_demo_parser() -> argparse.ArgumentParser:
    parser = build_parser(__doc__, ("run", "output", "network", "decoding"))
    group = parser.add_argument_group("demo")

    def add(name: str, text: str, **settings) -> None:
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        group.add_argument(*spellings, default=None, help=text, **settings)

    add("image_path", "a picture, or a folder of pictures", metavar="PATH")
    add("calib", "calibration of KITTI's form with P2, or a folder of them", metavar="PATH")
    for name, text in zip(_LENGTHS, ("focal length", "the same downwards", "principal point", "the same"), strict=True):
        add(name, f"{text}, in pixels", type=positive_float, metavar="PX")
    add("label", "also draw these labels, a file or a folder", metavar="PATH")
    add("results", "draw these results or labels instead of running a network", metavar="PATH")
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. InputError for what is missing or does not go together."""
    parser = build_demo_parser()
    options = parse_options(argv, parser)
    if options.results and options.weights:
        raise InputError("--results: draws files, and --weights runs a network; give one of them")
    if not options.results:
        options = parse_options_for_weights(argv, parser)
    if not options.image_path:
        raise InputError("--image_path is missing: give a picture or a folder of pictures")
    given = [name for name in _LENGTHS if getattr(options, name)]
    if given and (options.calib or not options.fx):
        raise InputError(f"--{given[0]}: goes with --fx and without --calib")
    return options


def source_of(options: argparse.Namespace) -> Callable[[Path, Image.Image, Calibration], tuple[Objects, str | None]]:
    """What gives a picture's objects, and the lines to write: the network, or the files of --results."""
    if options.results:
        return lambda path, picture, camera: (read_objects(file_for("results", options.results, path)), None)
    paddle.set_device(options.device)
    predict = build_predictor(load_network(options), options, "dygraph")

    def run_network(path: Path, picture: Image.Image, camera: Calibration) -> tuple[Objects, str]:
        lines = detect(predict, picture, camera, options)
        return parse_objects(lines.splitlines(), path), lines

    return run_network


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    pictures = find_pictures(options.image_path)
    objects_of, folder = source_of(options), Path(options.output_dir)
    failed = 0
    bar = tqdm(pictures, desc="demo", unit="picture", leave=False, disable=None)
    for path, name in zip(bar, names_of(pictures), strict=True):
        try:
            picture = load_image(path)
            camera = camera_of(options, path, picture.size)
            objects, lines = objects_of(path, picture, camera)
            rows = [("results", objects)]
            if options.label:
                rows.append(("labels", read_objects(file_for("label", options.label, path))))
        except InputError as error:
            if len(pictures) == 1:
                raise
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        drawn = sheet(picture, camera.P2, rows)
        atomic_write(folder / f"{name}{OWN}", lambda file, drawn=drawn: drawn.save(file, "PNG"))
        if lines is not None:
            atomic_write_text(folder / f"{name}.txt", lines)
        tqdm.write(f"{path}: {len(objects)} objects")
    print(f"{len(pictures) - failed} of {len(pictures)} pictures done; files in {folder}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
