"""The seven alignment stages: this folder's network against its torch twin.

    python align.py                                     all stages, both dtypes, both sizes, on drawn weights
    python align.py --stage forward --dtype float64
    python align.py --weights mobilenet_v3_small-047dcff4.pth --data_path IMAGENET

Exit status: 0 all passed, 1 a stage differs, 2 bad usage.
"""

from shared import run, set_up

set_up()

from pathlib import Path

from shared import stages

if __name__ == "__main__":
    run(lambda: stages.main(Path(__file__).resolve().parent, __doc__))
