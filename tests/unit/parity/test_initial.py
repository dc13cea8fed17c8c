"""Initial values: the same distribution passes whatever was drawn, another is named. Truth: torch and Paddle draw."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
import torch
from paddle import nn

from parity import initial
from parity.initial import Start, difference
from parity.traces import digested
from parity.weights import Move, Plan


def start(values):
    return Start.of(digested(np.asarray(values)))


def torch_draw(fill, *shape, seed=0, **options):
    torch.manual_seed(seed)
    return start(fill(torch.empty(*shape), **options).numpy())


def paddle_draw(initializer, *shape, seed=0):
    paddle.seed(seed)
    tensor = paddle.zeros(list(shape))
    initializer(tensor)
    return start(tensor.numpy())


init = torch.nn.init
ALIKE = {  # torch's way and Paddle's way to ask for the same
    "normal": (lambda *s, **k: torch_draw(init.normal_, *s, std=0.02, **k), nn.initializer.Normal(std=0.02)),
    "uniform": (lambda *s, **k: torch_draw(init.uniform_, *s, a=-0.1, b=0.1, **k), nn.initializer.Uniform(-0.1, 0.1)),
    "cut": (
        lambda *s, **k: torch_draw(init.trunc_normal_, *s, std=0.02, a=-0.04, b=0.04, **k),
        nn.initializer.TruncatedNormal(std=0.02, a=-0.04, b=0.04),
    ),
    "zeros": (lambda *s, **k: torch_draw(init.zeros_, *s, **k), nn.initializer.Constant(0.0)),
}
SHAPES = [(8,), (64, 3, 3, 3), (32, 32, 3, 3), (200, 300)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALIKE)
def test_draws_of_one_distribution_are_alike_with_any_seed(name, shape):
    drawn, initializer = ALIKE[name]
    for seed in range(25):
        assert difference(drawn(*shape, seed=seed), paddle_draw(initializer, *shape, seed=seed)) == ""


@pytest.mark.parametrize("one", ALIKE)
@pytest.mark.parametrize("other", ALIKE)
def test_draws_of_two_distributions_of_one_deviation_are_told_apart(one, other):
    random = np.random.RandomState(0)
    values = {
        "normal": random.normal(size=20000),
        "uniform": random.uniform(-math.sqrt(3), math.sqrt(3), 20000),
        "cut": _cut(random, 20000),
        "zeros": np.zeros(20000),
    }
    assert (difference(start(values[one]), start(values[other])) == "") == (one == other)


def _cut(random, size):
    values = random.normal(size=2 * size)
    values = values[np.abs(values) < 2][:size]
    return values / values.std()


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.25, 2.0])
def test_another_deviation_is_told_of_two_thousand_elements(ratio):
    random = np.random.RandomState(0)
    own, expected = start(ratio * random.normal(size=2000)), start(random.normal(size=2000))
    assert "deviation" in difference(expected, own)


def test_defaults_of_the_two_frameworks_differ_and_are_named():
    torch.manual_seed(0), paddle.seed(0)
    theirs, ours = torch.nn.Conv2d(64, 128, 3), nn.Conv2D(64, 128, 3)
    reference = {f"conv.{n}": digested(p.detach().numpy()) for n, p in theirs.named_parameters()}
    port = {f"conv.{n}": digested(p.numpy()) for n, p in ours.named_parameters()}
    plan = Plan(tuple(Move(name, name, False) for name in reference), {})
    findings = initial.compare(plan, reference, port)
    assert [(f.point, f.verdict) for f in findings] == [("initial/conv.weight", "fail"), ("initial/conv.bias", "fail")]
    said = initial.explain(plan, reference, port, {"conv": "Conv2D"}, list(port))
    assert "weight of conv: Kaiming normal of fan_in (Paddle's default for convolutions); reference torch's def" in said
    assert "bias of conv: all 0; reference uniform" in said or "bias of conv: all 0; reference drawn" in said


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (lambda w: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"), "Kaiming normal of fan_out"),
        (lambda w: init.kaiming_normal_(w, nonlinearity="relu"), "Kaiming normal of fan_in"),
        (lambda w: init.kaiming_uniform_(w, a=1), "uniform within sqrt(3/fan_in)"),
        (lambda w: init.kaiming_uniform_(w, nonlinearity="relu"), "Kaiming uniform of fan_in"),
        (lambda w: init.xavier_uniform_(w), "Xavier uniform"),
        (lambda w: init.xavier_normal_(w), "Xavier normal"),
        (lambda w: init.kaiming_uniform_(w, a=math.sqrt(5)), "torch's default"),
    ],
)
def test_a_rule_is_named_that_torch_really_drew_by(fill, said):
    torch.manual_seed(0)
    weights = [fill(torch.empty(out, ins, 3, 3)).numpy() for out, ins in ((64, 16), (32, 128), (96, 24))]
    assert initial.rule([start(w) for w in weights], [initial.fans(w.shape) for w in weights]).startswith(said)


def test_no_rule_is_named_for_a_bias_whose_fan_is_not_its_length():
    torch.manual_seed(0)
    bias = torch.nn.Conv2d(64, 576, 3).bias.detach().numpy()  # as many as the fan_in by which torch drew it
    assert initial.rule([start(bias)], [initial.fans(bias.shape)]) == ""


def test_no_rule_is_named_that_only_some_tensors_follow():
    torch.manual_seed(0)
    weights = [init.xavier_normal_(torch.empty(64, 16, 3, 3)).numpy(), 3 * torch.randn(64, 16, 3, 3).numpy()]
    assert initial.rule([start(w) for w in weights], [initial.fans(w.shape) for w in weights]) == ""


@pytest.mark.parametrize(
    ("expected", "own", "alike"),
    [
        (np.ones(8), np.ones(8), True),
        (np.ones(8), np.zeros(8), False),
        (np.full(8, 1 - 1e-5), np.ones(8), False),  # detectron2's frozen variances
        (np.full(8, 0.25), np.full(8, -0.25), False),
        (np.zeros(1), np.array([0.03]), False),
        (np.array([0.01]), np.array([0.03]), True),  # one draw says nothing
        (np.zeros(0), np.zeros(0), True),
        (np.linspace(-1, 1, 100), np.linspace(0, 1, 100), False),
    ],
)
def test_constants_and_few_elements(expected, own, alike):
    assert (difference(start(expected), start(own)) == "") == alike


def test_a_tensor_whose_initial_values_nobody_knows_is_not_passed_over():
    plan = Plan((Move("a", "b", False),), {})
    (finding,) = initial.compare(plan, {}, {"b": digested(np.zeros(3))})
    assert finding.verdict == "missing" and "reference" in finding.text
