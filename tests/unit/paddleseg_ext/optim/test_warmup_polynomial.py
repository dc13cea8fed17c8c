"""detectron2's WarmupPolyLR: the polynomial runs from the first step, and the warm-up multiplies it."""

from __future__ import annotations

import pytest

from paddleseg_ext.optim import WarmupPolynomialDecay


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(0, 1e-5), (500, 0.00497997), (999, 0.00989015), (89999, 3.4768e-7)],  # recorded from detectron2@02b5c4e
)
def test_it_is_detectron2s_rate(iteration: int, rate: float) -> None:
    schedule = WarmupPolynomialDecay(learning_rate=0.01, iters=90000)
    assert schedule(iteration) == pytest.approx(rate, rel=1e-4)


def test_without_warm_up_it_is_the_polynomial_alone() -> None:
    schedule = WarmupPolynomialDecay(learning_rate=0.5, iters=10, power=2.0, warmup_iters=0)
    assert [schedule(i) for i in (0, 5, 10)] == pytest.approx([0.5, 0.125, 0.0])


def test_the_last_step_of_the_warm_up_is_continued_without_a_jump() -> None:
    schedule = WarmupPolynomialDecay(learning_rate=1.0, iters=1000, power=1.0, warmup_iters=100, warmup_factor=0.1)
    assert schedule(50) == pytest.approx(0.55 * 0.95)
    assert schedule(100) == pytest.approx(0.9)
    assert schedule(99) == pytest.approx(0.991 * 0.901)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_iters is 10"):
        WarmupPolynomialDecay(learning_rate=1.0, iters=10, warmup_iters=10)
