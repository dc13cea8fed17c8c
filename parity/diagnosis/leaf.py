"""Why a layer computes something else of the same input: its settings, its weights, or its formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from parity import initial
from parity.diagnosis import values
from parity.diagnosis.values import short

_PADDLE = {
    "epsilon": lambda v: {"_epsilon": v, "epsilon": v},
    "momentum": lambda v: {"_momentum": 1.0 - v},
    "stride": lambda v: {"_stride": list(v), "stride": v},
    "padding": lambda v: {
        "_padding": list(v),
        "_updated_padding": list(v),
        "_padding_algorithm": "EXPLICIT",
        "padding": v,
    },
    "dilation": lambda v: {"_dilation": list(v)},
    "groups": lambda v: {"_groups": v, "_num_groups": v},
    "ceil_mode": lambda v: {"ceil_mode": v},
    "counts_padding": lambda v: {"exclusive": not v},
}


def attribute_differences(reference: Mapping[str, Any], port: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Setting -> (the port's, the reference's) where they differ."""
    differences = {}
    for key, expected in reference.items():
        if key in port and not (key == "counts_padding" and not any(reference["padding"])):  # there is none to count
            actual = port[key]
            numbers = isinstance(expected, float) and isinstance(actual, (int, float))
            if expected != actual and not (numbers and abs(expected - actual) <= 1e-7 * abs(expected)):
                differences[key] = (actual, expected)
    return differences


