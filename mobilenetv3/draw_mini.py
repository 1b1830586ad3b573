"""Draw the mini data set: see mini/draw.py."""

from shared import run

from mini.draw import main

if __name__ == "__main__":
    run(main)
