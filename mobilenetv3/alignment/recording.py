"""The stages that both sides record alike, each with its own framework and functions. No framework is imported here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from shared.stages import Context

from . import feeds


class Side(NamedTuple):
    """What a side computes with."""

    load: Callable[..., Any]  # (context, model, variant, options) -> the network with its weights, in context.dtype
    tensor: Callable[[np.ndarray], Any]
    no_grad: Callable[[], Any]


def forward(context: Context, side: Side, pictures: Any) -> dict:
    """Logits of every network; of those without a variant also every stage and the head, in the order of execution."""
    record = {}
    inputs = {"noise": side.tensor(feeds.noise("noise", feeds.NOISE_SHAPE, context.dtype)), "pictures": pictures}
    variant_images = side.tensor(feeds.noise("variant", feeds.VARIANT_SHAPE, context.dtype))
    for model, variant, options in feeds.networks(context):
        network = side.load(context, model, variant, options)
        if variant:  # batch norm in train mode: drawn weights have no running statistics that fit them
            network.train()
            with side.no_grad():
                record[f"{model}/{variant}/logits"] = network(variant_images)
            continue
        network.eval()
        for name, images in inputs.items():
            prefix, x = f"{model}/{name}", images
            with side.no_grad():
                for index, stage in enumerate(network.features):
                    x = stage(x)
                    record[f"{prefix}/features.{index}"] = x[:1]
                pooled = network.avgpool(x).flatten(1)
                record[f"{prefix}/pooled"] = pooled
                record[f"{prefix}/penultimate"] = network.classifier[1](network.classifier[0](pooled))
                record[f"{prefix}/logits"] = network(images)
    return record


def backward(context: Context, side: Side, gradients: Callable, steps: Callable) -> dict:
    """Gradients in train and eval mode, and ten steps of every optimiser.

    `gradients(network, images, target)` -> loss, {official name: gradient}; `steps(network, average network, recipe,
    images, target)` -> losses, learning rates, official state dicts of the network and of its moving average.
    """
    record = {}
    for model in feeds.models(context):
        options = feeds.network_options(context, model)
        images, target = map(side.tensor, feeds.batch(context, model))
        for mode in ("train", "eval"):
            network = side.load(context, model, "", options)
            getattr(network, mode)()
            record[f"{model}/{mode}/loss"], named = gradients(network, images, target)
            record |= {f"{model}/{mode}/gradient/{name}": gradient for name, gradient in named.items()}
        for name, argv in feeds.OPTIMISERS.items():
            network, average = (side.load(context, model, "", options) for _ in range(2))
            losses, rates, state, ema_state = steps(network, average, feeds.recipe(argv), images, target)
            record |= {f"{model}/{name}/loss": np.array(losses), f"{model}/{name}/lr": np.array(rates)}
            for prefix, tensors in (("", state), ("ema_", ema_state)):
                for part in ("running_mean", "running_var", "weight"):
                    norms = [np.linalg.norm(a.astype(np.float64)) for n, a in tensors.items() if n.endswith(part)]
                    record[f"{model}/{name}/{prefix}{part}_norms"] = np.array(norms)
    return record
