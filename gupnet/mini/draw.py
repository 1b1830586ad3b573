"""Draw the mini data set: streets with cars, people and cyclists, in the layout of KITTI's object set.

    python gupnet/draw_mini.py --output_dir DIR

The result is, as in KITTI, `<root>/training/{image_2,label_2,calib}/NNNNNN.{png,txt,txt}`,
`<root>/testing/{image_2,calib}` and `<root>/ImageSets/{train,val,trainval,test}.txt`; and `<root>/mini.json`, how it
was drawn and what it holds. What is drawn stands in street.py and solids.py, and how in render.py. Pictures and focal
length are half of KITTI's, so that the limits of its difficulties, which are heights in pixels, lie half as far away.
"""

import os
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from shared import InputError
from shared.mini import VERSIONS, build_parser, draw_jobs, ensure, read_record

from . import street

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "data" / "mini"
VERSION = 1  # of the drawing: raise it when the same seed gives other files
MAKER = "gupnet/datasets/mini.py"  # names the drawing in mini.json: another name would disown drawn data sets
COUNTS = {"train": 120, "val": 80, "test": 8}  # frames
WORTH_PROCESSES = 24  # frames from which a process a core saves more time than it takes to start

_backdrops = lru_cache(maxsize=1)(street.backdrops)


def splits_of(counts: dict[str, int]) -> dict[str, list[int]]:
    """The frames that each list names: training and validation in turn, while both last; testing starts at 0 again."""
    train, val, test = (counts[split] for split in ("train", "val", "test"))
    order = [((k + 0.5) / n, split) for split, n in (("train", train), ("val", val)) for k in range(n)]
    lists = {split: [n for n, (_, of) in enumerate(sorted(order)) if of == split] for split in ("train", "val")}
    return lists | {"trainval": list(range(train + val)), "test": list(range(test))}


def draw_frame(folder: Path, seed: int, job: tuple[str, int]) -> list[str]:
    """Draw frame `job` = (part, number) into its files; returns its label lines.

    A function of its arguments alone, however many others are drawn.
    """
    part, number = job
    frame = street.build(seed, number if part == "training" else 10**6 + number)
    picture, lines = street.render(frame, _backdrops(seed)[frame.variant])
    Image.fromarray(picture).save(folder / part / "image_2" / f"{number:06d}.png", compress_level=3)
    (folder / part / "calib" / f"{number:06d}.txt").write_text(calibration(frame.projection))
    if part == "training":
        (folder / part / "label_2" / f"{number:06d}.txt").write_text("".join(f"{line}\n" for line in lines))
    return lines


def calibration(projection: np.ndarray) -> str:
    """A calibration file of KITTI's form. P0 to P3 are the one camera, and the scanner stands where it does."""
    unturned = np.eye(3).ravel()
    to_camera = [0, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0]
    entries = {f"P{k}": projection.ravel() for k in range(4)}
    entries |= {"R0_rect": unturned, "Tr_velo_to_cam": to_camera, "Tr_imu_to_velo": np.eye(4)[:3].ravel()}
    return "".join(f"{name}: {' '.join(f'{value:.12e}' for value in values)}\n" for name, values in entries.items())


def draw_all(record: dict, folder: Path) -> dict:
    """Draw everything of a record under `folder`; returns how many objects of each type its labelled splits hold."""
    for part, names in (("training", ("image_2", "label_2", "calib")), ("testing", ("image_2", "calib"))):
        for name in names:
            (folder / part / name).mkdir(parents=True)
    splits = splits_of(record["frames"])
    (folder / "ImageSets").mkdir()
    for split, numbers in splits.items():
        (folder / "ImageSets" / f"{split}.txt").write_text("".join(f"{number:06d}\n" for number in numbers))
    jobs = [("training", number) for number in splits["trainval"]] + [("testing", number) for number in splits["test"]]
    labels = draw_jobs(partial(draw_frame, folder, record["seed"]), jobs, "frame", WORTH_PROCESSES)
    types = dict(zip(jobs, ([line.split()[0] for line in lines] for lines in labels), strict=True))
    objects = {
        split: dict(sorted(Counter(name for number in splits[split] for name in types["training", number]).items()))
        for split in ("train", "val")
    }
    return {"objects": objects, "versions": VERSIONS}


def ensure_mini(root: str | os.PathLike = DEFAULT_ROOT, seed: int = 0, counts: dict[str, int] = COUNTS) -> Path:
    """Draw the data set into `root`, unless this very one is there, as `shared.mini.ensure` does; returns `root`.

    `counts`: frames of train, val and test.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: give a seed that is not negative")
    if min(counts.values()) < 1:
        raise InputError(f"--frames {' '.join(map(str, counts.values()))}: give each split at least one frame")
    size = [street.WIDTH, street.HEIGHT]
    record = {"made_by": MAKER, "version": VERSION, "seed": seed, "size": size, "frames": dict(counts)}
    return ensure(root, record, partial(draw_all, record))


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    parser = build_parser("streets in the layout of KITTI's object set", DEFAULT_ROOT)
    text, counts = "frames of train, val and test", list(COUNTS.values())
    parser.add_argument("--frames", type=int, nargs=3, default=counts, metavar=("TRAIN", "VAL", "TEST"), help=text)
    options = parser.parse_args()
    root = ensure_mini(options.output_dir, options.seed, dict(zip(COUNTS, options.frames, strict=True)))
    record = read_record(root)
    print(f"{root}: {', '.join(f'{count} {split}' for split, count in record['frames'].items())} frames")
    for split, objects in record["objects"].items():
        print(f"{split}: {', '.join(f'{count} {name}' for name, count in objects.items())}")
