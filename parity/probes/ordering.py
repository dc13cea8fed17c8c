"""Ties and order: which of several equal values is taken."""

from __future__ import annotations

from typing import Any

import paddle
import torch

from parity.probes import probe

TIED = [1.0, 3.0, 3.0, 2.0, 3.0, 1.0]
ORDER = "which of equal values comes first is nobody's contract: never let a result depend on it"


def _both(values: list[float]) -> tuple[Any, Any]:
    return torch.tensor(values, dtype=torch.float64), paddle.to_tensor(values, "float64")


def _tie_gradient(ours: Any, theirs: Any) -> tuple[Any, Any]:
    one = torch.tensor(TIED, dtype=torch.float64, requires_grad=True)
    other = paddle.to_tensor(TIED, "float64", stop_gradient=False)
    ours(one).backward()
    theirs(other).backward()
    return one.grad, other.grad


@probe("topk(2) of 1 3 3 2 3 1: which", ORDER)
def topk() -> tuple[Any, Any]:
    one, other = _both(TIED)
    return torch.topk(one, 2).indices, paddle.topk(other, 2)[1]


@probe("topk(4) of 64 values in 0..3: which", ORDER)
def topk_many() -> tuple[Any, Any]:
    one, other = _both([float(i * 7 % 4) for i in range(64)])
    return torch.topk(one, 4).indices, paddle.topk(other, 4)[1]


@probe("argsort of 1 3 3 2 3 1", "pass stable=True on both sides")
def argsort() -> tuple[Any, Any]:
    one, other = _both(TIED)
    return torch.argsort(one), paddle.argsort(other)


@probe("argsort(descending) of 1 3 3 2 3 1", "pass stable=True on both sides")
def argsort_descending() -> tuple[Any, Any]:
    one, other = _both(TIED)
    return torch.argsort(one, descending=True), paddle.argsort(other, descending=True)


@probe("argmax of 1 3 3 2 3 1", "nothing: the first")
def argmax() -> tuple[Any, Any]:
    one, other = _both(TIED)
    return torch.argmax(one), paddle.argmax(other)


@probe("mode of 2 1 1 2: value and index", "nothing: the smallest")
def mode() -> tuple[Any, Any]:
    one, other = _both([2.0, 1.0, 1.0, 2.0])
    ours, theirs = torch.mode(one), paddle.mode(other)
    return [ours.values, ours.indices], [theirs[0], theirs[1]]


@probe("median of 1 2 3 4", "pass mode='min' to Paddle's: torch takes the lower of the two")
def median() -> tuple[Any, Any]:
    one, other = _both([4.0, 1.0, 3.0, 2.0])
    return torch.median(one), paddle.median(other)


@probe("round of 0.5 1.5 2.5", "nothing: both to even")
def rounding() -> tuple[Any, Any]:
    one, other = _both([0.5, 1.5, 2.5])
    return torch.round(one), paddle.round(other)


@probe("max(axis): gradient of 1 3 3 2 3 1", "Paddle splits it among ties: index with argmax where it matters")
def max_axis_gradient() -> tuple[Any, Any]:
    return _tie_gradient(lambda x: torch.max(x, 0).values, lambda x: paddle.max(x, axis=0))


@probe("max(): gradient of 1 3 3 2 3 1", "nothing")
def max_gradient() -> tuple[Any, Any]:
    return _tie_gradient(torch.max, paddle.max)


@probe("maximum(1, 1): gradient of the first", "nothing: half each")
def maximum_gradient() -> tuple[Any, Any]:
    one = torch.ones(1, dtype=torch.float64, requires_grad=True)
    other = paddle.ones([1], "float64")
    other.stop_gradient = False
    torch.maximum(one, torch.ones(1).double()).backward()
    paddle.maximum(other, paddle.ones([1], "float64")).backward()
    return one.grad, other.grad


@probe("-7 // 2, -7 % 2 of integers", "nothing: both round down")
def floor_division() -> tuple[Any, Any]:
    one, other = torch.tensor(-7), paddle.to_tensor(-7)
    return [one // 2, one % 2], [other // 2, other % 2]


@probe("std of 1 2 3", "nothing: both divide by n - 1")
def std() -> tuple[Any, Any]:
    one, other = _both([1.0, 2.0, 3.0])
    return one.std(), other.std()
