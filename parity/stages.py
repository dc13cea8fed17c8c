"""Runs a case, stage by stage: both sides compute, then only numpy compares.

The order is that of training: weights, forward pass, forward pass in training mode, losses, gradients, optimizer steps,
a longer trajectory. Each stage starts from the same weights again, so that one stage's failure is not another's.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

from parity import coverage
from parity.bench import NUMERICS, Bench
from parity.case import STAGES, Case
from parity.chain import ChainResult, recorded_parameters, verify
from parity.compare import Finding, StageResult
from parity.errors import CaseError
from parity.isolation import apart

Progress = Callable[[str, str], None]


@dataclass
class CaseResult:
    """The verdict on one port.

    Attributes:
        case: its name.
        chain: how the reference relates to its upstream repository.
        stages: results in order.
        coverage: what was never compared (see `parity.coverage`).
        versions: package -> version.
        settings: seed, size and where the weights are from.
        seconds: all took.
        picture: path of the picture that was drawn, or "".
        bench: both sides, loaded, until `release`.
    """

    case: str
    chain: ChainResult
    stages: list[StageResult] = field(default_factory=list)
    coverage: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    picture: str = ""
    bench: Bench | None = field(default=None, repr=False)

    def release(self) -> None:
        """Lets go of both sides and their traces; only the verdict stays."""
        if self.bench is not None:
            self.bench.close()
            self.bench = None
        gc.collect()
        give_back_memory()

    @property
    def passed(self) -> bool:
        """Every stage that ran agrees, at least one ran, and the reference does not contradict its upstream."""
        ran = [stage for stage in self.stages if not stage.reason]
        return bool(ran) and all(stage.passed for stage in ran) and self.chain.status != "broken"

    @property
    def exit_code(self) -> int:
        """0 pass, 1 mismatch, 3 a side crashed."""
        if any(stage.crash for stage in self.stages):
            return 3
        return 0 if self.passed else 1

    @property
    def first(self) -> tuple[StageResult, Finding] | None:
        """The first divergence, in stage order."""
        return next(((stage, stage.first) for stage in self.stages if stage.first is not None), None)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        if self.passed:
            return f"{self.case}: passed {sum(not s.reason for s in self.stages)} stages"
        if self.first is None:
            return f"{self.case}: failed: {next((s.crash for s in self.stages if s.crash), self.chain.detail)}"
        stage, finding = self.first
        return f"{self.case}: first divergence {finding.point}: {finding.text} {stage.cause}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "case": self.case,
            "passed": self.passed,
            "exit_code": self.exit_code,
            "chain": self.chain.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
            "coverage": self.coverage,
            "versions": self.versions,
            "settings": self.settings,
            "seconds": round(self.seconds, 1),
        }


def run(
    case: Case,
    *,
    stages: Sequence[str] | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    float32: bool = True,
    upstream: bool = True,
    isolate: bool = False,
    progress: Progress | None = None,
) -> CaseResult:
    """Proves, or refutes, that a port computes what its reference computes.

    Args:
        case: what to compare.
        stages: names to run; all by default. "weights" always runs.
        seed: of the generated weights and inputs.
        size: (H, W) of the inputs; the case's own by default.
        weights: a state dict of the reference, instead of generated weights.
        inputs: arrays by name, instead of generated ones; missing names are generated.
        float32: also run both sides in float32, for the numerics report.
        upstream: also compare the reference with the recording of its upstream repository.
        isolate: run each side in a process of its own; neither framework may be imported here yet.
        progress: called with (case, stage) before each stage.

    Returns:
        The verdict; truthy if the port is proven.

    Raises:
        CaseError: if the case or an argument cannot be used.
    """
    wanted = _wanted(stages)
    for stage in wanted:
        case.why_not(stage)  # raises for a case that is only half given, before anything is built
    started = time.perf_counter()
    say = progress or (lambda case_name, stage: None)
    say(case.name, "building")
    bench = Bench(case, seed=seed, size=size, weights=weights, inputs=inputs, isolate=isolate)
    result = CaseResult(case.name, ChainResult("unchecked", case.upstream or "", ""), bench=bench)
    result.versions = bench.versions()
    result.settings = {"seed": seed, "size": list(bench.size), "weights": bench.weights}
    if upstream and not isolate:
        bench.keep_for_chain()
    _run_stages(result, wanted, lambda stage: say(case.name, stage), float32=float32)
    if upstream:
        say(case.name, "upstream")
        result.chain = _verify(case, bench)
    result.seconds = time.perf_counter() - started
    return result


def _run_stages(result: CaseResult, wanted: Sequence[str], say: Callable[[str], None], *, float32: bool) -> None:
    bench = result.bench
    one_pass = [stage for stage in wanted if stage in NUMERICS]
    for stage in wanted:
        say(stage)
        started = time.perf_counter()
        stage_result = bench.run_stage(stage)
        stage_result.seconds = time.perf_counter() - started
        result.stages.append(stage_result)
        if stage == "weights" and not stage_result.passed:
            return
        if one_pass and stage == one_pass[-1]:
            if float32:
                say("float32")
                bench.add_numerics(result.stages)
            bench.forget_gradients()
    result.coverage = coverage.measure(bench.traces, bench.reference.shapes(), wanted)
    result.coverage["not_finite"] = [f.point for stage in result.stages for f in stage.findings if f.passed and f.text]
    sides = bench.reference, bench.port
    result.coverage["set_differently"] = coverage.set_differently(*sides, bench.case.weights)


def memory_needed(case: Case) -> float:
    """About how many bytes a run of all stages takes; 0 where nobody recorded the model's size.

    Measured on 13 cases. At its most, in `step`, the parameters are there about 12 times: both sides hold them, their
    gradients and the optimizer's moments, and the values before the step. Two more are for what layers put out.
    """
    count = recorded_parameters(case)
    return 2.5e9 + 8.0 * 14 * count if count else 0.0


def time_expected(case: Case) -> float:
    """About how many seconds a run of all stages takes, fitted to 13 cases; good for nothing but an order."""
    steps = case.trajectory.steps + (0 if case.trajectory.follows(case.step) else case.step.steps)
    return 0.9e-6 * recorded_parameters(case) + 3.3 * steps


def give_back_memory() -> None:
    """Returns what is free to the system: the C library keeps gigabytes that other processes could use."""
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


def keep_memory() -> None:
    """From here on this process keeps what it frees until `give_back_memory`.

    Else each large array comes from the system anew, page by page: a fifth of the time of a large case.
    """
    option = _c_function("mallopt")
    if option is not None:
        option(-4, 0)  # M_MMAP_MAX: how many arrays may have a mapping of their own
        option(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: bytes that may be free at the top of the heap


def _c_function(name: str) -> Any:
    """Of glibc, which not every system has."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def crashed(case: Case, stage: str, message: str) -> CaseResult:
    """What stands for the verdict where the process that worked on it died.

    Args:
        case: that it worked on.
        stage: that it was at; may be no stage of the table.
        message: what became of it.
    """
    result = CaseResult(case.name, ChainResult("unchecked", case.upstream or "", ""))
    at = f", at {stage}" if stage else ""
    result.stages.append(StageResult(stage if stage in STAGES else STAGES[0], crash=message + at))
    return result


def _verify(case: Case, bench: Bench | None = None) -> ChainResult:
    """The chain's verdict; of the run that the bench kept, nothing is computed again."""
    try:
        if bench is None or bench.failure:
            return verify(case)
        if bench.isolate:
            return apart(verify, case)
        bench.reference.end_training()
        return verify(case, side=bench.reference, computed=bench.replay)
    except CaseError:
        raise
    except (Exception, SystemExit) as error:  # the stages will say more about it
        return ChainResult(
            "broken", case.upstream or "", f"the reference raised {type(error).__name__}: {error}", np.inf
        )


def _wanted(stages: Sequence[str] | None) -> list[str]:
    if stages is None:
        return list(STAGES)
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise CaseError(f"unknown stage {unknown[0]!r}; stages are {', '.join(STAGES)}")
    return [stage for stage in STAGES if stage in stages or stage == "weights"]
