"""ResNets as detectron2 builds them: MSRA's R-50 and R-101, and DeepLab's R-52 and R-103.

Paper: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385.
Upstream: facebookresearch/detectron2@02b5c4e detectron2/modeling/backbone/resnet.py and
projects/DeepLab/deeplab/resnet.py (Apache-2.0); layer names are upstream's, a convolution owns its `norm`.
Deviation: in a frozen stage, a batch norm is built as a frozen one, where upstream replaces it afterwards.

N batch, C channels, H W input size.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.models.layers.conv import ConvNorm2D
from paddleseg_ext.models.layers.init import msra_fill
from paddleseg_ext.models.pretrained import load_pretrained
from paddleseg_ext.registry import BACKBONES

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGES = ("res2", "res3", "res4", "res5")


class BottleneckBlock(nn.Layer):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which is a 1x1 convolution where the channels change.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        mid_channels: of the 3x3 convolution.
        stride: of the block.
        stride_in_1x1: whether the first 1x1 convolution strides (MSRA), or the 3x3 (torchvision, DeepLab).
        dilation: of the 3x3 convolution.
        norm: as in `build_norm`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        mid_channels: int,
        stride: int,
        stride_in_1x1: bool,
        dilation: int,
        norm: str,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = ConvNorm2D(in_channels, out_channels, 1, stride=stride, bias=False, norm=norm)
        self.conv1 = ConvNorm2D(in_channels, mid_channels, 1, stride=first, bias=False, norm=norm)
        self.conv2 = ConvNorm2D(
            mid_channels, mid_channels, 3, stride=second, padding=dilation, dilation=dilation, bias=False, norm=norm
        )
        self.conv3 = ConvNorm2D(mid_channels, out_channels, 1, bias=False, norm=norm)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        out = F.relu(self.conv1(x))
        out = F.relu(self.conv2(out))
        out = self.conv3(out)
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class BasicStem(nn.Layer):
    """7x7 convolution of stride 2, and a 3x3 maximum of stride 2."""

    def __init__(self, *, norm: str) -> None:
        super().__init__()
        self.out_channels = 64
        self.conv1 = ConvNorm2D(3, 64, 7, stride=2, padding=3, bias=False, norm=norm)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return _maximum(F.relu(self.conv1(image)))


class DeepLabStem(nn.Layer):
    """Three 3x3 convolutions, the first of stride 2, and a 3x3 maximum of stride 2."""

    def __init__(self, *, norm: str) -> None:
        super().__init__()
        self.out_channels = 128
        self.conv1 = ConvNorm2D(3, 64, 3, stride=2, padding=1, bias=False, norm=norm)
        self.conv2 = ConvNorm2D(64, 64, 3, padding=1, bias=False, norm=norm)
        self.conv3 = ConvNorm2D(64, 128, 3, padding=1, bias=False, norm=norm)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.conv1(image))
        x = F.relu(self.conv2(x))
        return _maximum(F.relu(self.conv3(x)))


def _maximum(x: paddle.Tensor) -> paddle.Tensor:
    return F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=False)


STEMS = {"basic": BasicStem, "deeplab": DeepLabStem}


@BACKBONES.register
class ResNet(nn.Layer):
    """A residual network of bottleneck blocks.

    Attributes:
        channels: name of each feature -> C.
        strides: name of each feature -> stride.

    Args:
        depth: 50, 101 or 152: the blocks' convolutions are counted with a stem of one.
        stem: "basic" (one 7x7 convolution, 64 channels) or "deeplab" (three 3x3 convolutions, 128 channels).
        norm: "BN", "FrozenBN" or "GN".
        stride_in_1x1: whether a block strides in its first 1x1 convolution (MSRA's weights) or in its 3x3.
        res4_dilation: 1, or 2: res4 dilates by it instead of striding.
        res5_dilation: 1, 2 or 4: likewise; 2 gives features of stride 16, 4 with `res4_dilation` 2 of stride 8.
        res5_multi_grid: for each of the three blocks of res5, a factor on its dilation.
        out_features: which of "stem", "res2", "res3", "res4", "res5" to return; stages after the last are not built.
        freeze_at: 1 freezes the stem, 2 also res2, and so on to 5: no gradient, batch norms frozen.
        pretrained: weight file to load (strictly), or None.

    Raises:
        ValueError: if an argument is none of these.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        stem: str = "basic",
        norm: str = "FrozenBN",
        stride_in_1x1: bool = True,
        res4_dilation: int = 1,
        res5_dilation: int = 1,
        res5_multi_grid: tuple[int, int, int] = (1, 1, 1),
        out_features: Sequence[str] = STAGES,
        freeze_at: int = 0,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        _check(depth, stem, (res4_dilation, res5_dilation), out_features, freeze_at)
        self.out_features = tuple(out_features)
        self.stem = STEMS[stem](norm=_norm_at(1, norm, freeze_at))
        self.stages = STAGES[: max([0, *(STAGES.index(name) + 1 for name in out_features if name != "stem")])]
        grids = {"res4": (res4_dilation,), "res5": tuple(res5_dilation * factor for factor in res5_multi_grid)}
        channels, strides = {"stem": self.stem.out_channels}, {"stem": 4}
        below = "stem"
        for index, (name, num_blocks) in enumerate(zip(self.stages, DEPTHS[depth])):
            dilated = {"res4": res4_dilation, "res5": res5_dilation}.get(name, 1) > 1
            stride = 1 if name == "res2" or dilated else 2
            blocks = _make_blocks(
                channels[below],
                256 * 2**index,
                num_blocks=num_blocks,
                stride=stride,
                dilations=grids.get(name, (1,)),
                norm=_norm_at(index + 2, norm, freeze_at),
                stride_in_1x1=stride_in_1x1,
            )
            self.add_sublayer(name, nn.Sequential(*blocks))
            channels[name], strides[name] = 256 * 2**index, strides[below] * stride
            below = name
        self.channels = {name: channels[name] for name in self.out_features}
        self.strides = {name: strides[name] for name in self.out_features}
        self._init_weights()
        if pretrained:
            load_pretrained(self, pretrained)
        for name in ("stem", *self.stages)[:freeze_at]:
            for parameter in getattr(self, name).parameters():
                parameter.stop_gradient = True

    def _init_weights(self) -> None:
        for layer in self.sublayers():
            if isinstance(layer, ConvNorm2D):
                msra_fill(layer)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Features by name, those of `out_features`, finest first.

        Args:
            image: (N, 3, H, W).
        """
        x = self.stem(image)
        outputs = {"stem": x}
        for name in self.stages:
            outputs[name] = x = getattr(self, name)(x)
        return {name: outputs[name] for name in ("stem", *self.stages) if name in self.out_features}


def _make_blocks(
    in_channels: int,
    out_channels: int,
    *,
    num_blocks: int,
    stride: int,
    dilations: Sequence[int],
    norm: str,
    stride_in_1x1: bool,
) -> list[BottleneckBlock]:
    """The blocks of a stage; the first strides, and the last of `dilations` holds for all that follow."""
    return [
        BottleneckBlock(
            in_channels if block == 0 else out_channels,
            out_channels,
            mid_channels=out_channels // 4,
            stride=stride if block == 0 else 1,
            stride_in_1x1=stride_in_1x1,
            dilation=dilations[min(block, len(dilations) - 1)],
            norm=norm,
        )
        for block in range(num_blocks)
    ]


def _check(depth: int, stem: str, dilations: tuple[int, int], out_features: Sequence[str], freeze_at: int) -> None:
    if depth not in DEPTHS:
        raise ValueError(f"depth: {depth}; expected one of {', '.join(map(str, DEPTHS))}")
    if stem not in STEMS:
        raise ValueError(f"stem: {stem!r}; expected one of {', '.join(STEMS)}")
    if dilations not in ((1, 1), (1, 2), (1, 4), (2, 4)):
        raise ValueError(f"res4_dilation, res5_dilation: {dilations}; expected 1 and 1, 2 or 4, or 2 and 4")
    if not out_features or set(out_features) - {"stem", *STAGES}:
        raise ValueError(f"out_features: {list(out_features)}; expected some of stem, {', '.join(STAGES)}")
    if not 0 <= freeze_at <= 5:
        raise ValueError(f"freeze_at: {freeze_at}; expected 0 (nothing) to 5 (everything)")


def _norm_at(stage: int, norm: str, freeze_at: int) -> str:
    return "FrozenBN" if norm == "BN" and freeze_at >= stage else norm


@BACKBONES.register
def ResNet50(  # noqa: N802  (the network's name, used as a type in YAML)
    *,
    norm: str = "FrozenBN",
    stride_in_1x1: bool = True,
    out_features: Sequence[str] = STAGES,
    freeze_at: int = 0,
    pretrained: str | None = None,
) -> ResNet:
    """MSRA's R-50, stride 32. Arguments as in `ResNet`."""
    return ResNet(
        50,
        norm=norm,
        stride_in_1x1=stride_in_1x1,
        out_features=out_features,
        freeze_at=freeze_at,
        pretrained=pretrained,
    )


@BACKBONES.register
def ResNet101(  # noqa: N802
    *,
    norm: str = "FrozenBN",
    stride_in_1x1: bool = True,
    out_features: Sequence[str] = STAGES,
    freeze_at: int = 0,
    pretrained: str | None = None,
) -> ResNet:
    """MSRA's R-101, stride 32. Arguments as in `ResNet`."""
    return ResNet(
        101,
        norm=norm,
        stride_in_1x1=stride_in_1x1,
        out_features=out_features,
        freeze_at=freeze_at,
        pretrained=pretrained,
    )


@BACKBONES.register
def ResNet52(  # noqa: N802
    *,
    norm: str = "BN",
    res5_dilation: int = 2,
    res5_multi_grid: tuple[int, int, int] = (1, 2, 4),
    out_features: Sequence[str] = STAGES,
    freeze_at: int = 0,
    pretrained: str | None = None,
) -> ResNet:
    """DeepLab's R-52, stride 16: R-50 with the stem of three convolutions. Arguments as in `ResNet`."""
    return ResNet(
        50,
        stem="deeplab",
        norm=norm,
        stride_in_1x1=False,
        res5_dilation=res5_dilation,
        res5_multi_grid=res5_multi_grid,
        out_features=out_features,
        freeze_at=freeze_at,
        pretrained=pretrained,
    )


@BACKBONES.register
def ResNet103(  # noqa: N802
    *,
    norm: str = "BN",
    res5_dilation: int = 2,
    res5_multi_grid: tuple[int, int, int] = (1, 2, 4),
    out_features: Sequence[str] = STAGES,
    freeze_at: int = 0,
    pretrained: str | None = None,
) -> ResNet:
    """DeepLab's R-103, stride 16: R-101 with the stem of three convolutions. Arguments as in `ResNet`."""
    return ResNet(
        101,
        stem="deeplab",
        norm=norm,
        stride_in_1x1=False,
        res5_dilation=res5_dilation,
        res5_multi_grid=res5_multi_grid,
        out_features=out_features,
        freeze_at=freeze_at,
        pretrained=pretrained,
    )
