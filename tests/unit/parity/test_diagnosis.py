"""What the diagnosis reads from numbers: relations between tensors, fitted optimizer steps, schedules."""

from __future__ import annotations

import numpy as np
import pytest

from parity.compare import Finding
from parity.diagnosis import data, rates, updates, values
from parity.traces import digest

RANDOM = np.random.RandomState(0)
IMAGE = RANDOM.standard_normal((2, 3, 5, 7))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[..., ::-1], "mirrored"),
        (lambda x: x[..., ::-1, :], "upside down"),
        (lambda x: x[:, ::-1], "BGR for RGB"),
        (lambda x: x[:, [1, 0, 2]], "another order (channel 0 is the original's 1)"),
        (lambda x: 0.25 * x, "0.25 times"),
        (lambda x: np.maximum(x, 0), "relu"),
        (lambda x: np.roll(x, 1, axis=3), "shifted by 1 columns"),
    ],
)
def test_what_was_done_to_a_tensor_is_recognised(change, said):
    assert said in values.relation(IMAGE, change(IMAGE))


def test_one_changed_element_is_found_and_located():
    changed = IMAGE.copy()
    changed[1, 2, 3, 4] += 1e-6
    assert values.relation(IMAGE, changed) == "differs in 1 of 210 elements only, first at [1, 2, 3, 4]"


def test_unrelated_tensors_have_no_relation():
    assert values.relation(IMAGE, RANDOM.standard_normal(IMAGE.shape)) == ""


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky relu 0.01", "sigmoid"])
def test_the_function_between_two_tensors_is_named(name):
    x = 10 * IMAGE
    assert values.function_between(x, values.FUNCTIONS[name](x)) == name


# --- optimizers: each step is computed here by its definition -----------------------------------------------------


def sgd_step(gradient, before, *, rate=0.1, decay=0.0, scale=1.0, momentum=0.9, nesterov=False):
    total = scale * gradient + decay * before
    update = -rate * (total + momentum * total if nesterov else total)
    return {"learning_rate/w": rate, "optimizer/w.velocity": total, "update/w": update}


def adam_step(gradient, before, *, rate=0.1, decay=0.0, decoupled=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8):
    total = gradient + decay * before
    moment1, moment2 = (1 - beta1) * total, (1 - beta2) * total**2
    update = -rate * (moment1 / (1 - beta1) / (np.sqrt(moment2 / (1 - beta2)) + epsilon)) - rate * decoupled * before
    numbers = {"optimizer/w.moment1": moment1, "optimizer/w.moment2": moment2}
    return {"learning_rate/w": rate, "update/w": update, **numbers}


GRADIENT, BEFORE = RANDOM.standard_normal((2, 60, 5))


def said_of(step, ours, theirs):
    rules = [{"w": updates.read("w", step(GRADIENT, BEFORE, **how), GRADIENT, BEFORE)} for how in (ours, theirs)]
    return updates.compare_rules(*rules)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({"decay": 5e-4}, {}, "weight decay 0.0005, reference 0"),
        ({}, {"decay": 1e-4}, "weight decay 0, reference 0.0001"),
        ({"scale": 0.02}, {}, "0.02 times the reference's"),
        ({"nesterov": True}, {}, "the port's momentum is Nesterov's"),
        ({}, {"nesterov": True}, "the reference's momentum is Nesterov's"),
    ],
)
def test_a_step_of_sgd_is_fitted(ours, theirs, said):
    assert said in said_of(sgd_step, ours, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({"beta1": 0.95}, {}, "beta1 0.95, reference 0.9"),
        ({"beta2": 0.99}, {}, "beta2 0.99, reference 0.999"),
        ({"decay": 1e-4}, {"decay": 0.0}, "weight decay 0.0001, reference 0"),
        ({"decoupled": 0.01}, {}, "AdamW"),
        ({"epsilon": 1e-3}, {"epsilon": 1e-5}, "epsilon 0.001, reference 1e-05"),
    ],
)
def test_a_step_of_adam_is_fitted(ours, theirs, said):
    assert said in said_of(adam_step, ours, theirs)


