"""Mistakes in carrying the weights over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Callable

import numpy as np
from paddle import nn

from parity.faults.fault import Fault, Patient, exchange_keys, kind, layer_point, transposed, wrap_forward
from parity.faults.layers import BATCH_NORMS


def _loading(name: str, site: str, change: Any, words: tuple[str, ...]) -> Fault:
    """Values that are changed while they are loaded."""

    def plant(patient: Patient, stack: ExitStack) -> None:
        own = patient.port.load
        patient.port.load = lambda state: own(change(state))
        stack.callback(patient.port.__dict__.pop, "load")

    tensor = re.escape(site.partition(",")[0])
    return Fault(name, site, plant, begins="weights", point=rf"({tensor}|.*)", words=words)


def _each(names: Sequence[str], edit: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Edits the tensors with these names."""
    return lambda state: {name: edit(value) if name in names else value for name, value in state.items()}


@kind("weights-exchanged", "two weights of one shape are exchanged")
def weights_exchanged(patient: Patient) -> Iterator[Fault]:
    """As loading by the order of definition does; the state dict itself hands them out wrongly."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for path, layer in patient.layers(nn.Conv2D, nn.Linear):
        by_shape.setdefault(tuple(layer.weight.shape), []).append(path)
    for paths in by_shape.values():
        for one, other in zip(paths, paths[1:]):

            def plant(patient: Patient, stack: ExitStack, one: str = one, other: str = other) -> None:
                exchange_keys(stack, patient, f"{one}.weight", f"{other}.weight")

            words = ("weight", f"that of .*({re.escape(one)}|{re.escape(other)})")
            point = f"({layer_point(one)}|{layer_point(other)})"
            yield Fault("weights-exchanged", f"{one}, {other}", plant, point=point, words=words)


@kind("weights-loaded-by-order", "two tensors of one shape are loaded into each other's place")
def weights_loaded_by_order(patient: Patient) -> Iterator[Fault]:
    """The state dict tells the truth, so that reading it back shows it."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for path, layer in patient.layers(nn.Conv2D, nn.Linear):
        by_shape.setdefault(tuple(layer.weight.shape), []).append(f"{path}.weight")
    for names in by_shape.values():
        for one, other in zip(names, names[1:]):
            ones, others = patient.aliases(one), patient.aliases(other)

            def change(state: Mapping[str, Any], ones: Any = ones, others: Any = others) -> Mapping[str, Any]:
                exchanged = {**dict.fromkeys(ones, state[others[0]]), **dict.fromkeys(others, state[ones[0]])}
                return {**state, **exchanged}

            words = (r"Rename\(", re.escape(one.rpartition(".")[0].rpartition(".")[2]))
            yield _loading("weights-loaded-by-order", f"{one}, {other}", change, words)


@kind("weight-transposed", "a square weight is transposed")
def weight_transposed(patient: Patient) -> Iterator[Fault]:
    """No shape complains."""
    for path, layer in patient.layers(nn.Conv2D, nn.Linear):
        shape = tuple(layer.weight.shape)
        if shape[0] == shape[1] and shape[0] > 1:
            name = f"{path}.weight"
            yield _loading("weight-transposed", name, _each(patient.aliases(name), transposed), ("transpose",))


@kind("kernel-flipped", "a kernel is mirrored: convolution for correlation")
def kernel_flipped(patient: Patient) -> Iterator[Fault]:
    """Height and width reversed."""
    for path, layer in patient.layers(nn.Conv2D):
        if max(layer._kernel_size) > 1:
            name = f"{path}.weight"
            change = _each(patient.aliases(name), lambda kernel: kernel[..., ::-1, ::-1].copy())
            yield _loading("kernel-flipped", name, change, ("mirrored",))


@kind("statistics-not-loaded", "running statistics are not carried over")
def statistics_not_loaded(patient: Patient) -> Iterator[Fault]:
    """They stay 0 and 1; Paddle only warns."""
    for path, _ in patient.layers(BATCH_NORMS):
        means, variances = patient.aliases(f"{path}._mean"), patient.aliases(f"{path}._variance")

        def change(state: Mapping[str, Any], means: Any = means, variances: Any = variances) -> Mapping[str, Any]:
            return _each(variances, np.ones_like)(_each(means, np.zeros_like)(state))

        yield _loading("statistics-not-loaded", f"{path}._mean", change, (r"initial value|never loaded|not loaded",))


@kind("statistics-exchanged", "a norm's running mean and variance are exchanged")
def statistics_exchanged(patient: Patient) -> Iterator[Fault]:
    """Both have the same shape."""
    for path, _ in patient.layers(BATCH_NORMS):

        def plant(patient: Patient, stack: ExitStack, path: str = path) -> None:
            exchange_keys(stack, patient, f"{path}._mean", f"{path}._variance")

        words = ("running_mean|running_var", "that of")
        yield Fault("statistics-exchanged", path, plant, point=layer_point(path), words=words)


@kind("kernel-transposed", "a layer uses its square kernel transposed")
def kernel_transposed(patient: Patient) -> Iterator[Fault]:
    """The state is right, the use is wrong."""
    import paddle
    import paddle.nn.functional as F

    for path, layer in patient.layers(nn.Conv2D):
        shape = tuple(layer.weight.shape)
        if shape[2] == shape[3] > 1:

            def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
                def wrong(own: Any, x: Any) -> Any:
                    weight = paddle.transpose(layer.weight, [0, 1, 3, 2])
                    stride, padding, dilation = layer._stride, layer._padding, layer._dilation
                    return F.conv2d(x, weight, layer.bias, stride, padding, dilation, layer._groups)

                wrap_forward(stack, layer, wrong)

            words = ("transposed",)
            yield Fault("kernel-transposed", path, plant, point=layer_point(path), words=words)
