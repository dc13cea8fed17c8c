"""What the HTML report shows beyond the verdicts: errors along the network's depth, loss curves, the picture.

Everything is plain numbers and text, taken from a result before it lets go of its traces. Numpy only.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.bench import Bench
from parity.compare import Finding, StageResult
from parity.traces import Trace

SHOWN = 12  # differing points of a stage that are listed
DEEP = ("forward", "gradients")
_WORST = re.compile(r"at (\[[\d, ]*\]): reference (\S+), port (\S+)$")


def collect(result: Any, *, float32: bool = True) -> dict[str, Any]:
    """The evidence of one case, JSON-able.

    Args:
        result: a `CaseResult` that still has its bench.
        float32: also run both sides' forward passes in float32 once more.

    Returns:
        `drift`: stage -> points in order of execution, each with `point`, `layer` (class name, or ""), `error` in
        float64 (None if it cannot be computed), `passed`, and where known `port32` and `reference32`, the rms errors
        of both sides' float32 against the reference's float64, over its rms; `curves`: loss term -> `reference` and
        `port` by step; `differing`: stage -> the first differing points; `picture`: a PNG in base64, or "".
    """
    bench = result.bench
    stages = {stage.stage: stage for stage in result.stages}
    single = _float32(bench) if float32 and bench is not None and _passed_weights(stages) else {}
    drift = {name: _drift(bench, stages[name], single if name == "forward" else {}) for name in DEEP if name in stages}
    return {
        "drift": {name: points for name, points in drift.items() if points},
        "curves": _curves(bench),
        "differing": {name: _differing(stage) for name, stage in stages.items() if stage.first is not None},
        "picture": _encoded(result.picture),
    }


def worst_values(text: str) -> tuple[str, str, str] | None:
    """(index, reference's value, port's value) of a finding's text, or None if it names none."""
    found = _WORST.search(text)
    return (found[1], found[2], found[3]) if found else None


def _passed_weights(stages: Mapping[str, StageResult]) -> bool:
    return "weights" in stages and stages["weights"].passed


def _drift(bench: Bench, stage: StageResult, single: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    trace = bench.traces.get(("port", stage.stage))
    layers = trace.meta.get("leaves", {}) if trace is not None else {}
    points = []
    for finding in stage.findings:
        name = finding.point.partition("/")[2]
        point = {"point": name, "layer": layers.get(name.partition("@")[0], ""), "passed": finding.passed}
        point["error"] = float(finding.error) if np.isfinite(finding.error) else None
        if name in single:
            point["reference32"], point["port32"] = single[name]
        points.append(point)
    return points


def _float32(bench: Bench) -> dict[str, tuple[float, float]]:
    """Point of the forward stage -> rms errors of the reference's and the port's float32, over the rms."""
    truth = bench.traces.get(("reference", "forward"))
    if truth is None or bench.failure:
        return {}
    try:
        with bench.in_float32() as single:
            single.compute("forward")
            own = single.translated(single.traces["reference", "forward"])
            theirs = single.traces["port", "forward"]
    except Exception:  # the verdict is there already; the page shows float64 alone
        return {}
    return _relative(bench.translated(truth), own, theirs)


def _relative(truth: Trace, own: Trace, theirs: Trace) -> dict[str, tuple[float, float]]:
    errors = {}
    for name, value in truth.points.items():
        r32, p32 = own.points.get(name), theirs.points.get(name)
        if r32 is None or p32 is None or value.dtype.kind != "f" or not value.size or p32.shape != value.shape:
            continue
        rms = float(np.sqrt(np.mean(np.square(value))))
        pair = tuple(float(np.sqrt(np.mean(np.square(side - value)))) / rms if rms > 0 else 0.0 for side in (r32, p32))
        if np.isfinite(pair).all():
            errors[name] = pair
    return errors


def _curves(bench: Bench) -> dict[str, dict[str, list[float]]]:
    curves: dict[str, dict[str, list[float]]] = {}
    for side in ("reference", "port"):
        trace = bench.traces.get((side, "trajectory")) if bench is not None else None
        for name, value in (trace.points if trace is not None else {}).items():
            parts = name.split("/", 2)  # <step>/loss/<term>
            if len(parts) == 3 and parts[1] == "loss" and np.size(value) == 1 and np.isfinite(value).all():
                term = curves.setdefault(parts[2], {"reference": [], "port": []})
                term[side].append(float(np.asarray(value).reshape(-1)[0]))
    return curves


def _differing(stage: StageResult) -> dict[str, Any]:
    differing = [finding for finding in stage.findings if not finding.passed]
    return {"count": len(differing), "points": [_entry(finding) for finding in differing[:SHOWN]]}


def _entry(finding: Finding) -> dict[str, Any]:
    return {
        "point": finding.point,
        "verdict": finding.verdict,
        "error": float(finding.error) if np.isfinite(finding.error) else None,
        "text": finding.text,
    }


def _encoded(picture: str) -> str:
    path = Path(picture) if picture else None
    return base64.b64encode(path.read_bytes()).decode("ascii") if path is not None and path.exists() else ""
