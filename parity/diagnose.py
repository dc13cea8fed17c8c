"""Why a point diverges: the layer itself, or what it was fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.compare import Finding, compare_point
from parity.weights import rename_module


def explain(
    finding: Finding,
    reference: Any,
    port: Any,
    inputs: Sequence[np.ndarray],
    rules: Sequence[Any],
    *,
    train: bool,
) -> str:
    """The cause of a first divergence among module outputs, in one sentence; it says so when it finds none.

    The two layers' settings are compared, and the port's layer is run on what the reference's layer received: that
    separates a layer that is wrong from one that inherits an error.

    Args:
        finding: the first divergence.
        reference: the torch side, loaded.
        port: the Paddle side, loaded.
        inputs: of the model.
        rules: of the case.
        train: whether the stage runs in training mode.
    """
    name = finding.point.partition("/")[2].partition("@")[0]
    if name.startswith(("buffer/", "dropout/")):
        name = name.partition("/")[2]
    leaves = {rename_module(path, rules): path for path in reference.module_types()}
    path = next((p for p in _enclosing(name) if p in leaves and p in port.module_types()), None)
    if path is None:
        return f"every layer before it agrees, so the code that computes {name} from them differs"
    settings = attribute_differences(reference.attributes(leaves[path]), port.attributes(path))
    if settings:
        return f"{path} is set differently: {settings}"
    if path != name:
        return f"the settings of {path} agree"
    received = reference.leaf_inputs(leaves[path], inputs, train=train)
    if not received:
        return ""
    expected = reference.replay(leaves[path], received, train=train)
    try:
        replayed = compare_point(name, expected, port.replay(path, received, train=train), "float64")
    except Exception as error:
        return f"on the reference's input, the port's layer raises {type(error).__name__}: {_first_line(error)}"
    if replayed.passed:
        return f"{path} itself agrees on the reference's input, so what feeds it differs (code between layers)"
    return f"{path} differs on the reference's own input ({replayed.text}): its weights or its formula"


_OF_A_STEP = {
    "loss": "the state before this step agrees, so a running value that no other point shows differs",
    "learning_rate": "the losses agree, so the schedule, where it starts, or a parameter group's factor differs",
    "optimizer": "losses and rates agree, so weight decay, clipping, momentum, or the group they apply to differs",
    "update": "rates and accumulators agree, so the update rule differs, or only one side trains this parameter",
    "buffer": "the updates agree, so the momentum of the running statistics differs",
    "schedule": "the steps taken agree, so the schedule differs at other iterations",
}


def explain_step(finding: Finding) -> str:
    """What can cause a first divergence in training, by what agrees before it; "" if nothing is known.

    Args:
        finding: its point is `step/<number>/<kind>/<name>` or `step/schedule/<iteration>`.
    """
    kinds = finding.point.split("/")[1:3]
    return next((text for kind, text in _OF_A_STEP.items() if kind in kinds), "")


def attribute_differences(reference: Mapping[str, Any], port: Mapping[str, Any]) -> str:
    """Settings of two layers that differ, as "epsilon 0.001, reference 1e-05"; "" if none."""
    differences = []
    for key in reference:
        if key not in port:
            continue
        a, b = reference[key], port[key]
        equal = abs(a - b) <= 1e-7 * abs(a) if isinstance(a, float) else a == b
        if not equal:
            differences.append(f"{key} {_short(b)}, reference {_short(a)}")
    return "; ".join(differences)


def _enclosing(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else ""
