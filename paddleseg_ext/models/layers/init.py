"""Initial values of convolutions, as upstream repositories draw them: detectron2's fills, and torch's default."""

from __future__ import annotations

import math

import numpy as np
from paddle import nn


def msra_fill(conv: nn.Layer) -> None:
    """Weight: normal, variance 2 / fan-out (output channels times kernel size); bias: 0."""
    shape = conv.weight.shape
    fan_out = shape[0] * int(np.prod(shape[2:]))
    nn.initializer.Normal(std=math.sqrt(2.0 / fan_out))(conv.weight)
    _zero_bias(conv)


def xavier_fill(conv: nn.Layer) -> None:
    """Weight: uniform, variance 1 / fan-in (input channels of a group times kernel size); bias: 0."""
    bound = math.sqrt(3.0 / int(np.prod(conv.weight.shape[1:])))
    nn.initializer.Uniform(-bound, bound)(conv.weight)
    _zero_bias(conv)


def normal_fill(conv: nn.Layer, *, std: float) -> None:
    """Weight: normal with a standard deviation; bias: 0."""
    nn.initializer.Normal(std=std)(conv.weight)
    _zero_bias(conv)


def default_fill(conv: nn.Layer) -> None:
    """Weight and bias: uniform within 1 / sqrt(fan-in), which torch draws unless it is told otherwise."""
    bound = 1.0 / math.sqrt(int(np.prod(conv.weight.shape[1:])))
    nn.initializer.Uniform(-bound, bound)(conv.weight)
    if conv.bias is not None:
        nn.initializer.Uniform(-bound, bound)(conv.bias)


def _zero_bias(conv: nn.Layer) -> None:
    if conv.bias is not None:
        nn.initializer.Constant(0.0)(conv.bias)
