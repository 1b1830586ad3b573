"""The seven alignment stages: this folder's network against its torch twin, or against an official checkout.

    python align.py                                     all stages, both dtypes, on drawn weights
    python align.py --stage forward --dtype float64
    python align.py --reference DEFORMABLE_DETR --stage structure forward loss backward
    python align.py --weights r50_deformable_detr-checkpoint.pth --data_path COCO

With --weights, the network's options say which variant it is (--with_box_refine, --two_stage, ...).
Exit status: 0 all passed, 1 a stage differs, 2 bad usage.
"""

from pathlib import Path

from shared import run, stages

if __name__ == "__main__":
    run(lambda: stages.main(Path(__file__).resolve().parent, __doc__))
