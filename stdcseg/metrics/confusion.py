"""Confusion matrix, IoU and mIoU (NOTES 7.1, 7.2)."""

from collections.abc import Sequence

import numpy as np

from shared import InputError


class ConfusionMatrix:
    """Pixels counted by class: `matrix` int64 [K, K], row = label, column = prediction.

    The reference's counts are float32, which loses pixels above 2^24 in a cell; these are exact.
    """

    def __init__(self, num_classes: int, ignore: int = 255):
        self.num_classes, self.ignore = num_classes, ignore
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def update(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Count the pixels of integer arrays of one shape, without those labelled `ignore`.

        InputError, with nothing counted, for other shapes or dtypes and for values that are not a class.
        """
        predictions, labels = np.asarray(predictions), np.asarray(labels)
        if predictions.shape != labels.shape:
            raise InputError(f"predictions and labels differ in shape, {predictions.shape} and {labels.shape}")
        counted = labels != self.ignore
        labels = self._checked("labels", labels[counted])
        predictions = self._checked("predictions", predictions[counted])
        cells = np.bincount(labels * self.num_classes + predictions, minlength=self.matrix.size)
        self.matrix += cells.reshape(self.matrix.shape)

    def _checked(self, what: str, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind not in "iu":
            raise InputError(f"{what} must be integers, not {values.dtype}")
        values = values.astype(np.int64)
        for value in (values.min(), values.max()) if values.size else ():
            if not 0 <= value < self.num_classes:
                known = f"0 to {self.num_classes - 1}, or {self.ignore} for ignored pixels"
                raise InputError(
                    f"{what} hold {value}, which is not a class: {known}; check the data set and --num_classes"
                )
        return values

    def iou(self) -> np.ndarray:
        """Intersection over union of each class, float64 [K]; NaN for a class in neither labels nor predictions."""
        hits = np.diag(self.matrix)
        return _ratio(hits, self.matrix.sum(0) + self.matrix.sum(1) - hits)

    def miou(self) -> float:
        """The reference's mIoU: the plain mean over all classes, NaN as soon as one class does not occur."""
        return float(self.iou().mean())

    def miou_present(self) -> float:
        """The mean over the classes that occur in labels or predictions; NaN when nothing was counted."""
        iou = self.iou()
        return float(_ratio(np.nansum(iou), self.present()))

    def present(self) -> int:
        """The number of classes that occur in labels or predictions."""
        return int((~np.isnan(self.iou())).sum())

    def pixel_accuracy(self) -> float:
        """Fraction of the counted pixels whose prediction is their label; NaN when nothing was counted."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    def figures(self, names: Sequence[str]) -> dict:
        """The entry of metrics.json, fractions from 0 to 1: `miou`, `miou_present`, `pixel_accuracy`, `iou` by name."""
        figures = {"miou": self.miou(), "miou_present": self.miou_present(), "pixel_accuracy": self.pixel_accuracy()}
        return figures | {"iou": dict(zip(names, self.iou().tolist(), strict=True))}

    def table(self, names: Sequence[str]) -> str:
        """IoU in percent and pixel counts of each class as text; the last line is the mIoU."""
        width = max(map(len, (*names, "class")))
        lines = [f"{'class':<{width}}  {'IoU %':>6}  {'label pixels':>14}  {'predicted pixels':>16}"]
        iou, of_label, of_prediction = self.iou(), self.matrix.sum(1), self.matrix.sum(0)
        for name, value, labelled, predicted in zip(names, iou, of_label, of_prediction, strict=True):
            percent = "-" if np.isnan(value) else f"{100 * value:.2f}"
            lines.append(f"{name:<{width}}  {percent:>6}  {labelled:>14,}  {predicted:>16,}")
        present, classes = self.present(), self.num_classes
        note = "" if present == classes else "; the others occur in neither labels nor predictions"
        lines.append(f"{'mIoU':<{width}}  {100 * self.miou_present():>6.2f}  over {present} of {classes} classes{note}")
        return "\n".join(lines)


def _ratio(part, whole) -> np.ndarray:
    """part / whole in float64, NaN where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(part, whole, dtype=np.float64)
