"""From the network's outputs to KITTI's result lines (NOTES 7.1 to 7.3)."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import paddle

from shared.weights import atomic_write_text

from constants import CLASSES, HEADING_BINS, MAX_OBJECTS, MEAN_SIZES
from datasets.geometry import Calibration
from datasets.targets import class2angle
from models import find_peaks
from models.rois import at_cells, peak_rois

#: columns of a detection
_CLASS, _SCORE, _CENTRE, _SIZE, _DEPTH = 0, 1, slice(2, 4), slice(4, 6), 6
_HEADING = slice(7, 7 + 2 * HEADING_BINS)
_SIZE_3D = slice(_HEADING.stop, _HEADING.stop + 3)
_CENTRE_3D = slice(_SIZE_3D.stop, _SIZE_3D.stop + 2)


def extract_dets_from_outputs(outputs: Mapping, K: int = MAX_OBJECTS) -> paddle.Tensor:
    """[B, K, 36]: the network's outputs of the modes "val" and "test", gathered at the peaks, best peak first.

    Columns: class, score, x and y of the 2D centre, width, height (cells), depth (m), 24 of the heading, residual
    height, width, length (m), x and y of the 3D centre (cells). The score is the peak's times exp(-sigma), sigma the
    standard deviation of the depth (NOTES 7.1). The outputs stay as they are.
    """
    peaks = find_peaks(outputs["heatmap"], K)
    images, count = peaks.cells.shape
    rois = peak_rois(peaks)
    dtype, width = outputs["heatmap"].dtype, outputs["heatmap"].shape[3]
    cells = paddle.stack([rois.cells % width, rois.cells // width], 1).astype(dtype)
    depth, log_variance = outputs["depth"][:, :1], outputs["depth"][:, 1:]
    columns = [
        rois.classes.unsqueeze(1).astype(dtype),
        peaks.scores.reshape([-1, 1]) * paddle.exp(-paddle.exp(0.5 * log_variance)),
        cells + at_cells(outputs["offset_2d"], rois),
        at_cells(outputs["size_2d"], rois),
        depth,
        outputs["heading"],
        outputs["size_3d"],
        cells + outputs["offset_3d"],
    ]
    return paddle.concat(columns, 1).reshape([images, count, -1])


def decode_detections(
    detections: np.ndarray, info: Mapping[str, np.ndarray], calibs: Iterable[np.ndarray], threshold: float
) -> dict[int, np.ndarray]:
    """{frame: results}, from what `extract_dets_from_outputs` gave, as an array.

    info: img_id [B], bbox_downsample_ratio [B, 2], as the data set gives them; calibs: B matrices P2 [3, 4].
    Results are float64 [n, 14]: class, alpha, x1, y1, x2, y2 (pixels of the original image), h, w, l (m), x, y, z (m,
    bottom centre), ry, score. Rows below the threshold, with a negative size, or with NaN or Inf are left out; the
    others keep their order (NOTES 7.2).
    """
    frames = zip(detections, info["img_id"], info["bbox_downsample_ratio"], calibs, strict=True)
    return {
        int(frame): _decode_frame(rows, ratio, Calibration(np.asarray(P2)), threshold)
        for rows, frame, ratio, P2 in frames
    }


def _decode_frame(rows: np.ndarray, ratio: np.ndarray, calibration: Calibration, threshold: float) -> np.ndarray:
    rows = rows[rows[:, _SCORE] >= threshold]
    classes = rows[:, _CLASS].astype(np.int64)
    sizes = (rows[:, _SIZE_3D] + MEAN_SIZES[classes]).astype(rows.dtype).astype(np.float64)
    rows = rows.astype(np.float64)
    centre, half = rows[:, _CENTRE] * ratio, rows[:, _SIZE] * ratio / 2
    scores, residuals = np.split(rows[:, _HEADING], 2, axis=1)
    bins = scores.argmax(1)
    alpha = class2angle(bins, np.take_along_axis(residuals, bins[:, None], 1)[:, 0])
    u, v = (rows[:, _CENTRE_3D] * ratio).T
    position = calibration.back_project(u, v, rows[:, _DEPTH])
    position[:, 1] += sizes[:, 0] / 2
    rotation = calibration.rotation_of(alpha, centre[:, 0])
    result = np.column_stack([classes, alpha, centre - half, centre + half, sizes, position, rotation, rows[:, _SCORE]])
    return result[(sizes >= 0).all(1) & np.isfinite(result).all(1)]


def result_lines(results: np.ndarray) -> str:
    """The lines of a frame's result file, "" for no results; two decimals (NOTES 7.3)."""
    lines = (f"{CLASSES[int(row[0])]} 0.0 0 {' '.join(f'{value:.2f}' for value in row[1:])}\n" for row in results)
    return "".join(lines)


def write_results(folder: str | Path, results: Mapping[int, np.ndarray]) -> None:
    """Write `NNNNNN.txt` of every frame into `folder`, and remove those of other frames.

    Result files of an earlier run would be scored along with the new ones (NOTES 7.3). InputError where it
    cannot be written.
    """
    folder = Path(folder)
    names = {f"{frame:06d}.txt": rows for frame, rows in results.items()}
    for name, rows in names.items():
        atomic_write_text(folder / name, result_lines(rows))
    for path in folder.glob("[0-9]" * 6 + ".txt"):
        if path.name not in names:
            path.unlink()
