"""Plot the weights of hierarchical task learning over the epochs, from the log of a training.

python plot_htl.py output/train.log htl_weights.png
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from shared import HelpFormatter, InputError, run

from constants import TERMS


@dataclass
class Pass:
    """A pass over the training set: its mean losses, unweighted, and their weights; epoch -1 has no weights."""

    epoch: int
    losses: dict[str, float]
    weights: dict[str, float]
    metrics: dict[str, Any] | None = None


def draw_weights(history: Sequence[Pass], path: str | Path) -> None:
    """Draw the weights and the losses of a training into the picture `path`."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    weighted, measured = ([one for one in history if getattr(one, name)] for name in ("weights", "losses"))
    marker = "." if len(weighted) < 60 else None
    for term in TERMS:
        weights, losses = [one.weights[term] for one in weighted], [one.losses[term] for one in measured]
        above.plot([one.epoch + 1 for one in weighted], weights, label=term.removesuffix("_loss"), marker=marker)
        below.plot([one.epoch + 1 for one in measured], losses)
    above.set(title="Hierarchical task learning", ylabel="weight of the loss")
    above.legend(ncols=4, fontsize="small")
    below.set(xlabel="epoch (0: the pass before the training)", ylabel="mean loss, unweighted", yscale="symlog")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def read_log(path: str | Path) -> list[Pass]:
    """The passes of a train.log, with the means of their log lines as losses; a resumed epoch counts as it ran last.

    InputError for a file without weights of losses.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the train.log of a training") from error
    passes: dict[int, Pass] = {}
    logged: dict[int, list[dict]] = {}
    number = None
    for line in lines:
        epoch = re.search(r"epoch +(-?\d{1,9}) \| (?:weights: (.*)|losses before)", line)
        if epoch:
            number = int(epoch[1])
            passes[number], logged[number] = Pass(number, {}, _numbers(epoch[2] or "", "")), []
        elif "| batch " in line and number is not None:
            logged[number].append(_numbers(line, "_loss"))
    if not any(one.weights for one in passes.values()):
        raise InputError(f"{path}: has no line of an epoch's weights; give the train.log of a training")
    for number, one in passes.items():
        whole = [losses for losses in logged[number] if losses]
        one.losses = {term: sum(losses[term] for losses in whole) / len(whole) for term in TERMS} if whole else {}
    return [passes[number] for number in sorted(passes)]


def _numbers(text: str, suffix: str) -> dict[str, float]:
    """{term: number} of `name: number` pairs, names with this suffix; {} where a term is missing."""
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
