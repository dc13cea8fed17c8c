"""The first link of the chain of trust: the reference against what its upstream repository computed.

`replay` drives a torch model through everything that is recorded. `parity/upstream/record_*.py` calls it on upstream's
own classes and stores the digests; `verify` calls it on the reference and compares.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

import numpy as np

from parity import fill, policy
from parity.case import CALIBRATION, Case, Side
from parity.errors import SideError
from parity.traces import Recording, Run, Trace, digested
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


class Replay:
    """What one torch model computes, gathered under the names of a recording.

    Args:
        size: (H, W) of the inputs.
        seed: of the inputs.
        stand_in: array -> what the trace holds in its place, so that not all of them have to be there at a time.
        weights: that the model starts from.

    Attributes:
        trace: the points; `meta["scales"]` holds what rounding leaves open of some, see `policy`.
    """

    def __init__(
        self,
        size: Sequence[int],
        seed: int,
        stand_in: Callable[[np.ndarray], Any],
        weights: Mapping[str, np.ndarray],
    ) -> None:
        self.size, self.seed, self.weights = tuple(size), seed, weights
        self.trace = Trace(meta={"scales": {}})
        self._stand_in = stand_in

    def add(self, name: str, value: Any) -> None:
        """Adds a point, at once: what comes next may change the array."""
        self.trace.points[name] = self._stand_in(np.asarray(value))

    def observed(self, stage: str, part: Trace) -> None:
        """Adds what `observe` or `evaluate_losses` returned.

        Raises:
            SideError: if the model or its losses raised.
        """
        sums = part.meta.get("sums", {})
        self.trace.meta["scales"].update({f"{stage}/gradient/{name}": scale for name, scale in sums.items()})
        if "crash" in part.meta:
            raise SideError(f"{stage} raised {part.meta['crash']}")
        leaves = part.meta.get("leaves")
        for name, value in part.points.items():
            if leaves is None or "/" in name or name.partition("@")[0] in leaves:  # containers are nobody's contract
                self.add(f"{stage}/{name}", value)

    def buffers(self, stage: str, buffers: Mapping[str, np.ndarray]) -> None:
        """Adds running statistics as `stage` left them."""
        for name, value in buffers.items():
            self.add(f"{stage}/buffer/{name}", value)

    def schedule(self, rates: Mapping[int, float]) -> None:
        """Adds the schedule's rates at some iterations."""
        for iteration, rate in rates.items():
            self.add(f"step/schedule/{iteration}", np.float64(rate))

    def step(self, number: int, terms: Mapping[str, np.ndarray], rates: Mapping[str, float]) -> None:
        """Adds the loss terms and rates of an optimizer step, counted from 1."""
        for name, value in terms.items():
            self.add(f"step/{number}/loss/{name}", value)
        for name, rate in rates.items():
            self.add(f"step/{number}/learning_rate/{name}", np.float64(rate))

    def trained(self, side: Any, scales: Mapping[str, Scale]) -> None:
        """Adds what the last step left behind; `scales` are those of that step, by `training.Scales`."""
        for name, value in side.optimizer_state(copy=False).items():
            self.add(f"step/optimizer/{name}", value)
        for name, value in side.parameters(copy=False).items():
            self.add(f"step/parameter/{name}", value)
        self.buffers("step", side.buffers())
        for name, scale in scales.items():
            if not name.startswith("update/"):
                digested = scale_digest(scale) if name.endswith(".moment2") else scale
                self.trace.meta["scales"][f"step/{name}"] = digested

    def holds(self, run: Run) -> bool:
        """Whether it is of this run, and has all its points."""
        return (self.size, self.seed) == (run.size, run.seed) and run.points.keys() <= self.trace.points.keys()


def starting_weights(side: Any, case: Case) -> dict[str, np.ndarray]:
    """What a side starts from in every recorded run: generated with seed 0, statistics calibrated if the case asks."""
    side.load(fill.state(side.shapes(), 0))
    if case.calibrate:
        side.calibrate(case.split(case.batch(0, CALIBRATION, case.size))[0])
    return side.state()


def replay(
    side: Any,
    case: Case,
    run: Run,
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    stand_in: Callable[[np.ndarray], Any] = np.array,
) -> Trace:
    """Everything that is recorded of one run, in one trace.

    A run at the case's own size has gradients and optimizer steps. Another size shows what depends on the size: both
    modes' outputs, losses and running statistics.

    Args:
        side: a TorchSide of upstream's model or of the reference.
        case: gives inputs, probes and the schedule.
        run: size and seed of the inputs, and the dtype.
        weights: to start from; by default `starting_weights`.
        stand_in: as in `Replay`.

    Raises:
        SideError: if the model or its losses raise.
    """
    inputs, targets = case.split(case.batch(run.seed, 0, run.size))
    weights = starting_weights(side, case) if weights is None else weights
    found, own_size = Replay(run.size, run.seed, stand_in, weights), tuple(run.size) == tuple(case.size)
    side.load(weights)
    found.observed("forward", side.observe(inputs, targets, train=False, backward=False))
    if case.why_not("gradients") is None:
        side.load(weights)
        observed = side.observe(inputs, targets, train=True, backward=own_size, losses=True)
        found.observed("train", observed)
        found.buffers("train", side.buffers())
        for name, probe in (case.probes(run.seed, run.size) if case.probes else {}).items():
            found.observed(f"loss/{name}", side.evaluate_losses(probe.outputs, probe.targets))
    if case.why_not("step") is None and own_size:
        terms = Trace({n: v for n, v in observed.points.items() if n.startswith("term/")}, observed.meta)
        del observed  # its arrays are large
        if side.losses_learn(targets):
            side.load(weights)
            terms = None
        _replay_steps(side, case, run, terms, targets, found)
    return found.trace


