"""Plants faults in correct ports, one at a time, and scores what the harness says of each.

caught      a fault that changes any number makes a stage fail
localised   the first divergence is in the right stage, at the layer or point where the mistake is
explained   the stated cause names the mistake
false alarm a correct port fails, with any of the seeds
"""

from __future__ import annotations

import dataclasses
import gc
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

from parity import traces
from parity.bench import Bench
from parity.case import STAGES, Case
from parity.compare import StageResult
from parity.errors import CaseError
from parity.faults import between, carried, data, layers, losses, training  # noqa: F401  (they register their kinds)
from parity.faults.fault import KINDS, Fault, Patient
from parity.faults.memory import RememberedSide
from parity.traces import Trace

Progress = Callable[[str, str], None]
TRIES = 3  # sites of a kind that are looked at for one at which the fault changes a number


@dataclass
class Outcome:
    """What the harness said of one fault.

    Attributes:
        case: name of the case.
        seed: of its weights and inputs.
        kind: of the fault.
        site: where it was planted.
        verdict: "caught", "missed", "equivalent" (it changes no number) or "not planted" (planting it raised).
        localised: whether stage and point are right.
        explained: whether the cause is right.
        stage: of the first divergence.
        point: likewise.
        expected: the point that was expected.
        cause: as stated.
        seconds: all took.
    """

    case: str
    seed: int
    kind: str
    site: str
    verdict: str = ""
    localised: bool = False
    explained: bool = False
    stage: str = ""
    point: str = ""
    expected: str = ""
    cause: str = ""
    seconds: float = 0.0


