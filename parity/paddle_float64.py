"""Operators that Paddle does not compute in full float64, done again in float64.

In a float64 network Paddle 3.3.1 still keeps the ratio of a bilinear resize and the divisor of an average pooling's
backward pass in float32: errors of 1e-5 and 1e-8 that would hide real differences. Inside `exact_operators` the kernels
`bilinear_interp` and `pool2d` compute the same functions of float64 tensors, with Paddle's semantics, from matrix
products and sums. They are replaced below Paddle's Python functions, which work out sizes, factors and paddings as
ever, so that it does not matter how a model calls them. tests/parity compares them with Paddle's own in float32.

N batch, C channels, H W size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import _C_ops


@contextmanager
def exact_operators() -> Iterator[None]:
    """Replaces the kernels for as long as it is entered; other dtypes and modes go to Paddle's own."""
    replacements = {"bilinear_interp": _bilinear_interp, "pool2d": _pool2d}
    own = {name: getattr(_C_ops, name) for name in replacements}
    for name, replacement in replacements.items():
        setattr(_C_ops, name, _for_float64(own[name], replacement))
    try:
        yield
    finally:
        for name, kernel in own.items():
            setattr(_C_ops, name, kernel)


def _for_float64(own: Any, replacement: Any) -> Any:
    def kernel(x: paddle.Tensor, *arguments: Any) -> paddle.Tensor:
        result = replacement(x, *arguments) if x.dtype == paddle.float64 else None
        return own(x, *arguments) if result is None else result

    return kernel


def _bilinear_interp(
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
    rows, columns = (_bilinear_matrix(*axis, align_corners, align_mode) for axis in zip(sizes, outs, factors))
    return paddle.matmul(paddle.matmul(rows, x), columns.T)


def _bilinear_matrix(size: int, out: int, factor: float, align_corners: bool, align_mode: int) -> paddle.Tensor:
    """(out, size) matrix of Paddle's linear resize of one axis; an output of one pixel takes the first."""
    if out == 1:
        ratio = 0.0
    elif align_corners:
        ratio = (size - 1) / (out - 1)
    else:
        ratio = 1.0 / factor if factor > 0 else size / out
    index = np.arange(out, dtype=np.float64)
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