def _replay_steps(
    side: Any,
    case: Case,
    run: Run,
    observed: Trace | None,
    targets: Mapping[str, np.ndarray],
    found: Replay,
) -> None:
    """Steps, the first with the gradients of what was observed, if given."""
    found.schedule(side.schedule(case.schedule_iterations(), case.step))
    side.start_training(case.step, targets)
    scales = Scales()
    for step in range(case.step.steps):
        batch = case.split(case.batch(run.seed, step, run.size))
        terms, facts = side.train_step(*batch, after=observed if step == 0 else None)
        found.step(step + 1, terms, side.learning_rates())
        last = scales.advance(facts)
    found.trained(side, last)


DATA_RUN, INITIAL_RUN = "data", "initial"


def recorded_data(case: Case, *, recordings: Path = RECORDINGS) -> Run | None:
    """What upstream's data pipeline made of the case's samples, or None if nobody recorded it."""
    return _recorded(case, DATA_RUN, recordings)


def recorded_initial(case: Case, *, recordings: Path = RECORDINGS) -> Run | None:
    """The initial values that upstream's constructors drew, or None if nobody recorded them."""
    return _recorded(case, INITIAL_RUN, recordings)


def _recorded(case: Case, run: str, recordings: Path) -> Run | None:
    path = recordings / case.name
    if not path.with_suffix(".json").exists():
        return None
    return Recording.load(path).runs.get(run)


def initial_run(side: Side, size: Sequence[int]) -> Run:
    """The initial values that the constructors of a torch side draw, to be recorded.

    Args:
        side: upstream's.
        size: of the run, which it does not depend on.
    """
    from parity.torch_side import TorchSide

    return Run(tuple(size), 0, "float32", TorchSide(replace(side, initial=True), dtype="float32").initial())


def recorded_parameters(case: Case, *, recordings: Path = RECORDINGS) -> int:
    """Number of elements of upstream's state dict, or 0 if nobody recorded it."""
    path = (recordings / case.name).with_suffix(".json")
    if not path.exists():
        return 0
    shapes = json.loads(path.read_text(encoding="utf-8"))["state_dict"].values()
    return sum(math.prod(shape) for shape in shapes)


def verify(
    case: Case, *, recordings: Path = RECORDINGS, side: Any = None, computed: Replay | None = None
) -> ChainResult:
    """Compares the reference with its recording, in float64.

    Args:
        case: whose reference.
        recordings: folder of the recordings.
        side: a TorchSide of the reference, if there is one.
        computed: what the stages made the reference compute, digested: it is what is compared of that run then.
    """
    if case.upstream is None:
        return ChainResult("unverified", "", "the case names no upstream repository")
    path = recordings / case.name
    if not path.with_suffix(".json").exists():
        return ChainResult("unverified", case.upstream, f"no recording {path.name}.json in parity/upstream")
    recording = Recording.load(path)
    if recording.upstream != case.upstream:
        return ChainResult("broken", case.upstream, f"the recording is of {recording.upstream}", np.inf)
    if side is None:
        from parity.torch_side import TorchSide

        side = TorchSide(case.reference)
    points, worst, weights = 0, 0.0, None if computed is None else computed.weights
    if side.shapes() != recording.state_dict or list(side.shapes()) != list(recording.state_dict):
        return ChainResult("broken", case.upstream, _key_difference(side.shapes(), recording), np.inf)
    runs = {n: run for n, run in recording.runs.items() if n not in (DATA_RUN, INITIAL_RUN)}
    for name, run in runs.items():
        if computed is not None and computed.holds(run):
            trace = computed.trace
        else:
            weights = starting_weights(side, case) if weights is None else weights
            trace = replay(side, case, run, weights=weights, stand_in=digested)
            side.end_training()
        difference = _compare(trace, run)
        if isinstance(difference, str):
            return ChainResult("broken", case.upstream, f"{name}: {difference}", np.inf, points)
        points, worst = points + len(run.points), max(worst, difference)
    sizes = ", ".join("x".join(map(str, run.size)) for run in runs.values())
    return ChainResult("verified", case.upstream, f"{points} points at {sizes}", float(worst), points)


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
