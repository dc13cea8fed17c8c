"""Mistakes in where training starts: values drawn from other distributions than the original's.

The port's constructor is not run again: what a tensor would have started from is drawn here, and its digest takes the
place of the tensor's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Callable

import numpy as np

from parity.faults.fault import Fault, Patient, kind
from parity.initial import Start, fans
from parity.traces import digested

LEAST = 256  # elements; of fewer, chance hides more
Drawn = Callable[[np.random.RandomState, Start], "np.ndarray | None"]  # None where it would be the tensor's own


def _sites(patient: Patient, name: str, drawn: Drawn, words: tuple[str, ...]) -> Iterator[Fault]:
    """A fault at every tensor whose values would be half as large again, or two thirds, or no constant any more."""
    own = patient.port.initial() if patient.reaches("initial") else {}
    for tensor in (tensor for tensor in patient.parameters() if tensor in own):
        start = Start.of(own[tensor])
        values = drawn(np.random.RandomState(0), start) if start.size >= LEAST else None
        if values is None or (values.std() and start.rms and abs(math.log(values.std() / start.rms)) < math.log(1.5)):
            continue

        values = values.astype(np.float32)

        def plant(patient: Patient, stack: ExitStack, tensor: str = tensor, values: np.ndarray = values) -> None:
            initial = patient.port.initial()
            stack.callback(initial.__setitem__, tensor, initial[tensor])
            initial[tensor] = digested(values)

        path, _, attribute = tensor.rpartition(".")
        told = (rf"\b{attribute} of {re.escape(path)}: .*; reference ", *words)
        yield Fault(name, tensor, plant, begins="initial", point=re.escape(tensor), words=told)


@kind("initial-default", "a convolution keeps Paddle's default initial weight")
def initial_default(patient: Patient) -> Iterator[Fault]:
    """Normal of deviation sqrt(2 / fan_in), where upstream's is another."""

    def drawn(random: np.random.RandomState, own: Start) -> np.ndarray | None:
        if len(own.shape) != 4:
            return None
        return random.normal(scale=math.sqrt(2.0 / fans(own.shape)[0]), size=own.shape)

    yield from _sites(patient, "initial-default", drawn, (r"Kaiming normal of fan_(in|out)|normal|drawn",))


@kind("initial-fan", "a weight is drawn for its fan_out instead of its fan_in, or the other way round")
def initial_fan(patient: Patient) -> Iterator[Fault]:
    """`fan_out` is torch's option, `fan_in` the default."""

    def drawn(random: np.random.RandomState, own: Start) -> np.ndarray | None:
        if len(own.shape) < 2 or own.constant or own.kind not in ("", "normal", "uniform"):
            return None
        fan_in, fan_out = fans(own.shape)
        deviation = own.rms * max(math.sqrt(fan_in / fan_out), math.sqrt(fan_out / fan_in))
        if own.kind == "uniform":
            return random.uniform(-math.sqrt(3.0) * deviation, math.sqrt(3.0) * deviation, own.shape)
        return random.normal(scale=deviation, size=own.shape)

    yield from _sites(patient, "initial-fan", drawn, (r"fan_|deviation|within",))


@kind("initial-bias", "a bias starts at zero instead of drawn, or drawn instead of at zero")
def initial_bias(patient: Patient) -> Iterator[Fault]:
    """Paddle's biases start at zero, torch's do not."""

    def drawn(random: np.random.RandomState, own: Start) -> np.ndarray | None:
        if len(own.shape) != 1 or own.size < 2 or (own.constant and own.samples[0] != 0.0):
            return None
        return random.uniform(-0.05, 0.05, own.shape) if own.constant else np.zeros(own.shape)

    yield from _sites(patient, "initial-bias", drawn, (r"all 0",))


@kind("initial-scale", "the scale of a norm starts at zero")
def initial_scale(patient: Patient) -> Iterator[Fault]:
    """The last norm of a residual block, as some recipes have it."""

    def drawn(random: np.random.RandomState, own: Start) -> np.ndarray | None:
        return np.zeros(own.shape) if len(own.shape) == 1 and own.constant and own.samples[0] == 1.0 else None

    yield from _sites(patient, "initial-scale", drawn, (r"all 0; reference all 1",))
