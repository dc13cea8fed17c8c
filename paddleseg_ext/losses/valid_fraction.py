"""Cross-entropy whose divisor has a floor, so that a crop with few labelled pixels does not weigh them too much.

N batch, K classes, H W image.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.losses.cross_entropy import pixel_cross_entropy
from paddleseg_ext.registry import LOSSES


@LOSSES.register
class ValidFractionCrossEntropy(nn.Layer):
    """The mean over all N * H * W pixels, ignored ones as 0, divided by the valid share or `min_fraction` if larger.

    This is the mean over the valid pixels as long as there are enough of them.

    Args:
        min_fraction: least divisor, a share of the batch's pixels; the float32 number, as upstream holds it.
        ignore_index: label of ignored pixels, 0..255.

    Upstream: PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/train.py
    """

    def __init__(self, *, min_fraction: float = 0.1, ignore_index: int = 255) -> None:
        super().__init__()
        if not 0.0 < min_fraction <= 1.0:
            raise ValueError(
                f"ValidFractionCrossEntropy: min_fraction is {min_fraction}; expected a share above 0 and at most 1"
            )
        self.min_fraction = float(np.float32(min_fraction))
        self.ignore_index = ignore_index

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        loss = pixel_cross_entropy(logits, label, self.ignore_index).mean()
        valid = (label != self.ignore_index).astype(loss.dtype).mean()
        return loss / paddle.maximum(valid, paddle.full_like(valid, self.min_fraction))
