"""Why a loss differs on the same outputs and targets: a setting, a factor, or what it makes of its arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Callable

import numpy as np

from parity.compare import Finding
from parity.diagnosis import values
from parity.traces import Trace

Arrays = Mapping[str, np.ndarray]
Probe = tuple[Arrays, Arrays]
IGNORED = 255
USUAL = {
    "ignore": (255, 0, -1, -100)
}  # values of attributes so named that are tried even where the reference shows none


def explain(
    finding: Finding, reference: Any, port: Any, probes: Mapping[str, Probe], traces: tuple[Trace, Trace]
) -> str:
    """The cause of the first divergence of a loss, in one sentence; "" if none is found.

    Args:
        finding: the first divergence.
        reference: the torch side.
        port: the Paddle side.
        probes: prefix of a point -> (outputs, targets), which both sides got.
        traces: of both sides.
    """
    name = finding.point.partition("/")[2]
    prefix = max((p for p in probes if name.startswith(p)), key=len)
    outputs, targets = probes[prefix]
    term = name[len(prefix) :]
    experiment = Experiment(reference, port, outputs, targets, term)
    if finding.verdict == "missing":
        crash = traces[1].meta.get("crash", "")
        return f"the port's losses raise {crash[:80]}: {_setting(experiment)}" if crash else _missing(name, traces)
    return (
        _output_without_gradient(term, traces, prefix)
        or _setting(experiment)
        or _factor(experiment, traces, prefix)
        or _fitted(experiment)
        or _arguments(experiment)
        or _smoothing(experiment)
    )


class Experiment:
    """One term, or one output's gradient, on both sides, again and again.

    Args:
        reference: the torch side.
        port: the Paddle side.
        outputs: of the model.
        targets: of the batch.
        term: name of the term, or "d_<output>".
    """

    def __init__(self, reference: Any, port: Any, outputs: Arrays, targets: Arrays, term: str) -> None:
        self.reference, self.port, self.outputs, self.targets, self.term = reference, port, outputs, targets, term
        self.all_expected = self._points(reference, outputs, targets)
        self.all_actual = self._points(port, outputs, targets)

    @staticmethod
    def _points(side: Any, outputs: Arrays, targets: Arrays) -> Arrays:
        return side.evaluate_losses(outputs, targets).points

    @property
    def error(self) -> float:
        """Of the port's term."""
        return self.port_error()

    def port_error(self) -> float:
        """Of the port's term, computed now."""
        return self._error(self.all_expected, self._points(self.port, self.outputs, self.targets))

    def port_value(self) -> float:
        """By how much the port's term, a number, exceeds the reference's."""
        points = self._points(self.port, self.outputs, self.targets)
        return float(points[self.term]) - float(self.all_expected[self.term]) if self.term in points else np.nan

    @contextmanager
    def port_set(self, path: str, name: str, value: Any) -> Iterator[None]:
        """Within it a number of the port's losses is another."""
        own = self.port.side.losses
        self.port.side = dataclasses.replace(self.port.side, losses=_setter(own, path, name, value))
        try:
            yield
        finally:
            self.port.side = dataclasses.replace(self.port.side, losses=own)

    def reference_with(self, outputs: Arrays, targets: Arrays) -> bool:
        """Whether the reference computes what the port did, if it gets these instead."""
        points = self._points(self.reference, outputs, targets)
        return self._error(self.all_actual, points) <= values.CLOSE

    def _error(self, expected: Arrays, actual: Arrays) -> float:
        if self.term not in expected or self.term not in actual:
            return np.inf
        return values.error(expected[self.term], actual[self.term])


def _missing(name: str, traces: tuple[Trace, Trace]) -> str:
    side = "port" if name in traces[0].points else "reference"
    return f"the {side} has no term {name.rpartition('/')[2]}: it lacks this loss, or names it differently"


def _output_without_gradient(term: str, traces: tuple[Trace, Trace], prefix: str) -> str:
    for name, value in traces[0].points.items():
        own = traces[1].points.get(name)
        if name.startswith(f"{prefix}d_") and own is not None and (value.size == 0) != (own.size == 0):
            cut = "port" if own.size == 0 else "reference"
            output = name[len(prefix) + 2 :]
            return f"the {cut}'s losses pass no gradient to the output {output}: it is cut from the graph (detach)"
    return ""


