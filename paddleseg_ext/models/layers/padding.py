"""Images whose sides a network can halve often enough."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F


def pad_to_multiple(x: paddle.Tensor, divisor: int, *, value: float = 0.0) -> paddle.Tensor:
    """The map with rows below and columns at the right until both sides are multiples of `divisor`.

    Args:
        x: (N, C, H, W).
        divisor: such as the network's largest stride.
        value: of the new pixels; 0 is the mean of normalised images.
    """
    height, width = x.shape[2:]
    below, right = -height % divisor, -width % divisor
    return F.pad(x, [0, right, 0, below], value=value) if below or right else x
