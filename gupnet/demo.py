"""Pictures in, 3D boxes out.

    python demo.py --image_path FILE_OR_FOLDER --weights W --output_dir O --calib FILE_OR_FOLDER
    python demo.py --image_path street.jpg --weights W --output_dir O --fx 721.5 --cx 609.6 --cy 172.9
    python demo.py --image_path KITTI/training/image_2 --weights W --output_dir O --label KITTI/training/label_2
    python demo.py --image_path KITTI/training/image_2 --results OUT/data --output_dir O

For each picture NAME.* it writes NAME_3d.png, the picture with the 3D boxes beside the view from above, with --label
those of the labels too; and NAME.txt, the detections as KITTI writes them. With --results, result or label files are
drawn and no network runs. The camera is that of --calib, else of --fx, --fy, --cx, --cy, else, as KITTI has it, of
../calib/NAME.txt beside the picture's folder. A picture that fails is reported, the others are done, and the exit
status is 2.
"""

from shared import InputError, run, set_up

set_up()

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from shared.files import atomic_write, atomic_write_text
from shared.pictures import find_pictures, output_stems, read_picture, work_through
from shared.running.launch import use_device
from shared.running.options import Group, positive_float

from constants import DOWN_RATIO
from convert import load_network
from datasets import Sample, collate, read_calibration, read_objects
from datasets.geometry import Calibration
from datasets.kitti import network_input
from datasets.objects import Objects, parse_objects
from decoding import result_lines
from drawing import draw_results
from engine import Network, in_test_mode, predict
from options import build_parser, parse_options, parse_options_for_weights

OWN = "_3d.png"  # ending of what this script draws, which it does not read again
ENDINGS = (".png", ".jpg", ".jpeg")
_LENGTHS = {"fx": "focal length", "fy": "the same downwards", "cx": "principal point", "cy": "the same"}


def file_for(option: str, path: str, picture: Path) -> Path:
    """The text file of a picture: `path` itself, or NAME.txt in the folder `path`. InputError if it is missing."""
    where = Path(path)
    file = where / f"{picture.stem}.txt" if where.is_dir() else where
    if not file.is_file():
        raise InputError(f"--{option} {file}: no such file; give a file, or a folder with {picture.stem}.txt")
    return file


def camera_of(options: argparse.Namespace, path: Path, size: tuple[int, int]) -> Calibration:
    """The camera of a picture of `size` (W, H), by the options or the file beside it. InputError if there is none."""
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


def detect(network: Network, picture: Image.Image, camera: Calibration, options: argparse.Namespace) -> str:
    """The detections of a picture as KITTI's result lines."""
    size, input_size = np.array(picture.size), tuple(options.input_size)
    image, coord_range, _ = network_input(picture, size / 2, size.astype(np.float64), input_size)
    ratio = size / [side // DOWN_RATIO for side in input_size]
    info = {"img_id": np.array(0), "bbox_downsample_ratio": ratio}
    batch = collate([Sample(image, camera.P2, coord_range, {}, info)])
    return result_lines(predict(network, batch, options.threshold)[0])


def build_demo_parser() -> argparse.ArgumentParser:
    parser = build_parser(__doc__, ("run", "output", "network", "decoding"))
    group = Group(parser, "demo")
    group.add("--image_path", metavar="PATH", help="a picture, or a folder of pictures")
    group.add("--calib", metavar="PATH", help="calibration in KITTI's form with P2, or a folder of them")
    for name, text in _LENGTHS.items():
        group.add(f"--{name}", type=positive_float, metavar="PX", help=f"{text}, in pixels")
    group.add("--label", metavar="PATH", help="also draw these labels, a file or a folder")
    group.add("--results", metavar="PATH", help="draw these results or labels instead of running a network")
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. InputError for options that are missing or do not go together."""
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
    """A function that gives a picture's objects and the lines to write: by the network, or from --results."""
    if options.results:
        return lambda path, picture, camera: (read_objects(file_for("results", options.results, path)), None)
    use_device(options.device)
    network = in_test_mode(load_network(options))

    def run_network(path: Path, picture: Image.Image, camera: Calibration) -> tuple[Objects, str]:
        lines = detect(network, picture, camera, options)
        return parse_objects(lines.splitlines(), path), lines

    return run_network


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    output_dir = Path(options.output_dir)
    pictures = find_pictures(options.image_path, endings=ENDINGS, own=(OWN,), recursive=False)
    objects_of = source_of(options)

    def work(path: Path, stem: Path) -> str:
        picture = read_picture(path)
        camera = camera_of(options, path, picture.size)
        objects, lines = objects_of(path, picture, camera)
        rows = [("results", objects)]
        if options.label:
            rows.append(("labels", read_objects(file_for("label", options.label, path))))
        drawn = draw_results(picture, camera.P2, rows)
        atomic_write(stem.with_name(stem.name + OWN), lambda file: drawn.save(file, "PNG"))
        if lines is not None:
            atomic_write_text(stem.with_name(stem.name + ".txt"), lines)
        return f"{path}: {len(objects)} objects"

    return work_through(pictures, output_stems(pictures, Path(options.image_path), output_dir), output_dir, work)


if __name__ == "__main__":
    run(main)
