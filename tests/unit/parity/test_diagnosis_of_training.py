"""What the diagnosis says of optimizers and schedules; each step and each rate is computed here by its definition."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from parity.compare import Finding, StageResult
from parity.diagnose import cause
from parity.diagnosis import optimizers, rates, updates
from parity.traces import Trace

GRADIENT, BEFORE = np.random.RandomState(0).standard_normal((2, 60, 5))
RATE = 0.01


def test_a_step_that_crashed_has_no_other_cause():
    missing = Finding("step/2/loss/ce", "missing", text="the port crashed before: no kernel")
    for stage in ("step", "trajectory"):
        trace = Trace(meta={"crash": "no kernel"})
        bench = SimpleNamespace(port=object(), traces={("port", stage): trace})
        assert cause(bench, StageResult(stage, [missing])) == ""


# --- optimizers -----------------------------------------------------------------------------------------------------


def adam(*, decay=0.0, decoupled=0.0, epsilon=1e-8):
    total = GRADIENT + decay * BEFORE
    mean, square = 0.1 * total, 0.001 * total**2
    quotient = (mean / 0.1) / (np.sqrt(square / 0.001) + epsilon)
    update = -RATE * (quotient + decoupled * BEFORE)
    return {"learning_rate/w": RATE, "update/w": update, "optimizer/w.moment1": mean, "optimizer/w.moment2": square}


@pytest.mark.parametrize(("port", "other"), [("port", "reference"), ("reference", "port")])
@pytest.mark.parametrize("decay", [0.05, 0.01])
def test_adam_with_l2_and_adamw_are_one_finding(port, other, decay):
    steps = {port: adam(decoupled=0.05), other: adam(decay=decay)}
    rules = [{"w": updates.read("w", steps[side], GRADIENT, BEFORE)} for side in ("port", "reference")]
    said = updates.compare_rules(*rules)
    assert said.startswith(f"the {port}'s weight decay 0.05 is decoupled (AdamW's), the {other}'s {decay} is added")
    assert "all 1 parameters" in said


@pytest.mark.parametrize("epsilon", [1e-8, 1e-4])
def test_a_decoupled_decay_is_fitted_beside_epsilon(epsilon):
    rule = updates.read("w", adam(decoupled=0.05, epsilon=epsilon), GRADIENT, BEFORE)
    assert rule.decoupled == pytest.approx(0.05, rel=1e-6)


def test_an_optimizer_with_one_moment_is_read():
    step = adam()
    del step["optimizer/w.moment2"]  # Adamax keeps the largest gradient instead
    assert updates.read("w", step, GRADIENT, BEFORE).beta1 == pytest.approx(0.9)


def sgd(gradient=GRADIENT, *, momentum=True):
    step = {"learning_rate/w": RATE, "update/w": -RATE * gradient}
    return {**step, "optimizer/w.velocity": gradient} if momentum else step


def divided(quotient):
    return {"learning_rate/w": RATE, "update/w": -RATE * quotient}


def kinds_of(theirs, ours):
    return optimizers.explain([(theirs, ours)], {"w": GRADIENT}, {"w": BEFORE})


def test_an_optimizer_of_another_kind_is_named():
    second = (sgd(), {**sgd(momentum=False), "update/w": -2 * RATE * GRADIENT})  # at first, momentum does not show
    said = optimizers.explain([(sgd(), sgd(momentum=False)), second], {"w": GRADIENT}, {"w": BEFORE})
    assert "the port's none that is known here and its first update is rate * gradient (plain SGD)" in said
    assert "the reference's a velocity (SGD with momentum)" in said
    assert "the port's two moments (Adam, AdamW); the reference's a velocity" in kinds_of(sgd(), adam())


def test_accumulators_that_are_only_named_otherwise_are_no_other_optimizer():
    unnamed = {name: value for name, value in adam().items() if "optimizer" not in name}
    assert kinds_of(adam(), unnamed).startswith("the updates of 1 steps agree")


def test_optimizers_of_one_kind_say_nothing():
    assert kinds_of(sgd(), sgd(2 * GRADIENT)) == ""
    assert kinds_of(sgd(momentum=False), sgd(momentum=False)) == ""


def test_where_rmsprop_adds_its_epsilon_is_told():
    size = np.abs(GRADIENT)
    outside = divided(GRADIENT / (np.sqrt(0.01 * size**2) + 1e-3))
    inside = divided(GRADIENT / np.sqrt(0.05 * size**2 + 1e-2))
    said = kinds_of(outside, inside)
    assert said.startswith("the port's first update is rate * g / sqrt(0.05 g^2 + 0.01)")
    assert "the reference's rate * g / (sqrt(0.01 g^2) + 0.001)" in said
    assert kinds_of(divided(GRADIENT**3), inside) == ""


def test_dampening_is_read_from_the_second_step_and_from_the_references_setting():
    second = np.random.RandomState(1).standard_normal(GRADIENT.shape)
    theirs, ours = ({"optimizer/w.velocity": 0.9 * GRADIENT + share * second} for share in (0.7, 1.0))
    steps = [(sgd(), sgd()), (theirs, ours)]
    said = optimizers.explain_later(steps, {"dampening": 0.3, "momentum": 0.9})
    assert said == "the reference's optimizer has dampening 0.3, the port's none"
    for other in ({}, {"dampening": 0.2, "momentum": 0.9}):
        assert optimizers.explain_later(steps, other) == ""


def test_amsgrad_is_told_by_what_it_divides_by():
    squares, mean = [np.full(4, 0.004), np.full(4, 0.001)], np.full(4, 0.19)

    def taken(square):
        update = -RATE * (mean / (1 - 0.9**2)) / (np.sqrt(square / (1 - 0.999**2)) + 1e-8)
        points = {"optimizer/w.moment1": mean, "optimizer/w.moment2": squares[1]}
        return {**points, "learning_rate/w": RATE, "update/w": update}

    first, group = {"optimizer/w.moment2": squares[0]}, {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    said = optimizers.explain_later([(first, first), (taken(squares[0]), taken(squares[1]))], group)
    assert said == "the reference divides by the largest second moment so far (AMSGrad), the port by the last"
    assert optimizers.explain_later([(first, first), (taken(squares[1]),) * 2], group) == ""


def test_a_clip_of_single_elements_is_told():
    ours = updates.read("w", sgd(np.clip(GRADIENT, -0.5, 0.5)), GRADIENT, BEFORE)
    theirs = updates.read("w", sgd(0.1 * GRADIENT), GRADIENT, BEFORE)
    said = updates.compare_rules({"w": ours}, {"w": theirs})
    assert said.startswith("the port clips each element of a gradient to 0.5, the reference does not")
    assert updates.compare_rules({"w": ours}, {"w": ours}) == ""


def test_what_torch_adds_to_the_norm_is_told_where_it_explains_the_whole_difference():
    norm = 0.8
    ours, theirs = {"w": updates.Rule(0.1 / norm, 0.0)}, {"w": updates.Rule(0.1 / (norm + 1e-6), 0.0)}
    assert "torch divides by the norm + 1e-6 (here 0.8)" in updates.explain_clip(ours, theirs, norm)
    assert updates.explain_clip(ours, theirs, 2 * norm) == ""


# --- schedules ------------------------------------------------------------------------------------------------------


def said_of(ours, theirs, *, iters=100, warmup=0):
    series = [{i: rate(i) for i in range(iters)} for rate in (ours, theirs)]
    return rates.explain_schedule(*series, iters=iters, warmup=warmup)


def poly(base=0.05, power=0.9, end=0.0, iters=100):
    return lambda i: (base - end) * (1 - i / iters) ** power + end


def rising(length):
    return lambda i: poly()(i) * min((i + 1) / length, 1.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (poly(end=1e-4), poly(end=1e-3), "of power 0.9 from 0.05 to 0.0001 .* of power 0.9 from 0.05 to 0.001"),
        (lambda i: 0.025 * (1 + np.cos(np.pi * i / 100)), poly(), "half a cosine .* a polynomial of power 0.9"),
        (poly(iters=101), poly(), "in iterations 0 to 101, .* in iterations 0 to 100"),
        (
            lambda i: 0.05 * 0.2 ** (i >= 60),
            lambda i: 0.05 * 0.1 ** (i >= 60),
            "0.2 times from 60 on.* 0.1 times from 60",
        ),
        (lambda i: poly()(i // 10 * 10), poly(), "the port's rate moves once in 10 iterations"),
    ],
)
def test_what_a_schedule_is_instead_is_told(ours, theirs, said):
    import re

    assert re.search(said, said_of(ours, theirs))


def test_another_length_of_the_warmup_is_told():
    said = said_of(rising(20), rising(10), warmup=10)
    assert said.startswith("the rate rises to iteration 19, the reference's to 9")


def test_a_schedule_of_no_known_form_is_not_given_one():
    assert said_of(lambda i: 0.05 / (i + 2), poly()).startswith("the schedules differ from iteration 0 on")


def test_rates_of_zero_are_compared():
    assert rates.explain_groups({"a": 0.0, "b": 0.0}, {"a": 0.005, "b": 0.005}) == ""
    assert "is 0 times the reference's" in rates.explain_groups({"a": 0.0, "b": 0.1}, {"a": 0.1, "b": 0.1})
