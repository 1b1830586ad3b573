"""Intermediate results of a network, named as in the golden files; both sides share the names of layers."""

import numpy as np

from shared.weights import as_numpy

#: name in the records -> the sub-layer whose output it is
PARTS = {
    "arm16": "cp.arm16",
    "arm32": "cp.arm32",
    "conv_avg": "cp.conv_avg",
    "bn_atten16": "cp.arm16.bn_atten",
    "bn_atten32": "cp.arm32.bn_atten",
    "head32": "cp.conv_head32",
    "head16": "cp.conv_head16",
    "ffm": "ffm",
    "raw_out": "conv_out",
    "raw_out16": "conv_out16",
    "raw_out32": "conv_out32",
}


def outputs_and_parts(model, images) -> tuple[dict, dict[str, np.ndarray]]:
    """(what `model(images)` answers, its PARTS as arrays), for a Paddle layer or a torch module."""
    seen: dict[str, np.ndarray] = {}

    def keep(name):
        def hook(layer, inputs, output):
            seen[name] = np.array(as_numpy(output.detach()))

        return hook

    layers = dict(model.named_sublayers() if hasattr(model, "named_sublayers") else model.named_modules())
    hooks = []
    for name, path in PARTS.items():
        layer = layers[path]
        register = getattr(layer, "register_forward_post_hook", None) or layer.register_forward_hook
        hooks.append(register(keep(name)))
    outputs = model(images)
    for hook in hooks:
        hook.remove()
    return outputs, seen
