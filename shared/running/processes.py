"""Several processes that train or evaluate together: what each takes of the others. One process needs no launcher."""

from collections.abc import Iterable, Mapping

import numpy as np
import paddle
import paddle.distributed as dist


def largest(number: int) -> int:
    """The largest of the processes' numbers. They wait for each other here."""
    if dist.get_world_size() == 1:
        return int(number)
    tensor = paddle.to_tensor([int(number)], "int32")
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def total(values: np.ndarray) -> np.ndarray:
    """The sum of the processes' float64 arrays of one shape."""
    if dist.get_world_size() == 1:
        return np.asarray(values, np.float64)
    tensor = paddle.to_tensor(np.asarray(values, np.float64))
    dist.all_reduce(tensor)
    return tensor.numpy()


def mean_over_processes(figures: Mapping[str, float]) -> dict[str, float]:
    """The mean of each figure over the processes, which all have the same names in the same order."""
    world = dist.get_world_size()
    if world == 1 or not figures:
        return dict(figures)
    return dict(zip(figures, (total(np.array(list(figures.values()))) / world).tolist(), strict=True))


def gather(array: np.ndarray) -> list[np.ndarray]:
    """Every process's `array` [n, ...], of its own n, in the order of the ranks."""
    if dist.get_world_size() == 1:
        return [array]
    counts: list[paddle.Tensor] = []
    dist.all_gather(counts, paddle.to_tensor([len(array)]))
    lengths = [count.item() for count in counts]
    padded = np.zeros((max(lengths), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    arrays: list[paddle.Tensor] = []
    dist.all_gather(arrays, paddle.to_tensor(padded))
    return [part.numpy()[:length] for part, length in zip(arrays, lengths, strict=True)]


@paddle.no_grad()
def sum_gradients(parameters: Iterable[paddle.Tensor], mean: bool = False) -> None:
    """Give every process the sum (or mean) of all gradients; what no process reached stays without one.

    In place of `paddle.DataParallel` where a process may not reach a parameter that another does, or where sums of
    synchronised norms cross with the gradients that it sends while the backward pass runs.
    """
    world = dist.get_world_size()
    if world == 1:
        return
    parameters = [parameter for parameter in parameters if not parameter.stop_gradient]
    reached = paddle.to_tensor([parameter.grad is not None for parameter in parameters]).astype("int32")
    dist.all_reduce(reached, op=dist.ReduceOp.MAX)
    parameters = [parameter for parameter, yes in zip(parameters, reached.tolist(), strict=True) if yes]
    gradients = [p.grad if p.grad is not None else paddle.zeros(p.shape, p.dtype) for p in parameters]
    summed = paddle.concat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(summed)
    if mean:
        summed = summed / world
    for parameter, part in zip(parameters, summed.split([p.size for p in parameters]), strict=True):
        parameter.grad = part.reshape(parameter.shape)
