"""The 1000 classes of ImageNet-1k: synset ids and English names, in the order of the networks' outputs (NOTES 3.3)."""

from collections.abc import Sequence
from pathlib import Path

_LINES = (Path(__file__).parent / "imagenet_synsets.txt").read_text(encoding="utf-8").splitlines()

#: synset of each output, "n01440764" first; sorted, so the rank among all 1000 folders is the index
SYNSETS = tuple(line.partition(" ")[0] for line in _LINES)
#: English names of each output, synonyms separated by commas: "tench, Tinca tinca"
CLASS_NAMES = tuple(line.partition(" ")[2] for line in _LINES)

_NAME_OF = dict(zip(SYNSETS, CLASS_NAMES, strict=True))


def all_synsets(classes: Sequence[str]) -> bool:
    """Whether every name in `classes` is a synset of ImageNet-1k."""
    return all(name in _NAME_OF for name in classes)


def label_names(classes: Sequence[str]) -> list[str]:
    """What to show for each class: the English names if all classes are ImageNet synsets, the class names if not."""
    return [_NAME_OF[name] for name in classes] if all_synsets(classes) else list(classes)
