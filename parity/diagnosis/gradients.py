"""Why gradients differ although the forward pass and the losses agree: frozen, cut from the graph, or scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.compare import Finding
from parity.diagnosis import calls, values
from parity.traces import Trace


def explain(
    finding: Finding,
    reference: Any,
    port: Any,
    inputs: Sequence[np.ndarray],
    traces: tuple[Trace, Trace],
    renamed: Mapping[str, str],
) -> str:
    """The cause of the first divergence of a backward pass, in one sentence.

    Args:
        finding: the first divergence.
        reference: the torch side, loaded.
        port: the Paddle side, loaded.
        inputs: of the model.
        traces: of both sides' gradients, under the port's names.
        renamed: the reference's path of a layer -> the port's.
    """
    name = finding.point.partition("/")[2]
    theirs, ours = (trace.points.get(name) for trace in traces)
    if name.startswith("loss/"):
        return f"the losses of the model's own outputs differ at {name}, although those of given outputs agree"
    cut = _cut(reference, port, inputs, renamed)
    if finding.verdict == "gradient" and not name.startswith("input.") and not name.endswith(".output"):
        return _frozen(name, theirs, ours)
    if cut:
        return cut
    frozen = frozen_differently(traces)
    if ours is None or theirs is None or ours.size == 0 or theirs.size == 0:
        return frozen
    relation = values.relation(theirs, ours)
    if relation and not frozen:
        return _scaled(name, relation, traces)
    return frozen or _through(name, traces)


def _frozen(name: str, theirs: Any, ours: Any) -> str:
    frozen, trained = ("port", "reference") if ours is None or ours.size == 0 else ("reference", "port")
    return (
        f"{name} gets no gradient in the {frozen} and one in the {trained}: the {frozen} has frozen it"
        " (stop_gradient, requires_grad), or nothing reaches it there"
    )


def frozen_differently(traces: tuple[Trace, Trace]) -> str:
    """A sentence about parameters that only one side computes gradients of; "" if there are none."""
    theirs, ours = traces
    names = [n for n, v in theirs.points.items() if n in ours.points and v.any() != ours.points[n].any()]
    names = [name for name in names if not name.endswith(".output") and not name.startswith("input.")]
    if not names:
        return ""
    gone = [n for n in names if (theirs.points[n].size == 0) != (ours.points[n].size == 0)]
    names = gone or names
    frozen = "reference" if ours.points[names[0]].any() else "port"
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if not gone:  # of a frozen parameter, Paddle may keep the zeros to which it was cleared
        return (
            f"{shown}: a gradient of 0 in the {frozen} only, which has frozen some (stop_gradient, requires_grad)"
            " or passes it through what has no slope (such as round or a comparison)"
        )
    return f"{shown}: a gradient on one side only, so the {frozen} has frozen them (stop_gradient, requires_grad)"


def _cut(reference: Any, port: Any, inputs: Sequence[np.ndarray], renamed: Mapping[str, str]) -> str:
    """A layer whose input passes gradients on, on one side only."""
    ours = calls.of_port(port, inputs, train=True).attached
    theirs = calls.of_reference(reference, inputs, train=True).attached
    for path, attached in theirs.items():
        own = ours.get(renamed.get(path, path))
        if attached is not None and own is not None and attached != own:
            cut, kept = ("port", "reference") if attached else ("reference", "port")
            return (
                f"the input of {renamed.get(path, path)} is cut from the graph in the {cut} (detach, no_grad),"
                f" not in the {kept}: no gradient flows back through it"
            )
    return ""


def _scaled(name: str, relation: str, traces: tuple[Trace, Trace]) -> str:
    owner = name[: -len(".output")] if name.endswith(".output") else name.rpartition(".")[0]
    after = _last_agreeing(name, traces)
    flow = f"; that of {after}, which comes just before in the backward pass, agrees" if after else ""
    return f"the gradient at {name} {relation}: something scales it on its way to {owner}{flow}"


def _through(name: str, traces: tuple[Trace, Trace]) -> str:
    theirs, ours = (trace.points[name] for trace in traces)
    after = _last_agreeing(name, traces)
    missing = _missing_part(theirs - ours, traces[0])
    if missing:
        return f"the gradient at {name} lacks a part that is equal to {missing}: a branch that does not pass it on"
    if after:
        return (
            f"the gradient at {after} agrees and that at {name} does not, so the backward pass between them differs:"
            " a branch that passes on no gradient, or another formula; no cause found"
        )
    return ""


def _last_agreeing(name: str, traces: tuple[Trace, Trace]) -> str:
    agreeing = ""
    for other, value in traces[0].points.items():
        if other == name:
            return agreeing
        if other.endswith(".output") and other in traces[1].points and values.same(value, traces[1].points[other]):
            agreeing = other
    return agreeing


def _missing_part(part: np.ndarray, reference: Trace) -> str:
    for name, value in reference.points.items():
        if value.shape == part.shape and value.size and values.same(value, part):
            return f"the gradient at {name}"
    return ""
