"""Several processes that train or evaluate together: who am I, and what do we all know.

With one process every function returns at once, without any communication.

Gradients are averaged, so n processes with b images each take the step of one process with n * b images, as far as
the loss is a mean over images. A loss that divides by a number of its own (labelled pixels, OHEM's hard ones) is the
mean of the processes' means, as in PaddleSeg; and batch norm sees b images unless it is synchronised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist


def rank() -> int:
    """Number of this process, 0-based; process 0 writes files and logs."""
    return dist.get_rank()


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size()


def is_main() -> bool:
    """Whether this is process 0."""
    return rank() == 0


def start() -> None:
    """Connects the processes that `python -m paddle.distributed.launch` has started."""
    if world_size() > 1 and not dist.is_initialized():
        dist.init_parallel_env()


def mean(values: np.ndarray) -> np.ndarray:
    """Element-wise mean over the processes; NaN where any of them has NaN."""
    return values if world_size() == 1 else total(values) / world_size()


def total(values: np.ndarray) -> np.ndarray:
    """Element-wise sum over the processes, in the type of the values."""
    if world_size() == 1:
        return values
    tensor = paddle.to_tensor(values)
    dist.all_reduce(tensor)
    return tensor.numpy()


def any_of(flag: bool) -> bool:
    """Whether the flag is set in at least one process."""
    return flag if world_size() == 1 else bool(total(np.array([int(flag)], np.int64))[0])


def gather(value: Any) -> list[Any]:
    """Each process's value, in rank order; plain data that pickle can hold."""
    if world_size() == 1:
        return [value]
    values: list[Any] = []
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Returns when all processes have got here."""
    if world_size() > 1:
        dist.barrier()


def share_from_main(tensors: Iterable[paddle.Tensor]) -> None:
    """Gives the tensors of all processes the values that process 0 has."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def average_gradients(parameters: Sequence[paddle.Tensor]) -> None:
    """Replaces each gradient by its mean over the processes; all of one type travel as one vector."""
    if world_size() == 1:
        return
    by_type: dict[Any, list[paddle.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    with paddle.no_grad():
        for gradients in by_type.values():
            vector = paddle.concat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(vector)
            parts = paddle.split(vector / world_size(), [gradient.size for gradient in gradients])
            for gradient, part in zip(gradients, parts):
                gradient.set_value(part.reshape(gradient.shape))
