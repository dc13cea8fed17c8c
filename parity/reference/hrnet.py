"""HRNet in torch: the backbone of bowenc0221's Panoptic-DeepLab, and of HRNet's own segmentation code.

Paper: Wang et al., Deep High-Resolution Representation Learning for Visual Recognition, TPAMI 2020, arXiv 1908.07919.
Stands for: bowenc0221/panoptic-deeplab@cf8e20b segmentation/model/backbone/hrnet.py (MIT) with `align_corners`,
HRNet/HRNet-Semantic-Segmentation@0bbb288 (MIT) without. Key names are upstream's.

Deviations, none of which changes a number: no in-place ReLU; where upstream's lists hold None, there is no entry.

N batch, C channels, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def _layers(*layers: nn.Module | None) -> nn.Sequential:
    return nn.Sequential(*[layer for layer in layers if layer is not None])


def _three(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _one(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


class BasicBlock(nn.Module):
    """x + two 3x3 convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _three(channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = _three(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(hidden)) + x)


class Bottleneck(nn.Module):
    """x, or a 1x1 projection of it, + 1x1, 3x3 and 1x1 convolutions of it."""

    def __init__(self, in_channels: int, planes: int) -> None:
        super().__init__()
        self.conv1 = _one(in_channels, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _three(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _one(planes, planes * 4)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU()
        self.downsample = None
        if in_channels != planes * 4:
            self.downsample = _layers(_one(in_channels, planes * 4), nn.BatchNorm2d(planes * 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.relu(self.bn1(self.conv1(x)))
        hidden = self.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(hidden + shortcut)


class HighResolutionModule(nn.Module):
    """Branches of four basic blocks, then every branch the ReLU of a sum over all branches.

    Args:
        channels: per branch, finest first.
        align_corners: of the bilinear resize from a coarser branch.
    """

    def __init__(self, channels: Sequence[int], *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(width) for _ in range(4))) for width in channels)
        self.fuse_layers = nn.ModuleList()
        for target, width in enumerate(channels):
            row = nn.ModuleDict()
            for source, own in enumerate(channels):
                if source > target:
                    row[str(source)] = _layers(_one(own, width), nn.BatchNorm2d(width))
                elif source < target:
                    halvings = []
                    for left in range(target - source, 0, -1):
                        out = own if left > 1 else width
                        relu = nn.ReLU() if left > 1 else None
                        halvings.append(_layers(_three(own, out, stride=2), nn.BatchNorm2d(out), relu))
                    row[str(source)] = nn.Sequential(*halvings)
            self.fuse_layers.append(row)
        self.relu = nn.ReLU()

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        refined = [branch(x) for branch, x in zip(self.branches, features)]
        fused = []
        for target, row in enumerate(self.fuse_layers):
            terms = []
            for source, x in enumerate(refined):
                if source != target:
                    x = row[str(source)](x)
                if source > target:
                    size = refined[target].shape[2:]
                    x = F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)
                terms.append(x)
            fused.append(self.relu(sum(terms[1:], terms[0])))
        return fused


class HighResolutionNet(nn.Module):
    """The backbone; features `res2` to `res5`, of strides 4, 8, 16 and 32, in a dict.

    Args:
        width: channels at stride 4.
        align_corners: of the resizes between branches: True as bowenc0221, False as HRNet's Cityscapes recipe.
    """

    def __init__(self, width: int = 48, *, align_corners: bool = True) -> None:
        super().__init__()
        widths = [width * 2**branch for branch in range(4)]
        self.conv1 = _three(3, 64, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = _three(64, 64, stride=2)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*(Bottleneck(64 if index == 0 else 256, 64) for index in range(4)))
        previous = [256]
        for stage, num_modules in ((2, 1), (3, 4), (4, 3)):
            channels = widths[:stage]
            self.add_module(f"transition{stage - 1}", _transition(previous, channels))
            modules = (HighResolutionModule(channels, align_corners=align_corners) for _ in range(num_modules))
            self.add_module(f"stage{stage}", nn.Sequential(*modules))
            previous = channels

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.relu(self.bn2(self.conv2(x)))
        features = [self.layer1(x)]
        for stage in (2, 3, 4):
            transition = getattr(self, f"transition{stage - 1}")
            inputs = []
            for branch in range(stage):
                x = features[min(branch, len(features) - 1)]
                inputs.append(transition[str(branch)](x) if str(branch) in transition else x)
            features = getattr(self, f"stage{stage}")(inputs)
        return {f"res{2 + branch}": x for branch, x in enumerate(features)}


def _transition(previous: Sequence[int], channels: Sequence[int]) -> nn.ModuleDict:
    """What brings a stage's features to the widths of the next, and makes its new, coarsest branch."""
    layers = nn.ModuleDict()
    for branch, width in enumerate(channels):
        if branch >= len(previous):
            halving = _layers(_three(previous[-1], width, stride=2), nn.BatchNorm2d(width), nn.ReLU())
            layers[str(branch)] = nn.Sequential(halving)
        elif previous[branch] != width:
            layers[str(branch)] = _layers(_three(previous[branch], width), nn.BatchNorm2d(width), nn.ReLU())
    return layers
