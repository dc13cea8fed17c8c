"""Mistakes in norms that never learn: their four tensors are used as they are, in training too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from parity.faults.fault import Fault, Patient, kind, layer_point, set_attributes, wrap_forward

LEARNING = nn.layer.norm._BatchNormBase


def frozen_norms(patient: Patient) -> Iterator[tuple[str, Any]]:
    """Norms with fixed statistics: of a class of their own, or batch norms with `use_global_stats`."""
    for path, layer in patient.layers(nn.Layer):
        if isinstance(layer, LEARNING):
            if layer._use_global_stats:
                yield path, layer
        elif all(getattr(layer, name, None) is not None for name in ("_mean", "_variance", "weight", "bias")):
            yield path, layer


@kind("bn-not-frozen", "a frozen batch norm uses the statistics of the batch in training")
def bn_not_frozen(patient: Patient) -> Iterator[Fault]:
    """`FrozenBatchNorm2D`, or `use_global_stats`, lost."""
    for path, layer in frozen_norms(patient):

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            def wrong(own: Any, x: Any) -> Any:
                if not layer.training:
                    return own(x)
                return F.batch_norm(x, layer._mean, layer._variance, layer.weight, layer.bias, True)

            wrap_forward(stack, layer, wrong)

        words = ("statistics", "batch")
        yield Fault("bn-not-frozen", path, plant, stages=("forward_train",), point=layer_point(path), words=words)


@kind("frozen-epsilon", "the epsilon of a frozen norm is off by a tenth")
def frozen_epsilon(patient: Patient) -> Iterator[Fault]:
    """1.1e-5 for 1e-5."""
    for path, layer in frozen_norms(patient):
        name = "epsilon" if hasattr(layer, "epsilon") else "_epsilon"
        own = getattr(layer, name)

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer, name: str = name, own: float = own) -> None:
            set_attributes(stack, layer, **{name: own * 1.1})

        words = (rf"epsilon {own * 1.1:.6g}, reference {own:.6g}",)
        yield Fault("frozen-epsilon", path, plant, point=layer_point(path), words=words)


@kind("frozen-updated", "a frozen norm's running statistics follow the batches")
def frozen_updated(patient: Patient) -> Iterator[Fault]:
    """What it computes is right; the next evaluation is not."""
    for path, layer in frozen_norms(patient):

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            def wrong(own: Any, x: Any) -> Any:
                out = own(x)
                if layer.training:
                    with paddle.no_grad():
                        layer._mean.set_value(0.9 * layer._mean + 0.1 * x.mean(axis=[0, 2, 3]))
                return out

            wrap_forward(stack, layer, wrong)

        words = ("running_mean", "updated in training", "frozen")
        yield Fault("frozen-updated", path, plant, stages=("forward_train",), point=layer_point(path), words=words)


@kind("frozen-trainable", "the scale of a frozen norm is a parameter that is trained")
def frozen_trainable(patient: Patient) -> Iterator[Fault]:
    """Only the statistics were frozen."""
    for path, layer in frozen_norms(patient):
        if "weight" not in layer._buffers:
            continue

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            kept = dict(layer._buffers)
            stack.callback(layer._buffers.update, kept)
            stack.callback(layer._buffers.clear)  # before that: they keep their order
            own = layer._buffers.pop("weight")
            made = layer.create_parameter(own.shape, dtype=own.dtype)
            made.set_value(own)
            layer._parameters["weight"] = made
            stack.callback(layer._parameters.pop, "weight")

        words = (re.escape(f"{path}.weight"), "parameter|trained")
        stages = ("forward_train", "gradients")
        yield Fault("frozen-trainable", path, plant, stages=stages, point=layer_point(path), words=words)
