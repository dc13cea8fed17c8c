"""Why optimizer steps differ, by what differs first: rates, accumulators, updates, or running statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.case import Schedule
from parity.compare import Finding
from parity.diagnosis import optimizers, rates, updates
from parity.traces import Trace

Arrays = Mapping[str, np.ndarray]
DENSE = 200  # first iterations of a schedule that are looked at one by one

_KNOWN = {
    "loss": "the state before this step agrees, so a running value that no other point shows differs",
    "learning_rate": "the losses agree, so the schedule, where it starts, or a parameter group's factor differs",
    "optimizer": "losses and rates agree, so weight decay, clipping, momentum, or the group they apply to differs",
    "update": "rates and accumulators agree, so the update rule differs, or only one side trains this parameter",
    "buffer": "the updates agree, so the momentum of the running statistics differs",
    "schedule": "the steps taken agree, so the schedule differs at other iterations",
}


def known(finding: Finding) -> str:
    """What can cause a first divergence in training, by what agrees before it; "" if nothing is known.

    Args:
        finding: its point is `step/<number>/<kind>/<name>` or `step/schedule/<iteration>`.
    """
    kinds = finding.point.split("/")[1:3]
    return next((text for kind, text in _KNOWN.items() if kind in kinds), "")


class Steps:
    """The recorded steps of both sides, and what they started from.

    Args:
        traces: of the `step` stage, (reference, port), under the port's names.
        gradients: of the first step, by parameter.
        before: parameters before the first step.
        sides: (reference, port).
        schedule: of the case's `step` stage.
        iterations: at which the case samples the schedule.
        targets: of the first batch.
    """

    def __init__(
        self,
        traces: tuple[Trace, Trace],
        gradients: Arrays,
        before: Arrays,
        sides: tuple[Any, Any],
        schedule: Schedule,
        iterations: Sequence[int],
        targets: Arrays,
    ) -> None:
        self.traces, self.gradients, self.before = traces, gradients, before
        self.sides, self.schedule, self.iterations, self.targets = sides, schedule, iterations, targets

    def explain(self, finding: Finding) -> str:
        """The cause of the first divergence, in one sentence."""
        parts = finding.point.split("/")
        kind = parts[1] if parts[1] == "schedule" else parts[2]
        number = 1 if kind == "schedule" else int(parts[1])
        own, reference = self.at(number, 1), self.at(number, 0)
        found = ""
        if kind in ("learning_rate", "schedule"):
            found = rates.explain_groups(_rates(own), _rates(reference)) or self._schedule()
        elif kind in ("optimizer", "update"):
            found = self._of_steps(number)
        return found or known(finding)

    def _of_steps(self, number: int) -> str:
        """What the first steps show of the optimizers, up to the one that differs."""
        reference, own = self.at(number, 0), self.at(number, 1)
        taken = [(self.at(step, 0), self.at(step, 1)) for step in range(1, self.schedule.steps + 1)]
        kinds = optimizers.explain([pair for pair in taken if all(pair)], self.gradients, self.before)
        if kinds:
            return kinds
        if number == 1:
            return self._rules() or _untrained(own, reference)
        names = [name.partition("/")[2] for name in reference if name.startswith("update/")]
        before, group = (self.at(number - 1, 0), self.at(number - 1, 1)), self._group()
        return (
            optimizers.explain_later(taken[:number], group)
            or updates.compare_momentum((reference, own), before, names, group.get("momentum"))
            or self._rules()
        )

    def at(self, number: int, side: int) -> Arrays:
        """The points of one step of one side, 0 the reference, 1 the port."""
        prefix = f"{number}/"
        points = self.traces[side].points
        return {name[len(prefix) :]: value for name, value in points.items() if name.startswith(prefix)}

    def _rules(self) -> str:
        rules = []
        for side in (1, 0):
            step = self.at(1, side)
            names = [name.partition("/")[2] for name in step if name.startswith("learning_rate/")]
            rules.append(
                {
                    name: updates.read(name, step, self.gradients[name], self.before[name])
                    for name in names
                    if name in self.gradients and name in self.before and self.gradients[name].size
                }
            )
        norm = float(np.sqrt(sum(np.vdot(gradient, gradient) for gradient in self.gradients.values())))
        return updates.compare_rules(*rules) or updates.explain_clip(*rules, norm)

    def _group(self) -> dict[str, float]:
        """Numbers that the first group of the reference's optimizer is set to, if it can be asked."""
        try:
            return self.sides[0].optimizer_settings(self.schedule, self.targets)
        except Exception:  # in another process, or recorded
            return {}

    def _schedule(self) -> str:
        run, warmup = self.schedule.iters, self.schedule.warmup_iters
        near = [i for edge in (0, warmup, run) for i in range(edge - 3, edge + 5)]
        wanted = sorted({i for i in [*near, *self.iterations, *range(max(DENSE, 2 * warmup + 2))] if 0 <= i < run})
        try:
            theirs, ours = (side.schedule(wanted, self.schedule) for side in self.sides)
        except Exception:  # a side that was recorded elsewhere knows the iterations of the stage
            theirs, ours = (_sampled(trace) for trace in self.traces)
        found = rates.explain_schedule(ours, theirs, iters=run, warmup=warmup)
        return found or self._start(ours, theirs)

    def _start(self, ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
        """The schedules agree, so the port is at another iteration of it."""
        first = [_rates(self.at(1, side)) for side in (1, 0)]
        name = next((n for n in first[1] if n in first[0]), None)
        if name is None or not theirs:
            return ""
        start = self.schedule.start
        for step in (1, -1, 2, -2):
            moved = self.sides[0].schedule([start, max(start + step, 0)], self.schedule)
            if len(moved) == 2 and abs(first[0][name] / first[1][name] * moved[start] / moved[start + step] - 1) < 1e-9:
                way = "ahead" if step > 0 else "behind"
                return f"the schedules agree, but the port's steps are {abs(step)} iteration {way} in it"
        return "the schedules agree, but the rates that the steps use do not"


def explain_trajectory(finding: Finding, traces: tuple[Trace, Trace]) -> str:
    """When the loss curves part, and what that leaves."""
    step = int(finding.point.split("/")[1])
    return (
        f"the losses of the first {step - 1} steps agree and those of step {step} do not, so step {step - 1} updated"
        " differently: an accumulator or other state of the optimizer was lost or changed before it, or its rate or"
        " gradient is handled differently from those of the steps before"
    )


def _sampled(trace: Trace) -> dict[int, float]:
    """The rates of a schedule that a stage has in its trace, by iteration."""
    points = ((name.partition("schedule/"), value) for name, value in trace.points.items())
    return {int(parts[2]): float(value) for parts, value in points if parts[2]}


def _rates(step: Arrays) -> dict[str, float]:
    return {n.partition("/")[2]: float(v) for n, v in step.items() if n.startswith("learning_rate/")}


def _untrained(own: Arrays, reference: Arrays) -> str:
    for name, value in reference.items():
        other = own.get(name)
        if name.startswith("update/") and other is not None and value.any() != other.any():
            still, moving = ("port", "reference") if value.any() else ("reference", "port")
            return f"{name.partition('/')[2]} is not trained in the {still}, but in the {moving}"
    return ""
