"""Plot the weights of hierarchical task learning over the epochs, from the log of a training.

python plot_htl.py output/train.log htl_weights.png
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from shared import HelpFormatter, InputError, run

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from losses import TERMS


def draw_weights(history: Sequence[dict], path: str | Path) -> None:
    """Draw {"epoch": e, "weights": {term: weight}, "losses": {term: mean}} of each pass into the picture `path`."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    epochs = [entry["epoch"] + 1 for entry in history if entry["weights"]]
    for term in TERMS:
        weights = [entry["weights"][term] for entry in history if entry["weights"]]
        above.plot(epochs, weights, label=term.removesuffix("_loss"), marker="." if len(epochs) < 60 else None)
        passes = [entry["epoch"] + 1 for entry in history if entry["losses"]]
        below.plot(passes, [entry["losses"][term] for entry in history if entry["losses"]])
    above.set(title="Hierarchical task learning", ylabel="weight of the loss")
    above.legend(ncols=4, fontsize="small")
    below.set(xlabel="epoch (0: the pass before the training)", ylabel="mean loss, unweighted", yscale="symlog")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def read_log(path: str | Path) -> list[dict]:
    """What `draw_weights` draws, from the train.log that train.py writes; a resumed epoch counts as it ran last.

    InputError for a file that has no weights in it. Mean losses are those of the lines of the epoch.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the train.log of a training") from error
    passes: dict[int, dict] = {}
    current: dict | None = None
    for line in lines:
        epoch = re.search(r"epoch +(-?\d{1,9}) \| (?:weights: (.*)|losses before)", line)
        if epoch:
            number = int(epoch[1])
            current = passes[number] = {"epoch": number, "weights": _numbers(epoch[2] or "", ""), "lines": []}
        elif "| batch " in line and current:
            current["lines"].append(_numbers(line, "_loss"))
    found = [passes[number] for number in sorted(passes)]
    if not any(entry["weights"] for entry in found):
        raise InputError(f"{path}: has no line of an epoch's weights; give the train.log of a training")
    for entry in found:
        whole = [line for line in entry.pop("lines") if line]
        entry["losses"] = {term: sum(line[term] for line in whole) / len(whole) for term in TERMS} if whole else {}
    return found


def _numbers(text: str, suffix: str) -> dict[str, float]:
    """{term: number} of `name: number` pairs, names with this suffix; {} where one is not there."""
    pairs = dict(re.findall(rf"(\w+?){suffix}: (-?\d+\.\d+)(?:,|\s|$)", text))
    names = {term: term.removesuffix("_loss") for term in TERMS}
    return {term: float(pairs[name]) for term, name in names.items()} if pairs.keys() >= {*names.values()} else {}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("log", metavar="LOG", help="the train.log of a training")
    parser.add_argument("picture", metavar="PICTURE", help="the .png to write")
    options = parser.parse_args(argv)
    draw_weights(read_log(options.log), options.picture)
    print(f"wrote {options.picture}")


if __name__ == "__main__":
    run(main)
