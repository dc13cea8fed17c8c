"""Why a stage diverges, in one sentence with its evidence; it says so when no cause is found.

`cause` asks the experiments of `parity.diagnosis` for the stage's first divergence. They need both sides in this
process; of sides in processes of their own, only settings are compared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from parity import official
from parity.case import Schedule
from parity.chain import recorded_data
from parity.compare import Finding, StageResult, compare_point
from parity.diagnosis import (
    calls,
    carried,
    conditioning,
    data,
    glue,
    gradients,
    leaf,
    losses,
    metrics,
    resizing,
    runs,
    training,
)
from parity.isolation import RemoteSide
from parity.traces import Trace
from parity.training import steps
from parity.weights import rename_module

NOTHING = "no cause found"
_PASSES = ("forward", "forward_train", "gradients")


def cause(bench: Any, result: StageResult) -> str:
    """The cause of a stage's first divergence; the verdict stands without it.

    Args:
        bench: both sides, in the state in which the stage left them, and its traces.
        result: of the stage.
    """
    finding = result.first
    if finding is None:
        return result.cause
    explain = (_BY_STAGE_APART if isinstance(bench.port, RemoteSide) else _BY_STAGE).get(result.stage)
    if explain is None or _ended_in_crash(bench, result.stage, finding):
        return result.cause
    try:
        if result.stage != "weights":
            bench._restore()
        found = _rounding(bench, finding) if result.stage in _PASSES and explain is _BY_STAGE[result.stage] else ""
        return found or explain(bench, finding) or result.cause or NOTHING
    except Exception as error:
        return f"{result.cause or NOTHING}; the diagnosis raised {type(error).__name__}: {error}"


def _ended_in_crash(bench: Any, stage: str, finding: Finding) -> bool:
    """Whether a point of training is missing because the port raised: the message is all that is known."""
    trace = bench.traces.get(("port", stage)) if stage in ("step", "trajectory") else None
    return finding.verdict == "missing" and trace is not None and "crash" in trace.meta


def explain(
    finding: Finding,
    reference: Any,
    port: Any,
    inputs: Sequence[np.ndarray],
    rules: Sequence[Any],
    *,
    train: bool,
) -> str:
    """What the settings of two layers, and one run of them, say; all that can be asked of sides in other processes.

    Args:
        finding: the first divergence among module outputs.
        reference: the torch side, loaded.
        port: the Paddle side, loaded.
        inputs: of the model.
        rules: of the case.
        train: whether the stage runs in training mode.
    """
    name, paths = _leaf(finding, reference, port, rules)
    if paths is None:
        return f"every layer before it agrees, so the code that computes {name} from them differs"
    theirs, own = paths
    settings = attribute_differences(reference.attributes(theirs), port.attributes(own))
    if settings:
        return f"{own} is set differently: {settings}"
    if own != name:
        return f"the settings of {own} agree"
    received = reference.leaf_inputs(theirs, inputs, train=train)
    if not received:
        return ""
    expected = reference.replay(theirs, received, train=train)
    try:
        replayed = compare_point(name, expected, port.replay(own, received, train=train), "float64")
    except Exception as error:
        return f"on the reference's input, the port's layer raises {leaf.raised(error)}"
    if replayed.passed:
        return f"{own} itself agrees on the reference's input, so what feeds it differs (code between layers)"
    return f"{own} differs on the reference's own input ({replayed.text}): its weights or its formula"


def attribute_differences(reference: Mapping[str, Any], port: Mapping[str, Any]) -> str:
    """Settings of two layers that differ, as "epsilon 0.001, reference 1e-05"; "" if none."""
    return leaf.shown(leaf.attribute_differences(reference, port))


def _leaf(finding: Finding, reference: Any, port: Any, rules: Sequence[Any]) -> tuple[str, tuple[str, str] | None]:
    """(what the point is of, (the reference's path, the port's) of the leaf that it belongs to, if any)."""
    name = finding.point.partition("/")[2].partition("@")[0]
    if name.startswith(("buffer/", "dropout/")):
        name = name.partition("/")[2]
    leaves = {rename_module(path, rules): path for path in reference.module_types()}
    own = port.module_types()
    path = next((p for p in _enclosing(name) if p in leaves and p in own), None)
    return name, None if path is None else (leaves[path], path)


def _enclosing(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _settings(bench: Any, finding: Finding, *, train: bool = False) -> str:
    return explain(finding, bench.reference, bench.port, bench.batch()[0], bench.case.weights, train=train)


def _rounding(bench: Any, finding: Finding) -> str:
    """Whether the point is too ill-conditioned to be compared at all."""
    stage, _, name = finding.point.partition("/")
    inputs, targets = bench.batch()

    def observe(inputs: Sequence[np.ndarray], state: Mapping[str, np.ndarray]) -> np.ndarray | None:
        bench.reference.load(state)
        backward = stage == "gradients"
        trace = bench.reference.observe(inputs, targets, train=stage != "forward", backward=backward)
        points = {key.partition("/")[2] if backward else key: value for key, value in trace.points.items()}
        meta = {} if backward else {"leaves": trace.meta["leaves"]}
        return bench.translated(Trace(points, meta)).points.get(name)

    def moved() -> Iterator[np.ndarray | None]:
        yield observe(conditioning.nudged(inputs), bench.initial)
        yield observe(inputs, conditioning.nudged_state(bench.initial))

    try:
        expected = bench.translated(bench.traces["reference", stage]).points.get(name)
        return conditioning.explain(finding, expected, moved())
    except Exception:  # a side that was recorded elsewhere does not know other inputs
        return ""
    finally:
        bench._restore()


# --- one function per stage -----------------------------------------------------------------------------------------


def _weights(bench: Any, finding: Finding) -> str:
    if bench.plan is None or finding.point == "weights/plan":
        return carried.explain_plan(finding.text, bench.reference, bench.port, bench.case.weights)
    return carried.explain(finding, bench.plan, bench.plan.forward(bench.initial), bench.port.state())


def _forward(bench: Any, finding: Finding, *, train: bool = False) -> str:
    inputs, _ = bench.batch()
    rules, sides = bench.case.weights, (bench.reference, bench.port)
    if finding.point.partition("/")[2].startswith("dropout/"):
        return _dropout(bench, finding)
    name, paths = _leaf(finding, *sides, rules)
    repeated = runs.explain_missing(finding, _both(bench, "forward_train" if train else "forward"))
    if repeated:
        crashed = "crash" in bench.traces["port", finding.point.partition("/")[0]].meta
        shapes = glue.misshapen(_glue(bench, inputs, train), inputs) if crashed else ""
        return f"{shapes}; {repeated}" if shapes else repeated
    if paths is not None:
        held = {key: np.asarray(value) for key, value in bench.plan.forward(bench.initial).items()}
        layer = leaf.Leaf(*sides, paths, inputs, train=train)
        said = layer.explain(held)
        bench._restore()
        if finding.point.partition("/")[2].startswith("buffer/"):
            said = said or runs.explain_buffer(finding, _initial(bench), _both(bench, "forward_train"))
        if said:
            return said
    said = _around(bench, name, train=train)
    if said:
        return said
    rest = f"what feeds {name} differs" if paths else f"the code that computes {name} from the layers before differs"
    found = glue.explain(finding, _glue(bench, inputs, train), inputs, bench.port, _rerun(bench, finding, train))
    itself = f"{paths[1]} itself agrees on the reference's input: " if paths else ""
    return f"{itself}{found}" if found else f"{itself}every layer before it agrees, so {rest}; {NOTHING}"


def _around(bench: Any, name: str, *, train: bool) -> str:
    """What is wrong with a layer that has others inside, such as a convolution that owns its norm."""
    inputs, _ = bench.batch()
    leaves = bench.reference.module_types()
    inner = {rename_module(path, bench.case.weights): path for path, _ in bench.reference.model.named_modules()}
    held = bench.plan.forward(bench.initial)
    layers = dict(bench.port.model.named_sublayers())
    for own in _enclosing(name):
        theirs = inner.get(own) if own in layers else None
        if theirs and theirs not in leaves and bench.port.attributes(own) and bench.reference.attributes(theirs):
            said = leaf.Leaf(bench.reference, bench.port, (theirs, own), inputs, train=train).explain(held)
            bench._restore()
            if said:
                return said
    return ""


def _initial(bench: Any) -> dict[str, np.ndarray]:
    """The port's state as it was loaded, by torch's names."""
    held = bench.plan.forward(bench.initial)
    return {tensor.torch_name: held[tensor.name] for tensor in bench.port.tensors()}


def _both(bench: Any, stage: str) -> tuple[Trace, Trace]:
    """(the reference's trace, the port's) under the port's names."""
    return bench.translated(bench.traces["reference", stage]), bench.traces["port", stage]


