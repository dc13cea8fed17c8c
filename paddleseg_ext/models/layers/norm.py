"""Normalisations by name, and the batch norm that never learns.

Upstream: facebookresearch/detectron2@02b5c4e detectron2/layers/batch_norm.py (Apache-2.0).
"""

from __future__ import annotations

import paddle
from paddle import nn

NORMS = ("BN", "FrozenBN", "GN")
_GROUPS = 32


class FrozenBatchNorm2D(nn.Layer):
    """x * scale + shift per channel, from a batch norm's four tensors, none of which changes in training.

    They are buffers: without gradient, out of the optimizer's sight. Their names are those of `nn.BatchNorm2D`, so
    that a weight file fits a network with either.

    Args:
        num_features: C.
        epsilon: added to the variance.
    """

    def __init__(self, num_features: int, *, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.epsilon = epsilon
        self.register_buffer("weight", paddle.ones([num_features]))
        self.register_buffer("bias", paddle.zeros([num_features]))
        self.register_buffer("_mean", paddle.zeros([num_features]))
        self.register_buffer("_variance", paddle.full([num_features], 1.0 - epsilon))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        epsilon = paddle.full_like(self._variance, self.epsilon)  # a tensor: scalars may be rounded to float32
        scale = self.weight / paddle.sqrt(self._variance + epsilon)
        shift = self.bias - self._mean * scale
        shape = [1, -1, 1, 1]
        return x * scale.reshape(shape).astype(x.dtype) + shift.reshape(shape).astype(x.dtype)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, epsilon={self.epsilon}"


def build_norm(norm: str | None, num_features: int) -> nn.Layer | None:
    """The normalisation of a name.

    Args:
        norm: "BN", "FrozenBN", "GN" (32 groups), or None for none.
        num_features: C.

    Raises:
        ValueError: if there is no such name.
    """
    if norm is None:
        return None
    if norm == "BN":
        return nn.BatchNorm2D(num_features)  # Paddle's momentum 0.9 is torch's 0.1
    if norm == "FrozenBN":
        return FrozenBatchNorm2D(num_features)
    if norm == "GN":
        return nn.GroupNorm(_GROUPS, num_features)
    raise ValueError(f"norm: {norm!r}; expected one of {', '.join(NORMS)}, or null")
