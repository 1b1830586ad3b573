"""Top-k accuracy and the meters of the reference's log lines (NOTES 7; there `utils.py`)."""

from collections import deque
from collections.abc import Sequence

import numpy as np


def accuracy(logits: np.ndarray, targets: np.ndarray, topk: Sequence[int] = (1, 5)) -> list[float]:
    """Percentage of rows whose target is among the k largest logits, for each k (NOTES 7.1).

    logits float [N, K]; targets int [N], or soft targets float [N, K], whose largest entry counts. k above K means K.
    """
    if targets.ndim == 2:
        targets = targets.argmax(1)
    largest = np.argsort(-logits, axis=1, kind="stable")[:, : max(topk)]
    correct = largest == targets[:, None]
    return [float(np.float32(correct[:, :k].sum()) * np.float32(100.0 / len(targets))) for k in topk]


class SmoothedValue:
    """A series of values: the median of its last `window_size`, and the average of all."""

    def __init__(self, window_size: int = 20):
        self.deque: deque[float] = deque(maxlen=window_size)
        self.total, self.count = 0.0, 0

    def update(self, value: float, n: int = 1) -> None:
        """Append `value`, the mean over `n` samples."""
        self.deque.append(value)
        self.total += value * n
        self.count += n

    @property
    def median(self) -> float:
        """For an even count the lower of the two middle values, as torch's median."""
        return sorted(self.deque)[(len(self.deque) - 1) // 2]

    @property
    def global_avg(self) -> float:
        return self.total / self.count

    def __str__(self) -> str:
        return f"{self.median:.4f} ({self.global_avg:.4f})"


class MetricLogger:
    """Named meters and their common log line."""

    def __init__(self) -> None:
        self.meters: dict[str, SmoothedValue] = {}

    def update(self, n: int = 1, **values: float) -> None:
        """Update several meters, each with the mean over `n` samples."""
        for name, value in values.items():
            self.meters.setdefault(name, SmoothedValue()).update(value, n)

    def line(self, delimiter: str = "  ") -> str:
        """All meters, by default as the reference writes them."""
        return delimiter.join(f"{name}: {meter}" for name, meter in self.meters.items())
