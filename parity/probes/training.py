"""Optimizers and default initialisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import torch

from parity.probes import precision, probe

LEDGER = "float32 attributes of optimizers"


def _steps(ours: Any, theirs: Any, *, steps: int = 1, start: float = 1.0, gradient: float = 1.0) -> tuple[Any, Any]:
    """One float64 parameter after some steps with a constant gradient."""
    one = torch.nn.Parameter(torch.full((1,), start, dtype=torch.float64))
    other = paddle.create_parameter([1], "float64")
    other.set_value(np.full(1, start))
    optimizers = ours([one]), theirs([other])
    for _ in range(steps):
        one.grad = torch.full((1,), gradient, dtype=torch.float64)
        (other * gradient).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        optimizers[1].clear_grad()
    return one.detach()[0], other[0]


def _precision(exact: float, found: tuple[Any, Any]) -> tuple[str, str]:
    return tuple(precision(1.0 - float(value), 1.0 - exact) for value in found)


@probe("Momentum(0.1): precision of momentum in float64", "nothing: the harness rounds torch's", ledger=LEDGER)
def momentum_precision() -> tuple[Any, Any]:
    found = _steps(
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: paddle.optimizer.Momentum(0.1, 0.9, p), steps=2
    )
    return _precision(1.0 - 0.1 * (1.0 + 1.9), found)


@probe("Momentum: precision of weight decay in float64", "nothing: the harness rounds torch's", ledger=LEDGER)
def momentum_decay() -> tuple[Any, Any]:
    found = _steps(
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5, weight_decay=5e-4),
        lambda p: paddle.optimizer.Momentum(1.0, 0.5, p, weight_decay=5e-4),
        gradient=0.0,
    )
    return _precision(1.0 - 5e-4, found)


@probe("SGD: precision of weight decay in float64", "nothing", ledger=LEDGER)
def sgd_decay() -> tuple[Any, Any]:
    found = _steps(
        lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=5e-4),
        lambda p: paddle.optimizer.SGD(1.0, p, weight_decay=5e-4),
        gradient=0.0,
    )
    return _precision(1.0 - 5e-4, found)


@probe("AdamW: precision of weight decay in float64", "nothing: the harness rounds torch's", ledger=LEDGER)
def adamw_decay() -> tuple[Any, Any]:
    found = _steps(
        lambda p: torch.optim.AdamW(p, lr=0.5, weight_decay=0.1),
        lambda p: paddle.optimizer.AdamW(0.5, parameters=p, weight_decay=0.1),
        gradient=0.0,
    )
    return _precision(1.0 - 0.5 * 0.1, found)


@probe("SGD: precision of the learning rate 0.1 in float64", "nothing")
def rate_precision() -> tuple[Any, Any]:
    found = _steps(lambda p: torch.optim.SGD(p, lr=0.1), lambda p: paddle.optimizer.SGD(0.1, p))
    return _precision(0.9, found)


@probe("Momentum: precision of the learning rate 0.1 in float64", "nothing")
def momentum_rate() -> tuple[Any, Any]:
    found = _steps(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5), lambda p: paddle.optimizer.Momentum(0.1, 0.5, p))
    return _precision(0.9, found)


@probe("AdamW: precision of the learning rate 0.1 in float64", "nothing")
def adamw_rate() -> tuple[Any, Any]:
    found = _steps(
        lambda p: torch.optim.AdamW(p, lr=0.1, eps=0.0, weight_decay=0.0),
        lambda p: paddle.optimizer.AdamW(0.1, epsilon=0.0, parameters=p, weight_decay=0.0),
    )
    return _precision(0.9, found)


@probe("Nesterov momentum 0.5: two steps", "nothing")
def nesterov() -> tuple[Any, Any]:
    return _steps(
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, nesterov=True),
        lambda p: paddle.optimizer.Momentum(0.1, 0.5, p, use_nesterov=True),
        steps=2,
    )


@probe("a group's weight decay of 0 under one of 0.1, without a gradient", "nothing: the group's counts")
def group_decay() -> tuple[Any, Any]:
    return _steps(
        lambda p: torch.optim.SGD([{"params": p, "weight_decay": 0.0}], lr=1.0, momentum=0.5, weight_decay=0.1),
        lambda p: paddle.optimizer.Momentum(1.0, 0.5, [{"params": p, "weight_decay": 0.0}], weight_decay=0.1),
        gradient=0.0,
    )


@probe("a parameter's own L2Decay(0.0) under a decay of 0.1, without a gradient", "nothing: it exempts the parameter")
def own_decay() -> tuple[Any, Any]:
    def theirs(parameters: Any) -> Any:
        parameters[0].regularizer = paddle.regularizer.L2Decay(0.0)
        return paddle.optimizer.Momentum(1.0, 0.5, parameters, weight_decay=0.1)

    return _steps(
        lambda p: torch.optim.SGD([{"params": p, "weight_decay": 0.0}], lr=1.0, weight_decay=0.1), theirs, gradient=0.0
    )


@probe("weight decay 0.5 and clipping to a norm of 1, gradient 10", "nothing: both clip first")
def clip_then_decay() -> tuple[Any, Any]:
    one = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    one.grad = torch.full((1,), 10.0, dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_([one], 1.0)
    torch.optim.SGD([one], lr=1.0, weight_decay=0.5).step()
    other = paddle.create_parameter([1], "float64")
    other.set_value(np.ones(1))
    clipping = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.SGD(1.0, [other], weight_decay=0.5, grad_clip=clipping)
    (other * 10.0).sum().backward()
    optimizer.step()
    return one.detach()[0], other[0]


@probe("PolynomialDecay(0.1, 10, power 0.9), rate 3", "nothing: 0.1 * 0.7 ** 0.9")
def polynomial() -> tuple[Any, Any]:
    one = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.PolynomialLR(one, 10, 0.9)
    other = paddle.optimizer.lr.PolynomialDecay(0.1, 10, end_lr=0.0, power=0.9)
    for _ in range(3):
        one.step()
        schedule.step()
        other.step()
    return schedule.get_last_lr()[0], other.get_lr()


@probe("a group's learning rate of 0.01 under a base of 0.1: the step", "Paddle's is a factor: pass lr / base")
def group_rate() -> tuple[Any, Any]:
    found = _steps(
        lambda p: torch.optim.SGD([{"params": p, "lr": 0.01}], lr=0.1),
        lambda p: paddle.optimizer.SGD(0.1, [{"params": p, "learning_rate": 0.01}]),
    )
    return tuple(1.0 - float(value) for value in found)


@probe("Adam: the second step, weight decay 0.1 (L2)", "nothing; AdamW is not Adam with weight_decay")
def adam() -> tuple[Any, Any]:
    return _steps(
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
        lambda p: paddle.optimizer.Adam(0.1, parameters=p, weight_decay=0.1),
        steps=2,
        gradient=-0.05,
    )


@probe("AdamW: default weight decay, one step without a gradient", "nothing")
def adamw_default() -> tuple[Any, Any]:
    return _steps(
        lambda p: torch.optim.AdamW(p, lr=1.0), lambda p: paddle.optimizer.AdamW(1.0, parameters=p), gradient=0.0
    )


@probe("RMSProp: one step", "pass epsilon=1e-8 and rho=0.99; in Paddle epsilon is inside the root")
def rmsprop() -> tuple[Any, Any]:
    return _steps(
        lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.99, eps=0.1),
        lambda p: paddle.optimizer.RMSProp(0.1, rho=0.99, epsilon=0.1, parameters=p),
    )


@probe("clip to a norm of 0.001, gradient 0.002", "torch adds 1e-6 to the norm: add it, or expect this")
def clip() -> tuple[Any, Any]:
    one = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    one.grad = torch.full((1,), 0.002, dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_([one], 0.001)
    other = paddle.create_parameter([1], "float64")
    other.set_value(np.zeros(1))
    optimizer = paddle.optimizer.SGD(1.0, [other], grad_clip=paddle.nn.ClipGradByGlobalNorm(0.001))
    (other * 0.002).sum().backward()
    optimizer.step()
    return one.grad, -other


# --- defaults that a run from scratch starts from ---------------------------------------------------------------------


def _spread(tensor: Any) -> str:
    """Standard deviation, to one digit: it is a random sample's."""
    return f"{float(np.std(tensor.detach().numpy())):.1g}"


