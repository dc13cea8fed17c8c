"""Runs a case, stage by stage: both sides compute, then only numpy compares.

The order is that of training: weights, forward pass, forward pass in training mode, losses, gradients, optimizer steps,
a longer trajectory. Each stage starts from the same weights again, so that one stage's failure is not another's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from parity import coverage, diagnose, fill
from parity.case import STAGES, Case, Schedule
from parity.chain import ChainResult, verify
from parity.compare import Finding, StageResult, compare, numerics
from parity.errors import CaseError, WeightsError
from parity.isolation import RemoteSide, apart
from parity.known import RunningVariance
from parity.traces import Trace
from parity.weights import Plan, plan, rename

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
    started = time.perf_counter()
    say = progress or (lambda case_name, stage: None)
    say(case.name, "upstream")
    chain = ChainResult("unchecked", case.upstream or "", "")
    if upstream:
        chain = apart(verify, case) if isolate else verify(case)
    bench = Bench(case, seed=seed, size=size, weights=weights, inputs=inputs, isolate=isolate)
    result = CaseResult(case.name, chain, bench=bench)
    result.versions = bench.versions()
    result.settings = {"seed": seed, "size": list(bench.size), "weights": "given" if weights is not None else "generated"}
    for stage in wanted:
        say(case.name, stage)
        stage_started = time.perf_counter()
        stage_result = bench.run_stage(stage)
        stage_result.seconds = time.perf_counter() - stage_started
        result.stages.append(stage_result)
        if stage == "weights" and not stage_result.passed:
            break
    if float32 and result.stages[0].passed:
        say(case.name, "float32")
        bench.add_numerics(result.stages)
    if result.stages[0].passed:
        result.coverage = coverage.measure(bench.traces, bench.reference.shapes(), wanted)
    result.seconds = time.perf_counter() - started
    return result


class Bench:
    """Both sides of a case on the table, with the weights and inputs they share.

    Args:
        case: what to compare.
        seed: as in `run`.
        size: as in `run`.
        weights: as in `run`.
        inputs: as in `run`.
        isolate: as in `run`.
    """

    def __init__(
        self,
        case: Case,
        *,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
        inputs: Mapping[str, np.ndarray] | None = None,
        isolate: bool = False,
    ) -> None:
        self.case = case
        self.seed = seed
        self.size = tuple(size or case.size)
        self.isolate = isolate
        self.reference, self.port = self._sides("float64")
        self._load_reference(weights)
        self.given_inputs = dict(inputs or {})
        self.plan: Plan | None = None
        self.traces: dict[tuple[str, str], Trace] = {}

    def _sides(self, dtype: str) -> tuple[Any, Any]:
        def build_reference() -> Any:
            from parity.torch_side import TorchSide

            return TorchSide(self.case.reference, dtype=dtype)

        def build_port() -> Any:
            from parity.paddle_side import PaddleSide

            return PaddleSide(self.case.port, dtype=dtype)

        if self.isolate:
            return RemoteSide(build_reference, "reference"), RemoteSide(build_port, "port")
        return build_reference(), build_port()

    def close(self) -> None:
        """Ends the processes of isolated sides and forgets the traces."""
        self.traces.clear()
        for side in (self.reference, self.port):
            if isinstance(side, RemoteSide):
                side.close()

    def versions(self) -> dict[str, str]:
        """Package versions of both sides."""
        return {**self.reference.versions(), **self.port.versions()}

    def run_stage(self, stage: str) -> StageResult:
        """Runs one stage; `weights` has to be the first."""
        reason = self.case.why_not(stage)
        if reason:
            return StageResult(stage, reason=reason)
        if stage == "weights":
            return self._weights()
        self._restore()
        return getattr(self, f"_{stage}")()

    def _load_reference(self, weights: Mapping[str, np.ndarray] | None) -> None:
        shapes = self.reference.shapes()
        if weights is not None:
            missing, extra = sorted(set(shapes) - set(weights)), sorted(set(weights) - set(shapes))
            if missing or extra:
                raise CaseError(
                    f"{self.case.name}: the weights are not those of its reference: missing {missing[:5]},"
                    f" unexpected {extra[:5]} ({len(missing)} and {len(extra)} in all)"
                )
        self.reference.load(fill.state(shapes, self.seed) if weights is None else weights)
        self.initial = self.reference.state()  # read back: of a tensor with two names, the later one counts

    def _restore(self) -> None:
        self.reference.load(self.initial)
        self.port.load(self.plan.forward(self.initial))

    def _batch(self, index: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """(model inputs, targets) of the batch with this index."""
        arrays = self.case.make_inputs(self.seed * 1000 + index, self.size)
        arrays.update({name: value for name, value in self.given_inputs.items() if name in arrays})
        return [arrays[name] for name in self.case.feed], {
            name: value for name, value in arrays.items() if name not in self.case.feed
        }

    def _weights(self) -> StageResult:
        result = StageResult("weights")
        try:
            self.plan = plan(
                self.reference.shapes(),
                self.port.tensors(),
                self.case.weights,
                framework_only=self.reference.framework_only(),
                where=self.case.name,
            )
        except WeightsError as error:
            result.findings.append(Finding("weights/plan", "missing", np.inf, 0.0, str(error)))
            return result
        self._restore()
        expected, actual = self.plan.forward(self.initial), self.port.state()
        for move in self.plan.moves:
            point = Trace({move.reference: expected[move.port].astype(np.float64)})
            own = Trace({move.reference: actual[move.port].astype(np.float64)})
            result.findings += compare(point, own, stage="weights", kind="discrete")
        return result

    def _forward(self) -> StageResult:
        return self._observe("forward", train=False)

    def _forward_train(self) -> StageResult:
        return self._observe("forward_train", train=True)

    def _gradients(self) -> StageResult:
        self._train_traces()
        reference, port = self.traces["reference", "gradients"], self.traces["port", "gradients"]
        result = self._compare("gradients", reference, port)
        if result.first is not None:
            result.cause = "gradients are compared in reverse order of execution: what follows this point agrees"
        return result

    def _observe(self, stage: str, *, train: bool) -> StageResult:
        inputs, targets = self._batch()
        if train:
            self._train_traces()
        else:
            for side in (self.reference, self.port):
                self.traces[side.name, stage] = side.observe(inputs, targets, train=False, backward=False)
        result = self._compare(stage, self.traces["reference", stage], self.traces["port", stage])
        if result.first is not None:
            self._restore()
            result.cause = diagnose.explain(
                result.first, self.reference, self.port, inputs, self.case.weights, train=train
            )
        return result

    def _train_traces(self) -> None:
        """One pass in training mode, with gradients if the case has losses; split into two stages' traces."""
        if ("reference", "forward_train") in self.traces:
            return
        inputs, targets = self._batch()
        backward = self.case.why_not("gradients") is None
        for side in (self.reference, self.port):
            before = side.buffers()
            trace = side.observe(inputs, targets, train=True, backward=backward)
            self._split(side, trace, before)

    def _split(self, side: Any, trace: Trace, before: Mapping[str, np.ndarray]) -> None:
        forward, gradients = Trace(meta=dict(trace.meta)), Trace(meta=dict(trace.meta))
        for name, value in trace.points.items():
            if name.startswith("gradient/"):
                gradients.points[name.partition("/")[2]] = value
            elif name.startswith("term/"):
                gradients.points[f"loss/{name.partition('/')[2]}"] = value
            else:
                forward.points[name] = value
        after = side.buffers()
        if side is self.reference:
            after = RunningVariance(before).advance(after, trace.meta["norms"])
        forward.points.update({f"buffer/{name}": value for name, value in after.items()})
        for path, rate in trace.meta["dropout"].items():
            forward.points[f"dropout/{path}"] = np.float64(rate)
        self.traces[side.name, "forward_train"], self.traces[side.name, "gradients"] = forward, gradients

    def _loss(self) -> StageResult:
        inputs, targets = self._batch()
        self._train_traces()
        forward = self.traces["reference", "forward_train"].points
        outputs = {name.partition("/")[2]: v for name, v in forward.items() if name.startswith("output/")}
        probes = {"": (outputs, targets)}
        for name, probe in (self.case.probes(self.seed, self.size) if self.case.probes else {}).items():
            probes[f"{name}/"] = (probe.outputs, probe.targets)
        traces = {side.name: Trace() for side in (self.reference, self.port)}
        for prefix, (values, labels) in probes.items():
            for side in (self.reference, self.port):
                trace = side.evaluate_losses(values, labels)
                traces[side.name].meta.update(trace.meta)
                traces[side.name].points.update({prefix + name: value for name, value in trace.points.items()})
        self.traces["reference", "loss"], self.traces["port", "loss"] = traces["reference"], traces["port"]
        result = self._compare("loss", traces["reference"], traces["port"])
        if result.first is not None:
            result.cause = "both sides got the reference's outputs and the same targets, so the loss itself differs"
        return result

    def _step(self) -> StageResult:
        for side in (self.reference, self.port):
            trace = self.traces[side.name, "step"] = self.train(side, self.case.step)
            for iteration, rate in side.schedule(self.case.schedule_iterations(), self.case.step).items():
                trace.add(f"schedule/{iteration}", np.float64(rate))
        return self._compare("step", self.traces["reference", "step"], self.traces["port", "step"])

    def _trajectory(self) -> StageResult:
        for side in (self.reference, self.port):
            trace = self.train(side, self.case.trajectory)
            trace.points = {name: value for name, value in trace.points.items() if "/loss/" in name}
            self.traces[side.name, "trajectory"] = trace
        return self._compare("trajectory", self.traces["reference", "trajectory"], self.traces["port", "trajectory"])

    def _postprocess(self) -> StageResult:
        inputs, targets = self._batch()
        if ("reference", "forward") not in self.traces:
            self.traces["reference", "forward"] = self.reference.observe(inputs, targets, train=False, backward=False)
        points = self.traces["reference", "forward"].points
        outputs = {name.partition("/")[2]: value for name, value in points.items() if name.startswith("output/")}
        traces = [side.postprocess(outputs) for side in (self.reference, self.port)]
        return StageResult("postprocess", compare(*traces, stage="postprocess", kind="discrete"))

    def predict(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Both sides' class map of one image, each (H, W); None if the case has none.

        Args:
            image: (1, 3, H, W) float32.
        """
        self._restore()
        maps = []
        for side in (self.reference, self.port):
            points = side.observe([image], {}, train=False, backward=False).points
            outputs = {name.partition("/")[2]: value for name, value in points.items() if name.startswith("output/")}
            pred = side.postprocess(outputs).points.get("pred")
            if pred is None or pred.ndim != 3:
                return None
            maps.append(pred[0])
        return maps[0], maps[1]

    def train(self, side: Any, schedule: Schedule) -> Trace:
        """Optimizer steps of one side: per step the losses, rates, accumulators, updates and running statistics."""
        trace = Trace(meta={"scales": {}})
        try:
            side.start_training(schedule, self._batch()[1])
            expected = RunningVariance(side.buffers()) if side is self.reference else None
            before = side.parameters()
            for step in range(schedule.steps):
                terms, norms = side.train_step(*self._batch(step))
                buffers = side.buffers()
                if expected is not None:
                    buffers = expected.advance(buffers, norms)
                after = side.parameters()
                self._add_step(trace, f"{step + 1}", side, terms, before, after, buffers)
                before = after
        except Exception as error:
            trace.meta["crash"] = f"{type(error).__name__}: {error}"
        return trace

    @staticmethod
    def _add_step(
        trace: Trace,
        step: str,
        side: Any,
        terms: Mapping[str, np.ndarray],
        before: Mapping[str, np.ndarray],
        after: Mapping[str, np.ndarray],
        buffers: Mapping[str, np.ndarray],
    ) -> None:
        rates = side.learning_rates()
        for name, value in terms.items():
            trace.add(f"{step}/loss/{name}", value)
        for name, rate in rates.items():
            trace.add(f"{step}/learning_rate/{name}", np.float64(rate))
        for name, value in side.optimizer_state().items():
            trace.add(f"{step}/optimizer/{name}", value)
        for name, value in after.items():
            point = f"{step}/update/{name}"
            trace.add(point, value - before[name])
            trace.meta["scales"][point] = float(np.abs(value).max())
        for name, value in buffers.items():
            trace.add(f"{step}/buffer/{name}", value)

    def _compare(self, stage: str, reference: Trace, port: Trace) -> StageResult:
        result = StageResult(stage)
        for name, trace in (("reference", reference), ("port", port)):
            if "crash" in trace.meta:
                result.crash = result.crash or f"the {name} raised {trace.meta['crash']}"
        result.findings = compare(self._translated(reference), port, stage=stage, ignored=self.case.ignored)
        return result

    def _translated(self, trace: Trace) -> Trace:
        """The reference's trace under the port's names."""
        if not self.case.weights:
            return trace
        names = {name: translate(name, self.case.weights) for name in trace.points}
        meta = dict(trace.meta)
        if "leaves" in meta:
            meta["leaves"] = {rename(path + ".", self.case.weights)[:-1]: kind for path, kind in meta["leaves"].items()}
        if "scales" in meta:
            meta["scales"] = {names.get(name, name): value for name, value in meta["scales"].items()}
        return Trace({names[name]: value for name, value in trace.points.items()}, meta)

    def add_numerics(self, results: Sequence[StageResult]) -> None:
        """Runs both sides in float32 and adds the numerics report to the forward, loss and gradient stages."""
        other = Bench.__new__(Bench)
        other.__dict__.update(self.__dict__)
        other.traces = {}
        other.reference, other.port = self._sides("float32")
        for result in results:
            if result.reason or result.stage not in ("forward", "forward_train", "loss", "gradients"):
                continue
            other.traces["reference", "forward_train"] = Trace()
            other.numerics_traces(result.stage)
            triple = [self.traces["reference", result.stage], other.traces["reference", result.stage]]
            result.numerics = numerics(*map(self._translated, triple), other.traces["port", result.stage])
        other.close()

    def numerics_traces(self, stage: str) -> None:
        """The float32 traces of one stage."""
        self.traces.pop(("reference", "forward_train"), None)
        self._restore()
        if stage == "forward":
            inputs, targets = self._batch()
            for side in (self.reference, self.port):
                self.traces[side.name, stage] = side.observe(inputs, targets, train=False, backward=False)
        elif stage == "loss":
            self._loss()
        else:
            self._train_traces()


def translate(point: str, rules: Sequence[Any]) -> str:
    """A reference point's name in the port's spelling."""
    head, slash, tail = point.rpartition("/")
    if head.rpartition("/")[2] in ("output", "loss", "schedule") or tail.startswith("input."):
        return point
    path, at, repeat = tail.partition("@")
    if path.endswith(".output"):
        return f"{head}{slash}{rename(path[: -len('output')], rules)}output{at}{repeat}"
    renamed = rename(path, rules)
    if renamed == path:
        renamed = rename(path + ".", rules)[:-1]
    return f"{head}{slash}{renamed}{at}{repeat}"


def _wanted(stages: Sequence[str] | None) -> list[str]:
    if stages is None:
        return list(STAGES)
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise CaseError(f"unknown stage {unknown[0]!r}; stages are {', '.join(STAGES)}")
    return [stage for stage in STAGES if stage in stages or stage == "weights"]
