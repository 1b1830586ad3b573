"""Pictures in a training's log: validation images with their targets and detections."""

import numpy as np
from PIL import Image, ImageDraw
from visualdl import LogWriter

from datasets.transforms import MEAN, STD

SHOWN = 4  # images of a batch
SCORE = 0.3  # smallest score of a detection that is drawn


def log_pictures(writer: LogWriter, images, outputs: dict, targets: list[dict], step: int) -> None:
    """Write the first images of a batch (normalised, float [N, 3, H, W]) with the targets' boxes in green and the
    detections above a score of 0.3 in red."""
    logits, boxes = outputs["pred_logits"].numpy(), outputs["pred_boxes"].numpy()
    for index, target in enumerate(targets[:SHOWN]):
        height, width = (int(side) for side in target["size"].numpy())
        pixels = (images[index, :, :height, :width].numpy() * STD + MEAN).transpose(1, 2, 0)
        picture = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        detected = boxes[index][logits[index].max(-1) > np.log(SCORE / (1 - SCORE))]
        for group, colour in ((target["boxes"].numpy(), (0, 160, 0)), (detected, (220, 0, 0))):
            low, high = group[:, :2] - group[:, 2:] / 2, group[:, :2] + group[:, 2:] / 2
            for x0, y0, x1, y1 in np.concatenate([low, high], 1) * [width, height, width, height]:
                draw.rectangle([x0, y0, max(x0, x1), max(y0, y1)], outline=colour)
        writer.add_image(f"val/detections/{index}", np.asarray(picture), step)
