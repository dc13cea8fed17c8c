"""Losses of Panoptic-DeepLab's instance head: weighted means over the pixels that have a target.

N batch, H W image.
"""

from __future__ import annotations

import paddle
from paddle import nn

from paddleseg_ext.registry import LOSSES


def _weighted_mean(loss: paddle.Tensor, weights: paddle.Tensor) -> paddle.Tensor:
    """sum(loss * weights) / sum(weights); 0, and a gradient of 0, if no pixel has a weight.

    Args:
        loss: (N, C, H, W).
        weights: (N, H, W); each holds for all channels, and is counted once.
    """
    weights = weights.astype(loss.dtype)
    total = weights.sum()
    return (loss * weights.unsqueeze(1)).sum() / paddle.where(total > 0, total, paddle.ones_like(total))


@LOSSES.register
class CenterLoss(nn.Layer):
    """Squared error of the centers' heat map, averaged by weight.

    Upstream: facebookresearch/detectron2@02b5c4e projects/Panoptic-DeepLab/panoptic_deeplab/panoptic_seg.py
    """

    def forward(self, center: paddle.Tensor, target: paddle.Tensor, weights: paddle.Tensor) -> paddle.Tensor:
        """A scalar.

        Args:
            center: (N, 1, H, W) predicted heat map.
            target: (N, 1, H, W), in [0, 1].
            weights: (N, H, W), 0 where the pixel is ignored.
        """
        difference = center - target.astype(center.dtype)
        return _weighted_mean(difference * difference, weights)


@LOSSES.register
class OffsetLoss(nn.Layer):
    """Absolute error of the offsets, summed over y and x, averaged by weight.

    Upstream: facebookresearch/detectron2@02b5c4e projects/Panoptic-DeepLab/panoptic_deeplab/panoptic_seg.py.
    bowenc0221/panoptic-deeplab divides by twice the weights.
    """

    def forward(self, offset: paddle.Tensor, target: paddle.Tensor, weights: paddle.Tensor) -> paddle.Tensor:
        """A scalar.

        Args:
            offset: (N, 2, H, W) predicted, in pixels.
            target: (N, 2, H, W), in pixels.
            weights: (N, H, W), 0 where the pixel is ignored.
        """
        return _weighted_mean(paddle.abs(offset - target.astype(offset.dtype)), weights)
