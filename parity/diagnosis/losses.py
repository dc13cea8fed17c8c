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
        or _by_image(experiment)
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
    """A factor that stays the same whatever the outputs are, and what it is made of."""
    term = experiment.term
    here = _ratio(experiment.all_expected, experiment.all_actual, term)
    if term.startswith("d_") or here is None:
        return ""
    elsewhere = [_elsewhere(experiment, outputs, experiment.targets) for outputs in _scaled(experiment.outputs)]
    known = [factor for factor in elsewhere if factor is not None]
    if not known:  # a side that was recorded elsewhere answers for its probes only
        names = [name for name in traces[0].points if name.rpartition("/")[2] == term]
        known = [_ratio(traces[0].points, traces[1].points, name) for name in names]
        known = known if len(known) > 1 and None not in known else []
    if not known or not all(_near(factor, here) for factor in known):
        return ""
    return f"{term} is {here:.6g} times the reference's, whatever {_meaning(here, experiment)}"


def _ratio(expected: Arrays, actual: Arrays, name: str) -> float | None:
    """A number of the port's over the reference's; None if that is no number."""
    if name not in expected or name not in actual or expected[name].size != 1 or actual[name].size != 1:
        return None
    theirs, ours = float(expected[name]), float(actual[name])
    return ours / theirs if np.isfinite([theirs, ours]).all() and theirs and ours else None


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * abs(other)


def _scaled(outputs: Arrays) -> Iterator[Arrays]:
    for slope, shift in ((0.5, 0.125), (0.25, -0.5)):  # no larger ones: on a CPU Paddle's losses end at 64
        yield {name: slope * np.asarray(value, np.float64) + shift for name, value in outputs.items()}


def _elsewhere(experiment: Experiment, outputs: Arrays, targets: Arrays) -> float | None:
    """The factor for other outputs or targets; None if a side has no answer to them."""
    sides = (experiment.reference, experiment.port)
    try:
        expected, actual = (experiment._points(side, outputs, targets) for side in sides)
    except Exception:  # a side that was recorded elsewhere, or targets that a loss refuses
        return None
    return _ratio(expected, actual, experiment.term)


def _meaning(factor: float, experiment: Experiment) -> str:
    """What a factor is: each guess has to give it for other targets too."""
    found = [(factor, experiment.targets)]
    for outputs, targets in _other_targets(experiment.outputs, experiment.targets):
        other = _elsewhere(experiment, outputs, targets)
        found += [(other, targets)] if other is not None else []
    constant = all(_near(other, factor) for other, _ in found)
    here = "with these targets, " if len(found) == 1 else ""
    for said, count in _counts(experiment.targets).items():
        power = next((p for p in (1, -1) if count and factor != 1.0 and _near(count**p, factor)), 0)
        if not power:
            continue
        if not constant and all(_near(_counts(targets)[said] ** power, other) for other, targets in found):
            return f"the outputs are, and for other targets as well it is {'one over ' if power < 0 else ''}{said}"
        if constant:
            return f"it gets: {here}a constant, such as its weight; it equals {'1 over ' if power < 0 else ''}{said}"
    if constant:
        return f"it gets: {here}a constant factor, such as its weight or a smooth L1's delta"
    others = sorted({f"{other:.4g}" for other, _ in found[1:]})
    return (
        f"the outputs are, but not for other targets ({', '.join(others)} times): one side divides by another count or"
        " by class weights"
    )


def _counts(targets: Arrays) -> dict[str, float]:
    """What a mean may be divided by, in words."""
    counts: dict[str, float] = {}
    for name, target in targets.items():
        counts[f"the number of images of {name}"] = target.shape[0]
        counts[f"the number of pixels of {name}, so one is a sum and the other a mean"] = target.size
        counts[f"the pixels of one image of {name}"] = target.size / target.shape[0]
        if target.dtype.kind in "iu":
            valid = int((target != IGNORED).sum())
            counts[f"the valid pixels of {name}, so one is a sum and the other a mean"] = valid
            share = f"the share of valid pixels of {name}, so one mean is over all pixels and the other over valid ones"
            counts[share] = valid / target.size
    return counts


def _other_targets(outputs: Arrays, targets: Arrays) -> Iterator[Probe]:
    """The outputs with fewer images, fewer valid pixels, and other classes."""
    count = min((value.shape[0] for value in targets.values() if value.ndim), default=0)
    if count > 1 and all(value.ndim and value.shape[0] == count for value in (*outputs.values(), *targets.values())):
        yield tuple({name: value[:1] for name, value in arrays.items()} for arrays in (outputs, targets))
    labels = {name: target for name, target in targets.items() if target.dtype.kind in "iu" and target.ndim > 1}
    fewer, moved = {}, {}
    for name, label in labels.items():
        fewer[name] = label.copy()
        fewer[name][..., : label.shape[-1] // 3] = IGNORED
        ids = np.unique(label[label != IGNORED])
        moved[name] = label.copy()
        for one, other in zip(ids, np.roll(ids, 1)):
            moved[name][label == one] = other
    for changed in (fewer, moved) if labels else ():
        yield outputs, {**targets, **changed}


def _fitted(experiment: Experiment) -> str:
    """A number of the port's loss, and the round one that makes the term agree; the reference's is hidden.

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


def _by_image(experiment: Experiment) -> str:
    """Whether the port's is the mean over the images of what the reference makes of each."""
    actual = experiment.all_actual.get(experiment.term)
    count = next((len(value) for value in experiment.outputs.values()), 0)
    arrays = (*experiment.outputs.values(), *experiment.targets.values())
    if count < 2 or actual is None or actual.size != 1 or any(len(value) != count for value in arrays):
        return ""
    single = []
    for index in range(count):
        one = [{n: v[index : index + 1] for n, v in s.items()} for s in (experiment.outputs, experiment.targets)]
        single.append(experiment._points(experiment.reference, *one).get(experiment.term))
    if any(value is None or value.size != 1 for value in single):
        return ""
    if not values.same(np.asarray(np.mean([float(value) for value in single])), np.asarray(float(actual))):
        return ""
    return f"{experiment.term} is the mean over the {count} images of what the reference makes of each: one by one"


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
