"""Depthwise separable convolutions: a depthwise k x k and a pointwise 1x1, each with norm and ReLU.

Upstream: bowenc0221/panoptic-deeplab@cf8e20b segmentation/model/decoder/conv_module.py, and
facebookresearch/detectron2@02b5c4e detectron2/layers/blocks.py (Apache-2.0); layer names are upstream's.
"""

from __future__ import annotations

from typing import Callable

import paddle
from paddle import nn

from paddleseg_ext.models.layers.conv import ConvNorm2D
from paddleseg_ext.models.layers.init import msra_fill

Norm = Callable[[int], nn.Layer]


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1, groups: int = 1, norm: Norm
) -> nn.Sequential:
    """Convolution of stride 1 without bias, norm, ReLU, named 0, 1 and 2; the size stays.

    Args:
        in_channels: C in.
        out_channels: C out.
        kernel_size: odd.
        dilation: of the kernel.
        groups: of the channels.
        norm: channels -> layer.
    """
    conv = nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        groups=groups,
        bias_attr=False,
    )
    return nn.Sequential(conv, norm(out_channels), nn.ReLU())


def separable_conv(
    in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1, norm: Norm
) -> nn.Sequential:
    """Depthwise convolution, norm, ReLU (named 0.0, 0.1, 0.2), pointwise, norm, ReLU (named 1, 2, 3).

    Args:
        in_channels: C in.
        out_channels: C out.
        kernel_size: of the depthwise convolution, odd.
        dilation: likewise.
        norm: channels -> layer.
    """
    return nn.Sequential(
        conv_norm_relu(in_channels, in_channels, kernel_size, dilation=dilation, groups=in_channels, norm=norm),
        nn.Conv2D(in_channels, out_channels, 1, bias_attr=False),
        norm(out_channels),
        nn.ReLU(),
    )


class DepthwiseSeparableConv2D(nn.Layer):
    """The same with detectron2's names: `depthwise` and `pointwise`, each a convolution that owns its norm.

    Args:
        in_channels: C in.
        out_channels: C out.
        kernel_size: of the depthwise convolution, odd.
        dilation: likewise.
        norm: as in `build_norm`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, *, dilation: int = 1, norm: str = "BN"
    ) -> None:
        super().__init__()
        self.depthwise = ConvNorm2D(
            in_channels,
            in_channels,
            kernel_size,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
            norm=norm,
            relu=True,
        )
        self.pointwise = ConvNorm2D(in_channels, out_channels, 1, bias=False, norm=norm, relu=True)
        msra_fill(self.depthwise)
        msra_fill(self.pointwise)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.pointwise(self.depthwise(x))
