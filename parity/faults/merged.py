"""Mistakes with tensors that hold several layers' weights, such as those of q, k and v, or of the parts of a concat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import paddle
from paddle import nn

from parity.faults.carried import loading
from parity.faults.fault import Fault, Patient, kind, layer_point, wrap_forward


def _parts(channels: int) -> int:
    """Of how many equal parts this many channels are taken to consist: three, as q, k and v, or two."""
    return 3 if channels % 3 == 0 else 2 if channels % 2 == 0 else 0


def _rolled(kernel: np.ndarray, axis: int) -> np.ndarray:
    """The last part first."""
    return np.roll(kernel, kernel.shape[axis] // _parts(kernel.shape[axis]), axis)


def _carried(name: str, axis: int, channels: str) -> Any:
    def sites(patient: Patient) -> Iterator[Fault]:
        for path, layer in patient.layers(nn.Conv1D, nn.Conv2D, leaf=False):
            if _parts(layer.weight.shape[axis]):
                tensor = f"{path}.weight"
                edits = {tensor: lambda kernel: _rolled(kernel, axis)}
                yield loading(patient, name, tensor, edits, (f"{channels} channels", "another order"))

    return sites


kind("merged-outputs", "the parts of a fused weight are in another order")(_carried("merged-outputs", 0, "output"))
kind("merged-inputs", "a weight expects the parts of its concatenated input in another order")(
    _carried("merged-inputs", 1, "input")
)


@kind("merged-split", "the output of a fused layer is split in another order")
def merged_split(patient: Patient) -> Iterator[Fault]:
    """The weight is right, its use is not."""
    for path, layer in patient.layers(nn.Conv1D, nn.Conv2D):
        parts = _parts(layer.weight.shape[0])
        if not parts:
            continue

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer, parts: int = parts) -> None:
            def wrong(own: Any, x: Any) -> Any:
                out = own(x)
                return paddle.roll(out, out.shape[1] // parts, axis=1)

            wrap_forward(stack, layer, wrong)

        yield Fault("merged-split", path, plant, point=layer_point(path), words=("channels", "another order"))
