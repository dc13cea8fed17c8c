"""Xception-65 ("aligned Xception"), with batch norm or group norm.

Paper: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018,
arXiv 1802.02611.
Upstream: bowenc0221/panoptic-deeplab@cf8e20b segmentation/model/backbone/xception.py (layer names are upstream's), and
PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/models.py, the same network under other names, with a choice of
the norm.
Proven by: parity/cases/deeplabv3p.py.

The two differ in numbers only: the epsilon of the batch norms (1e-5, and 1e-3 in PaddlePaddle/models) and their
momentum. Group norms have an epsilon of 1e-5 in PaddlePaddle/models too: it sets 1e-3, and does not pass it on.

N batch, C channels, H W image.
"""

from __future__ import annotations

import paddle
from paddle import nn

from paddleseg_ext.errors import ConfigError
from paddleseg_ext.models.layers.init import default_fill
from paddleseg_ext.models.layers.norm_type import NormType
from paddleseg_ext.models.pretrained import load_pretrained
from paddleseg_ext.registry import BACKBONES

# output stride -> stride of block3, of block20, dilation of the middle flow, of block20, of block21
_STRIDES = {32: (2, 2, 1, 1, 1), 16: (2, 1, 1, 1, 2), 8: (1, 1, 2, 2, 4)}


class SeparableConv(nn.Layer):
    """3x3 depthwise and 1x1 pointwise convolution, each followed by a norm.

    Args:
        in_channels: C in.
        out_channels: C out.
        stride: of the depthwise convolution.
        dilation: of the depthwise convolution; its padding is the same number.
        relu_first: one ReLU before both, or else one after each norm.
        norm: makes the norms.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, dilation: int, relu_first: bool, norm: NormType
    ) -> None:
        super().__init__()
        depthwise = nn.Conv2D(
            in_channels,
            in_channels,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias_attr=False,
        )
        pointwise = nn.Conv2D(in_channels, out_channels, 1, bias_attr=False)
        layers: list[tuple[str, nn.Layer]] = [("depthwise", depthwise), ("bn_depth", norm(in_channels))]
        if relu_first:
            layers.insert(0, ("relu", nn.ReLU()))
        else:
            layers.append(("relu1", nn.ReLU()))
        layers += [("pointwise", pointwise), ("bn_point", norm(out_channels))]
        if not relu_first:
            layers.append(("relu2", nn.ReLU()))
        self.block = nn.Sequential(*layers)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.block(x)


class XceptionBlock(nn.Layer):
    """Three separable convolutions, the last of which strides, and a skip connection.

    Args:
        channels: C in, and C out of each separable convolution.
        stride: of the last one.
        dilation: of all three.
        skip: "conv" (1x1 convolution and norm), "sum" (the input itself) or "none".
        relu_first: as in `SeparableConv`.
        norm: makes the norms.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        *,
        stride: int = 1,
        dilation: int = 1,
        skip: str = "conv",
        relu_first: bool = True,
        norm: NormType,
    ) -> None:
        super().__init__()
        self.skip = skip
        if skip == "conv":
            self.conv = nn.Conv2D(channels[0], channels[3], 1, stride=stride, bias_attr=False)
            self.bn = norm(channels[3])
        shared = {"dilation": dilation, "relu_first": relu_first, "norm": norm}
        self.sep_conv1 = SeparableConv(channels[0], channels[1], stride=1, **shared)
        self.sep_conv2 = SeparableConv(channels[1], channels[2], stride=1, **shared)
        self.sep_conv3 = SeparableConv(channels[2], channels[3], stride=stride, **shared)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The block's output, and that of its second separable convolution, before any ReLU or stride."""
        second = self.sep_conv2(self.sep_conv1(x))
        out = self.sep_conv3(second)
        if self.skip == "conv":
            out = out + self.bn(self.conv(x))
        elif self.skip == "sum":
            out = out + x
        return out, second


