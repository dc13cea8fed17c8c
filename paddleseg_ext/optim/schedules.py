"""Learning rates as pure functions of the iteration, so that resuming and replaying need no state.

`schedule(0)` is the rate of the first optimizer step.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Literal

from paddleseg_ext.registry import SCHEDULES


class Schedule:
    """A base rate with an optional warm-up before the decay.

    During warm-up, `iteration < warmup_iters`, the rate goes from `warmup_start_lr` to `learning_rate`; the decay
    then runs over the iterations that are left, its own clock starting at 0.

    Args:
        learning_rate: base rate, reached when the warm-up ends.
        iters: length of the whole run, warm-up included.
        warmup_iters: length of the warm-up; 0 means none.
        warmup_start_lr: rate of the first step.
        warmup: "linear" adds, "multiplicative" multiplies by the same amount each step.
    """

    def __init__(
        self,
        *,
        learning_rate: float,
        iters: int,
        warmup_iters: int = 0,
        warmup_start_lr: float = 0.0,
        warmup: Literal["linear", "multiplicative"] = "linear",
    ) -> None:
        if warmup == "multiplicative" and warmup_iters and warmup_start_lr <= 0:
            raise ValueError("multiplicative warm-up needs warmup_start_lr > 0")
        if warmup_iters >= iters:
            raise ValueError(f"warmup_iters is {warmup_iters}, but the whole run has {iters} iterations")
        self.learning_rate = learning_rate
        self.iters = iters
        self.warmup_iters = warmup_iters
        self.warmup_start_lr = warmup_start_lr
        self.warmup = warmup

    def __call__(self, iteration: int) -> float:
        """The rate of the step with this 0-based index."""
        if iteration < self.warmup_iters:
            progress = iteration / self.warmup_iters
            if self.warmup == "multiplicative":
                return self.warmup_start_lr * (self.learning_rate / self.warmup_start_lr) ** progress
            return self.warmup_start_lr + (self.learning_rate - self.warmup_start_lr) * progress
        return self.decay(iteration - self.warmup_iters, self.iters - self.warmup_iters)

    def decay(self, step: int, steps: int) -> float:
        """The rate `step` iterations after the warm-up, of `steps`."""
        raise TypeError(f"{type(self).__name__} defines no decay")


@SCHEDULES.register
class PolynomialDecay(Schedule):
    """(learning_rate - end_lr) * (1 - step/steps)**power + end_lr.

    Args:
        learning_rate: base rate.
        iters: length of the whole run, warm-up included.
        power: of the polynomial.
        end_lr: rate at the end.
        warmup_iters: see `Schedule`.
        warmup_start_lr: see `Schedule`.
        warmup: see `Schedule`.
    """

    def __init__(
        self,
        *,
        learning_rate: float,
        iters: int,
        power: float = 0.9,
        end_lr: float = 0.0,
        warmup_iters: int = 0,
        warmup_start_lr: float = 0.0,
        warmup: Literal["linear", "multiplicative"] = "linear",
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            iters=iters,
            warmup_iters=warmup_iters,
            warmup_start_lr=warmup_start_lr,
            warmup=warmup,
        )
        self.power = power
        self.end_lr = end_lr

    def decay(self, step: int, steps: int) -> float:
        remaining = 1.0 - min(step, steps) / steps
        return (self.learning_rate - self.end_lr) * remaining**self.power + self.end_lr


@SCHEDULES.register
class WarmupPolynomialDecay(Schedule):
    """learning_rate * (1 - iteration/iters)**power, and during the warm-up times a factor that grows linearly to 1.

    The polynomial's clock starts with the run, not after the warm-up: this is detectron2's WarmupPolyLR, which the
    DeepLab recipes use.

    Args:
        learning_rate: base rate.
        iters: length of the whole run, warm-up included.
        power: of the polynomial.
        warmup_iters: length of the warm-up; 0 means none.
        warmup_factor: factor of the first step.

    Upstream: facebookresearch/detectron2@02b5c4e projects/DeepLab/deeplab/lr_scheduler.py and
    bowenc0221/panoptic-deeplab@cf8e20b segmentation/solver/lr_scheduler.py
    """

    def __init__(
        self,
        *,
        learning_rate: float,
        iters: int,
        power: float = 0.9,
        warmup_iters: int = 1000,
        warmup_factor: float = 1e-3,
    ) -> None:
        super().__init__(learning_rate=learning_rate, iters=iters, warmup_iters=warmup_iters)
        self.power = power
        self.warmup_factor = warmup_factor

    def __call__(self, iteration: int) -> float:
        """The rate of the step with this 0-based index."""
        factor = 1.0
        if iteration < self.warmup_iters:
            progress = iteration / self.warmup_iters
            factor = self.warmup_factor * (1.0 - progress) + progress
        return self.learning_rate * factor * (1.0 - min(iteration, self.iters) / self.iters) ** self.power


@SCHEDULES.register
class StepDecay(Schedule):
    """learning_rate * gamma**(number of milestones reached).

    Args:
        learning_rate: base rate.
        iters: length of the whole run, warm-up included.
        milestones: iterations at which the rate drops, counted from the start of the run.
        gamma: factor of a drop.
        warmup_iters: see `Schedule`.
        warmup_start_lr: see `Schedule`.
        warmup: see `Schedule`.
    """

    def __init__(
        self,
        *,
        learning_rate: float,
        iters: int,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_iters: int = 0,
        warmup_start_lr: float = 0.0,
        warmup: Literal["linear", "multiplicative"] = "linear",
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            iters=iters,
            warmup_iters=warmup_iters,
            warmup_start_lr=warmup_start_lr,
            warmup=warmup,
        )
        self.milestones = sorted(milestones)
        self.gamma = gamma

    def decay(self, step: int, steps: int) -> float:
        return self.learning_rate * self.gamma ** bisect.bisect_right(self.milestones, step + self.warmup_iters)


@SCHEDULES.register
class CosineDecay(Schedule):
    """Half a cosine from learning_rate to end_lr.

    Args:
        learning_rate: base rate.
        iters: length of the whole run, warm-up included.
        end_lr: rate at the end.
        warmup_iters: see `Schedule`.
        warmup_start_lr: see `Schedule`.
        warmup: see `Schedule`.
    """

    def __init__(
        self,
        *,
        learning_rate: float,
        iters: int,
        end_lr: float = 0.0,
        warmup_iters: int = 0,
        warmup_start_lr: float = 0.0,
        warmup: Literal["linear", "multiplicative"] = "linear",
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            iters=iters,
            warmup_iters=warmup_iters,
            warmup_start_lr=warmup_start_lr,
            warmup=warmup,
        )
        self.end_lr = end_lr

    def decay(self, step: int, steps: int) -> float:
        wave = 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps))
        return self.end_lr + (self.learning_rate - self.end_lr) * wave


@SCHEDULES.register
class CyclicDecay(Schedule):
    """Half a cosine up to learning_rate * peak, then half a cosine down to learning_rate * floor; again and again.

    Each cycle begins at `learning_rate`.

    Args:
        learning_rate: base rate.
        iters: length of the whole run.
        cycles: how many fill the run.
        peak: factor of the highest rate.
        floor: factor of the lowest rate.
        rising: share of a cycle in which the rate rises, 0..1.
    """

    def __init__(
        self,
        *,
        learning_rate: float,
        iters: int,
        cycles: int = 1,
        peak: float = 10.0,
        floor: float = 1e-4,
        rising: float = 0.4,
    ) -> None:
        super().__init__(learning_rate=learning_rate, iters=iters)
        if not 1 <= cycles <= iters or not 0.0 <= rising <= 1.0:
            raise ValueError(f"{cycles} cycles in {iters} iterations, rising for {rising} of each; expected 1.., 0..1")
        self.length = iters // cycles
        self.top = int(rising * self.length)
        self.peak = peak
        self.floor = floor

    def decay(self, step: int, steps: int) -> float:
        place = step % self.length
        if place < self.top:
            start, end, progress = 1.0, self.peak, place / self.top
        else:
            start, end, progress = self.peak, self.floor, (place - self.top) / (self.length - self.top)
        return self.learning_rate * (end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * progress)))
