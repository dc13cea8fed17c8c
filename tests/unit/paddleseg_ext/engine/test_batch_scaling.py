from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from paddleseg_ext.config import Config
from paddleseg_ext.engine.batch_scaling import batch_warning, scale_schedule


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
