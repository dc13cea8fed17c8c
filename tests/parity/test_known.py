"""Every known difference between the frameworks, measured on the installed versions.

A test that fails here means that a framework changed: the entry of `parity.known.LEDGER` and what makes up for it have
to change with it.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch

from parity import Case, inputs, run
from parity.case import Schedule, Side
from parity.known import LEDGER, RunningVariance
from parity.torch_hooks import counter
from parity.torch_side import _round_attributes, _round_groups

pytestmark = pytest.mark.parity

RANDOM = np.random.RandomState(0)


def relative(found, expected):
    return float(np.max(np.abs(found - expected)) / np.sqrt(np.mean(np.square(expected))))


def test_every_entry_is_measured_here():
    assert [entry.name for entry in LEDGER] == [
        "running variance",
        "float32 attributes of normalisations",
        "float32 attributes of optimizers",
        "float32 inside float64 operators",  # in test_paddle_float64.py
        "ties of a selection",  # in test_ties.py
        "norm that gradients are clipped to",
    ]
    assert all(entry.rule and entry.handled for entry in LEDGER)


@pytest.mark.parametrize("norm", [0.002, 3.0])
def test_torch_divides_by_the_norm_plus_a_millionth_and_paddle_by_the_norm(norm):
    gradient = norm * np.array([0.6, -0.8])
    one = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    one.grad = torch.from_numpy(gradient.copy())
    torch.nn.utils.clip_grad_norm_([one], 0.001)
    np.testing.assert_allclose(one.grad.numpy(), gradient * 0.001 / (norm + 1e-6), rtol=1e-12)
    other = paddle.create_parameter([2], "float64")
    other.set_value(np.zeros(2))
    optimizer = paddle.optimizer.SGD(1.0, [other], grad_clip=paddle.nn.ClipGradByGlobalNorm(0.001))
    (other * paddle.to_tensor(gradient)).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(-other.numpy(), gradient * 0.001 / norm, rtol=1e-12)


@pytest.mark.parametrize(("limit", "passes"), [(0.05, True), (1e9, True), (0.05 * (1 + 1e-6), False)])
def test_a_port_that_clips_by_paddles_own_is_proven_and_one_with_another_limit_is_not(limit, passes):
    def reference_optimizer(model, losses, schedule):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer.register_step_pre_hook(lambda *_: clip(model))
        return optimizer

    def clip(model):
        torch.nn.utils.clip_grad_norm_(model.parameters(), theirs)

    def port_optimizer(model, losses, schedule):
        clip = paddle.nn.ClipGradByGlobalNorm(limit)
        return paddle.optimizer.Momentum(0.1, 0.9, parameters=model.parameters(), grad_clip=clip)

    theirs = limit if passes else 0.05
    losses = lambda targets: lambda outputs, targets: {"loss": (outputs["0"] ** 2).mean()}  # noqa: E731
    case = Case(
        name="clipped",
        reference=Side(lambda: torch.nn.Conv2d(3, 4, 3), losses, reference_optimizer),
        port=Side(lambda: paddle.nn.Conv2D(3, 4, 3), losses, port_optimizer),
        inputs={"image": inputs.image(2)},
        size=(9, 9),
        step=Schedule(steps=2),
    )
    result = run(case)
    assert result.passed == passes and (passes or result.first[0].stage == "step"), result.first


# --- running variance -----------------------------------------------------------------------------------------------

SHAPES = [(4, 3, 1, 1), (2, 3, 1, 1), (2, 3, 1, 2), (3, 3, 5, 7)]


def norms(momentum=0.1):
    """The same batch norm on both sides, in float64 and training mode."""
    ours, theirs = torch.nn.BatchNorm2d(3, momentum=momentum), paddle.nn.BatchNorm2D(3, momentum=1 - momentum)
    ours.running_mean.copy_(torch.tensor([0.5, -0.25, 2.0]))
    ours.running_var.copy_(torch.tensor([0.75, 1.5, 3.0]))
    theirs._mean.set_value(np.float32([0.5, -0.25, 2.0]))
    theirs._variance.set_value(np.float32([0.75, 1.5, 3.0]))
    ours.double().train()
    _round_attributes(ours)
    theirs.to(dtype="float64")
    theirs.train()
    return ours, theirs


def buffers(norm):
    return {"bn.running_mean": norm.running_mean.numpy().copy(), "bn.running_var": norm.running_var.numpy().copy()}


@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_running_variance_is_predicted_over_steps_to_the_last_bits(shape, momentum):
    ours, theirs = norms(momentum)
    predicted = RunningVariance(buffers(ours))
    for _ in range(3):
        x = 3.0 + 2.0 * RANDOM.standard_normal(shape)
        calls = {}
        handle = ours.register_forward_pre_hook(counter(calls, "bn"))
        ours(torch.from_numpy(x))
        handle.remove()
        theirs(paddle.to_tensor(x))
        expected = predicted.advance(buffers(ours), calls)
        assert relative(theirs._mean.numpy(), expected["bn.running_mean"]) < 1e-12
        assert relative(theirs._variance.numpy(), expected["bn.running_var"]) < 1e-12
        assert relative(theirs._variance.numpy(), buffers(ours)["bn.running_var"]) > 1e-6  # not torch's own


def test_the_variance_that_paddle_averages_is_the_biased_one():
    ours, theirs = norms()
    x = RANDOM.standard_normal((2, 3, 2, 2))
    before = theirs._variance.numpy()
    ours(torch.from_numpy(x))
    theirs(paddle.to_tensor(x))
    biased, unbiased = x.var(axis=(0, 2, 3)), x.var(axis=(0, 2, 3), ddof=1)
    kept = float(np.float32(0.9))
    assert relative(theirs._variance.numpy(), kept * before + (1 - kept) * biased) < 1e-12
    assert relative(ours.running_var.numpy(), kept * before + (1 - kept) * unbiased) < 1e-12


def test_several_calls_in_one_step_are_predicted_call_by_call():
    ours, theirs = norms()
    predicted, calls = RunningVariance(buffers(ours)), {}
    ours.register_forward_pre_hook(counter(calls, "bn"))
    for shape in ((2, 3, 4, 4), (2, 3, 1, 1), (1, 3, 5, 5)):
        x = RANDOM.standard_normal(shape)
        ours(torch.from_numpy(x))
        theirs(paddle.to_tensor(x))
    assert [call["count"] for call in calls["bn"]] == [32, 2, 25]
    expected = predicted.advance(buffers(ours), calls)
    assert relative(theirs._variance.numpy(), expected["bn.running_var"]) < 1e-12


def test_a_norm_in_evaluation_mode_is_not_predicted_to_move():
    ours, theirs = norms()
    predicted, calls = RunningVariance(buffers(ours)), {}
    ours.register_forward_pre_hook(counter(calls, "bn"))
    x = RANDOM.standard_normal((2, 3, 4, 4))
    for training in (True, False, True):
        ours.train(training)
        theirs.train() if training else theirs.eval()
        ours(torch.from_numpy(x))
        theirs(paddle.to_tensor(x))
        expected = predicted.advance(buffers(ours), calls)
        assert relative(theirs._variance.numpy(), expected["bn.running_var"]) < 1e-12
        calls.clear()


# --- attributes in float32 ------------------------------------------------------------------------------------------


NORMS = {
    "batch": (torch.nn.BatchNorm2d(4), paddle.nn.BatchNorm2D),
    "instance": (torch.nn.InstanceNorm2d(4, affine=True), paddle.nn.InstanceNorm2D),
    "layer": (torch.nn.LayerNorm([4, 3, 3]), lambda _, **options: paddle.nn.LayerNorm([4, 3, 3], **options)),
    "group": (torch.nn.GroupNorm(2, 4), lambda _, **options: paddle.nn.GroupNorm(2, 4, **options)),
}


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 1.1e-5])
@pytest.mark.parametrize("name", NORMS)
def test_epsilon_of_a_paddle_norm_is_a_float32_number_but_for_group_norm(name, epsilon):
    x = 1e-3 * RANDOM.standard_normal((2, 4, 3, 3))  # a variance as small as epsilon, so that it matters
    ours, build = NORMS[name]
    theirs = build(4, epsilon=epsilon)
    theirs.to(dtype="float64")
    ours.double()
    port = theirs(paddle.to_tensor(x)).numpy()

    def reference(value):
        ours.eps = value
        return ours(torch.from_numpy(x)).detach().numpy()

    single, double = reference(float(np.float32(epsilon))), reference(epsilon)
    meant, other = (double, single) if name == "group" else (single, double)
    assert relative(port, meant) < 1e-13
    assert relative(port, other) > 1e-10
    _round_attributes(ours)
    assert relative(port, ours(torch.from_numpy(x)).detach().numpy()) < 1e-13


def test_momentum_of_a_paddle_norm_is_a_float32_number():
    plain, theirs = torch.nn.BatchNorm2d(3).double(), paddle.nn.BatchNorm2D(3)
    theirs.to(dtype="float64")
    rounded = torch.nn.BatchNorm2d(3).double()
    _round_attributes(rounded)
    x = 5.0 + RANDOM.standard_normal((2, 3, 4, 4))
    for norm in (plain, rounded):
        norm(torch.from_numpy(x))
    theirs.train()
    theirs(paddle.to_tensor(x))
    assert relative(theirs._mean.numpy(), rounded.running_mean.numpy()) < 1e-14
    assert relative(theirs._mean.numpy(), plain.running_mean.numpy()) > 1e-9


OPTIMIZERS = {  # name -> (torch's, Paddle's, whether it matters that attributes are rounded to float32)
    "Momentum": (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4),
        lambda p: paddle.optimizer.Momentum(0.1, 0.9, parameters=p, weight_decay=5e-4),
        True,
    ),
    "Nesterov": (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
        lambda p: paddle.optimizer.Momentum(0.1, 0.9, parameters=p, weight_decay=5e-4, use_nesterov=True),
        True,
    ),
    "AdamW": (
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.05),
        lambda p: paddle.optimizer.AdamW(0.01, parameters=p, weight_decay=0.05),
        True,
    ),
    "SGD": (
        lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=5e-4),
        lambda p: paddle.optimizer.SGD(0.1, parameters=p, weight_decay=5e-4),
        False,
    ),
    "Adam": (
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=5e-4),
        lambda p: paddle.optimizer.Adam(0.01, parameters=p, weight_decay=5e-4),
        False,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_attributes_of_an_optimizer_are_the_float32_numbers_that_the_reference_gets(name):
    torch_builder, paddle_builder, matters = OPTIMIZERS[name]
    value, gradients = RANDOM.standard_normal(50), RANDOM.standard_normal((4, 50))

    def torch_steps(*, rounded):
        parameter = torch.nn.Parameter(torch.from_numpy(value.copy()))
        inner = torch_builder([parameter])
        if rounded:
            inner.register_step_pre_hook(_round_groups)
        for gradient in gradients:
            parameter.grad = torch.from_numpy(gradient.copy())
            inner.step()
        return parameter.detach().numpy() - value

    parameter = paddle.create_parameter([50], "float64")
    parameter.set_value(value)
    inner = paddle_builder([parameter])
    for gradient in gradients:
        (parameter * paddle.to_tensor(gradient)).sum().backward()
        inner.step()
        inner.clear_grad()
    update = parameter.numpy() - value
    assert relative(update, torch_steps(rounded=True)) < 1e-12
    assert (relative(update, torch_steps(rounded=False)) > 1e-9) == matters


@pytest.mark.parametrize("rate", [0.1, 0.01, 1.0 / 3.0])
def test_the_learning_rate_of_a_float64_parameter_is_a_float64_number(rate):
    parameter = paddle.create_parameter([1], "float64")
    parameter.set_value(np.zeros(1))
    inner = paddle.optimizer.Momentum(rate, 0.9, parameters=[parameter])
    parameter.sum().backward()
    inner.step()
    assert parameter.numpy()[0] == -rate