def _forward_train(bench: Any, finding: Finding) -> str:
    return _forward(bench, finding, train=True)


def _dropout(bench: Any, finding: Finding) -> str:
    name = finding.point.partition("/")[2].partition("/")[2]
    theirs = {rename_module(path, bench.case.weights): value for path, value in bench.reference.dropout.items()}
    ours = bench.port.dropout.get(name)
    if ours is None or name not in theirs:
        return f"only one side has the dropout {name}"
    words = (
        "rate {:.6g}, reference {:.6g}",
        "drops whole channels {:g}, reference {:g}",
        "scales in evaluation {:g}, reference {:g}",
    )
    said = [word.format(a, b) for word, a, b in zip(words, ours, theirs[name]) if a != b]
    return f"{name} is set differently: {'; '.join(said)}"


def _glue(bench: Any, inputs: Sequence[np.ndarray], train: bool) -> glue.Glue:
    stage = "forward_train" if train else "forward"
    outputs = {
        side: {
            name.partition("/")[2]: value
            for name, value in bench.traces[side, stage].points.items()
            if name.startswith("output/")
        }
        for side in ("reference", "port")
    }
    rules = bench.case.weights
    theirs = calls.of_reference(bench.reference, inputs, train=train)
    theirs.inputs = {rename_module(path, rules): value for path, value in theirs.inputs.items()}
    theirs.outputs = {rename_module(path, rules): value for path, value in theirs.outputs.items()}
    bench._restore()
    ours = calls.of_port(bench.port, inputs, train=train)
    bench._restore()
    return glue.Glue(theirs, ours, outputs["reference"], outputs["port"])


