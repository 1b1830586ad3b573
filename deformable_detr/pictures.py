"""What a training shows of itself: validation pictures with what was found and what is there."""

import numpy as np
from PIL import Image, ImageDraw
from visualdl import LogWriter

MOST = 4  # pictures that are shown
SHOWN = 0.3  # score from which a detection is drawn
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def _corners(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes [n, 4] as centre and size in 0 to 1 -> corners in pixels."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], 1) * [width, height, width, height]


def log_pictures(writer: LogWriter, images, outputs: dict, targets: list[dict], step: int) -> None:
    """Write the first pictures of a batch (normalised, float [N, 3, H, W]) with the targets' boxes in green and the
    detections above a score of 0.3 in red."""
    logits, boxes = outputs["pred_logits"].numpy(), outputs["pred_boxes"].numpy()
    for index, target in enumerate(targets[:MOST]):
        height, width = (int(side) for side in target["size"].numpy())
        pixels = images[index, :, :height, :width].numpy().transpose(1, 2, 0) * STD + MEAN
        picture = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        found = boxes[index][logits[index].max(-1) > np.log(SHOWN / (1 - SHOWN))]
        for group, colour in ((target["boxes"].numpy(), (0, 160, 0)), (found, (220, 0, 0))):
            for x0, y0, x1, y1 in _corners(group, width, height):
                draw.rectangle([x0, y0, max(x0, x1), max(y0, y1)], outline=colour)
        writer.add_image(f"val/detections/{index}", np.asarray(picture), step)