@dataclass
class Score:
    """What a self-test found.

    Attributes:
        outcomes: of each planted fault.
        alarms: "case, seed: first divergence" of every correct port that failed.
        clean: number of correct ports checked.
        impossible: case -> kinds that it has no place for.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    clean: int = 0
    impossible: dict[str, list[str]] = field(default_factory=dict)

    def rate(self, what: str, outcomes: Sequence[Outcome] | None = None) -> tuple[int, int]:
        """(how many, of how many) faults that change a number were "caught", "localised" or "explained"."""
        counted = [o for o in (self.outcomes if outcomes is None else outcomes) if o.verdict in ("caught", "missed")]
        good = sum(o.verdict == "caught" if what == "caught" else getattr(o, what) for o in counted)
        return good, len(counted)

    @property
    def passed(self) -> bool:
        """Every fault that changes a number was caught, at least one was, and no correct port failed."""
        caught, counted = self.rate("caught")
        return counted > 0 and caught == counted and not self.alarms

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        whats = ("caught", "localised", "explained")
        kinds: dict[str, dict[str, int]] = {}
        for name in KINDS:
            outcomes = [outcome for outcome in self.outcomes if outcome.kind == name]
            count = self.rate("caught", outcomes)[1]
            if count:
                kinds[name] = {**{what: self.rate(what, outcomes)[0] for what in whats}, "count": count}
        return {
            "passed": self.passed,
            "totals": {what: list(self.rate(what)) for what in whats},
            "kinds": kinds,
            "false_alarms": len(self.alarms),
            "alarms": self.alarms,
            "clean_runs": self.clean,
            "impossible": self.impossible,
            "faults": [dataclasses.asdict(outcome) for outcome in self.outcomes],
        }


def self_test(
    cases: Sequence[Case],
    *,
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    sites: int = 1,
    seeds: int = 3,
    size: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Score:
    """Plants faults in the ports of some cases.

    Args:
        cases: whose ports are correct.
        kinds: names of the kinds to plant; all by default.
        seed: of the weights, the inputs, and the choice of sites.
        sites: faults to count per kind and case.
        seeds: runs of the correct port that look for false alarms, from `seed` on.
        size: (H, W); by default small, see `smaller`.
        progress: called with (case, what) before each fault.

    Raises:
        CaseError: for an unknown kind.
    """
    unknown = sorted(set(kinds or ()) - set(KINDS))
    if unknown:
        raise CaseError(f"there is no kind of fault {unknown[0]!r}; kinds are {', '.join(KINDS)}")
    score = Score()
    for case in cases:
        small = smaller(case, size)
        for other in range(seed + 1, seed + seeds):
            (progress or _silent)(case.name, f"correct port, seed {other}")
            _check_clean(small, other, score)
        ward = Ward(small, seed, score)
        if not ward.healthy:
            continue
        for name in kinds or KINDS:
            ward.plant_kind(name, sites, progress or _silent)
        ward.close()
    return score


def smaller(case: Case, size: tuple[int, int] | None) -> Case:
    """The case with few training steps, at a size that it names as small."""
    step = dataclasses.replace(case.step, steps=min(case.step.steps, 2))
    trajectory = dataclasses.replace(case.trajectory, steps=min(case.trajectory.steps, 4))
    chosen = size or min([case.size, *case.extra_sizes], key=lambda pair: pair[0] * pair[1])
    return dataclasses.replace(case, step=step, trajectory=trajectory, size=chosen, extra_sizes=())


def _check_clean(case: Case, seed: int, score: Score) -> None:
    bench = Bench(case, seed=seed)
    first = next((r for r in _run(bench, STAGES) if not r.passed and not r.reason), None)
    score.clean += 1
    if first is not None:
        score.alarms.append(f"{case.name}, seed {seed}: {_said(first)}")
    bench.close()
    gc.collect()


class Ward:
    """A correct port that has been checked once, in which faults can be planted.

    Args:
        case: as `smaller` returns it.
        seed: of weights and inputs.
        score: where outcomes go.
    """

    def __init__(self, case: Case, seed: int, score: Score) -> None:
        self.case = case
        self.seed = seed
        self.score = score
        self.bench = Bench(case, seed=seed)
        if not self.bench.failure:
            self.bench.reference = RememberedSide(self.bench.reference)
        first = next((r for r in _run(self.bench, STAGES) if not r.passed and not r.reason), None)
        score.clean += 1
        self.healthy = first is None
        if first is not None:
            score.alarms.append(f"{case.name}, seed {seed}: {_said(first)}")
            return
        self.plan = self.bench.plan
        self.clean = self._numbers()
        kept = ("forward", "forward_train")  # what `_first_changed` looks at; those of steps are large
        self.own = {stage: self.bench.traces["port", stage] for stage in kept if ("port", stage) in self.bench.traces}
        self.patient = Patient(self.bench)

    def close(self) -> None:
        """Lets go of both sides."""
        self.bench.close()
        gc.collect()

    def plant_kind(self, name: str, sites: int, progress: Progress) -> None:
        """Plants faults of one kind, at places drawn from all it fits, until `sites` of them changed a number."""
        self.bench._restore()
        faults = list(KINDS[name].sites(self.patient))
        if not faults:
            self.score.impossible.setdefault(self.case.name, []).append(name)
            return
        random.Random(f"{self.seed}/{name}").shuffle(faults)
        counted = 0
        for fault in faults[: sites + TRIES - 1]:
            progress(self.case.name, f"{name} at {fault.site}")
            outcome = self.plant(fault)
            self.score.outcomes.append(outcome)
            counted += outcome.verdict != "equivalent"
            if counted == sites:
                break

    def plant(self, fault: Fault) -> Outcome:
        """Runs the stages with one fault planted, up to the first that fails."""
        outcome = Outcome(self.case.name, self.seed, fault.kind, fault.site)
        started = time.perf_counter()
        bench = self.bench
        bench.plan = self.plan
        bench.traces.clear()
        try:
            with fault.planted(self.patient):
                first = None
                for result in _run(bench, STAGES[STAGES.index(fault.begins) :]):
                    if not result.passed and not result.reason:
                        first = result
                        break
                    if result.stage == "gradients" and self._unchanged(fault.begins):
                        break  # nor can a step be another
                if first is None:
                    outcome.verdict = "equivalent" if self._unchanged(fault.begins) else "missed"
                else:
                    self._judge(outcome, fault, first)
        except Exception as error:
            outcome.verdict, outcome.cause = "not planted", f"{type(error).__name__}: {error}"
        bench.plan = self.plan
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _judge(self, outcome: Outcome, fault: Fault, result: StageResult) -> None:
        point = "" if result.first is None else result.first.point.partition("/")[2]
        text = "" if result.first is None else result.first.text
        outcome.verdict, outcome.stage, outcome.point = "caught", result.stage, point
        outcome.cause = f"{result.cause or result.crash} [{text}]"
        outcome.expected = fault.point or re.escape(self._first_changed(result.stage))
        outcome.localised = fault.expects(result.stage) and bool(re.fullmatch(outcome.expected, point))
        said = result.cause if fault.begins != "weights" else f"{result.cause} {text}"
        outcome.explained = all(re.search(word, said, re.IGNORECASE) for word in fault.words)

    def _first_changed(self, stage: str) -> str:
        """The first point, in the reference's order, that the fault changed a number of."""
        if stage not in self.own:
            return ""
        changed, own = self.bench.traces["port", stage], self.own[stage]
        order = self.bench.translated(self.bench.traces["reference", stage]).points
        for name in order:
            if name in own.points and name in changed.points and not _same(own.points[name], changed.points[name]):
                return name
        return next((name for name in order if name not in changed.points), "")

    def _numbers(self, begins: str = "weights") -> dict[str, bytes]:
        """Digests of everything the port computes from this stage on."""
        bench = self.bench
        numbers = {}
        for (side, stage), trace in bench.traces.items():
            if side == "port" and STAGES.index(stage) >= STAGES.index(begins):
                numbers[stage] = _digest(trace)
        if bench.case.why_not("data") is None:
            numbers["data"] = _digest(Trace(dict(bench.case.port.data(self.seed))))
        return numbers

    def _unchanged(self, begins: str) -> bool:
        """Whether all that has run from this stage on gave the correct port's numbers."""
        return all(self.clean.get(stage) == value for stage, value in self._numbers(begins).items())


def _run(bench: Bench, stages: Sequence[str]) -> Iterator[StageResult]:
    for stage in stages:
        yield bench.run_stage(stage)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.array_equal(one, other)


def _digest(trace: Trace) -> bytes:
    values = [traces.digest(value).tobytes() + str(value.shape).encode() for value in trace.points.values()]
    return b"".join(values)


def _said(result: StageResult) -> str:
    return result.crash or f"{result.first.point}: {result.first.text}"


def _silent(case: str, what: str) -> None:
    pass
