"""Top-k accuracy and the running meters of the reference's log lines (fact sheet 7.1)."""

from collections import deque
from collections.abc import Sequence

import numpy as np


def accuracy(logits: np.ndarray, targets: np.ndarray, topk: Sequence[int] = (1, 5)) -> list[float]:
    """Share of rows, in percent, whose target is among the k largest logits, for each k.

    logits float [N, K]; targets int [N], or soft targets float [N, K] whose largest entry counts. k beyond K is K.
    """
    if targets.ndim == 2:
        targets = targets.argmax(1)
    largest = np.argsort(-logits, axis=1, kind="stable")[:, : max(topk)]
    hits = largest == targets[:, None]
    return [float(np.float32(hits[:, :k].sum()) * np.float32(100.0 / len(targets))) for k in topk]


class Meter:
    """A series of values: its last `window` for median, average and maximum, all of it for the global average."""

    def __init__(self, window: int = 20, form: str = "{median:.4f} ({global_average:.4f})"):
        self.values: deque[float] = deque(maxlen=window)
        self.form = form
        self.total, self.count = 0.0, 0

    def update(self, value: float, n: int = 1) -> None:
        """Take in `value`, which stands for `n` samples."""
        self.values.append(value)
        self.total += value * n
        self.count += n

    @property
    def median(self) -> float:
        """The lower middle of an even count, as torch's median."""
        return sorted(self.values)[(len(self.values) - 1) // 2]

    @property
    def average(self) -> float:
        return float(np.mean(np.asarray(self.values, np.float32)))

    @property
    def global_average(self) -> float:
        return self.total / self.count

    @property
    def maximum(self) -> float:
        return max(self.values)

    @property
    def last(self) -> float:
        return self.values[-1]

    def __str__(self) -> str:
        return self.form.format(median=self.median, global_average=self.global_average, last=self.last)


class Meters:
    """Named meters and their common log line."""

    def __init__(self, **meters: Meter):
        self.meters = dict(meters)

    def update(self, n: int = 1, **values: float) -> None:
        """Update several meters; `n` samples each (see `Meter.update`)."""
        for name, value in values.items():
            self.meters.setdefault(name, Meter()).update(value, n)

    def __getitem__(self, name: str) -> Meter:
        return self.meters[name]

    def __contains__(self, name: str) -> bool:
        return name in self.meters

    def line(self, delimiter: str = "  ") -> str:
        """All meters that have a value, by default as the reference writes them."""
        return delimiter.join(f"{name}: {meter}" for name, meter in self.meters.items() if meter.count)

    def __str__(self) -> str:
        return self.line()
