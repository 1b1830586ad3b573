"""The seven alignment stages: this folder's networks against their torch twins, or against an official checkout.

    python align.py                                     all stages, both dtypes, on drawn weights
    python align.py --stage forward --dtype float64
    python align.py --reference MONODEPTH2 --stage structure forward loss backward
    python align.py --weights mono+stereo_640x192 --data_path KITTI

Exit status: 0 all passed, 1 a stage differs, 2 bad usage.
"""

from shared import run, set_up

set_up()

from pathlib import Path

from shared import stages

if __name__ == "__main__":
    run(lambda: stages.main(Path(__file__).resolve().parent, __doc__))
