"""From the network's outputs to detections (fact sheet section 7)."""

import paddle

from models.boxes import cxcywh_to_xyxy

DETECTIONS = 100


@paddle.no_grad()
def postprocess(outputs: dict, orig_sizes) -> list[dict]:
    """The best 100 (query, class) pairs of each picture: `scores` [100], `labels` int64 [100], `boxes` [100, 4].

    outputs: `pred_logits` [N, Q, classes], `pred_boxes` [N, Q, 4]; orig_sizes: int [N, 2], height and width of each
    picture. Scores descend; one query may stand under several labels. Boxes are corners in pixels of that size, not
    clipped. No threshold, no suppression. Fewer where the network has no 100 logits.
    """
    logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
    n, queries, classes = logits.shape
    scores, places = paddle.topk(logits.sigmoid().reshape([n, -1]), min(DETECTIONS, queries * classes), axis=1)
    corners = cxcywh_to_xyxy(boxes)
    sizes = paddle.to_tensor(orig_sizes).astype(boxes.dtype).flip(1)
    corners = corners * paddle.concat([sizes, sizes], 1).unsqueeze(1)
    corners = paddle.take_along_axis(corners, (places // classes).unsqueeze(-1), 1, broadcast=True)
    labels = places % classes
    return [{"scores": scores[i], "labels": labels[i], "boxes": corners[i]} for i in range(n)]
