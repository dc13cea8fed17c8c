"""The batch that a schedule was tuned for, and the batch that there is.

A recipe's learning rate and length hold for its total batch. With another one, the linear rule (Goyal et al., 2017,
arXiv 1706.02677) keeps the number of images seen and the step per image: rate times f, iterations divided by f.
"""

from __future__ import annotations

from paddleseg_ext.config import Config, apply_flag

FLAG = "--scale-schedule-to-batch"


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
    rate = config.data["lr_scheduler"]["learning_rate"]
    lengths = {"iters": config.data["iters"], "lr_scheduler.warmup_iters": config.get("lr_scheduler.warmup_iters", 0)}
    told = [
        f"{FLAG}: tuned for batch {reference}, here {config.data['batch_size']} x {world_size} = {total}: "
        f"factor {factor:g}",
        f"  learning rate {rate:g} x {factor:g} = {rate * factor:g}",
    ]
    config = apply_flag(config, "lr_scheduler.learning_rate", rate * factor, FLAG)
    for key, steps in lengths.items():
        if steps:
            scaled = max(1, round(steps / factor))
            told.append(f"  {key.rpartition('.')[2]} {steps} / {factor:g} = {scaled}")
            config = apply_flag(config, key, scaled, FLAG)
    images = total * config.data["iters"]
    told.append(f"  images seen: {reference} x {lengths['iters']} = {reference * lengths['iters']}, now {images}")
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
