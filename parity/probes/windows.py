"""Pooling, resizing, sampling and padding: what happens at borders, and in which precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as PF
import torch
import torch.nn.functional as TF

from parity.probes import answer, precision, probe

INSIDE = "float32 inside float64 operators"
RAMP = np.arange(16.0).reshape(1, 1, 4, 4)


def _both(x: np.ndarray, ours: Any, theirs: Any) -> tuple[Any, Any]:
    """Each function's answer to the same array."""
    return answer(lambda: ours(torch.from_numpy(x))), answer(lambda: theirs(paddle.to_tensor(x)))


def _gradients(x: np.ndarray, ours: Any, theirs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of each function's sum."""
    one, other = torch.from_numpy(x.copy()).requires_grad_(), paddle.to_tensor(x, stop_gradient=False)
    ours(one).sum().backward()
    theirs(other).sum().backward()
    return one.grad.numpy(), other.grad.numpy()


# --- pooling --------------------------------------------------------------------------------------------------------


@probe("avg_pool2d(ones, 3, 1, padding=1): the corner", "pass exclusive=False: torch counts the padding")
def average_default() -> tuple[Any, Any]:
    return _both(
        np.ones((1, 1, 3, 3)),
        lambda x: TF.avg_pool2d(x, 3, 1, 1)[0, 0, 0, 0],
        lambda x: PF.avg_pool2d(x, 3, 1, 1)[0, 0, 0, 0],
    )


@probe("avg_pool2d(ones, 3, 1, padding=1, exclusive=False): the corner", "nothing")
def average_inclusive() -> tuple[Any, Any]:
    return _both(
        np.ones((1, 1, 3, 3)),
        lambda x: TF.avg_pool2d(x, 3, 1, 1)[0, 0, 0, 0],
        lambda x: PF.avg_pool2d(x, 3, 1, 1, exclusive=False)[0, 0, 0, 0],
    )


@probe(
    "avg_pool2d(ones 4x4, 3, 2, ceil_mode, exclusive=False): the last",
    "nothing: what lies outside the input does not count",
)
def average_ceil() -> tuple[Any, Any]:
    return _both(
        np.ones((1, 1, 4, 4)),
        lambda x: TF.avg_pool2d(x, 3, 2, ceil_mode=True)[0, 0, -1, -1],
        lambda x: PF.avg_pool2d(x, 3, 2, ceil_mode=True, exclusive=False)[0, 0, -1, -1],
    )


@probe(
    "max_pool2d(4x4, 2, 3, padding=1, ceil_mode): output size",
    "torch drops a window that starts in the padding; crop the output where Paddle keeps it",
)
def max_ceil() -> tuple[Any, Any]:
    return _both(
        RAMP,
        lambda x: list(TF.max_pool2d(x, 2, 3, 1, ceil_mode=True).shape[2:]),
        lambda x: list(PF.max_pool2d(x, 2, 3, 1, ceil_mode=True).shape[2:]),
    )


@probe("max_pool2d of NaN beside 1", "a NaN vanishes in Paddle's pooling: look for it before")
def max_nan() -> tuple[Any, Any]:
    x = np.array([[[[np.nan, 1.0], [1.0, 1.0]]]])
    return _both(x, lambda x: TF.max_pool2d(x, 2)[0, 0, 0, 0], lambda x: PF.max_pool2d(x, 2)[0, 0, 0, 0])


@probe("avg_pool2d: precision of its gradient in float64", "nothing: the harness computes it", ledger=INSIDE)
def average_gradient() -> tuple[Any, Any]:
    x = np.random.RandomState(0).standard_normal((1, 1, 9, 9))
    found = _gradients(x, lambda x: TF.avg_pool2d(x, 3), lambda x: PF.avg_pool2d(x, 3, exclusive=False))
    return tuple(precision(gradient, np.full_like(x, 1 / 9)) for gradient in found)


@probe("adaptive_avg_pool2d: precision of its gradient in float64", "nothing: the harness computes it", ledger=INSIDE)
def adaptive_gradient() -> tuple[Any, Any]:
    x = np.random.RandomState(0).standard_normal((1, 1, 7, 7))
    found = _gradients(x, lambda x: TF.adaptive_avg_pool2d(x, 1), lambda x: PF.adaptive_avg_pool2d(x, 1))
    return tuple(precision(gradient, np.full_like(x, 1 / 49)) for gradient in found)


# --- resizing -------------------------------------------------------------------------------------------------------


def _resize(x: np.ndarray, **options: Any) -> tuple[Any, Any]:
    return _both(x, lambda x: TF.interpolate(x, **options), lambda x: PF.interpolate(x, **options))


@probe(
    "interpolate(4x4 ramp, size 1x1, bilinear)",
    "Paddle takes the first pixel where torch takes the centre: use a mean, or adaptive pooling",
)
def resize_to_one() -> tuple[Any, Any]:
    ours, theirs = _resize(RAMP, size=[1, 1], mode="bilinear")
    return ours.reshape(-1), theirs.reshape([-1])


@probe("interpolate(1x1, size 3x3, bilinear, align_corners=True)", "nothing")
def resize_from_one() -> tuple[Any, Any]:
    ours, theirs = _resize(np.full((1, 1, 1, 1), 7.0), size=[3, 3], mode="bilinear", align_corners=True)
    return ours[0, 0, 1], theirs[0, 0, 1]


@probe("interpolate: default of align_corners, row 0 of a 4x4 ramp at 4x6", "nothing; state it anyway")
def resize_default() -> tuple[Any, Any]:
    ours, theirs = _resize(RAMP, size=[4, 6], mode="bilinear")
    return ours[0, 0, 0], theirs[0, 0, 0]


@probe(
    "interpolate(scale_factor=1.6) of 4 pixels, row 0",
    "nothing for torch's default; recompute_scale_factor=True needs size=",
)
def resize_factor() -> tuple[Any, Any]:
    ours, theirs = _resize(RAMP, scale_factor=[1.6, 1.6], mode="bilinear")
    return ours[0, 0, 0], theirs[0, 0, 0]


@probe(
    "interpolate(scale_factor=1.3) of 5 pixels, recompute_scale_factor=True: the last",
    "Paddle has no such argument: pass size=",
)
def recomputed_factor() -> tuple[Any, Any]:
    x = np.arange(5.0).reshape(1, 1, 1, 5)
    return _both(
        x,
        lambda x: TF.interpolate(x, scale_factor=(1.0, 1.3), mode="bilinear", recompute_scale_factor=True)[0, 0, 0, -1],
        lambda x: PF.interpolate(x, scale_factor=[1.0, 1.3], mode="bilinear")[0, 0, 0, -1],
    )


@probe("interpolate(nearest) of 7 pixels to 3: which", "nothing")
def resize_nearest() -> tuple[Any, Any]:
    x = np.arange(7.0).reshape(1, 1, 1, 7)
    ours, theirs = _resize(x, size=[1, 3], mode="nearest")
    return ours.reshape(-1), theirs.reshape([-1])


@probe("interpolate(bicubic) of a step, row 0 at 4x8", "nothing: both use A = -0.75")
def resize_bicubic() -> tuple[Any, Any]:
    x = (RAMP % 4 > 1).astype(np.float64)
    ours, theirs = _resize(x, size=[4, 8], mode="bicubic")
    return ours[0, 0, 0], theirs[0, 0, 0]


def _resize_precision(mode: str, **options: Any) -> tuple[Any, Any]:
    """At a size that no power of two divides; each is compared with torch, which computes in the input's type."""
    x = np.random.RandomState(0).standard_normal((1, 1, 17, 23))
    ours, theirs = _resize(x, size=[29, 31], mode=mode, **options)
    return "float64", precision(theirs.numpy(), ours.numpy())


@probe("bilinear resize: precision of the ratio in float64", "nothing: the harness computes it", ledger=INSIDE)
def bilinear_precision() -> tuple[Any, Any]:
    return _resize_precision("bilinear", align_corners=False)


@probe("bicubic resize: precision of the ratio in float64", "nothing: the harness computes it", ledger=INSIDE)
def bicubic_precision() -> tuple[Any, Any]:
    return _resize_precision("bicubic", align_corners=False)


@probe("bilinear resize, align_corners=True: precision in float64", "nothing: the harness computes it", ledger=INSIDE)
def corners_precision() -> tuple[Any, Any]:
    return _resize_precision("bilinear", align_corners=True)


# --- sampling and padding -------------------------------------------------------------------------------------------


@probe("grid_sample: default of align_corners, at (-1, -1)", "pass align_corners=False: Paddle's default is True")
def grid_default() -> tuple[Any, Any]:
    grid = -np.ones((1, 1, 1, 2))
    return (
        TF.grid_sample(torch.from_numpy(RAMP + 1), torch.from_numpy(grid)).reshape(-1),
        PF.grid_sample(paddle.to_tensor(RAMP + 1), paddle.to_tensor(grid)).reshape([-1]),
    )


@probe("affine_grid: default of align_corners, first x of 2", "pass align_corners=False: Paddle's default is True")
def affine_default() -> tuple[Any, Any]:
    theta = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    return (
        TF.affine_grid(torch.from_numpy(theta), [1, 1, 2, 2])[0, 0, 0, 0],
        PF.affine_grid(paddle.to_tensor(theta), [1, 1, 2, 2])[0, 0, 0, 0],
    )


@probe("conv2d(padding='same') of 1, 2, 3, 4 with two ones", "nothing at stride 1: both pad at the end")
def same_padding() -> tuple[Any, Any]:
    x, weight = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4), np.ones((1, 1, 1, 2))
    return (
        TF.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding="same").reshape(-1),
        PF.conv2d(paddle.to_tensor(x), paddle.to_tensor(weight), padding="SAME").reshape([-1]),
    )


@probe("conv2d(padding='same', stride=2) of 1, 2, 3, 4", "torch refuses it; upstream code with it is not torch's")
def same_padding_strided() -> tuple[Any, Any]:
    x, weight = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4), np.ones((1, 1, 1, 3))
    return (
        answer(lambda: TF.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding="same", stride=2)),
        answer(
            lambda: PF.conv2d(paddle.to_tensor(x), paddle.to_tensor(weight), padding="SAME", stride=[1, 2]).reshape(
                [-1]
            )
        ),
    )


@probe("pad(1, 2, 3 by [1, 0], reflect)", "nothing; Paddle names the order of axes by data_format")
def reflect() -> tuple[Any, Any]:
    x = np.array([1.0, 2.0, 3.0]).reshape(1, 1, 3)
    return (
        TF.pad(torch.from_numpy(x), [1, 0], mode="reflect").reshape(-1),
        PF.pad(paddle.to_tensor(x), [1, 0], mode="reflect", data_format="NCL").reshape([-1]),
    )
