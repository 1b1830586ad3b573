"""The torch twin's data side: an independent way from the files to the same item, for the alignment stage "data".

It shares no code with `datasets/` and computes differently where possible: Pillow's formulas instead of its
enhancers, its integer HSV written out, flips on tensors, a plain loop over the laser points. Decoding and resizing
are Pillow's on both sides. Both share the meaning of a draw (`draws`, `jitters`).
"""

import argparse
import hashlib
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FILTERS = {"lanczos": Image.LANCZOS, "nearest": Image.NEAREST}
FULL_SIZE = (1242, 375)


# ---------------------------------------------------------------- draws


def draws(seed: int, epoch: int, index: int) -> random.Random:
    """The random generator of one item, by the rule in `datasets/kitti.py`."""
    return random.Random(int(hashlib.sha256(b"%d/%d/%d" % (seed, epoch, index)).hexdigest()[:16], 16))


def factors(rng: random.Random) -> list[float]:
    """Brightness, contrast, saturation, hue."""
    return [rng.uniform(*span) for span in ((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.1, 0.1))]


def order(rng: random.Random) -> list[int]:
    """Which of brightness 0, contrast 1, saturation 2, hue 3 comes first, second, ..."""
    sequence = list(range(4))
    rng.shuffle(sequence)
    return sequence


def jitters(rng: random.Random, frames: Sequence, how: str) -> dict[tuple, tuple[list[float], list[int]]]:
    """{(frame, scale): (factors, order)}: one draw for all, or the order first and then factors for each."""
    if how == "per_item":
        once = factors(rng), order(rng)
        return {(frame, scale): once for frame in frames for scale in range(4)}
    common = order(rng)
    return {(frame, scale): (factors(rng), common) for frame in frames for scale in range(4)}


# ---------------------------------------------------------------- colour, all on uint8 [h, w, 3]


def grey(pixels: torch.Tensor) -> torch.Tensor:
    """Luma, int64 [h, w], with Pillow's integer weights."""
    return (pixels.long() @ torch.tensor([19595, 38470, 7471]) + 32768) >> 16


def blend(start: torch.Tensor, pixels: torch.Tensor, factor: float) -> torch.Tensor:
    """start + factor * (pixels - start), product and sum each rounded to float32, clipped, truncated to uint8."""
    start = start.float()
    moved = (pixels.float() - start) * torch.tensor(factor, dtype=torch.float32)
    return (start + moved).clamp(0, 255).to(torch.uint8)


def to_hsv(pixels: torch.Tensor) -> torch.Tensor:
    """RGB -> HSV as Pillow computes it: float32 variables, double arithmetic between them, truncated to uint8."""
    red, green, blue = pixels.float().unbind(-1)
    high, low = pixels.float().amax(-1), pixels.float().amin(-1)
    span = (high - low).clamp(min=1)
    saturation = span / high.clamp(min=1)
    to_red, to_green, to_blue = ((high - channel) / span for channel in (red, green, blue))
    after_green = (2 + to_red.double() - to_blue.double()).float()
    after_blue = (4 + to_green.double() - to_red.double()).float()
    hue = torch.where(red == high, to_blue - to_green, torch.where(green == high, after_green, after_blue))
    hue = torch.fmod(hue.double() / 6 + 1, 1).float()
    coloured = high > low
    parts = ((hue.double() * 255) * coloured, (saturation.double() * 255) * coloured, high.double())
    return torch.stack([part.long().clamp(0, 255).to(torch.uint8) for part in parts], -1)


def to_rgb(hsv: torch.Tensor) -> torch.Tensor:
    """HSV -> RGB as Pillow computes it."""
    hue, saturation, value = hsv.double().unbind(-1)
    turns = (hue * 6 / 255).float().double()
    sector = turns.floor()
    rest = (hue * 6 / 255 - sector).float().double()
    strength = (saturation / 255).float().double()

    def rounded(factor: torch.Tensor) -> torch.Tensor:
        return (value * factor + 0.5).floor()  # halves away from zero; nothing is negative

    low, falling, rising = rounded(1 - strength), rounded(1 - strength * rest), rounded(1 - strength * (1 - rest))
    table = [
        (value, rising, low),
        (falling, value, low),
        (low, value, rising),
        (low, falling, value),
        (rising, low, value),
        (value, low, falling),
    ]
    sectors = torch.stack([torch.stack(colour, -1) for colour in table])  # [6, h, w, 3]
    chosen = (sector.long() % 6)[None, ..., None].expand(1, *hsv.shape)
    return sectors.gather(0, chosen)[0].clamp(0, 255).to(torch.uint8)


