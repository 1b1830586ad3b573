"""Outputs of single layers, for a Paddle layer or a torch module: both have the official names."""

from collections.abc import Sequence

import numpy as np

from shared.weights import as_numpy


def outputs_and_parts(model, watched: Sequence[str], *inputs) -> tuple[dict, dict[str, list[np.ndarray]]]:
    """(what `model(*inputs)` answers, {name: its output at every call}).

    Position encodings (`backbone.1`) come as [N, C, h, w], whichever side keeps its channels last.
    """
    seen: dict[str, list[np.ndarray]] = {}

    def keep(name):
        def hook(layer, inputs_, output):
            array = np.array(as_numpy(output.detach()))
            paddle_encoding = name == "backbone.1" and hasattr(layer, "sublayers")
            seen.setdefault(name, []).append(array.transpose(0, 3, 1, 2) if paddle_encoding else array)

        return hook

    layers = dict(model.named_sublayers() if hasattr(model, "named_sublayers") else model.named_modules())
    hooks = []
    for name in watched:
        layer = layers[name]
        register = getattr(layer, "register_forward_post_hook", None) or layer.register_forward_hook
        hooks.append(register(keep(name)))
    outputs = model(*inputs)
    for hook in hooks:
        hook.remove()
    return outputs, seen
