"""A convolution that owns its normalisation, as detectron2 names it: `conv1.norm.weight`.

The ReLU is a function and no layer of its own, here and in the models that use this: the harness compares the outputs
of leaf layers, and upstream has none there.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.models.layers.norm import build_norm


class ConvNorm2D(nn.Conv2D):
    """Convolution, then optionally a normalisation, then optionally a ReLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the square kernel.
        stride: of both axes.
        padding: zeros on every side.
        dilation: of both axes.
        groups: of channels.
        bias: whether the convolution has one.
        norm: as in `build_norm`.
        relu: whether a ReLU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        norm: str | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias_attr=None if bias else False,
        )
        self.norm = build_norm(norm, out_channels)
        self.relu = relu

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu(x) if self.relu else x