@pytest.mark.parametrize("step", [sgd_step, adam_step])
def test_equal_steps_say_nothing(step):
    assert said_of(step, {"decay": 1e-4}, {"decay": 1e-4}) == ""


def test_a_step_that_no_rule_makes_is_not_read():
    step = {**sgd_step(GRADIENT, BEFORE), "optimizer/w.velocity": GRADIENT**2}
    assert updates.read("w", step, GRADIENT, BEFORE) is None


def test_another_momentum_is_read_from_the_second_step():
    second = RANDOM.standard_normal(GRADIENT.shape)
    steps = [{"optimizer/w.velocity": second + momentum * GRADIENT} for momentum in (0.9, 0.95)]
    first = {"optimizer/w.velocity": GRADIENT}
    said = updates.compare_momentum(tuple(steps), (first, first), ["w"], 0.9)
    assert said.startswith("momentum 0.95, reference 0.9")


# --- schedules: a polynomial with a warm-up, by its definition ------------------------------------------------------


def polynomial(iteration, *, base=0.01, power=0.9, end=0.0, warmup=100, start=1e-5, kind="geometric", iters=1000):
    if iteration < warmup:
        part = iteration / warmup
        return start * (base / start) ** part if kind == "geometric" else start + (base - start) * part
    return (base - end) * (1 - (iteration - warmup) / (iters - warmup)) ** power + end


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (lambda i: polynomial(i, power=1.0), "power 1, reference 0.9"),
        (lambda i: 2 * polynomial(i), "2 times the reference's at every iteration"),
        (lambda i: polynomial(i + 1), "1 step ahead of the reference's"),
        (lambda i: polynomial(max(i - 1, 0)) if i else 0.0, ""),
        (lambda i: polynomial(i, kind="linear"), "the warm-up is linear, the reference's geometric"),
        (lambda i: polynomial(i, warmup=0), "no warm-up"),
        (lambda i: polynomial(i, end=1e-4), "ends at 0.0001"),
    ],
)
def test_a_schedule_is_told_from_another(ours, said):
    where = [0, 1, 2, 3, 50, 98, 99, 100, 101, 102, 400, 401, 402, 900, 996, 997]
    found = rates.explain_schedule(
        {i: ours(i) for i in where}, {i: polynomial(i) for i in where}, iters=1000, warmup=100
    )
    assert said in found and found


def test_a_group_without_its_multiplier_is_told_from_the_schedule():
    reference = {"a.weight": 0.1, "b.weight": 0.1, "head.weight": 1.0}
    said = rates.explain_groups({**reference, "head.weight": 0.1}, reference)
    assert "head.weight" in said and "0.1 times" in said and "multiplier" in said
    assert rates.explain_groups({name: 2 * rate for name, rate in reference.items()}, reference) == ""


def test_a_parameter_in_no_group_is_named():
    said = rates.explain_groups({"a": 0.1}, {"a": 0.1, "b": 0.1})
    assert "b" in said and "in no group of the port's optimizer" in said


# --- data -----------------------------------------------------------------------------------------------------------


def said_of_data(own, truth):
    recorded = {name: (value.shape, digest(value)) for name, value in truth.items()}
    return data.explain(Finding(f"data/{next(iter(own))}", "fail"), own, recorded)


def test_what_is_wrong_with_an_image_is_read_from_digests():
    truth = RANDOM.standard_normal((3, 20, 31))
    said = said_of_data({"0/image": truth[::-1]}, {"0/image": truth})
    assert "BGR for RGB" in said
    std = np.array([0.2, 0.3, 0.4])[:, None, None]
    assert "another mean and std" in said_of_data({"0/image": (truth - 0.5) / std}, {"0/image": truth})


def test_what_is_wrong_with_a_label_is_read_from_digests():
    truth = RANDOM.randint(0, 19, (20, 31))
    truth[:3] = 255
    assert "one more" in said_of_data({"0/label": np.where(truth == 255, 255, truth + 1)}, {"0/label": truth})
    assert "ignore" in said_of_data({"0/label": np.where(truth == 255, 0, truth)}, {"0/label": truth})