def _setting(experiment: Experiment) -> str:
    """A number of the port's loss which, set to one of the reference's, makes the term agree."""
    ours = _built(experiment.port, experiment.targets)
    theirs = {value for _, _, value in _numbers(_built(experiment.reference, experiment.targets))}
    before = experiment.error
    for path, name, value in _numbers(ours):
        if value is not None and value in theirs and not isinstance(value, float) and "ignore" not in name:
            continue
        usual = {v for part, known in USUAL.items() if part in name for v in known}
        for other in sorted((v for v in theirs | usual if _comparable(value, v)), key=str):
            with experiment.port_set(path, name, other):
                after = experiment.port_error()
            if after <= values.CLOSE:
                return (
                    f"{path or 'the loss'} has {name} {values.short(value)}, reference {values.short(other)}; with"
                    f" {values.short(other)}, {values.falls(before, after)}"
                )
    return ""


def _setter(own: Callable[..., Any], path: str, name: str, value: Any) -> Callable[..., Any]:
    def losses(targets: Any) -> Any:
        built = own(targets)
        layer = _parts(built)[path]
        setattr(layer, name, value)
        return built

    return losses


def _built(side: Any, targets: Arrays) -> Any:
    return side.side.losses(targets)


def _parts(losses: Any) -> dict[str, Any]:
    for method in ("named_sublayers", "named_modules"):
        if hasattr(losses, method):
            return {"": losses, **dict(getattr(losses, method)())}
    return {"": losses}


def _numbers(losses: Any) -> Iterator[tuple[str, str, Any]]:
    """(path, attribute, value) of the numbers, lists of numbers and None that losses are set to."""
    skipped = ("training", "dump_patches", "call_super_init")
    for path, part in _parts(losses).items():
        for name, value in getattr(part, "__dict__", {}).items():
            if name.startswith("_") or name in skipped:
                continue
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                yield path, name, value
            elif isinstance(value, (tuple, list)) and value and all(isinstance(v, (int, float)) for v in value):
                yield path, name, tuple(value)


def _comparable(value: Any, other: Any) -> bool:
    if isinstance(value, tuple) != isinstance(other, tuple) and value is not None:
        return False
    return value != other


def _factor(experiment: Experiment, traces: tuple[Trace, Trace], prefix: str) -> str:
    """A constant factor, if it is the same wherever the term was evaluated."""
    if experiment.term.startswith("d_"):
        return ""
    factors = []
    for name, value in traces[0].points.items():
        own = traces[1].points.get(name)
        if name.rpartition("/")[2] == experiment.term and own is not None and float(value) != 0.0:
            factors.append(float(own) / float(value))
    factors += _elsewhere(experiment) if len(factors) == 1 else []
    if not factors or max(factors) - min(factors) > 1e-9 * abs(factors[0]):
        return ""
    factor = factors[0]
    return f"{experiment.term} is {factor:.6g} times the reference's, whatever it gets: {_meaning(factor, experiment)}"


def _elsewhere(experiment: Experiment) -> list[float]:
    """The factor of the term for other outputs, so that one number is not taken for a law."""
    others = {name: 0.5 * np.asarray(value, np.float64) + 0.125 for name, value in experiment.outputs.items()}
    sides = (experiment.reference, experiment.port)
    try:
        expected, actual = (experiment._points(side, others, experiment.targets).get(experiment.term) for side in sides)
    except Exception:  # a side that was recorded elsewhere has no other answers
        return []
    if expected is None or actual is None or not float(expected):
        return []
    return [float(actual) / float(expected)]


def _meaning(factor: float, experiment: Experiment) -> str:
    counts: dict[str, float] = {}
    for name, target in experiment.targets.items():
        counts[f"the number of images of {name}"] = target.shape[0]
        counts[f"the number of pixels of {name}, so one is a sum and the other a mean"] = target.size
        counts[f"the pixels of one image of {name}"] = target.size / target.shape[0]
        if target.dtype.kind in "iu":
            counts[f"the valid pixels of {name}, so one is a sum and the other a mean"] = (target != IGNORED).sum()
    for said, count in counts.items():
        for power in (count, 1.0 / count if count else 0.0):
            if power and abs(factor / power - 1.0) < 1e-9 and factor != 1.0:
                return said
    return "its weight"


