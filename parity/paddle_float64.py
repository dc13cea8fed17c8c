"""Operators that Paddle does not compute in full float64, done again in float64; and sorting by the rule of `ties`.

In a float64 network Paddle 3.3.1 still keeps the ratio of a bilinear or bicubic resize, the divisor of an average
pooling's backward pass, and the constants of SELU in float32, and takes 0.1666667 for the sixth of a hard sigmoid:
errors of 1e-5 to 1e-8 that would hide real differences. Inside `exact_operators` the kernels compute the same functions
of float64 tensors, with Paddle's semantics, from matrix products and sums. They are replaced below Paddle's Python
functions, which work out sizes, factors and paddings as ever, so that it does not matter how a model calls them.
tests/parity compares them with Paddle's own in float32.

N batch, C channels, H W size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import _C_ops

from parity.ties import first_largest, ordered

Selected = Optional[tuple[paddle.Tensor, paddle.Tensor]]  # elements and their indices; None leaves it to Paddle


@contextmanager
def exact_operators() -> Iterator[None]:
    """Replaces the kernels for as long as it is entered; other dtypes and modes go to Paddle's own."""
    replacements = {
        "bilinear_interp": _resize(_bilinear_matrix),
        "bicubic_interp": _resize(_bicubic_matrix),
        "pool2d": _pool2d,
        "hardsigmoid": _hardsigmoid,
        "selu": _selu,
        "topk": _topk,
        "argsort": _argsort,
    }
    own = {name: getattr(_C_ops, name) for name in replacements}
    for name, replacement in replacements.items():
        setattr(_C_ops, name, _for_float64(own[name], replacement))
    try:
        yield
    finally:
        for name, kernel in own.items():
            setattr(_C_ops, name, kernel)


def _for_float64(own: Any, replacement: Any) -> Any:
    def kernel(x: paddle.Tensor, *arguments: Any, out: Any = None) -> Any:
        result = replacement(x, *arguments) if x.dtype == paddle.float64 and out is None else None
        if result is not None:
            return result
        return own(x, *arguments) if out is None else own(x, *arguments, out=out)

    return kernel


def _resize(matrix: Callable[[int, int, float, bool, int], paddle.Tensor]) -> Any:
    """A kernel that resizes both axes by the matrix of (size, new size, factor, align_corners, align_mode)."""

    def kernel(
        x: paddle.Tensor,
        out_size: Any,
        size_tensor: Any,
        scale_tensor: Any,
        data_layout: str,
        out_depth: int,
        out_height: int,
        out_width: int,
        scale: Sequence[float],
        method: str,
        align_corners: bool,
        align_mode: int,
    ) -> paddle.Tensor | None:
        if data_layout != "NCHW" or out_size is not None or size_tensor is not None or scale_tensor is not None:
            return None
        sizes, factors = list(x.shape[2:]), list(scale) or [0.0, 0.0]
        outs = [int(size * factor) for size, factor in zip(sizes, factors)] if scale else [out_height, out_width]
        rows, columns = (matrix(*axis, align_corners, align_mode) for axis in zip(sizes, outs, factors))
        return paddle.matmul(paddle.matmul(rows, x), columns.T)

    return kernel


def _ratio(size: int, out: int, factor: float, align_corners: bool) -> float:
    """Input pixels for each output pixel."""
    if out == 1:
        return 0.0
    if align_corners:
        return (size - 1) / (out - 1)
    return 1.0 / factor if factor > 0 else size / out


def _bicubic_matrix(size: int, out: int, factor: float, align_corners: bool, align_mode: int) -> paddle.Tensor:
    """(out, size) matrix of the cubic convolution with a = -0.75 (Keys, 1981) of one axis, edges repeated."""
    index, ratio = np.arange(out, dtype=np.float64), _ratio(size, out, factor, align_corners)
    position = ratio * index if align_corners else ratio * (index + 0.5) - 0.5
    low = np.floor(position).astype(np.int64)
    matrix = np.zeros((out, size))
    for tap in range(-1, 3):
        distance = np.abs(position - (low + tap))
        near = (1.25 * distance - 2.25) * distance**2 + 1.0
        far = ((-0.75 * distance + 3.75) * distance - 6.0) * distance + 3.0
        np.add.at(matrix, (np.arange(out), np.clip(low + tap, 0, size - 1)), np.where(distance <= 1.0, near, far))
    return paddle.to_tensor(matrix)


