"""The first link of the chain of trust: the reference against what its upstream repository computed.

`replay` drives a torch model through everything that is recorded. `parity/upstream/record_*.py` calls it on upstream's
own classes and stores the digests; `verify` calls it on the reference and compares.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from parity import fill, policy
from parity.case import CALIBRATION, Case
from parity.errors import SideError
from parity.traces import Recording, Run, Trace, digest
from parity.training import Scale, Scales, scale_digest

RECORDINGS = Path(__file__).parent / "upstream"


@dataclass(frozen=True)
class ChainResult:
    """How the reference relates to upstream.

    Attributes:
        status: "verified", "broken" (a recorded number differs), "unverified" (there is no recording) or "unchecked".
        upstream: "owner/repository@commit".
        detail: what was compared, or the first divergence, or what is missing.
        worst: largest relative difference.
        points: compared.
    """

    status: str
    upstream: str
    detail: str
    worst: float = 0.0
    points: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**self.__dict__, "worst": self.worst if np.isfinite(self.worst) else None}


def replay(side: Any, case: Case, run: Run, *, stand_in: Callable[[np.ndarray], Any] = np.array) -> Trace:
    """Everything that is recorded of one run, in one trace.

    Args:
        side: a TorchSide of upstream's model or of the reference.
        case: gives inputs, probes and the schedule.
        run: size, seed and dtype.
        stand_in: array -> what the trace holds in its place, so that not all of them have to be there at a time.

    Raises:
        SideError: if the model or its losses raise.
    """
    inputs, targets = case.split(case.batch(run.seed, 0, run.size))
    state = fill.state(side.shapes(), run.seed)
    if case.calibrate:
        side.load(state)
        side.calibrate(case.split(case.batch(run.seed, CALIBRATION, run.size))[0])
        state = side.state()
    trace = Trace(meta={"scales": {}})

    def add(name: str, value: Any) -> None:
        trace.add(name, stand_in(np.asarray(value)))  # at once: the next step changes the array

    def keep(stage: str, part: Trace) -> None:
        trace.meta["scales"].update({f"{stage}/gradient/{name}": s for name, s in part.meta.get("sums", {}).items()})
        if "crash" in part.meta:
            raise SideError(f"{stage} raised {part.meta['crash']}")
        leaves = part.meta.get("leaves")
        for name, value in part.points.items():
            if leaves is None or "/" in name or name.partition("@")[0] in leaves:  # containers are nobody's contract
                add(f"{stage}/{name}", value)

    side.load(state)
    keep("forward", side.observe(inputs, targets, train=False, backward=False))
    if case.why_not("gradients") is None:
        side.load(state)
        observed = side.observe(inputs, targets, train=True, backward=True)
        keep("train", observed)
        for name, value in side.buffers().items():
            add(f"train/buffer/{name}", value)
        for name, probe in (case.probes(run.seed, run.size) if case.probes else {}).items():
            keep(f"loss/{name}", side.evaluate_losses(probe.outputs, probe.targets))
    if case.why_not("step") is None:
        terms = Trace({n: v for n, v in observed.points.items() if n.startswith("term/")}, observed.meta)
        del observed  # its arrays are large
        if side.losses_learn(targets):
            side.load(state)
            terms = None
        trace.meta["scales"].update(_replay_steps(side, case, run, terms, targets, add))
    return trace


def _replay_steps(
    side: Any,
    case: Case,
    run: Run,
    observed: Trace | None,
    targets: Mapping[str, np.ndarray],
    add: Callable[[str, Any], None],
) -> dict[str, Scale]:
    """Steps, the first with the gradients of what was observed, if given; returns scales by point."""
    for iteration, rate in side.schedule(case.schedule_iterations(), case.step).items():
        add(f"step/schedule/{iteration}", np.float64(rate))
    side.start_training(case.step, targets)
    scales, last = Scales(), {}
    for step in range(case.step.steps):
        batch = case.split(case.batch(run.seed, step, run.size))
        terms, facts = side.train_step(*batch, after=observed if step == 0 else None)
        for name, value in terms.items():
            add(f"step/{step + 1}/loss/{name}", value)
        for name, rate in side.learning_rates().items():
            add(f"step/{step + 1}/learning_rate/{name}", np.float64(rate))
        last = scales.advance(facts)
    last = {n: scale_digest(scale) if n.endswith(".moment2") else scale for n, scale in last.items()}
    found = {"optimizer": side.optimizer_state(copy=False), "parameter": side.parameters(copy=False)}
    for kind, values in {**found, "buffer": side.buffers()}.items():
        for name, value in values.items():
            add(f"step/{kind}/{name}", value)
    return {f"step/{name}": scale for name, scale in last.items() if not name.startswith("update/")}


DATA_RUN = "data"


def recorded_data(case: Case, *, recordings: Path = RECORDINGS) -> Run | None:
    """What upstream's data pipeline made of the case's samples, or None if nobody recorded it."""
    path = recordings / case.name
    if not path.with_suffix(".json").exists():
        return None
    return Recording.load(path).runs.get(DATA_RUN)


def recorded_parameters(case: Case, *, recordings: Path = RECORDINGS) -> int:
    """Number of elements of upstream's state dict, or 0 if nobody recorded it."""
    path = (recordings / case.name).with_suffix(".json")
    if not path.exists():
        return 0
    shapes = json.loads(path.read_text(encoding="utf-8"))["state_dict"].values()
    return sum(math.prod(shape) for shape in shapes)