def shown(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """As "epsilon 0.001, reference 1e-05; ..."."""
    return "; ".join(f"{key} {short(own)}, reference {short(other)}" for key, (own, other) in differences.items())


class Leaf:
    """One leaf layer on both sides, and what the reference's received.

    Args:
        reference: the torch side, loaded.
        port: the Paddle side, loaded.
        paths: of the layer in the reference, and in the port.
        inputs: of the model.
        train: in training mode.
    """

    def __init__(
        self, reference: Any, port: Any, paths: tuple[str, str], inputs: Sequence[np.ndarray], *, train: bool
    ) -> None:
        self.reference, self.port, self.train = reference, port, train
        self.theirs, self.path = paths
        self.settings = attribute_differences(reference.attributes(self.theirs), port.attributes(self.path))
        self.received = reference.leaf_inputs(self.theirs, inputs, train=train)
        self.expected = reference.replay(self.theirs, self.received, train=train) if self.received else None
        self.held = dict(self._own_tensors())  # before anything runs: in training a norm's statistics move
        self.actual: np.ndarray | None = None
        self.crash = ""
        if self.received:
            self.actual, self.crash = self._replay()

    @property
    def agrees(self) -> bool:
        """Whether the port's layer makes the same of the reference's input."""
        return self.actual is not None and values.same(self.expected, self.actual)

    @property
    def error(self) -> float:
        """By how much it does not."""
        return np.inf if self.actual is None else values.error(self.expected, self.actual)

    def _replay(self) -> tuple[np.ndarray | None, str]:
        try:
            return self.port.replay(self.path, self.received, train=self.train), ""
        except Exception as error:
            return None, raised(error)

    @property
    def layer(self) -> Any:
        """The port's layer."""
        return self.port.layer(self.path)

    def explain(self, held: Mapping[str, np.ndarray]) -> str:
        """The cause, as a sentence; "" if the layer agrees.

        Args:
            held: the port's tensors by name, as they should be.
        """
        if self.settings and ("momentum" in self.settings or not self.agrees):
            return f"{self.path} is set differently: {shown(self.settings)}{self._in_paddle()}{self._with_theirs()}"
        if not self.received:
            return ""
        if self.agrees:
            return ""
        if self.crash:
            return f"on the reference's input, {self.path} raises {self.crash}"
        return self._weights(held) or self._statistics() or self._formula()

    def _in_paddle(self) -> str:
        """What to write in the port, where Paddle's number is another than torch's."""
        if "momentum" not in self.settings:
            return ""
        own, other = self.settings["momentum"]
        copied = ", which was copied" if abs(own + other - 1.0) <= 1e-6 and own != other else ""
        return f" (Paddle's momentum is 1 minus torch's: {short(1.0 - own)}{copied}, and {short(1.0 - other)} is right)"

    def _with_theirs(self) -> str:
        if not self.received:
            return ""
        with ExitStack() as stack:
            for key, (_, expected) in self.settings.items():
                named = _PADDLE[key](expected) if key in _PADDLE else {key: expected, f"_{key}": expected}
                _set(stack, self.layer, named)
            replayed, _ = self._replay()
        if replayed is None:
            return ""
        after = values.error(self.expected, replayed)
        if self.actual is None or self.actual.shape != self.expected.shape:
            return f"; with the reference's, the layer agrees to {after:.0e}" if after <= values.CLOSE else ""
        names = " and ".join(f"{key} {short(expected)}" for key, (_, expected) in self.settings.items())
        if self.error == after:
            return ""  # the setting does not show in this pass
        return f"; with {names}, {values.falls(self.error, after)}"

    def _weights(self, held: Mapping[str, np.ndarray]) -> str:
        for name, parameter in self.held.items():
            expected = held.get(f"{self.path}.{name}")
            if expected is None or np.array_equal(expected, parameter):
                continue
            return f"{self.path}: its {said(name)} {origin(parameter, f'{self.path}.{name}', held)}"
        return ""

    def _own_tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        for holder in (self.layer._parameters, self.layer._buffers):
            for name, tensor in holder.items():
                if tensor is not None:
                    yield name, tensor.numpy()

    def _statistics(self) -> str:
        layer = self.layer
        bias = getattr(layer, "bias", None)
        if not self.train or bias is None or not (hasattr(layer, "_mean") or hasattr(layer, "running_mean")):
            return ""
        ours, theirs = (_by_batch(output, bias.numpy()) for output in (self.actual, self.expected))
        if ours == theirs:
            return ""
        names = {True: "the statistics of the batch", False: "its running statistics"}
        return (
            f"{self.path} normalises with {names[ours]} in training, the reference with {names[theirs]}:"
            " one of them is frozen (use_global_stats)"
        )

    def _formula(self) -> str:
        x, expected, actual = self.received[0], self.expected, self.actual
        ours, theirs = values.function_between(x, actual), values.function_between(x, expected)
        if ours:
            return f"{self.path}: the port computes {ours} of its input, the reference {theirs or 'another function'}"
        relation = values.relation(expected, actual)
        if relation:
            return f"{self.path} gets the reference's input, and what it returns {relation}"
        if theirs:
            return f"{self.path}: the port computes another function of its input, the reference {theirs}"
        changed = self._other_kernel()
        if changed:
            return f"{self.path} agrees ({values.falls(self.error, changed[1])}) when its kernel is {changed[0]}"
        return f"{self.path} differs on the reference's own input by {self.error:.1e}: its formula; no cause found"

    def _other_kernel(self) -> tuple[str, float] | None:
        weight = getattr(self.layer, "weight", None)
        if weight is None or weight.ndim < 2:
            return None
        own = weight.numpy()
        for text, changed in kernels(own):
            weight.set_value(np.ascontiguousarray(changed))
            replayed, _ = self._replay()
            weight.set_value(own)
            if replayed is not None and values.same(self.expected, replayed):
                return text, values.error(self.expected, replayed)
        return None


def raised(error: Exception) -> str:
    """An exception in one line."""
    lines = [line for line in str(error).splitlines() if line.strip(" -")]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def kernels(own: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What can be done to a kernel without changing its shape."""
    if own.ndim == 4 and own.shape[2] == own.shape[3] > 1:
        yield "transposed (height and width exchanged)", np.swapaxes(own, 2, 3)
    if own.shape[0] == own.shape[1] > 1:
        yield "transposed (its channels exchanged)", np.swapaxes(own, 0, 1)
    if own.ndim == 4 and max(own.shape[2:]) > 1:
        yield "mirrored (convolution for correlation)", own[..., ::-1, ::-1]
    for axis, channels in ((0, "output"), (1, "input")) if own.ndim > 1 else ():
        for parts in (2, 3):
            if own.shape[axis] % parts == 0:
                for turns in range(1, parts):
                    text = f"another, with its {channels} channels in another order: {parts} parts, moved by {turns}"
                    yield text, np.roll(own, turns * own.shape[axis] // parts, axis)


def origin(value: np.ndarray, name: str, held: Mapping[str, np.ndarray]) -> str:
    """Where a tensor that is not what it should be comes from, as a clause."""
    expected = held.get(name)
    for other, tensor in held.items():
        if other != name and tensor.shape == value.shape and np.array_equal(tensor, value):
            return f"is that of {other}"
    if expected is not None:
        for text, changed in kernels(expected) if expected.ndim >= 2 else ():
            if np.array_equal(changed, value):
                return f"is {text}"
        if value.size > 1 and np.ptp(value) == 0:
            return f"is {value.ravel()[0]:.6g} everywhere: its initial value, as if it were never loaded"
        drawn, carried = (initial.rule_of(tensor) for tensor in (value, expected))
        if drawn and drawn != carried:
            return f"looks drawn ({drawn}): it was initialised after loading, or never loaded"
    return "is not the one that was carried over, and no other tensor's"


def said(name: str) -> str:
    """A tensor's name in torch's words."""
    return {"_mean": "running_mean", "_variance": "running_var"}.get(name, name)


def _by_batch(output: np.ndarray, bias: np.ndarray) -> bool:
    """Whether it has been normalised by the statistics of the batch: then each channel's mean is the bias."""
    axes = tuple(axis for axis in range(output.ndim) if axis != 1)
    return bool(np.allclose(output.mean(axis=axes), bias, rtol=0, atol=1e-8 * (1.0 + np.abs(bias).max())))


def _set(stack: ExitStack, layer: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if name in layer.__dict__:
            stack.callback(setattr, layer, name, layer.__dict__[name])
            setattr(layer, name, value)
