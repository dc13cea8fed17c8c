"""A correct port, checked once, in which faults are planted one at a time."""

from __future__ import annotations

import ctypes
import gc
import random
import re
import time
from collections.abc import Sequence
from typing import Any, Callable

from parity import traces
from parity.bench import Bench
from parity.case import STAGES, Case
from parity.chain import recorded_data
from parity.compare import StageResult
from parity.errors import SideError
from parity.faults.fault import KINDS, Fault, Patient
from parity.faults.judging import Changes, explains
from parity.faults.memory import RememberedSide
from parity.faults.score import Outcome, Score, said
from parity.traces import Trace
from parity.training import steps

Progress = Callable[[str, str], None]
TRIES = 3  # sites of a kind that are looked at for one at which the fault changes a number
SHOWN = 300  # characters of an expected point that an outcome keeps; some name hundreds of parameters
_TRAINED = ("step", "trajectory")
REACH = {
    "weights": ("weights", "forward", "forward_train", "gradients", *_TRAINED),
    "forward": ("forward", "forward_train", "gradients", *_TRAINED),
    "gradients": ("gradients", *_TRAINED),
    "loss": ("loss", "gradients", *_TRAINED),
    "step": _TRAINED,
    "trajectory": ("trajectory",),
    "initial": ("initial",),
    "data": ("data",),
    "postprocess": ("postprocess",),
    "metrics": ("metrics",),
}
"""Where a fault that begins at a stage can change a number: losses and post-processing get the reference's outputs."""


