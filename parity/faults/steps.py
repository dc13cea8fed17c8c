"""More mistakes in optimizers and schedules: another class, what a parameter brings along, and what is left over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import paddle
from paddle import nn

from parity.faults.fault import Fault, Patient, kind
from parity.faults.training import (
    _built,
    _decay,
    _fault,
    _groups,
    _inner,
    _kinds_of,
    _points,
    _schedule,
    _set_clip,
    _used,
    _with,
)


@kind("sgd-plain", "SGD has no momentum: Paddle's has none")
def sgd_plain(patient: Patient) -> Iterator[Fault]:
    """`paddle.optimizer.SGD` for torch's, whose momentum is an argument."""
    optimizer = _built(patient)
    if optimizer is None or not isinstance(_inner(optimizer), paddle.optimizer.Momentum):
        return

    def edit(optimizer: Any) -> None:
        own = _inner(optimizer)
        groups = [
            {
                "params": group["params"],
                "weight_decay": _decay(group),
                "learning_rate": group["params"][0].optimize_attr["learning_rate"],
            }
            for group in _groups(optimizer)
            if group["params"]
        ]
        outer = getattr(optimizer, "optimizer", optimizer)
        outer.inner = optimizer.inner = paddle.optimizer.SGD(0.0, parameters=groups, grad_clip=own._grad_clip)

    yield _fault("sgd-plain", "optimizer", edit, ("momentum|velocity", "none|no |without|0, reference"))


@kind("rate-multiplier-squared", "a group's multiplier is applied twice")
def rate_multiplier_squared(patient: Patient) -> Iterator[Fault]:
    """By the group, whose learning rate is a multiplier in Paddle, and once more by its parameters."""
    optimizer = _built(patient)
    for index, group in _kinds_of(optimizer) if optimizer is not None else ():
        own = float(group["params"][0].optimize_attr["learning_rate"])
        if own == 1.0:
            continue

        def edit(optimizer: Any, index: int = index, own: float = own) -> None:
            for parameter in _groups(optimizer)[index]["params"]:
                parameter.optimize_attr["learning_rate"] = own**2
            outer = getattr(optimizer, "optimizer", optimizer)
            if hasattr(outer, "groups"):
                outer.groups[index].lr_mult = own**2

        point = _points(patient, group["params"], "learning_rate")
        words = (rf"learning rate of .* is {own:.3g} times",)
        yield _fault("rate-multiplier-squared", f"group {index}", edit, words, point)


@kind("regularizer-own", "a parameter brings a regularizer, which overrides the optimizer's decay")
def regularizer_own(patient: Patient) -> Iterator[Fault]:
    """`ParamAttr(regularizer=...)`."""
    optimizer = _built(patient)
    for index, group in _kinds_of(optimizer) if optimizer is not None else ():
        own = _decay(group)
        if own == 0.0 or not isinstance(_inner(optimizer), paddle.optimizer.Momentum):
            continue

        def edit(optimizer: Any, index: int = index, own: float = own) -> None:
            parameter = _groups(optimizer)[index]["params"][0]
            parameter.regularizer = paddle.regularizer.L2Decay(4 * own)

        words = (f"weight decay {4 * own:.3g}, reference {own:.3g}, of 1 of",)
        yield _fault("regularizer-own", f"first of group {index}", edit, words, _points(patient, group["params"][:1]))


class _PerTensor(nn.ClipGradByGlobalNorm):
    """Clips each gradient by its own norm; Paddle's own has no float64 kernel."""

    def __call__(self, params_grads: Any) -> Any:
        return [(p, g if g is None else g * min(1.0, self.clip_norm / float(g.norm()))) for p, g in params_grads]


@kind("clip-per-tensor", "gradients are clipped one by one, not by their global norm")
def clip_per_tensor(patient: Patient) -> Iterator[Fault]:
    """`ClipGradByNorm`."""
    optimizer = _built(patient)
    clip = _inner(optimizer)._grad_clip if optimizer is not None else None
    if isinstance(clip, nn.ClipGradByGlobalNorm):
        edit = lambda optimizer: _set_clip(optimizer, _PerTensor(clip.clip_norm))  # noqa: E731
        yield _fault("clip-per-tensor", "optimizer", edit, ("clip", "each|per tensor|one by one"))


@kind("gradients-kept", "gradients are not cleared after a step")
def gradients_kept(patient: Patient) -> Iterator[Fault]:
    """The next step gets their sum."""
    optimizer = _built(patient)
    if optimizer is None or not hasattr(optimizer, "clear_grad"):
        return

    class Keeping:
        def __init__(self, own: Any) -> None:
            self.own, self.inner = own, _inner(own)

        def clear_grad(self) -> None:
            """Nothing."""

        def __getattr__(self, name: str) -> Any:
            return getattr(self.own, name)

    stage = "step" if patient.case.step.steps > 1 else "trajectory"
    fault = _fault("gradients-kept", "optimizer", Keeping, ("not cleared",))
    yield dataclasses.replace(fault, stages=(stage,))


@kind("schedule-per-epoch", "the rate is set once per epoch, not in each iteration")
def schedule_per_epoch(patient: Patient) -> Iterator[Fault]:
    """Of ten iterations, or of two in a short run."""
    schedule = _used(patient)
    if schedule is not None:

        def changes(own: Any) -> Any:
            def rate(schedule: Any, iteration: int) -> float:
                return own(schedule, iteration - iteration % min(10, max(2, schedule.iters // 100)))

            return rate

        yield _schedule("schedule-per-epoch", "schedule", (r"once in \d+ iterations",), changes)


@kind("warmup-start", "the warm-up starts at another rate")
def warmup_start(patient: Patient) -> Iterator[Fault]:
    """Half as high again, or at 1e-3 of the rate for 0."""
    schedule = _used(patient)
    if schedule is not None and schedule.warmup_iters:
        other = 1.5 * schedule.warmup_start_lr or 1e-3 * schedule.learning_rate
        words = ("warm-up", rf"start.*{other:.3g}")
        yield _schedule("warmup-start", "schedule", words, _with(warmup_start_lr=lambda _: other))