def _rerun(bench: Any, finding: Finding, train: bool) -> Any:
    stage = "forward_train" if train else "forward"
    name = finding.point.partition("/")[2]

    def rerun() -> float:
        inputs, targets = bench.batch()
        bench._restore()
        points = bench.port.observe(inputs, targets, train=train, backward=False).points
        expected = bench.translated(bench.traces["reference", stage]).points.get(name)
        if expected is None or name not in points:
            return np.inf
        return compare_point(name, expected, points[name], "float64").error

    return rerun


def _gradients(bench: Any, finding: Finding) -> str:
    inputs, _ = bench.batch()
    traces = (bench.translated(bench.traces["reference", "gradients"]), bench.traces["port", "gradients"])
    renamed = {path: rename_module(path, bench.case.weights) for path in bench.reference.module_types()}
    return gradients.explain(finding, bench.reference, bench.port, inputs, traces, renamed)


def _loss(bench: Any, finding: Finding) -> str:
    _, targets = bench.batch()
    forward = bench.traces["reference", "forward_train"].points
    outputs = {name.partition("/")[2]: v for name, v in forward.items() if name.startswith("output/")}
    probes: dict[str, losses.Probe] = {"": (outputs, targets)}
    for name, probe in (bench.case.probes(bench.seed, bench.size) if bench.case.probes else {}).items():
        probes[f"{name}/"] = (probe.outputs, probe.targets)
    traces = (bench.traces["reference", "loss"], bench.traces["port", "loss"])
    found = losses.explain(finding, bench.reference, bench.port, probes, traces)
    both = "both sides got the reference's outputs and the same targets"
    return f"{found} ({both})" if found else f"{both}, so the loss itself differs; {NOTHING}"


def _step(bench: Any, finding: Finding) -> str:
    before = finding.point.split("/")[1]
    before = int(before) - 1 if before.isdigit() else 0
    if before and not _is_kept(bench.traces["reference", "step"], before):
        return _replayed(bench, bench.trained, before + 1)
    inputs, targets = bench.batch()
    observed = bench.reference.observe(inputs, targets, train=True, backward=True)
    points = {n.partition("/")[2]: v for n, v in observed.points.items() if n.startswith("gradient/")}
    found = bench.translated(Trace(points, {"leaves": observed.meta["leaves"]})).points
    bench._restore()
    return training.Steps(
        (bench.translated(bench.traces["reference", "step"]), bench.traces["port", "step"]),
        found,
        bench.port.parameters(),
        (bench.reference, bench.port),
        bench.case.step,
        bench.case.schedule_iterations(),
        targets,
    ).explain(finding)