class Ward:
    """A correct port that has been checked once, in which faults can be planted.

    The reference computes each stage once, and what it computed is kept on disk; planted runs have the port alone.

    Args:
        case: as `selftest.smaller` returns it.
        seed: of weights and inputs.
        score: where outcomes go.

    Attributes:
        healthy: whether the correct port passes; if not, that is a false alarm, and nothing can be planted.
        patient: the port, for what plants faults.
    """

    def __init__(self, case: Case, seed: int, score: Score) -> None:
        self.case = case
        self.seed = seed
        self.score = score
        self.bench = Bench(case, seed=seed)
        if not self.bench.failure:
            self.bench.reference = RememberedSide(self.bench.reference)
        self.clean: dict[str, bytes] = {}
        self.changes = Changes(self.bench)
        self._reference_forward: Callable[[], Trace] | None = None
        self.healthy = self._check()
        score.clean += 1
        if self.healthy:
            self.plan = self.bench.plan
            self.patient = Patient(self.bench)

    def close(self) -> None:
        """Lets go of both sides."""
        self.bench.close()
        if isinstance(self.bench.reference, RememberedSide):
            self.bench.reference.close()
        gc.collect()

    def _check(self) -> bool:
        """Whether the correct port passes all stages; its numbers are kept, those of training as digests only."""
        bench = self.bench
        for stage in STAGES:
            if stage == "step" and bench.case.why_not(stage) is None:
                self._rehearse()
            result = bench.run_stage(stage)
            if not result.passed and not result.reason:
                self.score.alarms.append(f"{self.case.name}, seed {self.seed}: {said(result)}")
                return False
            self.clean.update({name: value for name, value in self._numbers().items() if name not in self.clean})
            if stage == "forward_train" and not result.reason:
                self._reference_forward = bench.reference.spool.put(bench.traces["reference", stage])
            for name in _TRAINED:
                for side in ("reference", "port"):
                    bench.traces.pop((side, name), None)
            _trim()
        bench.traces.clear()
        self.score.versions.update(bench.versions())
        return True

    def _rehearse(self) -> None:
        """Lets the reference take its optimizer steps alone, so that the port's are taken while it rests.

        With both optimizers in memory a large model takes half as much again. The steps of the trajectory are taken as
        the diagnosis looks at them, too.
        """
        bench, port, kept = self.bench, self.bench.port, dict(self.bench.traces)
        bench.port = _Nobody()
        try:
            bench.reference.end_training()
            bench._restore()
            bench._step()
        except Exception:  # the stage itself will say what is wrong
            pass
        finally:
            bench.port = port
            bench.traces.clear()
            bench.traces.update(kept)
            bench.reference.end_training()
            _trim()
        if bench.case.why_not("trajectory") is None:
            bench._restore()
            schedule = bench.case.trajectory
            for _ in steps(bench.reference, schedule, bench.batch, whole=schedule.steps - 1):
                pass
            bench.reference.end_training()
            _trim()

    def places(self, kinds: Sequence[str]) -> dict[str, list[Fault]]:
        """Kind -> where it can be planted; kinds without a place are noted as impossible."""
        self.bench._restore()
        found = {name: list(KINDS[name].sites(self.patient)) for name in kinds}
        self.score.impossible[self.case.name] = [name for name, faults in found.items() if not faults]
        return found

    def plant_kind(self, name: str, faults: Sequence[Fault], sites: int, progress: Progress) -> int:
        """Plants faults of one kind, at places drawn from those it fits, until `sites` of them changed a number.

        Returns:
            How many did.
        """
        self.bench._restore()
        drawn = list(faults)
        random.Random(f"{self.seed}/{name}").shuffle(drawn)
        counted = 0
        for fault in drawn[: sites + TRIES - 1]:
            progress(self.case.name, f"{name} at {fault.site}")
            outcome = self.plant(fault)
            self.score.outcomes.append(outcome)
            counted += outcome.verdict != "equivalent"
            if counted == sites:
                break
        return counted

    def plant(self, fault: Fault) -> Outcome:
        """Runs the stages that a fault can reach, with it planted, up to the first that fails."""
        outcome = Outcome(self.case.name, self.seed, fault.kind, fault.site)
        started = time.perf_counter()
        bench = self.bench
        bench.plan = self.plan
        bench.traces.clear()
        self.changes.begin()
        try:
            with fault.planted(self.patient):
                first, changed = self._first_failure(fault)
                if first is not None:
                    self._judge(outcome, fault, first)
                else:
                    outcome.verdict = "missed" if changed else "equivalent"
        except Exception as error:
            outcome.verdict, outcome.cause = "not planted", f"{type(error).__name__}: {error}"
        bench.plan = self.plan
        bench.traces.clear()
        _trim()
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _first_failure(self, fault: Fault) -> tuple[StageResult | None, bool]:
        """(the first stage that fails, or None; else whether any number changed)."""
        bench, forward = self.bench, ("reference", "forward_train")
        changed = False
        for stage in REACH[fault.begins]:
            if stage == "loss":  # which takes the reference's outputs: the port's own pass is not needed for it
                bench.traces[forward] = self._reference_forward()
            result = bench.run_stage(stage)
            if not result.passed and not result.reason:
                return result, True
            if stage == "loss":
                del bench.traces[forward]
            changed = changed or self._changed()
            if stage == "gradients" and not changed:
                return None, False  # nor can a step be another
        if fault.begins == "data":
            changed = self._data() != self.clean.get("data")
        return None, changed

    def _judge(self, outcome: Outcome, fault: Fault, result: StageResult) -> None:
        point = "" if result.first is None else result.first.point.partition("/")[2]
        text = "" if result.first is None else result.first.text
        outcome.verdict, outcome.stage, outcome.point = "caught", result.stage, point
        outcome.cause = f"{result.cause or result.crash} [{text}]"
        expected = fault.point or re.escape(self.changes.first.get(result.stage, ""))
        outcome.expected = expected if len(expected) <= SHOWN else f"{expected[:SHOWN]}..."
        outcome.localised = fault.expects(result.stage) and bool(point and re.fullmatch(expected, point))
        outcome.explained = explains(result.cause, fault.words)

    def _numbers(self) -> dict[str, bytes]:
        """Digests of what the port has computed, by stage."""
        found = {stage: _digest(trace) for (side, stage), trace in self.bench.traces.items() if side == "port"}
        if "data" not in self.clean and self.case.why_not("data") is None:
            found["data"] = self._data()
        if self.case.why_not("initial") is None:
            found["initial"] = b"".join(numbers.tobytes() for _, numbers in self.bench.port.initial().values())
        return found

    def _data(self) -> bytes:
        recorded = recorded_data(self.bench.case)
        return b"" if recorded is None else _digest(Trace(dict(self.bench.case.port.data(recorded.seed))))

    def _changed(self) -> bool:
        """Whether anything that the port has computed is other than the correct port's."""
        return any(self.clean.get(stage) != value for stage, value in self._numbers().items())


class _Nobody:
    """Stands for a port that can do nothing."""

    name = "port"

    def load(self, state: Any) -> None:
        """Nothing."""

    def end_training(self) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        raise SideError(f"nobody has {name}")


def _trim() -> None:
    """Gives freed memory back to the system, where the C library can be asked to."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass


def _digest(trace: Trace) -> bytes:
    values = [traces.digest(value).tobytes() + str(value.shape).encode() for value in trace.points.values()]
    return b"".join(values)
