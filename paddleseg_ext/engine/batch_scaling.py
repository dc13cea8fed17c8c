"""The batch that a schedule was tuned for, and the batch that there is.

A recipe's learning rate and length hold for its total batch. With another one, the linear rule (Goyal et al., 2017,
arXiv 1706.02677) keeps the number of images seen and the step per image: rate times f, iterations divided by f. It
holds for all rates and lengths of a schedule: the new rate at step t is f times the old one at step f * t.
"""

from __future__ import annotations

from typing import Any

from paddleseg_ext.config import Config, apply_flag
from paddleseg_ext.config.typecheck import parameters
from paddleseg_ext.registry import SCHEDULES

FLAG = "--scale-schedule-to-batch"
RATES = ("learning_rate", "end_lr", "warmup_start_lr")  # arguments of schedules that are rates
LENGTHS = ("warmup_iters", "milestones")  # and those that count steps


def scale_schedule(config: Config, world_size: int) -> tuple[Config, list[str]]:
    """The configuration with rate and lengths adapted to its total batch, and the derivation in words.

    Args:
        config: with `reference_batch_size`; without it, or if the batch is the same, nothing changes.
        world_size: number of processes, each with `batch_size` images.
    """
    reference, total = config.get("reference_batch_size"), config.data["batch_size"] * world_size
    if reference is None:
        return config, [f"{FLAG}: the configuration has no reference_batch_size; nothing is scaled"]
    if reference == total:
        return config, [f"{FLAG}: the batch is the reference's, {total}; nothing is scaled"]
    factor = total / reference
    told = [
        f"{FLAG}: tuned for batch {reference}, here {config.data['batch_size']} x {world_size} = {total}: "
        f"factor {factor:g}"
    ]
    old_iters, schedule = config.data["iters"], _schedule(config)
    for key in RATES:
        if schedule.get(key):
            told.append(f"  {key} {schedule[key]:g} x {factor:g} = {schedule[key] * factor:g}")
            config = apply_flag(config, f"lr_scheduler.{key}", schedule[key] * factor, FLAG)
    for key, steps in {"iters": old_iters, **{f"lr_scheduler.{name}": schedule.get(name) for name in LENGTHS}}.items():
        if steps:
            scaled = [_scaled(step, factor) for step in steps] if isinstance(steps, list) else _scaled(steps, factor)
            told.append(f"  {key.rpartition('.')[2]} {steps} / {factor:g} = {scaled}")
            config = apply_flag(config, key, scaled, FLAG)
    images = total * config.data["iters"]
    told.append(f"  images seen: {reference} x {old_iters} = {reference * old_iters}, now {images}")
    return config, told


def batch_warning(config: Config, world_size: int) -> str | None:
    """What to say if the total batch is not the one that the schedule was tuned for; None if it is."""
    reference, total = config.get("reference_batch_size"), config.data["batch_size"] * world_size
    if reference is None or reference == total:
        return None
    rate, iters = config.data["lr_scheduler"]["learning_rate"], config.data["iters"]
    return (
        f"BATCH {total} INSTEAD OF {reference}: the schedule (learning rate {rate:g}, {iters} iterations) was tuned "
        f"for a total batch of {reference}; here it is {config.data['batch_size']} x {world_size} = {total}, so "
        f"expect another result; {FLAG} would use learning rate {rate * total / reference:g} and "
        f"{round(iters * reference / total)} iterations"
    )


def _schedule(config: Config) -> dict[str, Any]:
    """The arguments of the schedule, with the constructor's own values for those that are not given."""
    section = config.data["lr_scheduler"]
    known, _ = parameters(SCHEDULES.get(section["type"]))
    return {**{name: p.default for name, p in known.items() if not p.required}, **section}


def _scaled(steps: int, factor: float) -> int:
    return max(1, round(steps / factor))