def jitter(pixels: torch.Tensor, factors: Sequence[float], order: Sequence[int]) -> torch.Tensor:
    """uint8 [h, w, 3] -> the same with its colours changed (NOTES 2.5)."""
    for operation in order:
        factor = factors[operation]
        if operation == 0:
            pixels = blend(torch.tensor(0), pixels, factor)
        elif operation == 1:
            luma = grey(pixels)
            pixels = blend(torch.tensor(int(luma.sum().item() / luma.numel() + 0.5)), pixels, factor)
        elif operation == 2:
            pixels = blend(grey(pixels)[..., None], pixels, factor)
        else:
            hsv = to_hsv(pixels).long()
            hsv[..., 0] = (hsv[..., 0] + math.trunc(factor * 255)) % 256
            pixels = to_rgb(hsv.to(torch.uint8))
    return pixels


# ---------------------------------------------------------------- depth


def calibration(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The numbers of a text of `key: values` lines."""
    values = {}
    for line in Path(path).read_text().split("\n"):
        key, _, text = line.partition(":")
        if set(text.strip()) <= set("0123456789.e+- "):
            values[key] = np.array([float(word) for word in text.split()])
    return values


def depth_map(folder: str | os.PathLike, scan: str | os.PathLike, camera: int, vel_depth: bool) -> np.ndarray:
    """The rule of NOTES 2.9 and 2.10, point by point: float64 [height, width]."""
    cameras = calibration(os.path.join(folder, "calib_cam_to_cam.txt"))
    scanner = calibration(os.path.join(folder, "calib_velo_to_cam.txt"))
    rectify, to_camera = np.eye(4), np.eye(4)
    rectify[:3, :3] = cameras["R_rect_00"].reshape(3, 3)
    to_camera[:3] = np.hstack([scanner["R"].reshape(3, 3), scanner["T"].reshape(3, 1)])
    projection = (cameras[f"P_rect_0{camera}"].reshape(3, 4) @ rectify @ to_camera).tolist()
    width, height = (int(side) for side in cameras["S_rect_02"])

    depth = np.zeros((height, width))
    groups: dict[int, list] = {}  # key -> [pixel of the first point, smallest depth, count]
    for x, y, z, _ in np.fromfile(scan, np.float32).reshape(-1, 4).tolist():
        if x < 0:
            continue
        u, v, w = (row[0] * x + row[1] * y + row[2] * z + row[3] for row in projection)
        if w == 0 or not (math.isfinite(u / w) and math.isfinite(v / w)):
            continue
        column, row = round(u / w) - 1, round(v / w) - 1  # as numpy's round: half to even
        if not (0 <= column < width and 0 <= row < height):
            continue
        value = x if vel_depth else w
        depth[row, column] = value
        group = groups.setdefault(row * (width - 1) + column - 1, [(row, column), value, 0])
        group[1] = min(group[1], value)
        group[2] += 1
    for pixel, smallest, count in groups.values():
        if count > 1:
            depth[pixel] = smallest
    depth[depth < 0] = 0
    return depth


def full_size(depth: np.ndarray) -> np.ndarray:
    """float32 [375, 1242] by the rule of skimage's resize of order 0, in floating point (NOTES 2.8)."""
    width, height = FULL_SIZE
    rows = np.floor((np.arange(height) + 0.5) * depth.shape[0] / height).astype(int)
    columns = np.floor((np.arange(width) + 0.5) * depth.shape[1] / width).astype(int)
    return depth[rows][:, columns].astype(np.float32)


def projected_depth(path: str | os.PathLike, flip: bool) -> np.ndarray:
    """A 16-bit depth image in metres, float32 [375, 1242]."""
    depth = np.array(Image.open(path).resize(FULL_SIZE, Image.NEAREST)).astype(np.float32) / 256
    return depth[:, ::-1] if flip else depth


# ---------------------------------------------------------------- items


def lines_of(options: argparse.Namespace, part: str) -> list[tuple[str, int, str]]:
    """(folder, frame index, side) of every item of a list (NOTES 2.1)."""
    text = Path(options.split_dir, options.split, f"{part}_files.txt").read_text()
    words = [line.split() for line in text.splitlines() if line.strip()]
    return [(folder, int(frame), side) for folder, frame, side in words]


def image_path(options: argparse.Namespace, folder: str, index: int, side: str) -> str:
    """The file of an image (NOTES 2.2)."""
    camera, end = {"l": 2, "r": 3}[side], "png" if options.png else "jpg"
    if options.dataset == "kitti_odom":
        return os.path.join(options.data_path, "sequences", f"{int(folder):02}", f"image_{camera}", f"{index:06}.{end}")
    return os.path.join(options.data_path, folder, f"image_0{camera}", "data", f"{index:010}.{end}")


def scan_path(options: argparse.Namespace, folder: str, index: int) -> Path:
    """The file of a laser scan."""
    return Path(options.data_path, folder, "velodyne_points", "data", f"{index:010}.bin")


def depth_of(options: argparse.Namespace, folder: str, index: int, side: str, flip: bool) -> np.ndarray:
    """Depth of one image in metres, float32 [375, 1242]."""
    camera = {"l": 2, "r": 3}[side]
    if options.dataset == "kitti_depth":
        file = f"proj_depth/groundtruth/image_0{camera}/{index:010}.png"
        return projected_depth(Path(options.data_path, folder, file), flip)
    date = Path(options.data_path, folder.split("/")[0])
    depth = full_size(depth_map(date, scan_path(options, folder, index), camera, vel_depth=False))
    return depth[:, ::-1] if flip else depth


def to_tensor(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [h, w, 3] -> float32 [3, h, w] in [0, 1]."""
    return pixels.permute(2, 0, 1).contiguous().float().div(255)


def camera_matrix(height: int, width: int) -> torch.Tensor:
    """K (NOTES 2.6), float32 [4, 4]."""
    return torch.diag(torch.tensor([width, height, 1.0, 1.0])) @ torch.tensor(
        [[0.58, 0, 0.5, 0], [0, 1.92, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )


def item(
    options: argparse.Namespace, part: str, index: int, epoch: int = 0, rng: random.Random | None = None
) -> dict[object, torch.Tensor]:
    """The whole item `index` of part "train" or "val", by `rng` or by the draws of (options.seed, epoch, index).

    Reads from `options`: data_path, split_dir, split, dataset, png, height, width, frame_ids, use_stereo, resize,
    jitter, seed.
    """
    rng = rng or draws(options.seed, epoch, index)
    train = part == "train"
    colour = train and rng.random() > 0.5
    flip = train and rng.random() > 0.5
    lines = lines_of(options, part)
    folder, number, side = lines[index]
    frames = [*options.frame_ids, *(["s"] if options.use_stereo else [])]
    changes = jitters(rng, frames, options.jitter) if colour else {}
    result: dict[object, torch.Tensor] = {}
    for frame in frames:
        if frame == "s":
            path = image_path(options, folder, number, "lr"["rl".index(side)])
        else:
            path = image_path(options, folder, number + frame, side)
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
        pixels = pixels.flip(1) if flip else pixels
        for scale in range(4):
            size = options.width // 2**scale, options.height // 2**scale
            image = Image.fromarray(pixels.numpy()).resize(size, FILTERS[options.resize])
            pixels = torch.from_numpy(np.array(image))
            result["color", frame, scale] = to_tensor(pixels)
            changed = jitter(pixels, *changes[frame, scale]) if colour else pixels
            result["color_aug", frame, scale] = to_tensor(changed)
    for scale in range(4):
        matrix = camera_matrix(options.height // 2**scale, options.width // 2**scale)
        result["K", scale] = matrix
        result["inv_K", scale] = torch.from_numpy(np.linalg.pinv(matrix.numpy()))
    if options.use_stereo:
        result["stereo_T"] = torch.eye(4)
        result["stereo_T"][0, 3] = -0.1 if (side == "l") != flip else 0.1
    first, first_number, _ = lines[0]
    if scan_path(options, first, first_number).is_file():
        result["depth_gt"] = torch.from_numpy(depth_of(options, folder, number, side, flip).copy())[None]
    return result
