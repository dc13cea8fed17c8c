"""detectron2's ResNets in torch, and the layers they are made of.

Stands for: facebookresearch/detectron2@02b5c4e detectron2/modeling/backbone/resnet.py, detectron2/layers/{wrappers,
batch_norm}.py and projects/DeepLab/deeplab/resnet.py (Apache-2.0). Its state dict loads strictly: key names are
upstream's.

Deviations, none of which changes a number of training or evaluation:
- no initialisation of its own, no in-place ReLU;
- in a frozen stage a batch norm is built as a frozen one, which has no `num_batches_tracked`;
- a frozen norm computes the same two products with and without gradients, where upstream calls batch_norm without.

N batch, C channels, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGES = ("res2", "res3", "res4", "res5")


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics, scale and shift: all four are buffers."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[None, :, None, None] + shift[None, :, None, None]


def make_norm(norm: str | None, channels: int) -> nn.Module | None:
    """The normalisation of a name: "BN", "FrozenBN", "GN" (32 groups) or None."""
    if norm is None:
        return None
    if norm == "GN":
        return nn.GroupNorm(32, channels)
    return {"BN": nn.BatchNorm2d, "FrozenBN": FrozenBatchNorm2d}[norm](channels)


class ConvNorm2d(nn.Conv2d):
    """A convolution that owns its `norm`, before an optional ReLU; other arguments as in `nn.Conv2d`."""

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
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.norm = make_norm(norm, out_channels)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu(x) if self.relu else x


class BottleneckBlock(nn.Module):
    """The residual block: relu(conv3(relu(conv2(relu(conv1(x))))) + shortcut(x))."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        norm: str = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        width = bottleneck_channels
        in_first, in_second = (stride, 1) if stride_in_1x1 else (1, stride)
        if in_channels == out_channels:
            self.shortcut = None
        else:
            self.shortcut = ConvNorm2d(in_channels, out_channels, 1, stride=stride, bias=False, norm=norm)
        self.conv1 = ConvNorm2d(in_channels, width, 1, stride=in_first, bias=False, norm=norm)
        self.conv2 = ConvNorm2d(
            width, width, 3, stride=in_second, padding=dilation, dilation=dilation, bias=False, norm=norm
        )
        self.conv3 = ConvNorm2d(width, out_channels, 1, bias=False, norm=norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(residual + (x if self.shortcut is None else self.shortcut(x)))


class BasicStem(nn.Module):
    """7x7 convolution of stride 2, ReLU, maximum of stride 2."""

    out_channels = 64

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm2d(3, 64, 7, stride=2, padding=3, bias=False, norm=norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.relu(self.conv1(x)), 3, stride=2, padding=1)


class DeepLabStem(nn.Module):
    """Three 3x3 convolutions, the first of stride 2, each with a ReLU; maximum of stride 2."""

    out_channels = 128

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm2d(3, 64, 3, stride=2, padding=1, bias=False, norm=norm)
        self.conv2 = ConvNorm2d(64, 64, 3, padding=1, bias=False, norm=norm)
        self.conv3 = ConvNorm2d(64, 128, 3, padding=1, bias=False, norm=norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu(conv(x))
        return F.max_pool2d(x, 3, stride=2, padding=1)


class ResNet(nn.Module):
    """Stem and stages; returns the features of `out_features`, by name.

    Args:
        depth: 50, 101 or 152.
        stem: "basic" or "deeplab".
        norm: as in `make_norm`.
        stride_in_1x1: which convolution of a block strides.
        res4_dilation: 1 or 2; a dilated stage does not stride.
        res5_dilation: 1, 2 or 4, with `res5_multi_grid` times it per block.
        res5_multi_grid: see above.
        out_features: names of the features to return; later stages do not exist.
        freeze_at: how many of stem, res2, res3, ... have no gradient.
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
        res5_multi_grid: Sequence[int] = (1, 1, 1),
        out_features: Sequence[str] = STAGES,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()

        def norm_of(part: int) -> str:
            return "FrozenBN" if norm == "BN" and part <= freeze_at else norm

        self.out_features = tuple(out_features)
        self.stem = {"basic": BasicStem, "deeplab": DeepLabStem}[stem](norm_of(1))
        self.stage_names = STAGES[: max((STAGES.index(n) + 1 for n in out_features if n != "stem"), default=0)]
        in_channels = self.stem.out_channels
        for position, name in enumerate(self.stage_names):
            dilation = {"res4": res4_dilation, "res5": res5_dilation}.get(name, 1)
            grid = res5_multi_grid if name == "res5" else (1,) * DEPTHS[depth][position]
            out_channels = 256 << position
            blocks = []
            for number, factor in zip(range(DEPTHS[depth][position]), grid):
                strided = number == 0 and position > 0 and dilation == 1
                block = BottleneckBlock(
                    in_channels,
                    out_channels,
                    bottleneck_channels=64 << position,
                    stride=2 if strided else 1,
                    norm=norm_of(position + 2),
                    stride_in_1x1=stride_in_1x1,
                    dilation=dilation * factor,
                )
                blocks.append(block)
                in_channels = out_channels
            self.add_module(name, nn.Sequential(*blocks))
        for name in ("stem", *self.stage_names)[:freeze_at]:
            self.get_submodule(name).requires_grad_(False)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features by name; `image` is (N, 3, H, W)."""
        features = {"stem": self.stem(image)}
        last = "stem"
        for name in self.stage_names:
            features[name] = self.get_submodule(name)(features[last])
            last = name
        return {name: value for name, value in features.items() if name in self.out_features}