def _trajectory(bench: Any, finding: Finding) -> str:
    traces = tuple(bench.traces[side, "trajectory"] for side in ("reference", "port"))
    said = training.explain_trajectory(finding, traces)
    try:
        found = _replayed(bench, bench.case.trajectory, int(finding.point.split("/")[1]) - 1)
    except Exception:  # a side that was recorded elsewhere cannot take the steps again
        found = ""
    return f"{found}; {said}" if found else said


def _is_kept(trace: Trace, number: int) -> bool:
    """Whether the trace of a `step` stage has the arrays of a step, which those of a large model that agree are not."""
    return any(name.startswith(f"{number}/update/") and value.size > 1 for name, value in trace.points.items())


def _replayed(bench: Any, schedule: Schedule, count: int) -> str:
    """What the first of these steps that differs says, when all of it is looked at; "" if nothing.

    Of a step only a sample of each tensor is kept: two steps of both sides would take the memory of two more models.
    """
    if count < 1:
        return ""
    bench._restore()
    sides = (bench.reference, bench.port)
    kept: list[list[Trace]] = [[], []]
    for parts in islice(zip(*(steps(side, schedule, bench.batch, whole=count) for side in sides)), count):
        first = bench._compare("step", *parts).first
        for traces, part in zip(kept, parts):
            traces[:] = [*traces[-1:], part.sampled()]
        if first is not None:
            points = ({name: value for step in side for name, value in step.points.items()} for side in kept)
            both = tuple(bench.translated(Trace(known)) for known in points)
            _, targets = bench.batch()
            return training.Steps(both, {}, {}, sides, schedule, [], targets).explain(first)
    return ""


def _data(bench: Any, finding: Finding) -> str:
    recorded = recorded_data(bench.case)
    if recorded is None:
        return ""
    make = bench.case.port.data
    idle = data.idle_transform(lambda: make(recorded.seed))
    if idle:
        return f"{idle} has no effect: without it, the port's pipeline makes the same"
    other = resizing.explain(lambda: make(recorded.seed), lambda made: data.agree(made, recorded.points))
    return other or data.explain(finding, make(recorded.seed), recorded.points)


def _postprocess(bench: Any, finding: Finding) -> str:
    points = bench.traces["reference", "forward"].points
    outputs = {name.partition("/")[2]: value for name, value in points.items() if name.startswith("output/")}
    trace = bench.port.postprocess(outputs)
    if "crash" in trace.meta:
        return f"the port's post-processing raises {trace.meta['crash']}"
    actual = trace.points
    point = finding.point.partition("/")[2]
    found = data.explain_postprocess(bench.reference, outputs, actual, point)
    merging = sys.modules.get("paddleseg_ext.postprocess")
    if not found and merging is not None and callable(getattr(merging, "panoptic_deeplab", None)):
        function = merging.panoptic_deeplab
        owners = [module for module in sys.modules.values() if getattr(module, "panoptic_deeplab", None) is function]
        expected = bench.reference.postprocess(outputs).points
        found = data.keywords(bench.port, outputs, expected, point, function, owners)
    return found or data.relation(bench.reference, outputs, actual, point)


def _metrics(bench: Any, finding: Finding) -> str:
    evaluation, _, name = finding.point.partition("/")[2].partition("/")
    figures = official.points(bench.case.port.metrics[evaluation]())
    return metrics.explain(name, figures, official.points(official.recorded(evaluation)["figures"]))


_BY_STAGE: Mapping[str, Any] = {
    "weights": _weights,
    "forward": _forward,
    "forward_train": _forward_train,
    "gradients": _gradients,
    "loss": _loss,
    "step": _step,
    "trajectory": _trajectory,
    "data": _data,
    "postprocess": _postprocess,
    "metrics": _metrics,
}
_BY_STAGE_APART: Mapping[str, Any] = {
    "forward": _settings,
    "forward_train": lambda bench, finding: _settings(bench, finding, train=True),
    "step": lambda bench, finding: training.known(finding),
}
