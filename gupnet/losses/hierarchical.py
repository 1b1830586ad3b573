"""Hierarchical task learning: when each task's loss begins to count (paper section 3.4, fact sheet 5.1)."""

#: tasks that must be learnt before each task; the paper also names the heatmap, the code does not
PRE_TASKS = {
    "seg_loss": (),
    "size2d_loss": (),
    "offset2d_loss": (),
    "offset3d_loss": ("size2d_loss", "offset2d_loss"),
    "size3d_loss": ("size2d_loss", "offset2d_loss"),
    "heading_loss": ("size2d_loss", "offset2d_loss"),
    "depth_loss": ("size2d_loss", "size3d_loss", "offset2d_loss"),
}
#: epochs over which the fall of a loss is measured
WINDOW = 5


class HierarchicalTaskLearning:
    """Weights of the losses, from how fast those of their pre-tasks still fall.

    Call `compute_weight` once before every epoch: for epoch 0 with the losses of a pass over the training set without
    learning, afterwards with the last epoch's means.
    """

    def __init__(self, max_epoch: int = 140):
        self.max_epoch = max_epoch
        self.past: list[dict[str, float]] = []  # the last WINDOW losses, oldest first
        self.first_fall: dict[str, float] | None = None

    def compute_weight(self, losses: dict[str, float], epoch: int) -> dict[str, float]:
        """{term: weight} for `epoch`, counted from 0; `losses` are the latest {term: mean}, unweighted.

        Tasks without pre-tasks weigh 1. The others weigh 0 until the window is full, then t^(1 - product of how far
        their pre-tasks are learnt), t from 0 to 1 over the epochs. Being learnt is 1 - fall / first fall, at most 1
        but of any negative size, so that a product of two may exceed 1 and with it the weight: as in the reference.
        The latest losses are not in their own epoch's window.
        """
        weights = {task: 0.0 if needed else 1.0 for task, needed in PRE_TASKS.items()}
        if len(self.past) == WINDOW:
            fall = {task: self._fall(task) for task in PRE_TASKS}
            self.first_fall = self.first_fall or fall
            progress = min((epoch - WINDOW) / max(self.max_epoch - WINDOW, 1), 1.0)
            for task, needed in PRE_TASKS.items():
                if needed:
                    weights[task] = _power(progress, 1 - self._learnt(needed, fall))
            self.past.pop(0)
        self.past.append({task: float(losses[task]) for task in PRE_TASKS})
        return weights

    def _fall(self, task: str) -> float:
        """The mean fall of a loss over two epochs."""
        values = [losses[task] for losses in self.past]
        return sum(values[k] - values[k + 2] for k in range(WINDOW - 2)) / (WINDOW - 2)

    def _learnt(self, tasks: tuple[str, ...], fall: dict[str, float]) -> float:
        product = 1.0
        for task in tasks:
            first = self.first_fall[task]
            # a loss that did not change at all: the reference divides by 0 and gets NaN
            ratio = fall[task] / first if first else float("nan")
            product *= 1.0 if ratio <= 0 else 1 - ratio
        return product

    def state_dict(self) -> dict:
        """Everything that `compute_weight` remembers, as JSON can hold it."""
        return {"past": [dict(losses) for losses in self.past], "first_fall": self.first_fall}

    def set_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
        self.past = [dict(losses) for losses in state["past"]]
        self.first_fall = state["first_fall"]


def _power(progress: float, exponent: float) -> float:
    """progress^exponent; 0 to a negative power is infinite, as in the reference's tensors."""
    return float("inf") if progress == 0 and exponent < 0 else progress**exponent