@BACKBONES.register
class Xception65(nn.Layer):
    """Xception-65, features `res2` to `res5`.

    Its convolutions start as upstream's: with "gn" from a normal distribution of deviation 0.09 that is cut at two
    deviations (PaddlePaddle/models), with "bn" from torch's default (bowenc0221/panoptic-deeplab).

    Args:
        norm_type: "bn" or "gn"; decoders take theirs from here.
        output_stride: of `res5`: 8, 16 or 32.
        bn_epsilon: of the batch norms.
        bn_momentum: of the batch norms, in Paddle's sense (1 - torch's).
        middle_blocks: of 728 channels; 16 in the paper.
        pretrained: weight file to load (strictly), or None.

    Attributes:
        channels: of each feature.
        strides: of each feature.
        norm_type: as given.
        bn_momentum: as given.
    """

    channels = {"res2": 256, "res3": 728, "res4": 728, "res5": 2048}  # noqa: RUF012  (a constant)

    def __init__(
        self,
        *,
        norm_type: str = "bn",
        output_stride: int = 16,
        bn_epsilon: float = 1e-5,
        bn_momentum: float = 0.9,
        middle_blocks: int = 16,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if output_stride not in _STRIDES:
            raise ConfigError(f"Xception65: output_stride {output_stride}; expected 8, 16 or 32; use one of them")
        stride3, stride20, dilation, dilation20, dilation21 = _STRIDES[output_stride]
        self.norm_type = norm_type
        self.bn_momentum = bn_momentum
        self.strides = {"res2": 4, "res3": 8, "res4": 8 * stride3, "res5": 8 * stride3 * stride20}
        norm = NormType(norm_type, bn_epsilon=bn_epsilon, bn_momentum=bn_momentum)
        self.conv1 = nn.Conv2D(3, 32, 3, stride=2, padding=1, bias_attr=False)
        self.bn1 = norm(32)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2D(32, 64, 3, padding=1, bias_attr=False)
        self.bn2 = norm(64)
        self.block1 = XceptionBlock((64, 128, 128, 128), stride=2, norm=norm)
        self.block2 = XceptionBlock((128, 256, 256, 256), stride=2, norm=norm)
        self.block3 = XceptionBlock((256, 728, 728, 728), stride=stride3, norm=norm)
        self.middle_blocks = [f"block{4 + index}" for index in range(middle_blocks)]
        for name in self.middle_blocks:
            block = XceptionBlock((728, 728, 728, 728), dilation=dilation, skip="sum", norm=norm)
            self.add_sublayer(name, block)
        self.block20 = XceptionBlock((728, 728, 1024, 1024), stride=stride20, dilation=dilation20, norm=norm)
        self.block21 = XceptionBlock(
            (1024, 1536, 1536, 2048), dilation=dilation21, skip="none", relu_first=False, norm=norm
        )
        self._init_weights()
        if pretrained:
            load_pretrained(self, pretrained)

    def _init_weights(self) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D) and self.norm_type == "gn":
                nn.initializer.TruncatedNormal(std=0.09, a=-0.18, b=0.18)(layer.weight)
            elif isinstance(layer, nn.Conv2D):
                default_fill(layer)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Features by name.

        Args:
            image: (N, 3, H, W), normalised.

        Returns:
            res2: (N, 256, H/4, W/4) and res3: (N, 728, H/8, W/8), from inside block2 and block3, before their stride
            and before any ReLU.
            res4: (N, 728, h, w), after the middle flow.
            res5: (N, 2048, h, w), at the output stride.
        """
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.relu(self.bn2(self.conv2(x)))
        x, _ = self.block1(x)
        x, res2 = self.block2(x)
        x, res3 = self.block3(x)
        for name in self.middle_blocks:
            x, _ = getattr(self, name)(x)
        out, _ = self.block20(x)
        out, _ = self.block21(out)
        return {"res2": res2, "res3": res3, "res4": x, "res5": out}
