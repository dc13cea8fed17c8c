"""Optimizers of the references: torch's own, driven by a schedule that is a pure function of the iteration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Callable

import torch


def warmup_poly(
    iteration: int, *, base_lr: float, warmup_iters: int, warmup_start_lr: float, max_iters: int, power: float
) -> float:
    """The learning rate of the step with this 0-based index: geometric warm-up, then polynomial decay.

    `warmup_start_lr` grows by a constant factor per step and reaches `base_lr` at step `warmup_iters` itself; the
    decay has its own clock, which starts there and is at 0 at `max_iters`.

    Args:
        iteration: 0 .. max_iters.
        base_lr: rate at the end of the warm-up.
        warmup_iters: length of the warm-up in steps; 0 means none (upstream divides by it).
        warmup_start_lr: rate of step 0, above 0 when there is a warm-up.
        max_iters: length of the whole run, warm-up included.
        power: of the polynomial.

    Raises:
        ValueError: if `iteration` is outside the run, or the warm-up fills all of it.

    Upstream: MichaelFan01/STDC-Seg@59ff37f optimizer_loss.py
    """
    if not 0 <= iteration <= max_iters:
        raise ValueError(f"warmup_poly: iteration {iteration}; the run has iterations 0..{max_iters}; check the start")
    if not 0 <= warmup_iters < max_iters:
        raise ValueError(f"warmup_poly: warmup_iters {warmup_iters}; expected 0..{max_iters - 1}; shorten the warm-up")
    if warmup_iters and iteration <= warmup_iters:
        growth = (base_lr / warmup_start_lr) ** (1.0 / warmup_iters)
        return warmup_start_lr * growth**iteration
    done = (iteration - warmup_iters) / (max_iters - warmup_iters)
    return base_lr * (1.0 - done) ** power


class ScheduledSGD:
    """SGD whose learning rates are set from a schedule just before each step.

    Args:
        groups: parameter groups as torch takes them, each with an optional `lr_mult` (1 by default); `weight_decay`
            or `momentum` in a group win over the arguments below.
        schedule: 0-based iteration -> base learning rate.
        momentum: of SGD, without dampening or Nesterov.
        weight_decay: added to the gradient before momentum.
        start: iteration of the first step.

    Attributes:
        optim: the `torch.optim.SGD`; its groups keep `lr_mult`, and their `lr` is that of the last step taken.
        iteration: 0-based index of the next step.
    """

    def __init__(
        self,
        groups: Iterable[Mapping[str, Any]],
        *,
        schedule: Callable[[int], float],
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        start: int = 0,
    ) -> None:
        self.schedule = schedule
        self.iteration = start
        copies = [{"lr_mult": 1.0, **group} for group in groups]
        self.optim = torch.optim.SGD(copies, lr=schedule(start), momentum=momentum, weight_decay=weight_decay)
        self._set_rates()

    def zero_grad(self) -> None:
        """Clears the gradients of the parameters in the groups; a parameter in no group keeps accumulating."""
        self.optim.zero_grad()

    def step(self) -> None:
        """Sets each group's rate to schedule(iteration) * lr_mult, updates, and moves on to the next iteration."""
        self._set_rates()
        self.optim.step()
        self.iteration += 1

    def _set_rates(self) -> None:
        rate = self.schedule(self.iteration)
        for group in self.optim.param_groups:
            group["lr"] = rate * group["lr_mult"]


class ScheduledAdam(ScheduledSGD):
    """Adam, without weight decay, whose learning rates are set likewise.

    Args:
        groups: as of `ScheduledSGD`.
        schedule: 0-based iteration -> base learning rate.
        start: iteration of the first step.
    """

    def __init__(
        self, groups: Iterable[Mapping[str, Any]], *, schedule: Callable[[int], float], start: int = 0
    ) -> None:
        self.schedule = schedule
        self.iteration = start
        self.optim = torch.optim.Adam([{"lr_mult": 1.0, **group} for group in groups], lr=schedule(start))
        self._set_rates()


def warmup_multistep(
    iteration: int, *, base_lr: float, warmup_iters: int, warmup_factor: float, milestones: Iterable[int], gamma: float
) -> float:
    """The learning rate of the step with this 0-based index: linear warm-up, then a drop at each milestone.

    Args:
        iteration: 0-based.
        base_lr: rate from step `warmup_iters` on, until the first milestone.
        warmup_iters: length of the warm-up in steps; 0 means none.
        warmup_factor: rate of step 0 over `base_lr`.
        milestones: first iterations of lower rates.
        gamma: factor of a drop.

    Upstream: facebookresearch/detectron2@02b5c4e detectron2/solver/lr_scheduler.py
    """
    if iteration < warmup_iters:
        done = iteration / warmup_iters
        return base_lr * (warmup_factor * (1.0 - done) + done)
    return base_lr * gamma ** sum(iteration >= milestone for milestone in milestones)
