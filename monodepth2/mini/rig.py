"""The mini data's two cameras and laser scanner, with their calibration files as KITTI raw has them.

Also how far trivial predictions get on what they see.
"""

import numpy as np

from .render import Camera, Rays, Scene, cast
from .street import BASELINE, rigid

CAMERA = Camera(416, 126)
#: the scanner in camera 2's frame, metres; it looks the same way, x forward, y left, z up. It stands right above the
#: camera (KITTI's 0.27 m behind it), so that the distance along its x, which is what is scored, is the camera's depth
SCANNER = np.array([0.0, -0.08, 0.0])
VELO_TO_CAM = rigid([[0, -1, 0], [0, 0, -1], [1, 0, 0]], SCANNER)
SCAN_ROWS, SCAN_COLUMNS, SCAN_RANGE = 64, 120, 80.0


def scan_rays() -> Rays:
    """The scanner's rays, in the frame of a camera at its position."""
    across = np.tan(np.radians(np.linspace(-41.5, 41.5, SCAN_COLUMNS)))
    down = -np.tan(np.radians(np.linspace(3.5, -15.0, SCAN_ROWS)))[:, None] * np.sqrt(1 + across**2)
    return Rays(np.float32(across), np.float32(down), float(np.radians(83 / SCAN_COLUMNS)))


def scan(scene: Scene, pose: np.ndarray) -> np.ndarray:
    """The scanner's points, float32 [n, 4]: x, y, z in its own frame in metres, and the reflectance in 0..1."""
    rays = scan_rays()
    depth, colour = cast(scene, pose @ rigid(np.eye(3), SCANNER), rays)
    points = np.stack([depth, -depth * rays.x, -depth * rays.y, np.clip(colour.mean(2) / 255, 0, 1)], -1)
    with np.errstate(invalid="ignore"):
        return points[np.linalg.norm(points[..., :3], axis=-1) < SCAN_RANGE].astype(np.float32)


def projection(camera: int) -> np.ndarray:
    """P_rect of camera 2 or 3, [3, 4]. KITTI counts pixels from 1, so a picture's middle is at half its size + 1/2."""
    fx, fy = CAMERA.focal
    shift = -fx * BASELINE * (camera == 3)
    return np.array([[fx, 0, CAMERA.width / 2 + 0.5, shift], [0, fy, CAMERA.height / 2 + 0.5, 0], [0, 0, 1, 0]])


def calibration() -> dict[str, str]:
    """The texts of KITTI raw's calibration files. Cameras 0 and 1 are where 2 and 3 are."""

    def lines(values: dict[str, np.ndarray]) -> str:
        rows = ["calib_time: 01-May-2026 12:00:00"]
        rows += [f"{key}: {' '.join(f'{number:.6e}' for number in np.ravel(value))}" for key, value in values.items()]
        return "\n".join(rows) + "\n"

    size = np.array([CAMERA.width, CAMERA.height])
    cameras = {"corner_dist": np.array(0.0995)}
    for number in range(4):
        matrix = projection(2 + number % 2)
        parts = {"S": size, "K": matrix[:, :3], "D": np.zeros(5), "R": np.eye(3), "T": [-BASELINE * (number % 2), 0, 0]}
        parts |= {"S_rect": size, "R_rect": np.eye(3), "P_rect": matrix}
        cameras |= {f"{name}_0{number}": value for name, value in parts.items()}
    scanner = {"R": VELO_TO_CAM[:3, :3], "T": SCANNER, "delta_f": np.zeros(2), "delta_c": np.zeros(2)}
    return {"calib_cam_to_cam.txt": lines(cameras), "calib_velo_to_cam.txt": lines(scanner)}


def scanned_depth(points: np.ndarray) -> np.ndarray:
    """A scan [n, 4] seen by camera 2: float64 [H, W], metres as `evaluate_depth` counts them, from the scanner; 0 where
    no point fell. The nearest point wins."""
    points = points[np.argsort(-points[:, 0], kind="stable")].astype(np.float64)
    forward = points[:, 0].copy()
    points[:, 3] = 1
    u, v, depth = projection(2) @ VELO_TO_CAM @ points.T
    column, row = (np.round(coordinate / depth).astype(int) - 1 for coordinate in (u, v))
    inside = (column >= 0) & (column < CAMERA.width) & (row >= 0) & (row < CAMERA.height)
    image = np.zeros((CAMERA.height, CAMERA.width))
    image[row[inside], column[inside]] = forward[inside]
    return image


def median_scaled_error(truth: np.ndarray, predicted: np.ndarray) -> float:
    """abs_rel of one picture as on the Eigen split: its crop, depths up to 80 m, median scaling (NOTES 7.3)."""
    height, width = truth.shape
    rows = slice(int(0.40810811 * height), int(0.99189189 * height))
    columns = slice(int(0.03594771 * width), int(0.96405229 * width))
    truth, predicted = truth[rows, columns], np.broadcast_to(predicted, truth.shape)[rows, columns]
    known = (truth > 1e-3) & (truth < 80)
    truth, predicted = truth[known], predicted[known]
    predicted = np.clip(predicted * np.median(truth) / np.median(predicted), 1e-3, 80)
    return float(np.mean(np.abs(truth - predicted) / truth))


def baselines(train: list[np.ndarray], test: list[np.ndarray]) -> dict[str, float]:
    """abs_rel on the test scans of the same depth everywhere, and of each row's mean inverse depth in the train scans.

    Both are lists of depth maps [H, W], 0 where unknown.
    """
    known = np.sum([truth > 0 for truth in train], axis=(0, 2))
    inverse = np.sum([np.divide(1, truth, where=truth > 0, out=np.zeros_like(truth)) for truth in train], axis=(0, 2))
    seen = np.flatnonzero(known)
    rows = np.interp(np.arange(len(known)), seen, inverse[seen] / known[seen])
    predictions = {"constant_depth": np.ones(1), "mean_inverse_depth_of_the_row": 1 / rows[:, None]}
    return {
        name: round(float(np.mean([median_scaled_error(truth, predicted) for truth in test])), 4)
        for name, predicted in predictions.items()
    }
