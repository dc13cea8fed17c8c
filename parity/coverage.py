"""What a run never compared: "not checked" is never green."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.diagnosis.leaf import attribute_differences, shown
from parity.traces import Trace
from parity.weights import rename_module


def measure(
    traces: Mapping[tuple[str, str], Trace], shapes: Mapping[str, Sequence[int]], stages: Sequence[str]
) -> dict[str, Any]:
    """Counts and names what the reference has and the run did not exercise.

    Args:
        traces: (side, stage) -> trace.
        shapes: the reference's state dict.
        stages: that ran.

    Returns:
        `leaves` and `leaves_never_run`; `relus` and `relus_one_sided` (outputs that were never zero, or always);
        `parameters_without_gradient`. Lists are of the reference's names.
    """
    report: dict[str, Any] = {"tensors": len(shapes)}
    forward = traces.get(("reference", "forward")) or traces.get(("reference", "forward_train"))
    if forward is not None and "leaves" in forward.meta:
        leaves = forward.meta["leaves"]
        ran = {name.partition("@")[0] for name in forward.points}
        report["leaves"] = len(leaves)
        report["leaves_never_run"] = [path for path in leaves if path not in ran]
        relus = [path for path, kind in leaves.items() if kind == "ReLU" and path in ran]
        report["relus"] = len(relus)
        report["relus_one_sided"] = [
            path for path in relus if (forward.points[path] > 0).all() or not (forward.points[path] > 0).any()
        ]
    gradients = traces.get(("reference", "gradients"))
    if gradients is not None and "gradients" in stages:
        report["parameters_without_gradient"] = [
            name for name, value in gradients.points.items() if value.size == 0 and not name.startswith("input.")
        ]
    return report


ACTIVATIONS = (
    "relu relu6 leakyrelu elu celu selu gelu silu swish mish hardswish hardsigmoid hardtanh sigmoid tanh softplus"
    " softsign softmax logsigmoid prelu identity"
).split()
"""Layers that may compute the same of all that a run gives them, by the names of both frameworks in small letters."""


def set_differently(reference: Any, port: Any, rules: Sequence[Any]) -> list[str]:
    """Layers with other settings than the reference's, as "path: setting port, reference other", or other activations.

    Some of them no number shows in this run: of a layer that never ran, or that matters at another size only.

    Args:
        reference: the torch side.
        port: the Paddle side.
        rules: of the case.
    """
    own, found = port.module_types(), []
    for theirs, kind in reference.module_types().items():
        path = rename_module(theirs, rules)
        if path in own:
            if _is_other_activation(kind, own[path]):
                found.append(f"{path}: {own[path]}, reference {kind}")
            try:
                settings = attribute_differences(reference.attributes(theirs), port.attributes(path))
            except Exception as error:  # the verdict stands without it
                settings = {}
                found.append(f"{path}: its settings cannot be read: {type(error).__name__}: {error}")
            found += [f"{path}: {shown(settings)}"] if settings else []
    return found


def _is_other_activation(one: str, other: str) -> bool:
    names = [{"swish": "silu"}.get(name.lower(), name.lower()) for name in (one, other)]
    return names[0] != names[1] and all(name in ACTIVATIONS for name in names)
