"""What the traces of a forward pass say by themselves: layers that run less often, statistics that move or stay."""

from __future__ import annotations

import numpy as np

from parity.compare import Finding
from parity.traces import Trace


def explain_missing(finding: Finding, traces: tuple[Trace, Trace]) -> str:
    """Why the output of a layer is missing: it runs less often, never, or not before a crash; "" if that is not it.

    Args:
        finding: the first divergence.
        traces: of the reference and of the port, under the port's names.
    """
    name = finding.point.partition("/")[2].partition("@")[0]
    if finding.verdict != "missing" or "/" in name:
        return ""
    theirs, ours = (sum(point.partition("@")[0] == name for point in trace.points) for trace in traces)
    if theirs == ours:
        return ""
    if "crash" in traces[1].meta:
        return f"the port raised before {name} had run {theirs} time{'s' * (theirs > 1)}"
    for count, trace, side in ((theirs, traces[0], "reference"), (ours, traces[1], "port")):
        if not count and name in trace.meta.get("leaves", {}):
            return f"the {side} has the layer {name}, but never runs it"
        if not count:
            return (
                f"the {side} has no layer {name}: it is called otherwise there (Rename), a function computes it"
                " (`ignored`), or it is forgotten"
            )
    return (
        f"{name} runs {ours} time{'s' * (ours > 1)} in the port, the reference's {theirs}: a loop or a branch differs"
    )


def explain_buffer(finding: Finding, initial: dict[str, np.ndarray], traces: tuple[Trace, Trace]) -> str:
    """Whether a running statistic moves on one side only, or is none on one side; "" if that is not it.

    Args:
        finding: the first divergence; its point is `buffer/<name>`.
        initial: the port's state before the pass, running statistics by torch's name.
        traces: of the reference and of the port, under the port's names.
    """
    point = finding.point.partition("/")[2]
    name = point.partition("/")[2]
    theirs, ours = (trace.points.get(point) for trace in traces)
    if ours is None and theirs is not None and name in initial:
        return (
            f"{name} is a buffer in the reference and a parameter in the port, which is trained there: the norm is"
            " frozen in the reference"
        )
    before = initial.get(name)
    if before is None or theirs is None or ours is None:
        return ""
    moved = [not np.array_equal(before, value) for value in (theirs, ours)]
    if moved == [False, True]:
        return f"{name} is updated in training by the port, not by the reference: there the norm is frozen"
    if moved == [True, False]:
        return f"{name} is updated in training by the reference, not by the port: there the norm is frozen"
    return _unbiased(name, before, theirs, ours) if name.endswith("running_var") else ""


def _unbiased(name: str, before: np.ndarray, theirs: np.ndarray, ours: np.ndarray) -> str:
    """Whether a running variance is what torch makes of it, not Paddle.

    Of b before, Paddle makes p = k b + (1-k) v and torch t = k b + (1-k) v n/(n-1) = r p - (r-1) k b with r = n/(n-1):
    a line through all channels, whose r gives a whole n.
    """
    if before.size < 3:
        return ""
    columns = np.stack([theirs, before], axis=1)
    factors = np.linalg.lstsq(columns, ours, rcond=None)[0]
    ratio, fitted = float(factors[0]), columns @ factors
    if ratio <= 1.0 + 1e-9 or np.abs(fitted - ours).max() > 1e-10 * np.abs(ours).max():
        return ""
    count, kept = ratio / (ratio - 1.0), -float(factors[1]) / (ratio - 1.0)
    if abs(count - round(count)) > 1e-3 or not 1e-6 < kept < 1.0:
        return ""
    return (
        f"{name} averages the unbiased variance of the batch, n/(n-1) times the biased with n = {round(count)}, as"
        " torch does; Paddle's batch norms average the biased one"
    )
