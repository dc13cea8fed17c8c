from __future__ import annotations

from typing import Any

import pytest

from paddleseg_ext.config import Config
from paddleseg_ext.engine.batch_scaling import batch_warning, scale_schedule
from paddleseg_ext.optim import Schedule
from paddleseg_ext.registry import SCHEDULES


def config(**changes: Any) -> Config:
    return Config.from_dict(
        {
            "batch_size": 4,
            "reference_batch_size": 16,
            "iters": 1000,
            "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01, "warmup_iters": 100},
            **changes,
        }
    )


def build_schedule(config: Config) -> Schedule:
    arguments = {key: value for key, value in config.data["lr_scheduler"].items() if key != "type"}
    return SCHEDULES.get(config.data["lr_scheduler"]["type"])(iters=config.data["iters"], **arguments)


@pytest.mark.parametrize(
    ("world_size", "rate", "iters", "warmup"), [(1, 0.0025, 4000, 400), (2, 0.005, 2000, 200), (8, 0.02, 500, 50)]
)
def test_rate_and_lengths_follow_the_linear_rule(world_size: int, rate: float, iters: int, warmup: int) -> None:
    scaled, told = scale_schedule(config(), world_size)
    assert scaled.data["lr_scheduler"]["learning_rate"] == pytest.approx(rate)
    assert (scaled.data["iters"], scaled.data["lr_scheduler"]["warmup_iters"]) == (iters, warmup)
    assert 4 * world_size * iters == 16 * 1000  # images seen
    assert f"tuned for batch 16, here 4 x {world_size}" in told[0]


def test_the_halved_batch_of_the_deeplab_recipe_doubles_steps_and_halves_the_rate() -> None:
    recipe = config(
        batch_size=2,
        reference_batch_size=4,
        iters=500000,
        lr_scheduler={"type": "PolynomialDecay", "learning_rate": 0.001},
    )
    scaled, _ = scale_schedule(recipe, 1)
    assert (scaled.data["iters"], scaled.data["lr_scheduler"]["learning_rate"]) == (1_000_000, 0.0005)


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0])
@pytest.mark.parametrize(
    "schedule",
    [
        {"type": "PolynomialDecay", "end_lr": 0.01, "warmup_iters": 80, "warmup_start_lr": 0.02},
        {"type": "PolynomialDecay", "warmup_iters": 80, "warmup_start_lr": 0.02, "warmup": "multiplicative"},
        {"type": "StepDecay", "milestones": [400, 600], "warmup_iters": 80},
        {"type": "CosineDecay", "end_lr": 0.01},
        {"type": "CyclicDecay", "cycles": 2},
        {"type": "WarmupPolynomialDecay"},  # whose constructor has a warm-up of its own
    ],
    ids=lambda schedule: schedule["type"],
)
def test_the_new_rate_at_a_step_is_f_times_the_old_one_at_f_times_the_step(schedule: dict, factor: float) -> None:
    old = config(batch_size=int(16 * factor), iters=8000, lr_scheduler={"learning_rate": 0.1, **schedule})
    new, _ = scale_schedule(old, 1)
    rate, scaled_rate = (build_schedule(each) for each in (old, new))
    for step in range(0, int(8000 / factor), 40):
        assert scaled_rate(step) == pytest.approx(factor * rate(round(factor * step)), rel=1e-9), step


def test_the_reference_batch_changes_nothing() -> None:
    scaled, told = scale_schedule(config(), 4)
    assert scaled.data == config().data
    assert "nothing is scaled" in told[0]
    assert batch_warning(config(), 4) is None
    assert batch_warning(config(reference_batch_size=None), 1) is None


def test_another_batch_is_warned_about_with_what_scaling_would_do() -> None:
    text = batch_warning(config(), 1)
    assert "BATCH 4 INSTEAD OF 16" in text
    assert "learning rate 0.0025 and 4000 iterations" in text
