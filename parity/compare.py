"""Compares two traces, point by point; the maximum decides, never the mean. Numpy only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from parity import policy
from parity.traces import Trace


@dataclass(frozen=True)
class Finding:
    """What comparing one point showed.

    Attributes:
        point: its name, as in the port.
        verdict: "pass", "fail" (values), "missing" (on one side), "shape", "kind" (float against integer),
            "nonfinite" (NaN or Inf on one side) or "gradient" (one side has none).
        error: largest difference over rms(reference); for a "sum", over what 1e-9 of would be its limit; inf where
            it cannot be computed.
        limit: what `error` may be.
        text: where the worst element is and both values, or what is wrong; of a point that agrees, how many elements
            are NaN or infinite on both sides.
    """

    point: str
    verdict: str
    error: float = 0.0
    limit: float = 0.0
    text: str = ""

    @property
    def passed(self) -> bool:
        """Whether the point agrees."""
        return self.verdict == "pass"


@dataclass
class StageResult:
    """All findings of one stage, in the reference's order of execution.

    Attributes:
        stage: its name.
        findings: one per compared point.
        reason: why the stage did not run, or "".
        crash: "side: message" if one raised, or "".
        cause: what the diagnosis found for the first divergence, or "".
        numerics: the float32 report: `{ratio, point, worst}` or {}.
        seconds: it took.
    """

    stage: str
    findings: list[Finding] = field(default_factory=list)
    reason: str = ""
    crash: str = ""
    cause: str = ""
    numerics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """True if it ran, compared something, and every point agrees."""
        return not self.reason and not self.crash and bool(self.findings) and all(f.passed for f in self.findings)

    @property
    def first(self) -> Finding | None:
        """The first point that does not agree."""
        return next((finding for finding in self.findings if not finding.passed), None)

    @property
    def worst(self) -> float:
        """The largest relative difference."""
        return max((finding.error for finding in self.findings), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        first = self.first
        return {
            "stage": self.stage,
            "passed": self.passed,
            "reason": self.reason,
            "crash": self.crash,
            "points": len(self.findings),
            "differing": sum(not f.passed for f in self.findings),
            "worst": _json_number(self.worst),
            "first": None if first is None else {**asdict(first), "error": _json_number(first.error)},
            "cause": self.cause,
            "numerics": self.numerics,
            "seconds": round(self.seconds, 2),
        }


def compare(
    reference: Trace,
    port: Trace,
    *,
    stage: str,
    ignored: Sequence[tuple[str, str]] = (),
    kind: str | None = None,
) -> list[Finding]:
    """Compares every point of two traces.

    A leaf module's output, a loss term, a gradient or an output has to be on both sides; the output of a container is
    compared where both have it.

    Args:
        reference: decides the order.
        port: the other side.
        stage: prefix of the points in the findings, and of what `ignored` is matched against.
        ignored: (regular expression, reason) of points that may be on one side only.
        kind: class of all points; by default "sum" for those that the reference gives a scale, else "float64".
    """

    def skipped(name: str) -> bool:
        return any(re.search(pattern, f"{stage}/{name}") for pattern, _ in ignored)

    findings = []
    reached_end = "crash" not in port.meta
    for name, expected in reference.points.items():
        if name in port.points:
            scale = reference.meta.get("scales", {}).get(name, 0.0)
            own = "sum" if np.any(scale) else "float64"
            findings.append(compare_point(f"{stage}/{name}", expected, port.points[name], kind or own, scale))
        elif not _optional(name, reference) and not skipped(name):
            text = "the port has no such point; add a Rename if only its name differs, or list it in `ignored`"
            if not reached_end:
                text = f"the port crashed before: {port.meta['crash']}"
            findings.append(Finding(f"{stage}/{name}", "missing", np.inf, 0.0, text))
            if not reached_end:
                break
    for name in port.points:
        if name not in reference.points and not _optional(name, port) and not skipped(name):
            findings.append(Finding(f"{stage}/{name}", "missing", np.inf, 0.0, "the reference has no such point"))
    return findings


def compare_point(
    point: str, expected: np.ndarray, actual: np.ndarray, kind: str, scale: float | np.ndarray = 0.0
) -> Finding:
    """Compares two arrays.

    Args:
        point: name for the finding.
        expected: of the reference.
        actual: of the port.
        kind: class of `policy`.
        scale: passed on to `policy.limit`.
    """
    expected, actual = np.asarray(expected), np.asarray(actual)
    if expected.shape != actual.shape:
        if expected.shape == (0,) or actual.shape == (0,):
            side = "reference" if expected.shape == (0,) else "port"
            return Finding(point, "gradient", np.inf, 0.0, f"the {side} computes no gradient here")
        return Finding(point, "shape", np.inf, 0.0, f"shape {actual.shape}; reference {expected.shape}")
    if (expected.dtype.kind == "f") != (actual.dtype.kind == "f"):
        return Finding(point, "kind", np.inf, 0.0, f"dtype {actual.dtype}; reference {expected.dtype}")
    if expected.size == 0:
        return Finding(point, "pass")
    if expected.dtype.kind != "f" or kind == "discrete":
        return _compare_discrete(point, expected, actual)
    return _compare_float(point, np.asarray(expected, np.float64), np.asarray(actual, np.float64), kind, scale)


def _compare_discrete(point: str, expected: np.ndarray, actual: np.ndarray) -> Finding:
    different = expected != actual
    count = int(different.sum())
    if not count:
        return Finding(point, "pass")
    index = np.unravel_index(int(np.argmax(different)), different.shape)
    text = f"{count} of {expected.size} differ, first at {_index(index)}: "
    text += f"reference {expected[index]}, port {actual[index]}"
    error = count / expected.size
    return Finding(point, "fail", error, 0.0, text)


def _compare_float(
    point: str, expected: np.ndarray, actual: np.ndarray, kind: str, scale: float | np.ndarray
) -> Finding:
    finite, remark = np.isfinite(expected), ""
    if not (finite.all() and np.isfinite(actual).all()):
        unlike = _not_finite_alike(point, expected, actual)
        if unlike is not None:
            return unlike
        remark = f"{finite.size - int(finite.sum())} of {finite.size} are NaN or infinite on both sides"
        if expected.size > 1 and not finite.any():
            return Finding(point, "nonfinite", np.inf, 0.0, f"{remark}: nothing can be compared; use other inputs")
        expected, actual = np.where(finite, expected, 0.0), np.where(finite, actual, 0.0)
    with np.errstate(over="ignore"):
        difference = np.abs(actual - expected)
    rms = _rms(expected)
    bound = policy.limit(kind, rms=rms, scale=scale)
    index = _worst(difference, bound)
    largest, bound = float(difference[index]), float(np.broadcast_to(bound, difference.shape)[index])
    unit = bound / policy.RELATIVE if kind == "sum" else rms
    error = largest / unit if unit > 0 else (0.0 if largest == 0 else np.inf)
    relative_bound = policy.RELATIVE if unit > 0 else 0.0
    if largest <= bound:
        return Finding(point, "pass", error, relative_bound, remark)
    text = f"max rel {error:.1e} > {relative_bound:.0e} at {_index(index)}: "
    text += f"reference {expected[index]:.9g}, port {actual[index]:.9g}"
    return Finding(point, "fail", error, relative_bound, text)


def _not_finite_alike(point: str, expected: np.ndarray, actual: np.ndarray) -> Finding | None:
    """The finding if NaN or an infinity is on one side only."""
    finite = np.isfinite(expected)
    same = finite == np.isfinite(actual)
    both = ~finite & ~np.isfinite(actual)
    equal = same & (~both | (np.isnan(expected) & np.isnan(actual)) | (expected == actual))
    if equal.all():
        return None
    index = np.unravel_index(int(np.argmin(equal)), equal.shape)
    text = f"{int((~equal).sum())} of {equal.size} are not finite alike, first at {_index(index)}: "
    text += f"reference {expected[index]}, port {actual[index]}"
    return Finding(point, "nonfinite", np.inf, 0.0, text)


def _worst(difference: np.ndarray, bound: float | np.ndarray) -> tuple[Any, ...]:
    """Index of the largest difference; where each element has a bound of its own, of the largest share of it."""
    if np.ndim(bound):
        share = np.where(difference > 0, np.inf, 0.0)
        difference = np.divide(difference, bound, out=share, where=np.asarray(bound) > 0)
    return np.unravel_index(int(np.argmax(difference)), difference.shape)


def numerics(reference64: Trace, reference32: Trace, port32: Trace) -> dict[str, Any]:
    """The float32 report of a stage: the port's error beside the reference's own.

    A point's ratio is rms(port32 - reference64) over the reference's own rms(reference32 - reference64), which is taken
    to be at least 2^-24 of the point's rms, and at least what is typical (the median) of the stage: a point where torch
    happened to round well is no reproach to Paddle.

    Returns:
        The largest `ratio`, its `point`, `worst` (the port's largest relative error) and `reference_worst` (the
        reference's own); {} if there is nothing to compare.
    """
    errors: dict[str, tuple[float, float]] = {}
    for name, truth in reference64.points.items():
        r32, p32 = reference32.points.get(name), port32.points.get(name)
        if r32 is None or p32 is None or truth.dtype.kind != "f" or not truth.size or p32.shape != truth.shape:
            continue
        truth = truth.astype(np.float64)
        rms, own, theirs = _rms(truth), _rms(r32 - truth), _rms(p32 - truth)
        if 0 < rms < np.inf and own < np.inf:
            errors[name] = (own / rms, theirs / rms)
    if not errors:
        return {}
    floor = max(policy.NUMERICS_FLOOR, float(np.median([own for own, _ in errors.values()])))
    ratios = {name: theirs / max(own, floor) for name, (own, theirs) in errors.items()}
    point = max(ratios, key=ratios.__getitem__)
    return {
        "ratio": ratios[point],
        "point": point,
        "worst": max(theirs for _, theirs in errors.values()),
        "reference_worst": max(own for own, _ in errors.values()),
    }


def _rms(values: np.ndarray) -> float:
    """Exact for large and small values too, whose squares overflow or vanish; inf if a value is not finite."""
    flat = np.asarray(values, np.float64).ravel()
    peak = max(float(flat.max()), -float(flat.min()))
    if not np.isfinite(peak):
        return np.inf
    if peak == 0:
        return 0.0
    if 1e-100 < peak < 1e100:  # squares neither overflow nor vanish
        return float(np.sqrt(np.dot(flat, flat) / flat.size))
    return peak * float(np.sqrt(np.mean((flat / peak) ** 2)))


def _optional(name: str, trace: Trace) -> bool:
    """Whether the point is the output of a container, which need not exist on the other side."""
    leaves = trace.meta.get("leaves")
    return leaves is not None and "/" not in name and name.partition("@")[0] not in leaves


def _index(index: tuple[Any, ...]) -> str:
    return "[" + ", ".join(str(int(i)) for i in index) + "]"


def _json_number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
