"""Mistakes in optimizers and schedules, made in the built optimizer, whatever the case builds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Callable

import paddle
from paddle import nn

from parity.faults.fault import Fault, Patient, change_side, kind, set_attributes


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner", optimizer)


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    groups = _inner(optimizer)._param_groups
    return list(groups) if groups and isinstance(groups[0], dict) else []


def _fault(name: str, site: str, edit: Callable[[Any], Any], words: tuple[str, ...], point: str = "") -> Fault:
    """`edit(optimizer)` changes a built one; what it returns, if anything, takes its place.

    What holds for all parameters shows at the first one, in the reference's order, that it changes: `point` is "".
    """

    def plant(patient: Patient, stack: ExitStack) -> None:
        own = patient.case.port.optimizer
        for parameter in patient.model.parameters():
            stack.callback(setattr, parameter, "regularizer", parameter.regularizer)
            stack.callback(setattr, parameter, "optimize_attr", dict(parameter.optimize_attr))

        def build(model: Any, losses: Any, schedule: Any) -> Any:
            optimizer = own(model, losses, schedule)
            return edit(optimizer) or optimizer

        change_side(patient, stack, optimizer=build)

    return Fault(name, site, plant, begins="step", stages=("step",), point=point, words=words)


def _built(patient: Patient) -> Any:
    if not patient.reaches("step"):
        return None
    side = patient.case.port
    return side.optimizer(patient.model, side.losses(patient.targets), patient.case.step)


def _points(patient: Patient, parameters: Sequence[Any], kinds: str = "learning_rate|optimizer|update") -> str:
    """What the points of these parameters are called in the steps."""
    wanted = {id(parameter) for parameter in parameters}
    names = [name for name, parameter in patient.port._named_parameters().items() if id(parameter) in wanted]
    spelled = [*map(re.escape, names), *([r"losses\..*"] if len(names) < len(wanted) else [])]
    return rf"\d+/({kinds})/({'|'.join(spelled)})(\.\w+)?"


def _decay(group: dict[str, Any]) -> float:
    value = group.get("weight_decay")
    return float(getattr(value, "_coeff", value) or group.get("regularization_coeff") or 0.0)  # Momentum moves it there


def _set_decay(group: dict[str, Any], value: float) -> None:
    group["weight_decay"] = value
    group["regularization_method"], group["regularization_coeff"] = "l2_decay", value
    for parameter in group["params"]:
        parameter.regularizer = paddle.regularizer.L2Decay(value)


def _kinds_of(optimizer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((index, group) for index, group in enumerate(_groups(optimizer)) if group["params"])


@kind("decay-on-norms", "a group that must not decay does")
def decay_on_norms(patient: Patient) -> Iterator[Fault]:
    """Such as scales, shifts and biases."""
    optimizer = _built(patient)
    groups = list(_kinds_of(optimizer)) if optimizer is not None else []
    usual = max((_decay(group) for _, group in groups), default=0.0)
    for index, group in groups:
        if _decay(group) == 0.0 and usual > 0.0:
            edit = lambda optimizer, index=index: _set_decay(_groups(optimizer)[index], usual)  # noqa: E731
            words = (f"weight decay {usual:.3g}.*, reference 0",)
            yield _fault(
                "decay-on-norms", f"group {index}", edit, words, _points(patient, _groups(optimizer)[index]["params"])
            )


@kind("decay-missing", "a group does not decay")
def decay_missing(patient: Patient) -> Iterator[Fault]:
    """The decay is lost with the groups."""
    optimizer = _built(patient)
    for index, group in _kinds_of(optimizer) if optimizer is not None else ():
        own = _decay(group)
        if own > 0.0:
            edit = lambda optimizer, index=index: _set_decay(_groups(optimizer)[index], 0.0)  # noqa: E731
            words = (f"weight decay 0.*, reference {own:.3g}",)
            yield _fault("decay-missing", f"group {index}", edit, words, _points(patient, group["params"]))


@kind("decay-doubled", "a group decays twice as fast")
def decay_doubled(patient: Patient) -> Iterator[Fault]:
    """A decay of half the square, or of the square."""
    optimizer = _built(patient)
    for index, group in _kinds_of(optimizer) if optimizer is not None else ():
        own = _decay(group)
        if own > 0.0:
            edit = lambda optimizer, index=index, own=own: _set_decay(_groups(optimizer)[index], 2 * own)  # noqa: E731
            words = (f"weight decay {2 * own:.3g}.*, reference {own:.3g}",)
            yield _fault("decay-doubled", f"group {index}", edit, words, _points(patient, group["params"]))


@kind("rate-multiplier", "a group learns at the common rate")
def rate_multiplier(patient: Patient) -> Iterator[Fault]:
    """Its multiplier is lost."""
    optimizer = _built(patient)
    for index, group in _kinds_of(optimizer) if optimizer is not None else ():
        own = float(group["params"][0].optimize_attr["learning_rate"])
        if own == 1.0:
            continue

        def edit(optimizer: Any, index: int = index) -> None:
            for parameter in _groups(optimizer)[index]["params"]:
                parameter.optimize_attr["learning_rate"] = 1.0
            outer = getattr(optimizer, "optimizer", optimizer)
            if hasattr(outer, "groups"):
                outer.groups[index].lr_mult = 1.0

        words = (rf"learning rate of .* is {1 / own:.3g} times",)
        point = _points(patient, group["params"], "learning_rate")
        yield _fault("rate-multiplier", f"group {index}", edit, words, point)


def _setting(
    name: str, attribute: str, other: Callable[[Any], Any], words: Callable[[Any, Any], tuple[str, ...]]
) -> Any:
    """A kind that sets an attribute of Paddle's optimizer."""

    def sites(patient: Patient) -> Iterator[Fault]:
        optimizer = _built(patient)
        own = getattr(_inner(optimizer), attribute, None) if optimizer is not None else None
        if own is None:
            return
        value = other(own)

        def edit(optimizer: Any) -> None:
            inner = _inner(optimizer)
            setattr(inner, attribute, value)
            key = attribute.lstrip("_")
            for holder in (inner._default_dict, *_groups(optimizer)):
                if key in holder:
                    holder[key] = value

        yield _fault(name, attribute, edit, words(value, own))

    return sites


