"""Cross-entropy at points.

N batch, K classes, H W image, P points.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.losses.cross_entropy import pixel_cross_entropy
from paddleseg_ext.models.layers.points import sample_labels
from paddleseg_ext.registry import LOSSES


@LOSSES.register
class PointCrossEntropy(nn.Layer):
    """Mean cross-entropy over the points whose nearest pixel is not ignored; 0 if there are none.

    Args:
        coords: name of the output with the points' coordinates, (N, P, 2), (x, y) in [0, 1].
        size_divisor: the model padded the image below and at the right to a multiple of it, and the coordinates are
            in the padded one; its further pixels are ignored.
        ignore_index: label of ignored pixels, 0..255.

    Upstream: facebookresearch/detectron2@02b5c4e projects/PointRend/point_rend/semantic_seg.py
    """

    def __init__(self, *, coords: str = "point_coords", size_divisor: int = 32, ignore_index: int = 255) -> None:
        super().__init__()
        self.extra_outputs = {"coords": coords}
        self.size_divisor = size_divisor
        self.ignore_index = ignore_index

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor, *, coords: paddle.Tensor) -> paddle.Tensor:
        """The mean.

        Args:
            logits: (N, K, P).
            label: (N, H, W) integers.
            coords: (N, P, 2).
        """
        height, width = label.shape[1:]
        padding = [0, -width % self.size_divisor, 0, -height % self.size_divisor]
        padded = F.pad(label.unsqueeze(1), padding, value=self.ignore_index).squeeze(1) if any(padding) else label
        target = sample_labels(padded, coords.detach())
        loss = pixel_cross_entropy(logits.unsqueeze(2), target.unsqueeze(1), self.ignore_index)
        count = (target != self.ignore_index).astype(logits.dtype).sum()
        return loss.sum() / paddle.where(count > 0, count, paddle.ones_like(count))