def _initial(ours: Any, theirs: Any, name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    paddle.seed(0)
    return _spread(getattr(ours(), name)), _spread(getattr(theirs(), name))


@probe("Conv2d(64, 128, 3): spread of the initial weight", "initialise like upstream: the defaults differ")
def conv_initial() -> tuple[Any, Any]:
    return _initial(lambda: torch.nn.Conv2d(64, 128, 3), lambda: paddle.nn.Conv2D(64, 128, 3), "weight")


@probe("Conv2d(64, 128, 3): spread of the initial bias", "initialise like upstream: the defaults differ")
def conv_bias_initial() -> tuple[Any, Any]:
    return _initial(lambda: torch.nn.Conv2d(64, 128, 3), lambda: paddle.nn.Conv2D(64, 128, 3), "bias")


@probe("Linear(256, 512): spread of the initial weight", "initialise like upstream: the defaults differ")
def linear_initial() -> tuple[Any, Any]:
    return _initial(lambda: torch.nn.Linear(256, 512), lambda: paddle.nn.Linear(256, 512), "weight")


@probe("Linear(256, 512): spread of the initial bias", "initialise like upstream: the defaults differ")
def linear_bias_initial() -> tuple[Any, Any]:
    return _initial(lambda: torch.nn.Linear(256, 512), lambda: paddle.nn.Linear(256, 512), "bias")


@probe("Embedding(512, 64): spread of the initial weight", "initialise like upstream: the defaults differ")
def embedding_initial() -> tuple[Any, Any]:
    return _initial(lambda: torch.nn.Embedding(512, 64), lambda: paddle.nn.Embedding(512, 64), "weight")