def _say(setting: str) -> Callable[[Any, Any], tuple[str, ...]]:
    return lambda value, own: (f"{setting} {value:.4g}.*, reference {own:.4g}",)


_MOMENTUM = _setting("momentum", "_momentum", lambda own: 0.95, _say("momentum"))


@kind("momentum", "the momentum is another")
def momentum(patient: Patient) -> Iterator[Fault]:
    """0.95 for 0.9, which the second step shows."""
    stage = "step" if patient.case.step.steps > 1 else "trajectory"
    return (dataclasses.replace(fault, stages=(stage,)) for fault in _MOMENTUM(patient))


kind("nesterov", "the momentum is Nesterov's")(
    _setting("nesterov", "_use_nesterov", lambda own: not own, lambda value, own: ("nesterov",))
)
kind("adam-beta1", "Adam's first beta is another")(_setting("adam-beta1", "_beta1", lambda own: 0.95, _say("beta1")))
kind("adam-beta2", "Adam's second beta is another")(_setting("adam-beta2", "_beta2", lambda own: 0.99, _say("beta2")))
kind("adam-epsilon", "Adam's epsilon is another")(
    _setting("adam-epsilon", "_epsilon", lambda own: own * 100, _say("epsilon"))
)


def _set_clip(optimizer: Any, clip: Any) -> None:
    _inner(optimizer)._grad_clip = clip
    for group in _groups(optimizer):
        group["grad_clip"] = clip


