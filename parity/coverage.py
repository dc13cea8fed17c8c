"""What a run never compared: "not checked" is never green."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.traces import Trace


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
