"""Feature pyramid: every feature of the backbone with the context of all coarser ones.

Paper: Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017, arXiv 1612.03144.
Upstream: facebookresearch/detectron2@02b5c4e detectron2/modeling/backbone/fpn.py (Apache-2.0); layer names are
upstream's, the backbone is `bottom_up`. Left out: `p6`, which segmentation does not use.

N batch, C channels, h w feature map.
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.models.layers.conv import ConvNorm2D
from paddleseg_ext.models.layers.init import xavier_fill


class FPN(nn.Layer):
    """A backbone with a top-down path: 1x1 convolutions, nearest neighbour x2, sums, 3x3 convolutions.

    Attributes:
        channels: name of each output, "p2" of stride 4 to "p5" of stride 32 -> C.
        strides: name of each output -> stride.

    Args:
        backbone: returns a dict of features, and says their `channels` and `strides`, each twice the one before.
        out_channels: C.

    Raises:
        ValueError: if the strides of the backbone's features do not double.
    """

    def __init__(self, backbone: nn.Layer, *, out_channels: int = 256) -> None:
        super().__init__()
        self.in_features = tuple(backbone.channels)
        strides = [backbone.strides[name] for name in self.in_features]
        if any(fine * 2 != coarse for fine, coarse in zip(strides, strides[1:])):
            raise ValueError(f"FPN: the backbone's features have strides {strides}; expected each twice the one before")
        self.levels = [int(math.log2(stride)) for stride in strides]
        for name, level in zip(self.in_features, self.levels):
            lateral = ConvNorm2D(backbone.channels[name], out_channels, 1)
            output = ConvNorm2D(out_channels, out_channels, 3, padding=1)
            for conv in (lateral, output):
                xavier_fill(conv)
            self.add_sublayer(f"fpn_lateral{level}", lateral)
            self.add_sublayer(f"fpn_output{level}", output)
        self.bottom_up = backbone
        self.channels = {f"p{level}": out_channels for level in self.levels}
        self.strides = {f"p{level}": stride for level, stride in zip(self.levels, strides)}

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Features by name, finest first.

        Args:
            image: (N, 3, H, W), sides multiples of the coarsest stride.
        """
        features = self.bottom_up(image)
        outputs, above = {}, None
        for name, level in zip(reversed(self.in_features), reversed(self.levels)):
            merged = getattr(self, f"fpn_lateral{level}")(features[name])
            if above is not None:
                merged = merged + F.interpolate(above, scale_factor=2, mode="nearest")
            outputs[f"p{level}"] = getattr(self, f"fpn_output{level}")(merged)
            above = merged
        return {name: outputs[name] for name in self.channels}
