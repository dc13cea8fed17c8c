"""Xception-65 in torch, with batch norm or group norm.

Paper: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018,
arXiv 1802.02611.
Stands for: bowenc0221/panoptic-deeplab@cf8e20b segmentation/model/backbone/xception.py, whose key names it has, and
PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/models.py, which calls the same layers otherwise.

Deviations, none of which changes a number: no in-place ReLU, the feature of the stem is not returned.

N batch, C channels, H W image.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Callable

import torch
from torch import nn

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups or, where they do not divide C, the next number that does: 33, 31, 34, 30 and so on; epsilon 1e-5.

    Upstream: PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/models.py
    """
    candidates = sorted(range(23, 42), key=lambda groups: (abs(groups - 32), -groups))
    fitting = [groups for groups in candidates if channels % groups == 0]
    if not fitting:
        raise ValueError(f"group_norm: {channels} channels; expected a multiple of a number in 23..41; use batch norm")
    return nn.GroupNorm(fitting[0], channels, eps=1e-5)


class SeparableConv2d(nn.Module):
    """Depthwise 3x3 and pointwise convolution, a norm after each; ReLU in front of both, or after each norm."""

    def __init__(
        self, in_channels: int, out_channels: int, norm: Norm, *, stride: int, dilation: int, relu_first: bool
    ) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if relu_first:
            parts["relu"] = nn.ReLU()
        parts["depthwise"] = nn.Conv2d(
            in_channels, in_channels, 3, stride, dilation, dilation, groups=in_channels, bias=False
        )
        parts["bn_depth"] = norm(in_channels)
        if not relu_first:
            parts["relu1"] = nn.ReLU()
        parts["pointwise"] = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        parts["bn_point"] = norm(out_channels)
        if not relu_first:
            parts["relu2"] = nn.ReLU()
        self.block = nn.Sequential(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class XceptionBlock(nn.Module):
    """Three separable convolutions and a shortcut: projected ("conv"), as it is ("sum") or none ("none").

    The forward pass gives the block's output and what leaves the second separable convolution.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int],
        norm: Norm,
        *,
        stride: int = 1,
        dilation: int = 1,
        shortcut: str = "conv",
        relu_first: bool = True,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        if shortcut == "conv":
            self.conv = nn.Conv2d(widths[0], widths[3], 1, stride, bias=False)
            self.bn = norm(widths[3])
        strides = (1, 1, stride)
        for index in range(3):
            layer = SeparableConv2d(
                widths[index],
                widths[index + 1],
                norm,
                stride=strides[index],
                dilation=dilation,
                relu_first=relu_first,
            )
            self.add_module(f"sep_conv{index + 1}", layer)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        middle = self.sep_conv2(self.sep_conv1(x))
        main = self.sep_conv3(middle)
        if self.shortcut == "none":
            return main, middle
        return main + (self.bn(self.conv(x)) if self.shortcut == "conv" else x), middle


class Xception65(nn.Module):
    """Entry flow of three blocks, sixteen middle ones, exit flow of two; features `res2` .. `res5` in a dict.

    Args:
        norm: number of channels -> norm layer.
        output_stride: of `res5`: 8, 16 or 32. What is not strided is dilated.
    """

    def __init__(self, norm: Norm = nn.BatchNorm2d, *, output_stride: int = 32) -> None:
        super().__init__()
        strided3, strided20 = output_stride >= 16, output_stride == 32
        dilation = 1 if strided3 else 2
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = norm(32)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(32, 64, 3, 1, 1, bias=False)
        self.bn2 = norm(64)
        self.block1 = XceptionBlock((64, 128, 128, 128), norm, stride=2)
        self.block2 = XceptionBlock((128, 256, 256, 256), norm, stride=2)
        self.block3 = XceptionBlock((256, 728, 728, 728), norm, stride=1 + strided3)
        for number in range(4, 20):
            self.add_module(f"block{number}", XceptionBlock((728,) * 4, norm, dilation=dilation, shortcut="sum"))
        self.block20 = XceptionBlock((728, 728, 1024, 1024), norm, stride=1 + strided20, dilation=dilation)
        self.block21 = XceptionBlock(
            (1024, 1536, 1536, 2048),
            norm,
            dilation=dilation * (1 if strided20 else 2),
            shortcut="none",
            relu_first=False,
        )

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of 256, 728, 728 and 2048 channels; the first two are not activated and not yet strided.

        Args:
            image: (N, 3, H, W), normalised.
        """
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.relu(self.bn2(self.conv2(x)))
        x, _ = self.block1(x)
        x, res2 = self.block2(x)
        x, res3 = self.block3(x)
        for number in range(4, 20):
            x, _ = self.get_submodule(f"block{number}")(x)
        out, _ = self.block20(x)
        out, _ = self.block21(out)
        return {"res2": res2, "res3": res3, "res4": x, "res5": out}
