"""Learning rates against values computed by hand."""

from __future__ import annotations

import math

import pytest

from paddleseg_ext.optim import CosineDecay, CyclicDecay, PolynomialDecay, StepDecay


def test_polynomial_decay_runs_from_the_base_rate_to_end_lr() -> None:
    schedule = PolynomialDecay(learning_rate=0.1, iters=10, power=2.0, end_lr=0.02)
    assert [schedule(i) for i in (0, 5, 10)] == pytest.approx([0.1, 0.02 + 0.08 * 0.25, 0.02])
    assert schedule(11) == pytest.approx(0.02)  # behind the end it stays


def test_steps_count_from_the_start_of_the_run_warm_up_included() -> None:
    schedule = StepDecay(learning_rate=1.0, iters=10, milestones=[6, 4], gamma=0.1, warmup_iters=2)
    assert [schedule(i) for i in range(2, 8)] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_cosine_decay_is_half_way_in_the_middle() -> None:
    schedule = CosineDecay(learning_rate=0.2, iters=12, end_lr=0.1)
    assert [schedule(i) for i in (0, 3, 6, 12)] == pytest.approx([0.2, 0.15 + 0.05 * math.sqrt(0.5), 0.15, 0.1])


def test_a_cycle_rises_to_its_peak_and_falls_to_its_floor() -> None:
    schedule = CyclicDecay(learning_rate=0.1, iters=20, cycles=2, peak=3.0, floor=0.5, rising=0.4)
    rates = [schedule(i) for i in range(10)]
    assert rates[::2] == pytest.approx(
        [0.1, 0.2, 0.3, 0.05 + 0.125 * (1 + math.cos(math.pi / 3)), 0.05 + 0.125 * (1 + math.cos(2 * math.pi / 3))]
    )
    assert [schedule(i) for i in range(10, 20)] == rates
    with pytest.raises(ValueError, match="30 cycles in 20 iterations"):
        CyclicDecay(learning_rate=0.1, iters=20, cycles=30)


def test_a_linear_warm_up_adds_the_same_and_a_multiplicative_one_multiplies_by_the_same() -> None:
    options = {"learning_rate": 0.08, "iters": 103, "warmup_iters": 3, "warmup_start_lr": 0.01, "power": 1.0}
    linear = PolynomialDecay(**options)
    assert [linear(i) for i in range(4)] == pytest.approx([0.01, 0.01 + 0.07 / 3, 0.01 + 0.14 / 3, 0.08])
    multiplied = PolynomialDecay(warmup="multiplicative", **options)
    assert [multiplied(i) for i in range(4)] == pytest.approx([0.01, 0.02, 0.04, 0.08])
    assert linear(53) == multiplied(53) == pytest.approx(0.04)  # the decay's clock starts after the warm-up


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_iters": 10}, "warmup_iters is 10, but the whole run has 10"),
        ({"warmup_iters": 2, "warmup": "multiplicative"}, "needs warmup_start_lr > 0"),
    ],
)
def test_impossible_warm_ups_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolynomialDecay(learning_rate=0.1, iters=10, **options)


def test_a_base_rate_of_0_trains_nothing_and_is_no_error() -> None:
    assert {PolynomialDecay(learning_rate=0.0, iters=5)(i) for i in range(6)} == {0.0}
