"""Checks of the operator's inputs; each message is one line."""

import paddle

FLOATS = (paddle.float32, paddle.float64, paddle.float16, paddle.bfloat16)
HALF = (paddle.float16, paddle.bfloat16)


def check(value, spatial_shapes, level_start_index, sampling_locations, attention_weights) -> None:
    """TypeError or ValueError where these are not inputs of `ops.ms_deform_attn`."""
    floats = {"value": value, "sampling_locations": sampling_locations, "attention_weights": attention_weights}
    indices = {"spatial_shapes": spatial_shapes, "level_start_index": level_start_index}
    for name, tensor in floats.items():
        if tensor.dtype not in FLOATS:
            raise TypeError(f"ms_deform_attn: {name} is {_name(tensor)}, not float32 or float64")
    if len({paddle.float32 if tensor.dtype in HALF else tensor.dtype for tensor in floats.values()}) > 1:
        types = ", ".join(f"{name} {_name(tensor)}" for name, tensor in floats.items())
        raise TypeError(f"ms_deform_attn: one floating type is needed, not {types}")
    for name, tensor in indices.items():
        if tensor.dtype != paddle.int64:
            raise TypeError(f"ms_deform_attn: {name} is {_name(tensor)}, not int64")
    sizes = {}
    _fit("value", value, "N S M D", sizes)
    _fit("sampling_locations", sampling_locations, "N Q M L P 2", sizes)
    _fit("attention_weights", attention_weights, "N Q M L P", sizes)
    _fit("spatial_shapes", spatial_shapes, "L 2", sizes)
    _fit("level_start_index", level_start_index, "L", sizes)
    # reading them from a GPU would synchronise it; there the operator itself checks
    if spatial_shapes.place.is_cpu_place() and level_start_index.place.is_cpu_place():
        _check_levels(spatial_shapes.tolist(), level_start_index.tolist(), value.shape[1])


def _name(tensor) -> str:
    return str(tensor.dtype).removeprefix("paddle.")


def _fit(name: str, tensor, axes: str, sizes: dict[str, int]) -> None:
    """Compare a shape with the sizes of the axes known so far, and add those that are new."""
    shape, axes = list(tensor.shape), axes.split()
    wanted = [int(axis) if axis.isdigit() else sizes.get(axis, axis) for axis in axes]
    fits = len(shape) == len(axes)
    for axis, want, size in zip(axes, wanted, shape, strict=False):
        if isinstance(want, int):
            fits = fits and size == want
        else:
            sizes[axis] = size
    if not fits:
        raise ValueError(f"ms_deform_attn: {name} has shape {shape}, wanted [{', '.join(map(str, wanted))}]")


def _check_levels(shapes: list[list[int]], starts: list[int], tokens: int) -> None:
    total = 0
    for (height, width), start in zip(shapes, starts, strict=True):
        if height < 1 or width < 1:
            raise ValueError(f"ms_deform_attn: spatial_shapes has a level of {height} x {width}")
        if start != total:
            raise ValueError(f"ms_deform_attn: level_start_index says {start} where spatial_shapes makes it {total}")
        total += height * width
    if total != tokens:
        raise ValueError(f"ms_deform_attn: the levels of spatial_shapes hold {total} tokens, value holds {tokens}")
