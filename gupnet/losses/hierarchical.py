"""Hierarchical task learning: when each task's loss begins to count (paper 3.4, NOTES 5.8 to 5.11)."""

from dataclasses import dataclass, field

#: {task: its pre-tasks}; the paper also names the heatmap, the reference's code does not
LOSS_GRAPH = {
    "seg_loss": (),
    "size2d_loss": (),
    "offset2d_loss": (),
    "offset3d_loss": ("size2d_loss", "offset2d_loss"),
    "size3d_loss": ("size2d_loss", "offset2d_loss"),
    "heading_loss": ("size2d_loss", "offset2d_loss"),
    "depth_loss": ("size2d_loss", "size3d_loss", "offset2d_loss"),
}
#: epochs over which the fall of a loss is measured
STAT_EPOCHS = 5


@dataclass
class HierarchicalTaskLearning:
    """Weights of the losses, from how fast those of their pre-tasks still fall (`Hierarchical_Task_Learning` there).

    Call `compute_weight` once before every epoch: for epoch 0 with the losses of a pass over the training set without
    updates, afterwards with the last epoch's means.
    """

    past_losses: list[dict[str, float]] = field(default_factory=list)  # the last STAT_EPOCHS, oldest first
    init_diff: dict[str, float] | None = None

    def compute_weight(self, losses: dict[str, float], epoch: int, max_epoch: int = 140) -> dict[str, float]:
        """{term: weight} for `epoch`, counted from 0; `losses` are the latest {term: mean}, unweighted.

        Tasks without pre-tasks weigh 1. The others weigh 0 until STAT_EPOCHS losses are known, then
        t^(1 - product of c over their pre-tasks), t from 0 to 1 over the epochs and c = 1 - relu(diff / init_diff). A
        weight may exceed 1, as in the reference (NOTES 5.10). The latest losses do not enter their own epoch's diff.
        """
        weights = {task: 0.0 if pre_tasks else 1.0 for task, pre_tasks in LOSS_GRAPH.items()}
        if len(self.past_losses) == STAT_EPOCHS:
            diff = {task: self._mean_diff(task) for task in LOSS_GRAPH}
            self.init_diff = self.init_diff or diff
            progress = min(max(epoch - STAT_EPOCHS, 0) / max(max_epoch - STAT_EPOCHS, 1), 1.0)
            for task, pre_tasks in LOSS_GRAPH.items():
                if pre_tasks:
                    weights[task] = _power(progress, 1 - self._control_weight(pre_tasks, diff))
            self.past_losses.pop(0)
        self.past_losses.append({task: float(losses[task]) for task in LOSS_GRAPH})
        return weights

    def _mean_diff(self, task: str) -> float:
        """The mean fall of a loss over two epochs."""
        values = [losses[task] for losses in self.past_losses]
        return sum(values[k] - values[k + 2] for k in range(STAT_EPOCHS - 2)) / (STAT_EPOCHS - 2)

    def _control_weight(self, tasks: tuple[str, ...], diff: dict[str, float]) -> float:
        product = 1.0
        for task in tasks:
            initial = self.init_diff[task]
            # NaN where the loss did not change at first: the reference divides by 0
            ratio = diff[task] / initial if initial else float("nan")
            product *= 1.0 if ratio <= 0 else 1 - ratio
        return product


def _power(progress: float, exponent: float) -> float:
    """progress^exponent; Inf where it is too large, as in the reference's tensors, or a division by 0."""
    try:
        return progress**exponent
    except (OverflowError, ZeroDivisionError):
        return float("inf")