def _fitted(experiment: Experiment) -> str:
    """A number of the port's loss, and the round one instead of it that makes the term agree; the reference's is hidden.

    Where the term crosses the reference's between a quarter of the number and four times it, the crossing is halved
    in; the number there, rounded to at most four digits, has to make the term agree exactly.
    """
    if experiment.term.startswith("d_") or experiment.term not in experiment.all_expected:
        return ""
    before = experiment.error
    for path, name, value in _numbers(_built(experiment.port, experiment.targets)):
        if not isinstance(value, float) or value == 0.0 or not np.isfinite(value):
            continue

        def excess(number: float, path: str = path, name: str = name) -> float:
            try:
                with experiment.port_set(path, name, number):
                    return experiment.port_value()
            except Exception:  # a number that this loss refuses
                return np.nan

        for number in _crossings(excess, [value * factor for factor in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)]):
            for rounded in (float(f"{number:.{digits}g}") for digits in (1, 2, 3, 4)):
                with experiment.port_set(path, name, rounded):
                    after = experiment.port_error()
                if after <= values.CLOSE:
                    said = f"{path or 'the loss'} has {name} {values.short(value)}; with {values.short(rounded)}"
                    return f"{said}, {values.falls(before, after)}"
    return ""


def _crossings(excess: Callable[[float], float], numbers: Sequence[float]) -> Iterator[float]:
    """Where a function of one number changes its sign between neighbours of a list, to about six digits."""
    signs = [np.sign(excess(number)) for number in numbers]
    for low, high, below, above in zip(numbers, numbers[1:], signs, signs[1:]):
        if not below * above <= 0:  # or one of them is not a number
            continue
        for _ in range(24):
            middle = 0.5 * (low + high)
            if np.sign(excess(middle)) == below:
                low = middle
            else:
                high = middle
        yield high


def _arguments(experiment: Experiment) -> str:
    """What the reference would have to be given to compute what the port computes."""
    for said, outputs, targets in _others(experiment.outputs, experiment.targets):
        if experiment.reference_with(outputs, targets):
            return f"{experiment.term} is what the reference computes when {said}"
    return ""


def _others(outputs: Arrays, targets: Arrays) -> Iterator[tuple[str, Arrays, Arrays]]:
    names = list(outputs)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if outputs[one].shape == outputs[other].shape:
                swapped = {**outputs, one: outputs[other], other: outputs[one]}
                yield f"the outputs {one} and {other} are exchanged", swapped, targets
    for name, target in targets.items():
        if target.dtype.kind in "iu" and (target == IGNORED).any():
            for label in (0, 1):
                cleared = {**targets, name: np.where(target == IGNORED, label, target)}
                yield f"ignored pixels of {name} count as class {label}", outputs, cleared
            kept = {**targets, name: np.where(target == 0, IGNORED, target)}
            yield f"class 0 of {name} is ignored as well", outputs, kept
    yield from _changed_outputs(outputs, targets)


def _changed_outputs(outputs: Arrays, targets: Arrays) -> Iterator[tuple[str, Arrays, Arrays]]:
    for name, output in outputs.items():
        if output.ndim == 4 and output.shape[1] > 1:
            x = np.asarray(output, np.float64)
            probability = values.FUNCTIONS["softmax over channels"](x)
            yield f"{name} goes through a softmax first", {**outputs, name: probability}, targets
            yield f"{name} goes through a sigmoid first", {**outputs, name: values.FUNCTIONS["sigmoid"](x)}, targets
            yield f"the channels of {name} are reversed", {**outputs, name: x[:, ::-1].copy()}, targets
        if output.ndim == 4:
            yield f"{name} is mirrored", {**outputs, name: output[..., ::-1].copy()}, targets


def _smoothing(experiment: Experiment) -> str:
    """Label smoothing: p = (1-e) r + e u, with u the mean of -log softmax over classes and pixels."""
    if experiment.term.startswith("d_"):
        return ""
    actual, expected = float(experiment.all_actual[experiment.term]), float(experiment.all_expected[experiment.term])
    for name, output in experiment.outputs.items():
        if output.ndim != 4 or output.shape[1] < 3:
            continue
        x = np.asarray(output, np.float64)
        log = x - x.max(axis=1, keepdims=True)
        log = log - np.log(np.exp(log).sum(axis=1, keepdims=True))
        uniform = -float(log.mean())
        share = (actual - expected) / (uniform - expected) if uniform != expected else 0.0
        rounded = round(share, 3)
        if 0.0 < rounded < 0.6 and abs(share - rounded) < 1e-6:
            return (
                f"{experiment.term} is {1 - rounded:.3g} of the reference's and {rounded:.3g} of the mean cross-entropy"
                f" of {name} with all classes: its labels are smoothed by {rounded:.3g}"
            )
    return ""
