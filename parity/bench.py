"""Both sides of a case on the table: what each stage makes them compute, and how their traces are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice, zip_longest
from typing import Any, Callable

import numpy as np

from parity import diagnose, fill, initial, official
from parity.case import CALIBRATION, Case, Schedule
from parity.chain import Replay, recorded_data, recorded_initial
from parity.compare import Finding, StageResult, compare, numerics
from parity.errors import CaseError, SideError, WeightsError
from parity.isolation import RemoteSide
from parity.known import RunningVariance
from parity.traces import Trace, digest, digested
from parity.training import largest_changes, merged, steps, train
from parity.weights import Plan, plan, rename_module, translate

NUMERICS = ("forward", "forward_train", "loss", "gradients")  # stages that are also run in float32
LARGE = 2**29  # bytes of one side's trace of gradients, or of an optimizer step; of more, only what differs is kept


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
        self.weights = "generated" if weights is None else "given"
        self.failure = ""
        self.reference: Any = None
        self.port: Any = None
        try:
            self.reference, self.port = self._sides("float64")
            self._load_reference(weights)
        except SideError as error:
            self.failure = str(error)
        self.given_inputs = dict(inputs or {})
        self._batches: dict[int, tuple[list[np.ndarray], dict[str, np.ndarray]]] = {}
        self.plan: Plan | None = None
        self.traces: dict[tuple[str, str], Trace] = {}
        self._going: list[tuple[Trace, Iterator[Trace]]] = []  # losses so far and what is to come, if `step` can go on
        self.replay: Replay | None = None

    def keep_for_chain(self) -> None:
        """From here on, `replay` gathers what a recording may hold, if this is the run that is recorded."""
        recorded = (self.seed, self.size) == (0, tuple(self.case.size))
        if recorded and not self.failure and self.weights != "given" and not self.given_inputs:
            self.replay = Replay(self.size, self.seed, digested, self.initial)

    def _sides(self, dtype: str) -> tuple[Any, Any]:
        def build_reference() -> Any:
            from parity.torch_side import TorchSide

            return _built("reference", lambda: TorchSide(self.case.reference, dtype=dtype))

        def build_port() -> Any:
            from parity.paddle_side import PaddleSide

            return _built("port", lambda: PaddleSide(self.case.port, dtype=dtype))

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
        """Package versions of both sides; {} if one cannot be built."""
        return {} if self.failure else {**self.reference.versions(), **self.port.versions()}

    def run_stage(self, stage: str) -> StageResult:
        """Runs one stage; `weights` has to be the first."""
        reason = self.case.why_not(stage)
        if reason:
            return StageResult(stage, reason=reason)
        if self.failure:
            return StageResult(stage, crash=self.failure)
        try:
            if stage != "weights" and not (stage == "trajectory" and self._going):
                for side in (self.reference, self.port):
                    side.end_training()
            result = getattr(self, f"_{stage}")()
            result.cause = diagnose.cause(self, result)
            return result
        except SideError as error:
            return StageResult(stage, crash=str(error))
        except SystemExit as error:
            return StageResult(stage, crash=f"a side ended the program: SystemExit: {error}")

    def _load_reference(self, weights: Mapping[str, np.ndarray] | None) -> None:
        shapes = self.reference.shapes()
        if weights is not None:  # which bring their own statistics
            missing, extra = sorted(set(shapes) - set(weights)), sorted(set(weights) - set(shapes))
            if missing or extra:
                raise CaseError(
                    f"{self.case.name}: the weights are not those of its reference: missing {missing[:5]},"
                    f" unexpected {extra[:5]} ({len(missing)} and {len(extra)} in all)"
                )
            wrong = [name for name, shape in shapes.items() if np.shape(weights[name]) != tuple(shape)]
            if wrong:
                raise CaseError(
                    f"{self.case.name}: the weights are not those of its reference: {wrong[0]} is"
                    f" {np.shape(weights[wrong[0]])}, expected {tuple(shapes[wrong[0]])} ({len(wrong)} such in all)"
                )
        self.reference.load(fill.state(shapes, self.seed) if weights is None else weights)
        if self.case.calibrate and weights is None:
            self._calibrate()
        self.initial = self.reference.state()  # read back: of a tensor with two names, the later one counts

    def _calibrate(self) -> None:
        inputs, _ = self.case.split(self.case.batch(self.seed, CALIBRATION, self.size))
        try:
            self.reference.calibrate(inputs)
        except Exception as error:
            raise SideError(f"calibrating the reference raised {type(error).__name__}: {error}") from error
        self.weights = "generated, statistics calibrated"

    def _restore(self) -> None:
        self._going = []
        self.reference.load(self.initial)
        self.port.load(self.plan.forward(self.initial))

    def batch(self, index: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """(model inputs, targets) of the batch with this index."""
        if index not in self._batches:
            arrays = self.case.batch(self.seed, index, self.size)
            arrays.update({name: value for name, value in self.given_inputs.items() if name in arrays})
            self._batches[index] = self.case.split(arrays)
        return self._batches[index]

    def _weights(self) -> StageResult:
        result = StageResult("weights")
        try:
            self.plan = plan(
                self.reference.shapes(),
                self.port.tensors(),
                self.case.weights,
                framework_only=self.reference.framework_only(),
                also=[f"{path}." for path in self.reference.module_types()],
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
        self._forward_traces()
        return self._compared("forward")

    def _forward_train(self) -> StageResult:
        self._train_traces()
        return self._compared("forward_train")

    def _gradients(self) -> StageResult:
        self._train_traces()
        result = self._compared("gradients")
        if result.first is not None:
            result.cause = "gradients are compared in reverse order of execution: what follows this point agrees"
        return result

    def _forward_traces(self) -> None:
        self._restore()
        inputs, targets = self.batch()
        for side in (self.reference, self.port):
            trace = self.traces[side.name, "forward"] = side.observe(inputs, targets, train=False, backward=False)
            if side is self.reference:
                self._keep("observed", "forward", trace)

    def _keep(self, kind: str, *arguments: Any) -> None:
        """Hands something that the reference computed to the replay, if there is one; a crash ends it."""
        if self.replay is not None:
            try:
                getattr(self.replay, kind)(*arguments)
            except SideError:
                self.replay = None

    def _train_traces(self) -> None:
        """One pass in training mode, with gradients if the case has losses; split into two stages' traces."""
        if ("reference", "forward_train") in self.traces:
            return
        self._restore()
        inputs, targets = self.batch()
        backward = self.case.why_not("gradients") is None
        for side in (self.reference, self.port):
            before = side.buffers()
            trace = side.observe(inputs, targets, train=True, backward=backward)
            if side is self.reference:
                self._keep("observed", "train", trace)
                self._keep("buffers", "train", side.buffers())
            self._split(side, trace, before)

    def _split(self, side: Any, trace: Trace, before: Mapping[str, np.ndarray]) -> None:
        forward, gradients = Trace(meta=dict(trace.meta)), Trace(meta=dict(trace.meta))
        del gradients.meta["leaves"]  # every gradient has to be on both sides
        gradients.meta["scales"] = dict(trace.meta.get("sums", {}))
        if any(name.startswith("output/") for name in trace.points):
            forward.meta.pop("crash", None)  # it came later
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
        for path, settings in trace.meta["dropout"].items():
            forward.points[f"dropout/{path}"] = np.array(settings)
        self.traces[side.name, "forward_train"], self.traces[side.name, "gradients"] = forward, gradients

    def _loss(self) -> StageResult:
        self._loss_traces()
        result = self._compared("loss")
        if result.first is not None:
            result.cause = "both sides got the reference's outputs and the same targets, so the loss itself differs"
        return result

    def _loss_traces(self) -> None:
        """The losses of the reference's outputs, and of the case's probes, on both sides."""
        _, targets = self.batch()
        self._train_traces()
        forward = self.traces["reference", "forward_train"].points
        outputs = {name.partition("/")[2]: v for name, v in forward.items() if name.startswith("output/")}
        probes = {"": (outputs, targets)}
        for name, probe in (self.case.probes(self.seed, self.size) if self.case.probes else {}).items():
            probes[f"{name}/"] = (probe.outputs, probe.targets)
        for side in (self.reference, self.port):
            whole = self.traces[side.name, "loss"] = Trace()
            for prefix, (values, labels) in probes.items():
                trace = side.evaluate_losses(values, labels)
                if prefix and side is self.reference:
                    self._keep("observed", f"loss/{prefix[:-1]}", trace)
                whole.meta.update(trace.meta)
                whole.points.update({prefix + name: value for name, value in trace.points.items()})

    @property
    def trained(self) -> Schedule:
        """What the stage `step` starts: the trajectory, if that goes on from its steps."""
        goes_on = self.case.why_not("trajectory") is None and self.case.trajectory.follows(self.case.step)
        return self.case.trajectory if goes_on else self.case.step

    def _step(self) -> StageResult:
        """Both sides step by step; of a large model only the first step that differs stays in memory."""
        self._restore()
        sides, case = (self.reference, self.port), self.case
        goes_on = self.trained is case.trajectory
        training = [
            steps(
                side, self.trained, self.batch, whole=case.step.steps, replay=self.replay if side is sides[0] else None
            )
            for side in sides
        ]
        result = StageResult("step")
        kept: tuple[list[Trace], list[Trace]] = ([], [])
        for index, parts in enumerate(islice(zip_longest(*training), case.step.steps)):
            parts = [Trace(meta={"scales": {}}) if part is None else part for part in parts]
            if index == 0:
                for side, part in zip(sides, parts):
                    rates = side.schedule(case.schedule_iterations(), case.step)
                    if side is self.reference:
                        self._keep("schedule", rates)
                        between = largest_changes(self.reference, rates, case.step)
                    rates.update(side.schedule(between, case.step))
                    for iteration in sorted(rates):
                        part.add(f"schedule/{iteration}", np.float64(rates[iteration]))
            compared = self._compare("step", *parts)
            result.findings += compared.findings
            result.crash = result.crash or compared.crash
            large = parts[0].nbytes > LARGE
            for traces, part in zip(kept, parts):  # the next step changes their arrays
                traces.append(part.without_arrays() if large and compared.first is None else part.copied())
            if large and compared.first is not None:
                break
        for side, traces in zip(sides, kept):
            self.traces[side.name, "step"] = merged(traces)
        if goes_on and result.passed:
            losses = [merged(traces).only("loss") for traces in kept]
            self._going = list(zip(losses, training))
        return result

    def _trajectory(self) -> StageResult:
        """The losses of a short run; where it goes on from the `step` stage, its first steps are those."""
        for side, (done, training) in zip((self.reference, self.port), self._going):
            self.traces[side.name, "trajectory"] = merged([done, *training])
        if not self._going:
            self._restore()
            for side in (self.reference, self.port):
                self.traces[side.name, "trajectory"] = train(side, self.case.trajectory, self.batch, whole=0)
        return self._compared("trajectory")

    def _initial(self) -> StageResult:
        """The values that both constructors left, or that upstream's were recorded to leave."""
        if self.case.reference.initial:
            theirs = self.reference.initial()
        else:
            recorded = recorded_initial(self.case)
            if recorded is None:
                return StageResult("initial", reason="nobody recorded upstream's initial values")
            theirs = recorded.points
        own = self.port.initial()
        result = StageResult("initial", initial.compare(self.plan, theirs, own))
        differing = [finding.point.partition("/")[2] for finding in result.findings if not finding.passed]
        result.cause = initial.explain(self.plan, theirs, own, self.port.module_types(), differing)
        return result

    def _data(self) -> StageResult:
        recorded = recorded_data(self.case)
        if recorded is None:
            return StageResult("data", reason="nobody recorded upstream's data pipeline")
        points = self.case.port.data(recorded.seed)
        own = {name: digest(value) for name, value in points.items()}
        own.update({f"{name}.shape": np.array(value.shape) for name, value in points.items()})
        theirs = {name: numbers for name, (_, numbers) in recorded.points.items()}
        theirs.update({f"{name}.shape": np.array(shape) for name, (shape, _) in recorded.points.items()})
        return StageResult("data", compare(Trace(theirs), Trace(own), stage="data"))

    def _metrics(self) -> StageResult:
        theirs, own = Trace(), Trace()
        for name, figures in self.case.port.metrics.items():
            expected = official.points(official.recorded(name)["figures"])
            theirs.points.update({f"{name}/{key}": value for key, value in expected.items()})
            try:
                found = official.points(figures())
            except Exception as error:
                return StageResult("metrics", crash=f"the port raised {type(error).__name__}: {error}")
            own.points.update({f"{name}/{key}": value for key, value in found.items()})
        return StageResult("metrics", compare(theirs, own, stage="metrics", kind="discrete"))

    def _postprocess(self) -> StageResult:
        inputs, targets = self.batch()
        if ("reference", "forward") not in self.traces:
            self._restore()
            self.traces["reference", "forward"] = self.reference.observe(inputs, targets, train=False, backward=False)
        points = self.traces["reference", "forward"].points
        outputs = {name.partition("/")[2]: value for name, value in points.items() if name.startswith("output/")}
        traces = [side.postprocess(outputs) for side in (self.reference, self.port)]
        return self._compare("postprocess", *traces, kind="discrete")

    def predict(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Both sides' class map of one image, each (H, W); None if the case has none.

        Args:
            image: (1, 3, H, W) float32.
        """
        self._restore()
        arrays = self.case.batch(self.seed, 0, image.shape[2:])
        first, *others = (arrays[name] for name in self.case.feed)
        others = [value[:1] if value.shape[:1] == first.shape[:1] else value for value in others]
        maps = []
        for side in (self.reference, self.port):
            points = side.observe([image, *others], {}, train=False, backward=False).points
            outputs = {name.partition("/")[2]: value for name, value in points.items() if name.startswith("output/")}
            pred = side.postprocess(outputs).points.get("pred")
            if pred is None or pred.ndim != 3:
                return None
            maps.append(pred[0])
        return maps[0], maps[1]

    def _compared(self, stage: str) -> StageResult:
        return self._compare(stage, self.traces["reference", stage], self.traces["port", stage])

    def _compare(self, stage: str, reference: Trace, port: Trace, *, kind: str | None = None) -> StageResult:
        result = StageResult(stage)
        for name, trace in (("reference", reference), ("port", port)):
            if "crash" in trace.meta:
                result.crash = result.crash or f"the {name} raised {trace.meta['crash']}"
        if stage not in ("loss", "postprocess"):  # their points are named by the case, not by modules
            reference = self.translated(reference)
        result.findings = compare(reference, port, stage=stage, ignored=self.case.ignored, kind=kind)
        return result

    def translated(self, trace: Trace) -> Trace:
        """The reference's trace under the port's names."""
        if not self.case.weights:
            return trace
        modules = "leaves" in trace.meta
        names = {name: translate(name, self.case.weights, modules=modules) for name in trace.points}
        if len(set(names.values())) < len(names):
            twice = next(name for name, count in Counter(names.values()).items() if count > 1)
            raise CaseError(f"{self.case.name}: the Rename rules give two points the name {twice}; make them injective")
        meta = dict(trace.meta)
        if "leaves" in meta:
            meta["leaves"] = {rename_module(path, self.case.weights): kind for path, kind in meta["leaves"].items()}
        if "scales" in meta:
            meta["scales"] = {names.get(name, name): value for name, value in meta["scales"].items()}
        return Trace({names[name]: value for name, value in trace.points.items()}, meta)

    def add_numerics(self, results: Sequence[StageResult]) -> None:
        """Runs both sides in float32 and adds the numerics report to the forward, loss and gradient stages."""
        wanted = [r for r in results if not r.reason and r.stage in NUMERICS]
        if not wanted:
            return
        with self.in_float32() as single:
            for result in wanted:
                single.compute(result.stage)
                pair = [self.traces["reference", result.stage], single.traces["reference", result.stage]]
                if result.stage != "loss":
                    pair = [self.translated(trace) for trace in pair]
                result.numerics = numerics(*pair, single.traces["port", result.stage])

    def forget_gradients(self) -> None:
        """Lets go of a large model's gradients, once nothing asks for more than their shapes."""
        for side in ("reference", "port"):
            trace = self.traces.get((side, "gradients"))
            if trace is not None and trace.nbytes > LARGE:
                self.traces[side, "gradients"] = trace.shapes()

    @contextmanager
    def in_float32(self) -> Iterator[Bench]:
        """The bench with both sides in float32, and without traces; within the context, only it may be used."""
        single = type(self).__new__(type(self))
        single.__dict__.update(self.__dict__)
        single.traces, single.replay = {}, None
        single.reference, single.port = self._lowered()
        try:
            yield single
        finally:
            self._raised()

    def _lowered(self) -> tuple[Any, Any]:
        for side in (self.reference, self.port):
            side.cast("float32")
        return self.reference, self.port

    def _raised(self) -> None:
        for side in (self.reference, self.port):
            side.cast("float64")
        self._restore()

    def compute(self, stage: str) -> None:
        """Makes both sides' traces of one of the stages that `add_numerics` reports on."""
        if stage == "forward":
            self._forward_traces()
        elif stage == "loss":
            self._loss_traces()
        else:
            self._train_traces()


def _built(name: str, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (Exception, SystemExit) as error:
        raise SideError(f"the {name} cannot be built: {type(error).__name__}: {error}") from error