def verify(case: Case, *, recordings: Path = RECORDINGS) -> ChainResult:
    """Compares the reference with its recording, in float64.

    Args:
        case: whose reference.
        recordings: folder of the recordings.
    """
    if case.upstream is None:
        return ChainResult("unverified", "", "the case names no upstream repository")
    path = recordings / case.name
    if not path.with_suffix(".json").exists():
        return ChainResult("unverified", case.upstream, f"no recording {path.name}.json in parity/upstream")
    recording = Recording.load(path)
    if recording.upstream != case.upstream:
        return ChainResult("broken", case.upstream, f"the recording is of {recording.upstream}", np.inf)
    from parity.torch_side import TorchSide

    side, points, worst = TorchSide(case.reference, match_paddle=False), 0, 0.0
    if side.shapes() != recording.state_dict or list(side.shapes()) != list(recording.state_dict):
        return ChainResult("broken", case.upstream, _key_difference(side.shapes(), recording), np.inf)
    for name, run in reversed(recording.runs.items()):  # last those with the stages' weights
        if run.dtype != "float64" or name == DATA_RUN:
            continue
        trace = replay(side, case, run, stand_in=digested)
        side.end_training()
        difference = _compare(trace, run)
        if isinstance(difference, str):
            return ChainResult("broken", case.upstream, f"{name}: {difference}", np.inf, points)
        points, worst = points + len(run.points), max(worst, difference)
    sizes = [run.size for name, run in recording.runs.items() if run.dtype == "float64" and name != DATA_RUN]
    runs = ", ".join(f"{height}x{width}" for height, width in sizes)
    return ChainResult("verified", case.upstream, f"{points} points at {runs}", float(worst), points)


def digested(value: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and digest of an array, as a recording holds them."""
    return value.shape, digest(value)


def _compare(trace: Trace, run: Run) -> float | str:
    """The worst relative difference of shapes and digests, or a sentence about the first point that differs."""
    worst = 0.0
    for name, (shape, recorded) in run.points.items():
        if name not in trace.points:
            return f"the reference has no point {name}"
        own_shape, value = trace.points[name]
        if own_shape != shape:
            return f"{name} has shape {own_shape}; upstream {shape}"
        if math.prod(shape) == 0:
            continue
        error = _error(value, recorded, trace.meta.get("scales", {}).get(name, 0.0))
        if not error <= policy.RELATIVE:
            return f"{name} differs by {error:.1e} (limit {policy.RELATIVE:.0e})"
        worst = max(worst, error)
    extra = [name for name in trace.points if name not in run.points]
    if extra:
        return f"upstream has no point {extra[0]} ({len(extra)} in all)"
    return worst


def _error(value: np.ndarray, recorded: np.ndarray, scale: Scale) -> float:
    """The largest difference of two digests, in units of which `policy.RELATIVE` is the limit.

    Args:
        value: digest of the reference's.
        recorded: digest of upstream's.
        scale: of the value, or its `scale_digest`.
    """
    difference = np.abs(value - recorded)
    unit = recorded[0]
    if np.any(scale):
        each = scale if np.ndim(scale) else scale_digest(scale)
        each = np.concatenate([each[:3], np.broadcast_to(each[3:], len(recorded) - 3)])
        unit = policy.limit("sum", rms=unit, scale=each) / policy.RELATIVE
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.max(np.where(difference == 0, 0.0, difference / unit)))


def _key_difference(shapes: dict[str, tuple[int, ...]], recording: Recording) -> str:
    missing = [name for name in recording.state_dict if name not in shapes]
    extra = [name for name in shapes if name not in recording.state_dict]
    if missing or extra:
        return f"state dict: the reference lacks {missing[:3]}, upstream lacks {extra[:3]}"
    wrong = next((name for name in shapes if shapes[name] != recording.state_dict[name]), "the order of its keys")
    return f"state dict: {wrong} is not upstream's"
