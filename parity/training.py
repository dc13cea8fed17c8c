"""Optimizer steps of one side as a trace, and how much of it rounding leaves open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, Union

import numpy as np

from parity import policy
from parity.case import Schedule
from parity.known import RunningVariance
from parity.traces import Trace, sample_index

Arrays = Mapping[str, np.ndarray]
Scale = Union[float, np.ndarray]  # of a whole tensor, or of each of its elements


class Scales:
    """What the sums behind the gradients leave open in all that training makes of them; see `policy`.

    A gradient that is nothing but rounding differs between any two correct sides. Its accumulators inherit its scale;
    its update, that scale times the optimizer's gain; the parameter, the sum of its updates; and the running mean of a
    norm that takes the parameter away again, what the parameter adds to the norm's input.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._parameters: dict[str, np.ndarray] = {}  # digests: a network's worth of numbers for each step is too many

    def advance(self, facts: Mapping[str, Any]) -> dict[str, Scale]:
        """Scales after one more step, by point: `optimizer/`, `update/`, `parameter/` and `buffer/<name>`.

        That of a parameter is for the digest of its value (see `scale_digest`).

        Args:
            facts: of the reference's step, see `TorchSide.train_step`.
        """
        points: dict[str, Scale] = {}
        for norm, shifts in facts["shifts"].items():
            largest = {name: self._parameters[name][1] for name in shifts if name in self._parameters}
            if largest:
                points[f"buffer/{norm}.running_mean"] = sum(shifts[name] * value for name, value in largest.items())
        for name, magnitude in facts["sums"].items():
            self._sums[name] = total = self._sums.get(name, 0.0) + magnitude
            points.update({f"optimizer/{name}.velocity": total, f"optimizer/{name}.moment1": total})
            points[f"optimizer/{name}.moment2"] = total**2
        for name, change in facts["squares"].items():
            point = f"optimizer/{name}.moment2"
            points[point] = points.get(point, 0.0) + change * policy.RELATIVE / policy.SUM_ULPS
        for name, gain in facts["gains"].items():
            scale = self._sums.get(name, 0.0) + facts["adaptive"].get(name, 0.0) * policy.RELATIVE / policy.SUM_ULPS
            if scale:
                points[f"update/{name}"] = gain * scale
                own = scale_digest(gain) * scale
                self._parameters[name] = own + self._parameters.get(name, 0.0)
        points.update({f"parameter/{name}": scale for name, scale in self._parameters.items()})
        return points


def scale_digest(scale: Scale) -> np.ndarray:
    """What errors of this scale can do to a digest: to its rms, its maximum, its projection, and its samples.

    One number for all samples, if the scale is one number. A projection's weights are up to 2.
    """
    flat = np.asarray(scale, np.float64).ravel()
    rms = np.sqrt(np.mean(flat * flat))
    return np.concatenate([[rms, flat.max(), 2.0 * rms], flat[sample_index(flat.size)]])


def train(
    side: Any,
    schedule: Schedule,
    batch: Callable[[int], tuple[Sequence[np.ndarray], Arrays]],
    *,
    whole: int | None = None,
) -> Trace:
    """All optimizer steps of one side in one trace; arguments as in `steps`."""
    return merged(part.copied() for part in steps(side, schedule, batch, whole=whole))


def merged(parts: Iterable[Trace]) -> Trace:
    """One trace of the traces of single steps."""
    trace = Trace(meta={"scales": {}})
    for part in parts:
        trace.points.update(part.points)
        trace.meta["scales"].update(part.meta["scales"])
        if "crash" in part.meta:
            trace.meta["crash"] = part.meta["crash"]
    return trace


def steps(
    side: Any,
    schedule: Schedule,
    batch: Callable[[int], tuple[Sequence[np.ndarray], Arrays]],
    *,
    whole: int | None = None,
    replay: Any = None,
) -> Iterator[Trace]:
    """Optimizer steps of one side: per step the losses, rates, accumulators, updates and running statistics.

    Each step is taken when its trace is asked for, and may change the arrays of the one before. One that raises says so
    in `meta["crash"]` and is the last.

    Args:
        side: loaded.
        schedule: how many steps, and where in the run.
        batch: number of a step -> (inputs, targets).
        whole: after this many steps, record nothing but the losses.
        replay: a `chain.Replay` that gets what a recording holds of the whole steps.
    """
    scales, whole = Scales(), schedule.steps if whole is None else whole
    try:
        side.start_training(schedule, batch(0)[1])
        expected = RunningVariance(side.buffers()) if side.name == "reference" and whole else None
        before = _copies(side.parameters(copy=False)) if whole else {}
        for step in range(schedule.steps):
            terms, facts = side.train_step(*batch(step), facts=step < whole)
            if step >= whole:
                yield Trace({f"{step + 1}/loss/{name}": value for name, value in terms.items()}, {"scales": {}})
                continue
            buffers = side.buffers()
            if expected is not None:
                buffers = expected.advance(buffers, facts["norms"])
            trace = Trace(meta={"scales": {}})
            after = side.parameters(copy=False)
            _add_step(trace, f"{step + 1}", side, terms, before, after, buffers)
            before = _copies(after) if step + 1 < whole else {}
            if expected is not None:
                known = scales.advance(facts)
                _add_scales(trace, f"{step + 1}", known)
                if replay is not None:
                    replay.step(step + 1, terms, side.learning_rates())
                if replay is not None and step + 1 == whole:
                    replay.trained(side, known)
            del buffers  # while the other side takes its step
            yield trace
    except Exception as error:
        yield Trace(meta={"scales": {}, "crash": f"{type(error).__name__}: {error}"})


def largest_changes(side: Any, rates: Mapping[int, float], schedule: Schedule) -> list[int]:
    """Iterations between those of a schedule that were asked, down to where its rate changes most: a milestone.

    Args:
        side: whose schedule it is.
        rates: by iteration, at some of them.
        schedule: the stretch of training that the rates are of.
    """
    known, ordered = dict(rates), sorted(rates)
    pairs = list(zip(ordered, ordered[1:]))
    while pairs := [(low, high) for low, high in pairs if high - low > 1]:
        middles = [(low + high) // 2 for low, high in pairs]
        known.update(side.schedule(middles, schedule))
        pairs = [
            (low, middle) if abs(known[middle] - known[low]) > abs(known[high] - known[middle]) else (middle, high)
            for (low, high), middle in zip(pairs, middles)
        ]
    return [iteration for iteration in known if iteration not in rates]


def _copies(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in arrays.items()}


def _add_step(
    trace: Trace, step: str, side: Any, terms: Arrays, before: dict[str, np.ndarray], after: Arrays, buffers: Arrays
) -> None:
    for name, value in terms.items():
        trace.add(f"{step}/loss/{name}", value)
    for name, rate in side.learning_rates().items():
        trace.add(f"{step}/learning_rate/{name}", np.float64(rate))
    for name, value in side.optimizer_state(copy=False).items():
        trace.add(f"{step}/optimizer/{name}", value)
    for name, value in after.items():
        point, change = f"{step}/update/{name}", before.pop(name)
        trace.add(point, np.subtract(value, change, out=change))  # in its place: large models need the memory
        trace.meta["scales"][point] = max(float(value.max()), -float(value.min())) if value.size else 0.0
    for name, value in buffers.items():
        trace.add(f"{step}/buffer/{name}", value)


def _add_scales(trace: Trace, step: str, scales: Mapping[str, Scale]) -> None:
    known = trace.meta["scales"]
    for point, scale in scales.items():
        name = f"{step}/{point}"
        if name in trace.points:
            known[name] = known[name] + scale if name in known else scale
