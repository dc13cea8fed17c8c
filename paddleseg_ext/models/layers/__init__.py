"""Layers that more than one model uses."""

from paddleseg_ext.models.layers.conv import ConvNorm2D
from paddleseg_ext.models.layers.norm import FrozenBatchNorm2D, build_norm

__all__ = ["ConvNorm2D", "FrozenBatchNorm2D", "build_norm"]