@kind("clip-added", "gradients are clipped by their global norm")
def clip_added(patient: Patient) -> Iterator[Fault]:
    """At a norm that they exceed."""
    optimizer = _built(patient)
    if optimizer is None or _inner(optimizer)._grad_clip is not None:
        return

    def edit(optimizer: Any) -> None:
        _set_clip(optimizer, nn.ClipGradByGlobalNorm(0.1))

    yield _fault("clip-added", "optimizer", edit, (r"gets gradients that are .* times .* clipped",))


@kind("clip-missing", "gradients are not clipped")
def clip_missing(patient: Patient) -> Iterator[Fault]:
    """The clipping is lost."""
    optimizer = _built(patient)
    if optimizer is None or _inner(optimizer)._grad_clip is None:
        return

    def edit(optimizer: Any) -> None:
        _set_clip(optimizer, None)

    yield _fault("clip-missing", "optimizer", edit, (r"gets gradients that are .* clipped",))


@kind("adam-decoupled", "Adam's weight decay is decoupled, or AdamW's is not")
def adam_decoupled(patient: Patient) -> Iterator[Fault]:
    """AdamW for Adam, and the other way round."""
    optimizer = _built(patient)
    inner = _inner(optimizer) if optimizer is not None else None
    if not isinstance(inner, (paddle.optimizer.Adam, paddle.optimizer.AdamW)):
        return

    def edit(optimizer: Any) -> None:
        inner = _inner(optimizer)
        decay = max((_decay(group) for group in _groups(optimizer)), default=0.0) or 0.01  # Paddle's AdamW's own
        other = paddle.optimizer.Adam if isinstance(inner, paddle.optimizer.AdamW) else paddle.optimizer.AdamW
        groups = [{"params": g["params"], "weight_decay": _decay(g) or decay} for g in _groups(optimizer)]
        made = other(0.0, inner._beta1, inner._beta2, inner._epsilon, parameters=groups, weight_decay=decay)
        outer = getattr(optimizer, "optimizer", optimizer)
        outer.inner = optimizer.inner = made

    yield _fault("adam-decoupled", "optimizer", edit, ("decoupled|AdamW",))


@kind("untrained", "a parameter is left out of the optimizer")
def untrained(patient: Patient) -> Iterator[Fault]:
    """The group it belongs to is not handed over."""
    optimizer = _built(patient)
    for index, group in _kinds_of(optimizer) if optimizer is not None else ():

        def edit(optimizer: Any, index: int = index) -> None:
            group = _groups(optimizer)[index]
            dropped = group["params"].pop()
            outer = getattr(optimizer, "optimizer", optimizer)
            for owner in getattr(outer, "groups", ()):
                owner.parameters = {n: p for n, p in owner.parameters.items() if p is not dropped}

        point = _points(patient, group["params"][-1:])
        yield _fault("untrained", f"last of group {index}", edit, ("not trained|in no group|does not train",), point)


# --- schedules ------------------------------------------------------------------------------------------------------


def _schedule(name: str, site: str, words: tuple[str, ...], changes: Callable[[Any], Any]) -> Fault:
    """Every call of one of this repository's schedules goes through a change of the schedule or the iteration."""

    def plant(patient: Patient, stack: ExitStack) -> None:
        from paddleseg_ext.optim.schedules import Schedule

        own = Schedule.__call__
        set_attributes(stack, Schedule, __call__=lambda schedule, iteration: changes(own)(schedule, iteration))

    return Fault(name, site, plant, begins="step", words=words)


def _with(**values: Any) -> Callable[[Any], Any]:
    def changes(own: Any) -> Any:
        def rate(schedule: Any, iteration: int) -> float:
            import copy

            other = copy.copy(schedule)
            other.__dict__.update({name: value(schedule) for name, value in values.items()})
            return own(other, iteration)

        return rate

    return changes


def _used(patient: Patient) -> Any:
    """The schedule that the case's port uses, if it is one of this repository's."""
    from paddleseg_ext.optim.schedules import Schedule

    if not patient.reaches("step") or patient.case.port.rate is None:
        return None
    seen: list[Any] = []
    own = Schedule.__call__
    Schedule.__call__ = lambda schedule, iteration: (seen.append(schedule), own(schedule, iteration))[1]
    try:
        patient.case.port.rate(0, patient.case.step)
    finally:
        Schedule.__call__ = own
    return seen[0] if seen else None


