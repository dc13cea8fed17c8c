"""HRNet: four branches at strides 4 to 32 that run side by side and exchange their features again and again.

Paper: Wang et al., Deep High-Resolution Representation Learning for Visual Recognition, TPAMI 2020, arXiv 1908.07919.
Upstream: bowenc0221/panoptic-deeplab@cf8e20b segmentation/model/backbone/hrnet.py (MIT), and
HRNet/HRNet-Semantic-Segmentation@0bbb288 lib/models/seg_hrnet.py (MIT); they name all 1830 tensors alike.
Proven by: parity/cases/panoptic_deeplab.py.

Deviations: convolutions are drawn from N(0, 2 / fan_out), as in HRNet's image classification; upstream's segmentation
code leaves torch's default, since it starts from a checkpoint.

N batch, C channels, H W input size.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.models.layers.init import default_fill
from paddleseg_ext.models.pretrained import load_pretrained
from paddleseg_ext.registry import BACKBONES


def _conv(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> nn.Conv2D:
    """A centred convolution without bias."""
    return nn.Conv2D(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias_attr=False)


def _conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, relu: bool = False
) -> nn.Sequential:
    layers = [_conv(in_channels, out_channels, kernel_size, stride=stride), nn.BatchNorm2D(out_channels)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions around an identity; the number of channels stays."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, 3)
        self.bn1 = nn.BatchNorm2D(channels)
        self.relu = nn.ReLU()
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2D(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + x)


class Bottleneck(nn.Layer):
    """1x1, 3x3 and 1x1 convolutions, the last of 4 times the width, around an identity or a 1x1 projection."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2D(width)
        self.conv3 = _conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2D(out_channels)
        self.relu = nn.ReLU()
        self.downsample = _conv_bn(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class HighResolutionModule(nn.Layer):
    """Four basic blocks per branch; then each branch gets the sum of all, brought to its stride and width.

    Coarser branches come through a 1x1 convolution and are enlarged; finer ones through 3x3 convolutions of stride 2.

    Args:
        channels: of the branches, finest first.
        align_corners: of the enlargement.
    """

    def __init__(self, channels: Sequence[int], *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.LayerList([nn.Sequential(*[BasicBlock(width) for _ in range(4)]) for width in channels])
        self.fuse_layers = nn.LayerList(
            [
                nn.LayerDict({str(j): _fuse(channels, j, i) for j in range(len(channels)) if j != i})
                for i in range(len(channels))
            ]
        )
        self.relu = nn.ReLU()

    def forward(self, features: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
        """Features of the same shapes."""
        features = [branch(x) for branch, x in zip(self.branches, features)]
        outputs = []
        for i, fuse in enumerate(self.fuse_layers):
            total = features[0] if i == 0 else fuse["0"](features[0])
            for j in range(1, len(features)):
                x = features[j] if j == i else fuse[str(j)](features[j])
                if j > i:
                    size = features[i].shape[2:]
                    x = F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)
                total = total + x
            outputs.append(self.relu(total))
        return outputs


def _fuse(channels: Sequence[int], source: int, target: int) -> nn.Sequential:
    """From the branch `source` to the width and, if that is coarser, the stride of the branch `target`."""
    if source > target:
        return _conv_bn(channels[source], channels[target], 1)
    steps = []
    for step in range(target - source):
        last = step == target - source - 1
        width = channels[target] if last else channels[source]
        steps.append(_conv_bn(channels[source], width, 3, stride=2, relu=not last))
    return nn.Sequential(*steps)


class HRNet(nn.Layer):
    """Backbone that returns features at strides 4, 8, 16 and 32.

    Attributes:
        channels: name of each feature -> C.
        strides: name of each feature -> stride.

    Args:
        width: channels of the finest branch; each coarser one has twice as many.
        align_corners: of the bilinear enlargements between branches. True is bowenc0221's code, which Panoptic-DeepLab
            is trained with; False that of HRNet's own Cityscapes recipes. The weights' names do not tell.
        pretrained: weight file to load (strictly), or None.
    """

    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}  # noqa: RUF012  (a constant)

    def __init__(self, width: int, *, align_corners: bool = True, pretrained: str | None = None) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.channels = dict(zip(self.strides, widths))
        self.conv1 = _conv(3, 64, 3, stride=2)
        self.bn1 = nn.BatchNorm2D(64)
        self.conv2 = _conv(64, 64, 3, stride=2)
        self.bn2 = nn.BatchNorm2D(64)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(Bottleneck(64, 64), *[Bottleneck(256, 64) for _ in range(3)])

        def stage(num_modules: int, num_branches: int) -> nn.Sequential:
            branches = widths[:num_branches]
            modules = [HighResolutionModule(branches, align_corners=align_corners) for _ in range(num_modules)]
            return nn.Sequential(*modules)

        def coarser(in_channels: int, out_channels: int) -> nn.Sequential:
            return nn.Sequential(_conv_bn(in_channels, out_channels, 3, stride=2, relu=True))

        self.transition1 = nn.LayerDict({"0": _conv_bn(256, width, 3, relu=True), "1": coarser(256, widths[1])})
        self.stage2 = stage(1, 2)
        self.transition2 = nn.LayerDict({"2": coarser(widths[1], widths[2])})
        self.stage3 = stage(4, 3)
        self.transition3 = nn.LayerDict({"3": coarser(widths[2], widths[3])})
        self.stage4 = stage(3, 4)
        self._init_weights()
        if pretrained:
            load_pretrained(self, pretrained)

    def _init_weights(self) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                default_fill(layer)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Features `res2` to `res5`, at strides 4, 8, 16 and 32, of `width` times 1, 2, 4 and 8 channels.

        Args:
            image: (N, 3, H, W).
        """
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        features = self.stage2([self.transition1["0"](x), self.transition1["1"](x)])
        features = self.stage3([*features, self.transition2["2"](features[-1])])
        features = self.stage4([*features, self.transition3["3"](features[-1])])
        return dict(zip(self.strides, features))


@BACKBONES.register
def HRNetW18(*, align_corners: bool = True, pretrained: str | None = None) -> HRNet:  # noqa: N802
    """HRNet with branches of 18, 36, 72 and 144 channels. Arguments as in `HRNet`."""
    return HRNet(18, align_corners=align_corners, pretrained=pretrained)


@BACKBONES.register
def HRNetW48(*, align_corners: bool = True, pretrained: str | None = None) -> HRNet:  # noqa: N802
    """HRNet with branches of 48, 96, 192 and 384 channels. Arguments as in `HRNet`."""
    return HRNet(48, align_corners=align_corners, pretrained=pretrained)
