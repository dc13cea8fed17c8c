"""STDC's detail guidance: boundary targets from the label map, and the loss on them.

N batch, H W image, h w detail logits.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.registry import LOSSES

FUSE_KERNEL = (0.6, 0.3, 0.1)


def detail_pyramid(label: paddle.Tensor) -> paddle.Tensor:
    """Boundary maps of a label map at strides 1, 2 and 4, (N, 3, H, W) float32 of 0 and 1.

    A 3x3 Laplacian (8 in the middle, -1 around, zero padding) over the *raw ids*, 255 included, at each stride; where
    it exceeds 0.1 there is a boundary. Maps of stride 2 and 4 are brought to H x W by nearest neighbour.

    Args:
        label: (N, H, W) integer ids.

    Upstream: MichaelFan01/STDC-Seg@59ff37f loss/detail_loss.py
    """
    ids = label.astype("float32").unsqueeze(1)
    laplacian = paddle.to_tensor([-1.0, -1, -1, -1, 8, -1, -1, -1, -1], dtype="float32").reshape([1, 1, 3, 3])
    maps = []
    for stride in (1, 2, 4):
        edges = F.conv2d(ids, laplacian, stride=stride, padding=1).clip(min=0.0)
        if stride > 1:
            edges = F.interpolate(edges, label.shape[1:], mode="nearest")
        maps.append((edges > 0.1).astype("float32"))
    return paddle.concat(maps, axis=1)


@LOSSES.register
class DetailAggregateLoss(nn.Layer):
    """Binary cross-entropy and Dice loss of the detail logits against fused boundary maps.

    The maps of `detail_pyramid` are summed with the weights .6, .3, .1; where the sum exceeds 0.1 (in float32, so
    a boundary seen at stride 4 alone does not count) the target is 1.

    Args:
        decay_fuse_kernel: make the three weights a parameter, as upstream does. Its gradient is exactly 0, but
            weight decay applies: over 60k iterations of upstream's recipe it shrinks to .126, .063, .021, so that
            the target loses detail. False keeps them fixed, as in the paper.

    Upstream: MichaelFan01/STDC-Seg@59ff37f loss/detail_loss.py
    """

    def __init__(self, *, decay_fuse_kernel: bool = False) -> None:
        super().__init__()
        kernel = paddle.to_tensor(FUSE_KERNEL, dtype="float32").reshape([1, 3, 1, 1])
        if decay_fuse_kernel:
            self.fuse_kernel = self.create_parameter(
                [1, 3, 1, 1], dtype="float32", default_initializer=nn.initializer.Assign(kernel)
            )
        else:
            self.register_buffer("fuse_kernel", kernel)

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Scalars `bce` (mean over pixels) and `dice` (mean over images).

        Args:
            logits: (N, 1, h, w); upsampled to (H, W), align_corners=True, when w differs from W.
            label: (N, H, W) integer ids.
        """
        target = self.target(label).astype(logits.dtype)
        if logits.shape[3] != label.shape[2]:
            logits = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=True)
        hard = target.detach()
        # not F.binary_cross_entropy_with_logits: where a logit is exactly 0, its gradient is off by 1 (Paddle 3.3.1)
        bce = -(hard * F.log_sigmoid(logits) + (1.0 - hard) * F.log_sigmoid(-logits)).mean()
        prob = F.sigmoid(logits).flatten(1)
        flat = target.flatten(1)
        dice = 1.0 - (2.0 * (prob * flat).sum(1) + 1.0) / (prob.sum(1) + flat.sum(1) + 1.0)
        return {"bce": bce, "dice": dice.mean()}

    def target(self, label: paddle.Tensor) -> paddle.Tensor:
        """The boundary target, (N, 1, H, W) float32 of 0 and 1."""
        weights = self.fuse_kernel.astype("float32")
        fused = (detail_pyramid(label) * weights).sum(axis=1, keepdim=True)
        target = (fused > 0.1).astype("float32")
        if not self.fuse_kernel.stop_gradient:
            target = target + 0.0 * fused  # a gradient of 0, not none: weight decay acts on the kernel
        return target
