"""Ground truth of a test split, kept in a file for evaluate.py.

    python export_gt_depth.py --data_path KITTI --split eigen
    python export_gt_depth.py --data_path data/mini --split mini

The file has the reference's form: an .npz with one object array, `data`, of a float32 map in metres for each line of
splits/SPLIT/test_files.txt (NOTES 2.11).
"""

from shared import HelpFormatter, run, set_up

set_up()

import argparse
from collections.abc import Sequence
from pathlib import Path

from datasets.ground_truth import SPLITS, ground_truth, write_gt_depths
from options import FOLDER


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("--data_path", "--data-path", required=True, metavar="DIR", help="KITTI: folder with the dates")
    text = "eigen and mini: from the laser scans; eigen_benchmark: from the depth benchmark's images"
    parser.add_argument("--split", required=True, choices=SPLITS, help=text)
    text = "folder of the splits' folders of text files"
    parser.add_argument("--split_dir", "--split-dir", default=str(FOLDER / "splits"), metavar="DIR", help=text)
    text = "file to write; default: SPLIT_DIR/SPLIT/gt_depths.npz"
    parser.add_argument("--output_path", "--output-path", default=None, metavar="FILE", help=text)
    options = parser.parse_args(argv)

    path = Path(options.output_path or Path(options.split_dir) / options.split / "gt_depths.npz")
    maps = ground_truth(options.data_path, options.split, options.split_dir)
    write_gt_depths(path, maps)
    print(f"{len(maps)} depth maps of {options.split} written to {path}")


if __name__ == "__main__":
    run(main)