def _bilinear_matrix(size: int, out: int, factor: float, align_corners: bool, align_mode: int) -> paddle.Tensor:
    """(out, size) matrix of Paddle's linear resize of one axis; an output of one pixel takes the first."""
    index, ratio = np.arange(out, dtype=np.float64), _ratio(size, out, factor, align_corners)
    if not align_corners and align_mode == 0:
        position = np.maximum(ratio * (index + 0.5) - 0.5, 0.0)
    else:
        position = ratio * index
    low = np.minimum(position.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = position - low
    matrix = np.zeros((out, size))
    np.add.at(matrix, (np.arange(out), low), 1.0 - weight)
    np.add.at(matrix, (np.arange(out), high), weight)
    return paddle.to_tensor(matrix)


def _hardsigmoid(x: paddle.Tensor, slope: float, offset: float) -> paddle.Tensor:
    """With a sixth for Paddle's 0.1666667; the gradient has it in float32, as torch's has, and is 0 at both ends."""
    sixth = slope == 0.1666667
    line = (1.0 / 6.0 if sixth else slope) * x + offset
    steep = (float(np.float32(1.0 / 6.0)) if sixth else slope) * x + offset
    inside = (line > 0.0) & (line < 1.0)
    return paddle.where(inside, steep + (line - steep).detach(), paddle.clip(line, 0.0, 1.0).detach())


def _selu(x: paddle.Tensor, scale: float, alpha: float) -> paddle.Tensor:
    return scale * paddle.where(x > 0, x, alpha * paddle.expm1(x))


def _topk(x: paddle.Tensor, k: Any, axis: int, largest: bool, is_sorted: bool) -> Selected:
    return _gathered(x, axis, lambda values: first_largest(values, int(k), axis, largest=largest))


def _argsort(x: paddle.Tensor, axis: int, descending: bool, stable: bool) -> Selected:
    return _gathered(x, axis, lambda values: ordered(values, axis, descending=descending))


def _gathered(x: paddle.Tensor, axis: int, choose: Callable[[np.ndarray], np.ndarray]) -> Selected:
    values = x.numpy()
    if not values.ndim or np.isnan(values).any():
        return None
    indices = paddle.to_tensor(choose(values))
    return paddle.take_along_axis(x, indices, axis), indices


def _pool2d(
    x: paddle.Tensor,
    kernel: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    exclusive: bool,
    data_format: str,
    kind: str,
    is_global: bool,
    adaptive: bool,
    padding_algorithm: str,
) -> paddle.Tensor | None:
    if kind != "avg" or data_format != "NCHW" or is_global or not all(isinstance(size, int) for size in kernel):
        return None
    if adaptive:
        rows, columns = (_window_matrix(size, out) for size, out in zip(x.shape[2:], kernel))
        return paddle.matmul(paddle.matmul(rows, x), columns.T)
    if ceil_mode or padding_algorithm != "EXPLICIT" or len(padding) != 2:
        return None

    def window_sums(values: paddle.Tensor) -> paddle.Tensor:
        channels = values.shape[1]
        ones = paddle.ones([channels, 1, *kernel], dtype="float64")
        return F.conv2d(values, ones, stride=list(stride), padding=list(padding), groups=channels)

    count = window_sums(paddle.ones([1, 1, *x.shape[2:]], dtype="float64")) if exclusive else kernel[0] * kernel[1]
    return window_sums(x) / count


def _window_matrix(size: int, out: int) -> paddle.Tensor:
    """(out, size) matrix of means over the windows floor(i*size/out) .. ceil((i+1)*size/out)."""
    matrix = np.zeros((out, size))
    for index in range(out):
        start, end = index * size // out, -(-(index + 1) * size // out)
        matrix[index, start:end] = 1.0 / (end - start)
    return paddle.to_tensor(matrix)