@kind("schedule-ahead", "the schedule is one step ahead")
def schedule_ahead(patient: Patient) -> Iterator[Fault]:
    """It is advanced before the step."""
    schedule = _used(patient)
    if schedule is not None:
        changes = lambda own: lambda schedule, i: own(schedule, min(i + 1, schedule.iters))  # noqa: E731
        yield _schedule("schedule-ahead", "schedule", ("1 (step|iteration)s? (ahead|later)|one step ahead",), changes)


@kind("schedule-power", "the polynomial has another power")
def schedule_power(patient: Patient) -> Iterator[Fault]:
    """1 for 0.9."""
    schedule = _used(patient)
    if hasattr(schedule, "power"):
        words = (rf"power 1, reference {schedule.power:.4g}",)
        yield _schedule("schedule-power", "schedule", words, _with(power=lambda _: 1.0))


@kind("schedule-end", "the schedule ends at another rate")
def schedule_end(patient: Patient) -> Iterator[Fault]:
    """PaddleSeg's recipes end at 1e-4 or 1e-5, not at 0."""
    schedule = _used(patient)
    if hasattr(schedule, "end_lr"):
        other = schedule.end_lr + 1e-2 * schedule.learning_rate
        yield _schedule("schedule-end", "schedule", (rf"end.*{other:.3g}",), _with(end_lr=lambda _: other))


@kind("schedule-base", "the base rate is another")
def schedule_base(patient: Patient) -> Iterator[Fault]:
    """Twice the rate, for twice the batch."""
    if _used(patient) is not None:
        changes = lambda own: lambda schedule, i: 2.0 * own(schedule, i)  # noqa: E731
        yield _schedule("schedule-base", "schedule", (r"2 times",), changes)


@kind("warmup-kind", "the warm-up is linear for geometric, or the other way round")
def warmup_kind(patient: Patient) -> Iterator[Fault]:
    """Two frameworks' defaults."""
    schedule = _used(patient)
    if schedule is not None and schedule.warmup_iters:
        other = "linear" if schedule.warmup == "multiplicative" else "multiplicative"
        start = (lambda s: s.warmup_start_lr or 1e-6) if other == "multiplicative" else (lambda s: s.warmup_start_lr)
        values = {"warmup": lambda _: other, "warmup_start_lr": start}
        yield _schedule("warmup-kind", "schedule", ("warm-up", "linear", "geometric"), _with(**values))


@kind("warmup-missing", "there is no warm-up")
def warmup_missing(patient: Patient) -> Iterator[Fault]:
    """The decay starts at once."""
    schedule = _used(patient)
    if schedule is not None and schedule.warmup_iters:
        words = ("no warm-up",)
        yield _schedule("warmup-missing", "schedule", words, _with(warmup_iters=lambda _: 0))


@kind("accumulators-forgotten", "the optimizer loses its accumulators in the middle of a run")
def accumulators_forgotten(patient: Patient) -> Iterator[Fault]:
    """As resuming without its state does."""
    optimizer = _built(patient)
    if optimizer is None:
        return
    after = max(patient.case.step.steps, 1) + 1

    class Forgetful:
        def __init__(self, own: Any) -> None:
            self.own, self.inner, self.steps = own, _inner(own), 0

        def step(self, *arguments: Any) -> None:
            self.steps += 1
            if self.steps == after:
                for name in ("velocity", "moment1", "moment2"):
                    for value in self.inner._accumulators.get(name, {}).values():
                        value.zero_()
            self.own.step(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.own, name)

    words = (r"differs by -[\d.]+ times that of the step before",)
    fault = _fault("accumulators-forgotten", f"step {after}", Forgetful, words, f"{after + 1}/loss/.*")
    yield dataclasses.replace(fault, begins="trajectory", stages=("trajectory",))
