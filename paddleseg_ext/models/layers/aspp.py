"""Atrous spatial pyramid pooling.

Papers: Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv 1706.05587, and
Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018, arXiv 1802.02611.
Upstream: bowenc0221/panoptic-deeplab@cf8e20b segmentation/model/decoder/aspp.py; PaddlePaddle/models, release/1.6,
PaddleCV/deeplabv3+/models.py; facebookresearch/detectron2@02b5c4e detectron2/layers/aspp.py (Apache-2.0).

N batch, C channels, h w feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.models.layers.conv import ConvNorm2D
from paddleseg_ext.models.layers.init import xavier_fill
from paddleseg_ext.models.layers.separable import DepthwiseSeparableConv2D, Norm, conv_norm_relu, separable_conv


class ImagePooling(nn.Layer):
    """The feature's global mean through a 1x1 convolution and ReLU, spread over the feature map again.

    Args:
        in_channels: C in.
        out_channels: C out.
        norm: channels -> layer, between convolution and ReLU; None: none there.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm | None) -> None:
        super().__init__()
        layers: list[nn.Layer] = [nn.AdaptiveAvgPool2D(1), nn.Conv2D(in_channels, out_channels, 1, bias_attr=False)]
        if norm is not None:
            layers.append(norm(out_channels))
        self.aspp_pooling = nn.Sequential(*layers, nn.ReLU())

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.interpolate(self.aspp_pooling(x), x.shape[2:], mode="bilinear", align_corners=True)


class ASPP(nn.Layer):
    """Five branches side by side, then a 1x1 convolution: bowenc0221's layout and names.

    The branches are a 1x1 convolution, three dilated 3x3 convolutions and the image pooling.

    Args:
        in_channels: C in.
        out_channels: of each branch, and of the result.
        dilations: of the three 3x3 convolutions.
        norm: channels -> layer.
        separable: 3x3 convolutions are depthwise separable.
        pool_norm: the image pooling has a norm.
        pool_first: the image pooling is the first in the concatenation, and else the last.
        dropout: share of the result that is dropped in training.

    bowenc0221 has `separable`, `pool_norm` and `pool_first` off and `dropout` 0.5, PaddlePaddle/models on and 0.1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dilations: Sequence[int],
        norm: Norm,
        separable: bool = False,
        pool_norm: bool = False,
        pool_first: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        dilated = separable_conv if separable else conv_norm_relu
        self.pool_first = pool_first
        self.convs = nn.LayerList(
            [
                conv_norm_relu(in_channels, out_channels, 1, norm=norm),
                *(dilated(in_channels, out_channels, 3, dilation=dilation, norm=norm) for dilation in dilations),
                ImagePooling(in_channels, out_channels, norm=norm if pool_norm else None),
            ]
        )
        self.project = nn.Sequential(
            nn.Conv2D(len(self.convs) * out_channels, out_channels, 1, bias_attr=False),
            norm(out_channels),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        *branches, pooled = [conv(x) for conv in self.convs]
        parts = [pooled, *branches] if self.pool_first else [*branches, pooled]
        return self.project(paddle.concat(parts, axis=1))


class Detectron2ASPP(nn.Layer):
    """The same idea with detectron2's layout and names: no norm in the image pooling, a bias instead.

    Args:
        in_channels: C in.
        out_channels: of each branch, and of the result.
        dilations: of the three 3x3 convolutions.
        norm: as in `build_norm`.
        pool_size: (height, width) of a fixed average pooling in place of the global one: that of the feature map of a
            training crop, so that a larger image is pooled in windows of what was seen in training; or None.
        dropout: share of the result that is dropped in training.
        separable: 3x3 convolutions are depthwise separable.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dilations: Sequence[int] = (6, 12, 18),
        norm: str = "BN",
        pool_size: Sequence[int] | None = None,
        dropout: float = 0.1,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.pool_size = None if pool_size is None else tuple(pool_size)
        self.dropout = dropout
        owned = {"bias": False, "norm": norm, "relu": True}
        self.convs = nn.LayerList([ConvNorm2D(in_channels, out_channels, 1, **owned)])
        for dilation in dilations:
            if separable:
                conv = DepthwiseSeparableConv2D(in_channels, out_channels, 3, dilation=dilation, norm=norm)
            else:
                conv = ConvNorm2D(in_channels, out_channels, 3, padding=dilation, dilation=dilation, **owned)
            self.convs.append(conv)
        pool = nn.AdaptiveAvgPool2D(1) if self.pool_size is None else nn.AvgPool2D(self.pool_size, stride=1)
        self.convs.append(nn.Sequential(pool, ConvNorm2D(in_channels, out_channels, 1, relu=True)))
        self.project = ConvNorm2D(len(self.convs) * out_channels, out_channels, 1, **owned)
        for conv in (*self.convs[:-1], self.convs[-1][1], self.project):
            if isinstance(conv, ConvNorm2D):
                xavier_fill(conv)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """The pyramid's result, (N, out_channels, h, w).

        Args:
            x: (N, C, h, w).

        Raises:
            ValueError: if h and w are no multiples of `pool_size`.
        """
        size = x.shape[2:]
        if self.pool_size is not None and (size[0] % self.pool_size[0] or size[1] % self.pool_size[1]):
            raise ValueError(
                f"ASPP: the feature map is {size[0]}x{size[1]}; expected multiples of the pooling window "
                f"{self.pool_size[0]}x{self.pool_size[1]}, which is a training crop's; pad the image, or pool globally"
            )
        *branches, pooled = [conv(x) for conv in self.convs]
        pooled = F.interpolate(pooled, size, mode="bilinear", align_corners=False)
        out = self.project(paddle.concat([*branches, pooled], axis=1))
        return F.dropout(out, self.dropout, training=self.training) if self.dropout > 0 else out
