"""Which tensors a Paddle network has, and how torch names and keeps each of them.

The layout follows from the type of the Paddle layer that owns the tensor, never from its name or rank.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared import InputError

COUNTER = "num_batches_tracked"


class ConversionError(InputError):
    """A checkpoint and a network that do not belong together; the message fits one screen."""


@dataclass(frozen=True)
class Entry:
    """One torch tensor and the Paddle tensors that hold its numbers.

    paddle: one name; the three of q, k and v for a fused projection, which torch stacks along axis 0; none for
    `num_batches_tracked`. layout: how Paddle keeps each part: "same", "transposed", or "flat", for its LayerNorm has
    rank-1 tensors where torch's have the normalized shape. shape, dtype: torch's.
    """

    torch: str
    paddle: tuple[str, ...]
    layout: str
    shape: tuple[int, ...]
    dtype: str

    def split(self, array: np.ndarray) -> list[np.ndarray]:
        """The torch array as the Paddle arrays, in new memory."""
        parts = np.split(array, len(self.paddle)) if len(self.paddle) > 1 else [array]
        if self.layout != "same":
            parts = [part.T if self.layout == "transposed" else part.reshape(-1) for part in parts]
        return [np.array(part, order="C") for part in parts]

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """The Paddle arrays as the torch array, in new memory."""
        parts = [part.T if self.layout == "transposed" else part for part in parts]
        return np.array(np.concatenate(parts) if len(parts) > 1 else parts[0], order="C").reshape(self.shape)


@dataclass(frozen=True)
class Rule:
    """Layers of these types: which torch name each of their tensors has, and which are kept in another layout.

    counter: torch keeps `num_batches_tracked` beside them, unless the layer's class says `counts_batches = False`, as
    one does that stands for a norm of an extension, InPlaceABN for example.
    """

    types: tuple[type, ...]
    names: dict[str, str]
    layouts: dict[str, str] = field(default_factory=dict)
    counter: bool = False


@functools.cache
def _rules() -> tuple[list[Rule], tuple[type, ...], type]:
    """(the rules, Paddle's containers, whose tensors are bare, the attention type). Paddle is imported here, not above:
    looking into a file needs none."""
    from paddle import nn

    same = {"weight": "weight", "bias": "bias"}
    convolutions = (nn.Conv1D, nn.Conv2D, nn.Conv3D, nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose)
    batch_norms = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm, nn.BatchNorm)
    statistics = {"_mean": "running_mean", "_variance": "running_var"}
    rules = [
        Rule((nn.Linear,), same, {"weight": "transposed"}),
        Rule((*convolutions, nn.GroupNorm, nn.Embedding), same),
        Rule((nn.LayerNorm,), same, {"weight": "flat", "bias": "flat"}),
        Rule(batch_norms, same | statistics, counter=True),
        Rule((nn.InstanceNorm1D, nn.InstanceNorm2D, nn.InstanceNorm3D), {"scale": "weight", "bias": "bias"}),
        Rule((nn.PReLU,), {"_weight": "weight"}),
    ]
    containers = (nn.Layer, nn.Sequential, nn.LayerList, nn.LayerDict, nn.ParameterList, nn.ParameterDict)
    return rules, containers, nn.MultiHeadAttention


def walk(layer: Any, prefix: str, owned: dict[str, Any]) -> Iterator[Entry]:
    """The entries of a layer and what is below it, in torch's order: parameters, buffers, then each child.

    prefix: the layer's path with a dot, "" for the network. owned: receives {Paddle name: tensor} on the way.
    Raises ConversionError for a layer type that has tensors and no rule.
    Reads the private tables of Layer: its public iterators leave out a layer that stands under two names.
    """
    yield from _own_tensors(layer, prefix, owned)
    children = {name: child for name, child in layer._sub_layers.items() if child is not None}
    if isinstance(layer, _rules()[2]):
        projections = [children.pop(name) for name in ("q_proj", "k_proj", "v_proj")]
        yield from _attention(layer, projections, prefix, owned)
    for name, child in children.items():
        yield from walk(child, f"{prefix}{name}.", owned)


def _own_tensors(layer: Any, prefix: str, owned: dict[str, Any]) -> Iterator[Entry]:
    own = {name: tensor for name, tensor in layer._parameters.items() if tensor is not None}
    for name, tensor in layer._buffers.items():
        if tensor is not None and name not in layer._non_persistable_buffer_names_set:
            own[name] = tensor
    rules, containers, attention = _rules()
    rule = next((rule for rule in rules if isinstance(layer, rule.types)), None)
    base = next(base for base in type(layer).__mro__ if base.__module__.split(".")[0] == "paddle")
    for leaf, tensor in own.items():
        # A tensor that a user's own class brings is bare: same name, same layout. One that Paddle's class brings
        # needs a rule; and where Paddle's class has none, nobody can tell which of the two brought it.
        named = rule is not None and leaf in rule.names
        bare = base in containers or (base is not type(layer) and (rule is not None or base is attention))
        if not named and not bare:
            kind = f"{base.__module__}.{base.__name__}"
            raise ConversionError(f"{prefix}{leaf}: no rule says how torch keeps this tensor of a {kind}")
        owned[prefix + leaf] = tensor
        layout = rule.layouts.get(leaf, "same") if named else "same"
        shape = layer._normalized_shape if layout == "flat" else tensor.shape
        shape = shape[::-1] if layout == "transposed" else shape
        name = prefix + (rule.names[leaf] if named else leaf)
        yield Entry(name, (prefix + leaf,), layout, tuple(shape), dtype_of(tensor))
        counts = rule is not None and rule.counter and getattr(layer, "counts_batches", True)
        if counts and leaf == "_variance" and COUNTER not in own:
            yield Entry(prefix + COUNTER, (), "same", (), "int64")


def _attention(layer: Any, projections: list[Any], prefix: str, owned: dict[str, Any]) -> Iterator[Entry]:
    """torch stacks the three weights when queries, keys and values have one width, and the three biases always."""
    stacked = {"in_proj_weight": "weight", "in_proj_bias": "bias"}
    if not layer.kdim == layer.vdim == layer.embed_dim:
        del stacked["in_proj_weight"]
        for name, projection in zip("qkv", projections, strict=True):
            paddle = f"{prefix}{name}_proj.weight"
            owned[paddle] = projection.weight
            shape = tuple(projection.weight.shape[::-1])
            yield Entry(f"{prefix}{name}_proj_weight", (paddle,), "transposed", shape, dtype_of(projection.weight))
    for name, leaf in stacked.items():
        parts = {f"{prefix}{n}_proj.{leaf}": getattr(p, leaf) for n, p in zip("qkv", projections, strict=True)}
        if all(tensor is None for tensor in parts.values()):
            continue
        if any(tensor is None for tensor in parts.values()):
            raise ConversionError(f"{prefix}{name}: torch's attention has a bias for all of q, k and v or for none")
        owned.update(parts)
        layout, rank = ("transposed", 2) if leaf == "weight" else ("same", 1)
        shape = (3 * layer.embed_dim, layer.embed_dim)[:rank]
        yield Entry(prefix + name, tuple(parts), layout, shape, dtype_of(projections[0].weight))


def dtype_of(tensor: Any) -> str:
    """numpy's name of a Paddle tensor's dtype; "bfloat16" too."""
    return str(tensor.dtype).removeprefix("paddle.")
