"""STDCNet: short-term dense concatenation backbones.

Paper: Fan et al., Rethinking BiSeNet For Real-time Semantic Segmentation, CVPR 2021, arXiv 2104.13188.
Upstream: MichaelFan01/STDC-Seg@59ff37f nets/stdcnet.py (MIT); layer names are upstream's.

N batch, C channels, H W input size.
"""

from __future__ import annotations

import math

import paddle
from paddle import nn

from paddleseg_ext.models.pretrained import load_pretrained
from paddleseg_ext.registry import BACKBONES


class ConvX(nn.Layer):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias_attr=False
        )
        self.bn = nn.BatchNorm2D(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.relu(self.bn(self.conv(x)))


class CatBottleneck(nn.Layer):
    """STDC module: four convolutions whose outputs are concatenated.

    Channels are out/2, out/4, out/8, out/8. With stride 2, a depthwise convolution (`avd_layer`) strides between the
    first and the second; the first output is pooled for the concatenation, *before* `avd_layer`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        half, quarter, eighth = out_channels // 2, out_channels // 4, out_channels // 8
        self.conv_list = nn.LayerList(
            [
                ConvX(in_channels, half, kernel_size=1),
                ConvX(half, quarter),
                ConvX(quarter, eighth),
                ConvX(eighth, eighth),
            ]
        )
        self.stride = stride
        if stride == 2:
            self.avd_layer = nn.Sequential(
                nn.Conv2D(half, half, 3, stride=2, padding=1, groups=half, bias_attr=False), nn.BatchNorm2D(half)
            )
            self.skip = nn.AvgPool2D(3, stride=2, padding=1, exclusive=False)  # torch counts the padding

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        first = self.conv_list[0](x)
        out = self.avd_layer(first) if self.stride == 2 else first
        outputs = []
        for conv in self.conv_list[1:]:
            out = conv(out)
            outputs.append(out)
        if self.stride == 2:
            first = self.skip(first)
        return paddle.concat([first, *outputs], axis=1)


class STDCNet(nn.Layer):
    """Backbone that returns features at strides 2, 4, 8, 16 and 32.

    Args:
        layers: number of STDC modules at strides 8, 16 and 32.
        classifier: also hold upstream's ImageNet classifier (`conv_last`, `fc`, `bn`, `linear`), which segmentation
            never runs; upstream's checkpoints have it.
        alias_stages: also register the stages as `x2` ... `x32`, which hold the *same* layers as `features`, so that
            the state dict names each tensor twice, as upstream's does.
        pretrained: weight file to load (strictly), or None.
    """

    channels = (32, 64, 256, 512, 1024)

    def __init__(
        self,
        layers: tuple[int, ...],
        *,
        classifier: bool = False,
        alias_stages: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        features: list[nn.Layer] = [ConvX(3, 32, stride=2), ConvX(32, 64, stride=2)]
        in_channels = 64
        for out_channels, depth in zip(self.channels[2:], layers):
            for index in range(depth):
                features.append(CatBottleneck(in_channels, out_channels, stride=2 if index == 0 else 1))
                in_channels = out_channels
        self.features = nn.Sequential(*features)
        if classifier:
            self.conv_last = ConvX(1024, 1024, kernel_size=1)
            self.fc = nn.Linear(1024, 1024, bias_attr=False)
            self.bn = nn.BatchNorm1D(1024)
            self.linear = nn.Linear(1024, 1000, bias_attr=False)
        ends = [1, 2, 2 + layers[0], 2 + layers[0] + layers[1], len(features)]
        self._stages = list(zip([0, *ends], ends))
        if alias_stages:
            for name, (start, end) in zip(("x2", "x4", "x8", "x16", "x32"), self._stages):
                stage = nn.Sequential(*[(str(index), features[index]) for index in range(start, end)])
                self.add_sublayer(name, nn.Sequential(stage))
        self._init_weights()
        if pretrained:
            load_pretrained(self, pretrained)

    def _init_weights(self) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                fan_out = layer.weight.shape[0] * layer.weight.shape[2] * layer.weight.shape[3]
                nn.initializer.Normal(std=math.sqrt(2.0 / fan_out))(layer.weight)
            elif isinstance(layer, nn.Linear):
                nn.initializer.Normal(std=0.001)(layer.weight)

    def forward(self, image: paddle.Tensor) -> list[paddle.Tensor]:
        """Features at strides 2, 4, 8, 16, 32, of 32, 64, 256, 512 and 1024 channels.

        Args:
            image: (N, 3, H, W).
        """
        outputs, x = [], image
        for start, end in self._stages:
            for index in range(start, end):
                x = self.features[index](x)
            outputs.append(x)
        return outputs


@BACKBONES.register
def STDC1(  # noqa: N802  (the paper's name, used as a type in YAML)
    *, classifier: bool = False, alias_stages: bool = False, pretrained: str | None = None
) -> STDCNet:
    """STDCNet813, the backbone of STDC1-Seg. Arguments as in `STDCNet`."""
    return STDCNet((2, 2, 2), classifier=classifier, alias_stages=alias_stages, pretrained=pretrained)


@BACKBONES.register
def STDC2(  # noqa: N802
    *, classifier: bool = False, alias_stages: bool = False, pretrained: str | None = None
) -> STDCNet:
    """STDCNet1446, the backbone of STDC2-Seg. Arguments as in `STDCNet`."""
    return STDCNet((4, 5, 3), classifier=classifier, alias_stages=alias_stages, pretrained=pretrained)
