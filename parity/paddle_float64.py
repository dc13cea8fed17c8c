"""Operators that Paddle does not compute in full float64, done again in float64.

In a float64 network Paddle 3.3.1 still keeps the ratio of a bilinear resize and the divisor of an average pooling's
backward pass in float32: errors of 1e-5 and 1e-8 that would hide real differences. Inside `exact_operators`,
`paddle.nn.functional.interpolate`, `avg_pool2d` and `adaptive_avg_pool2d` on float64 tensors compute the same
functions, with Paddle's arguments and Paddle's semantics, from matrix products and sums. tests/parity compares them
with Paddle's own operators in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

_OPERATORS = ("interpolate", "avg_pool2d", "adaptive_avg_pool2d")


@contextmanager
def exact_operators() -> Iterator[None]:
    """Replaces the operators for as long as it is entered; other dtypes and modes go to Paddle's own."""
    own = {name: getattr(F, name) for name in _OPERATORS}
    replacements = {"interpolate": _interpolate, "avg_pool2d": _avg_pool2d, "adaptive_avg_pool2d": _adaptive_avg_pool2d}
    for name, replacement in replacements.items():
        setattr(F, name, _for_float64(own[name], replacement))
    try:
        yield
    finally:
        for name, operator in own.items():
            setattr(F, name, operator)


def _for_float64(own: Any, replacement: Any) -> Any:
    def operator(x: paddle.Tensor, *args: Any, **kwargs: Any) -> paddle.Tensor:
        if x.dtype != paddle.float64 or x.ndim != 4:
            return own(x, *args, **kwargs)
        result = replacement(x, *args, **kwargs)
        return own(x, *args, **kwargs) if result is None else result

    return operator


def _interpolate(
    x: paddle.Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
    align_mode: int = 0,
    data_format: str = "NCHW",
    name: Any = None,
) -> paddle.Tensor | None:
    if mode.lower() != "bilinear" or data_format != "NCHW":
        return None
    height, width = x.shape[2:]
    if size is not None:
        out_height, out_width = (int(s) for s in (size.tolist() if isinstance(size, paddle.Tensor) else size))
        scales = (0.0, 0.0)
    else:
        scales = tuple(scale_factor) if isinstance(scale_factor, (list, tuple)) else (scale_factor, scale_factor)
        scales = tuple(float(scale) for scale in scales)
        out_height, out_width = int(height * scales[0]), int(width * scales[1])
    rows = _bilinear_matrix(height, out_height, align_corners, align_mode, scales[0])
    columns = _bilinear_matrix(width, out_width, align_corners, align_mode, scales[1])
    return paddle.matmul(paddle.matmul(rows, x), columns.T)


def _bilinear_matrix(size: int, out: int, align_corners: bool, align_mode: int, scale: float) -> paddle.Tensor:
    """(out, size) matrix of Paddle's linear resize of one axis."""
    if align_corners:
        ratio = (size - 1) / (out - 1) if out > 1 else 0.0
    else:
        ratio = 1.0 / scale if scale > 0 else size / out
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


def _avg_pool2d(
    x: paddle.Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    exclusive: bool = True,
    divisor_override: Any = None,
    data_format: str = "NCHW",
    name: Any = None,
) -> paddle.Tensor | None:
    kernel, step, pad = (_pair(v) for v in (kernel_size, stride if stride is not None else kernel_size, padding))
    if ceil_mode or divisor_override is not None or data_format != "NCHW" or pad is None:
        return None
    channels = x.shape[1]

    def window_sums(values: paddle.Tensor) -> paddle.Tensor:
        groups = values.shape[1]
        weight = paddle.ones([groups, 1, *kernel], dtype="float64")
        return F.conv2d(values, weight, stride=step, padding=pad, groups=groups)

    sums = (
        window_sums(x)
        if channels > 1
        else F.conv2d(x, paddle.ones([1, 1, *kernel], dtype="float64"), stride=step, padding=pad)
    )
    if exclusive:
        return sums / window_sums(paddle.ones([1, 1, *x.shape[2:]], dtype="float64"))
    return sums / float(kernel[0] * kernel[1])


def _adaptive_avg_pool2d(
    x: paddle.Tensor, output_size: Any, data_format: str = "NCHW", name: Any = None
) -> paddle.Tensor | None:
    if data_format != "NCHW":
        return None
    out = [s if o is None else o for o, s in zip(_pair(output_size), x.shape[2:])]
    rows, columns = (_window_matrix(s, o) for s, o in zip(x.shape[2:], out))
    return paddle.matmul(paddle.matmul(rows, x), columns.T)


def _window_matrix(size: int, out: int) -> paddle.Tensor:
    """(out, size) matrix of means over the windows floor(i*size/out) .. ceil((i+1)*size/out)."""
    matrix = np.zeros((out, size))
    for index in range(out):
        start, end = index * size // out, -(-(index + 1) * size // out)
        matrix[index, start:end] = 1.0 / (end - start)
    return paddle.to_tensor(matrix)


def _pair(value: Any) -> Any:
    if isinstance(value, str):
        return None
    if isinstance(value, (list, tuple)):
        return tuple(value) if len(value) == 2 and all(v is None or isinstance(v, int) for v in value) else None
    return (value, value)
