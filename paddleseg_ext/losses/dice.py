"""Dice loss over the classes of a label map."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.registry import LOSSES


@LOSSES.register
class DiceLoss(nn.Layer):
    """1 - mean over classes of (2 sum(p t) + smooth) / (sum(p^2) + sum(t^2) + smooth), per image, then the mean.

    Ignored pixels count for neither prediction nor target.

    Args:
        smooth: added to numerator and denominator.
        ignore_index: label of ignored pixels.

    Source: Milletari et al., V-Net, 3DV 2016, arXiv 1606.04797 (squared denominator).
    """

    def __init__(self, *, smooth: float = 1.0, ignore_index: int = 255) -> None:
        super().__init__()
        self.smooth = smooth
        self.ignore_index = ignore_index

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        num_classes = logits.shape[1]
        valid = label != self.ignore_index
        known = paddle.where(valid, label, paddle.zeros_like(label))
        mask = valid.astype(logits.dtype).unsqueeze(1)
        target = paddle.transpose(F.one_hot(known, num_classes).astype(logits.dtype), [0, 3, 1, 2]) * mask
        prob = F.softmax(logits, axis=1) * mask
        overlap = (prob * target).sum(axis=[2, 3])
        size = (prob * prob).sum(axis=[2, 3]) + (target * target).sum(axis=[2, 3])
        return 1.0 - ((2.0 * overlap + self.smooth) / (size + self.smooth)).mean()
