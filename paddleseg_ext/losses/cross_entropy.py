"""Per-pixel cross-entropy, plain and restricted to hard pixels.

N batch, K classes, H W image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.registry import LOSSES

_ENDS = 63.99  # from here on Paddle's cross-entropy of a pixel may be cut, on a CPU (3.3.1)


def pixel_cross_entropy(logits: paddle.Tensor, label: paddle.Tensor, ignore_index: int) -> paddle.Tensor:
    """Cross-entropy of each pixel, (N, H, W); 0 where the label is ignored.

    Args:
        logits: (N, K, H, W).
        label: (N, H, W) integers in 0..K-1, or `ignore_index`.
        ignore_index: label of ignored pixels; must not be negative, for which Paddle's operator has another rule.
    """
    channels_last = paddle.transpose(logits, [0, 2, 3, 1])  # on a CPU a third faster than axis=1
    loss = F.cross_entropy(channels_last, label.unsqueeze(-1), ignore_index=ignore_index, reduction="none")
    loss = loss.squeeze(-1)
    if loss.place.is_cpu_place() and loss.size and float(loss.max()) >= _ENDS:
        loss = loss + (_exact_cross_entropy(logits, label, ignore_index) - loss).detach()
    return loss


@paddle.no_grad()
def _exact_cross_entropy(logits: paddle.Tensor, label: paddle.Tensor, ignore_index: int) -> paddle.Tensor:
    """The same from its definition, four times as slow: on a CPU Paddle's own ends at 64, with the right gradient."""
    known = paddle.where(label == ignore_index, paddle.zeros_like(label), label)
    picked = paddle.take_along_axis(logits, known.unsqueeze(1), 1).squeeze(1)
    return paddle.where(label == ignore_index, paddle.zeros_like(picked), paddle.logsumexp(logits, axis=1) - picked)


def pixel_class_weight(weights: Sequence[float], label: paddle.Tensor, ignore_index: int, dtype: Any) -> paddle.Tensor:
    """The weight of each pixel's class, (N, H, W); some class's for ignored pixels."""
    known = paddle.where(label == ignore_index, paddle.zeros_like(label), label)
    return paddle.gather(paddle.to_tensor(weights, dtype=dtype), known.flatten()).reshape(label.shape)


@LOSSES.register
class CrossEntropy(nn.Layer):
    """Mean cross-entropy over the pixels that are not ignored; 0 if there are none.

    With class weights the mean is weighted: the sum is divided by the sum of the pixels' weights.

    Args:
        class_weight: K factors, or None.
        ignore_index: label of ignored pixels, 0..255.
    """

    def __init__(self, *, class_weight: Sequence[float] | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.class_weight = None if class_weight is None else tuple(float(weight) for weight in class_weight)

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        loss = pixel_cross_entropy(logits, label, self.ignore_index)
        weight = (label != self.ignore_index).astype(logits.dtype)
        if self.class_weight is not None:
            weight = weight * pixel_class_weight(self.class_weight, label, self.ignore_index, logits.dtype)
        total = weight.sum()
        return (loss * weight).sum() / paddle.where(total > 0, total, paddle.ones_like(total))


@LOSSES.register
class OhemCrossEntropy(nn.Layer):
    """Cross-entropy over hard pixels, by STDC-Seg's rule.

    A pixel is hard if its loss exceeds -ln(thresh). If more than `min_kept` pixels of the batch are hard, the result
    is their mean; else it is the mean of the `min_kept` largest losses. Ignored pixels have loss 0 and stay in the
    list, so they can fill up the second mean.

    Args:
        thresh: probability of the true class below which a pixel is hard; None keeps the `min_kept` largest losses.
        min_kept: number of pixels, for the whole batch; exactly one of this and `min_kept_ratio` is given.
        min_kept_ratio: the same as a share of the batch's pixels. Upstream's rule is 1/16 of the crop's.
        ignore_index: label of ignored pixels, 0..255.

    Upstream: MichaelFan01/STDC-Seg@59ff37f loss/loss.py
    """

    def __init__(
        self,
        *,
        thresh: float | None = 0.7,
        min_kept: int | None = None,
        min_kept_ratio: float | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if (min_kept is None) == (min_kept_ratio is None):
            raise ValueError("OhemCrossEntropy: give exactly one of min_kept and min_kept_ratio")
        self.threshold = None if thresh is None else float(np.float32(-math.log(np.float32(thresh))))
        self.min_kept = min_kept
        self.min_kept_ratio = min_kept_ratio
        self.ignore_index = ignore_index

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        loss = pixel_cross_entropy(logits, label, self.ignore_index).flatten()
        size = loss.shape[0]
        keep = self.min_kept if self.min_kept is not None else int(size * self.min_kept_ratio)
        if keep >= size:
            raise ValueError(f"OhemCrossEntropy: min_kept is {keep} but the batch has {size} pixels; lower it")
        if self.threshold is not None:
            hard = loss > paddle.full([], self.threshold, loss.dtype)
            count = int(hard.sum())
            if count > keep:
                return paddle.where(hard, loss, paddle.zeros_like(loss)).sum() / count
        return paddle.topk(loss, keep)[0].mean()


@LOSSES.register
class TopKCrossEntropy(nn.Layer):
    """Cross-entropy averaged over the share of the batch's pixels with the largest losses.

    Ignored pixels have loss 0 and stay in the list, and in its length: with `top_k` 1 the sum is divided by N * H * W.

    Args:
        top_k: share of the pixels, in (0, 1]; int(top_k * N * H * W) of them count.
        class_weight: K factors on the pixels' losses, or None.
        ignore_index: label of ignored pixels, 0..255.

    Upstream: DeepLabCE of bowenc0221/panoptic-deeplab@cf8e20b segmentation/model/loss/criterion.py and of
    facebookresearch/detectron2@02b5c4e projects/DeepLab/deeplab/loss.py
    """

    def __init__(
        self, *, top_k: float = 1.0, class_weight: Sequence[float] | None = None, ignore_index: int = 255
    ) -> None:
        super().__init__()
        if not 0.0 < top_k <= 1.0:
            raise ValueError(f"TopKCrossEntropy: top_k is {top_k}; expected a share above 0 and at most 1")
        self.top_k = top_k
        self.class_weight = None if class_weight is None else tuple(float(weight) for weight in class_weight)
        self.ignore_index = ignore_index

    def forward(
        self, logits: paddle.Tensor, label: paddle.Tensor, weights: paddle.Tensor | None = None
    ) -> paddle.Tensor:
        """The mean.

        Args:
            logits: (N, K, H, W).
            label: (N, H, W) integers.
            weights: (N, H, W) factors on the losses, such as 3 on small instances, before the selection; or None.
        """
        loss = pixel_cross_entropy(logits, label, self.ignore_index)
        if self.class_weight is not None:
            loss = loss * pixel_class_weight(self.class_weight, label, self.ignore_index, logits.dtype)
        if weights is not None:
            loss = loss * weights.astype(loss.dtype)
        loss = loss.flatten()
        if self.top_k == 1.0:
            return loss.mean()
        return paddle.topk(loss, max(1, int(self.top_k * loss.shape[0])))[0].mean()
