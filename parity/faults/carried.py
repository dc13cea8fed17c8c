"""Mistakes in carrying the weights over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Callable

import numpy as np
from paddle import nn

from parity.faults.fault import Fault, Patient, exchange_keys, kind, layer_point, transposed, wrap_forward
from parity.faults.layers import BATCH_NORMS


def loading(
    patient: Patient, name: str, site: str, edits: Mapping[str, Callable[[Any], Any]], words: tuple[str, ...]
) -> Fault:
    """Values that are changed while they are loaded; the state dict tells the truth, so that reading it back shows it.

    Args:
        patient: whose port it is.
        name: of the kind.
        site: where it is made.
        edits: tensor of the port -> what becomes of its value; under all names that it has.
        words: as in `Fault`.
    """
    edit = {alias: change for tensor, change in edits.items() for alias in patient.aliases(tensor)}

    def plant(patient: Patient, stack: ExitStack) -> None:
        own = patient.port.load

        def load(state: Mapping[str, Any]) -> None:
            own({key: edit[key](value) if key in edit else value for key, value in state.items()})

        patient.port.load = load
        stack.callback(patient.port.__dict__.pop, "load")

    names = [move.reference for move in patient.bench.plan.moves if move.port in edit]
    point = f"({'|'.join(re.escape(reference) for reference in names)})"
    return Fault(name, site, plant, begins="weights", point=point, words=words)


@kind("weights-exchanged", "two weights of one shape are exchanged")
def weights_exchanged(patient: Patient) -> Iterator[Fault]:
    """As loading by the order of definition does; the state dict itself hands them out wrongly."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for path, layer in patient.layers(nn.Conv2D, nn.Linear, leaf=False):
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
    for path, layer in patient.layers(nn.Conv2D, nn.Linear, leaf=False):
        by_shape.setdefault(tuple(layer.weight.shape), []).append(f"{path}.weight")
    for names in by_shape.values():
        for one, other in zip(names, names[1:]):
            words = (r"Rename\(", re.escape(one.rpartition(".")[0].rpartition(".")[2]))
            yield _exchanged(patient, one, other, words)


def _exchanged(patient: Patient, one: str, other: str, words: tuple[str, ...]) -> Fault:
    state = patient.bench.plan.forward(patient.bench.initial)
    edits = {one: lambda _, value=state[other]: value, other: lambda _, value=state[one]: value}
    return loading(patient, "weights-loaded-by-order", f"{one}, {other}", edits, words)


@kind("weight-transposed", "a square weight is transposed")
def weight_transposed(patient: Patient) -> Iterator[Fault]:
    """No shape complains."""
    for path, layer in patient.layers(nn.Conv2D, nn.Linear, leaf=False):
        shape = tuple(layer.weight.shape)
        if shape[0] == shape[1] and shape[0] > 1:
            name = f"{path}.weight"
            yield loading(patient, "weight-transposed", name, {name: transposed}, ("transpose",))


@kind("kernel-flipped", "a kernel is mirrored: convolution for correlation")
def kernel_flipped(patient: Patient) -> Iterator[Fault]:
    """Height and width reversed."""
    for path, layer in patient.layers(nn.Conv2D, leaf=False):
        if max(layer._kernel_size) > 1:
            name = f"{path}.weight"
            edits = {name: lambda kernel: kernel[..., ::-1, ::-1].copy()}
            yield loading(patient, "kernel-flipped", name, edits, ("mirrored",))


@kind("statistics-not-loaded", "running statistics are not carried over")
def statistics_not_loaded(patient: Patient) -> Iterator[Fault]:
    """They stay 0 and 1; Paddle only warns."""
    for path, _ in patient.layers(BATCH_NORMS):
        edits = {f"{path}._mean": np.zeros_like, f"{path}._variance": np.ones_like}
        words = (r"initial value|never loaded|not loaded",)
        yield loading(patient, "statistics-not-loaded", f"{path}._mean", edits, words)


@kind("init-after-loading", "weights are initialised after they were loaded")
def init_after_loading(patient: Patient) -> Iterator[Fault]:
    """`init_weight()` at the end of a constructor's work, or once more."""
    state = patient.bench.plan.forward(patient.bench.initial)
    tensors = [f"{path}.weight" for path, _ in patient.layers(nn.Conv2D, nn.Linear, leaf=False)]

    def edit(value: np.ndarray) -> np.ndarray:
        return np.random.RandomState(0).normal(scale=0.02, size=value.shape).astype(value.dtype)

    edits = {tensor: edit for tensor in tensors if tensor in state}
    if edits:
        words = (r"initial value|initialised|drawn anew|never loaded|not loaded",)
        yield loading(patient, "init-after-loading", f"{len(edits)} weights", edits, words)


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
