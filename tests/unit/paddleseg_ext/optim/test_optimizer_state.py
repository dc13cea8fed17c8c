from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.errors import CheckpointError
from paddleseg_ext.optim import PolynomialDecay, build_optimizer

KINDS = ("SGD", "Momentum", "Adam", "AdamW")


def model_and_optimizer(kind: str) -> tuple[nn.Layer, object]:
    paddle.seed(0)
    model = nn.LayerList([nn.Linear(2, 3), nn.Linear(3, 1)])  # the second layer is never used
    schedule = PolynomialDecay(learning_rate=0.1, iters=10)
    return model, build_optimizer({"type": kind, "weight_decay": 0.01}, schedule, model=model)


def step(model: nn.Layer, optimizer: object, iteration: int) -> None:
    rng = np.random.RandomState(iteration)
    (model[0](paddle.to_tensor(rng.standard_normal((4, 2)).astype(np.float32))) ** 2).mean().backward()
    optimizer.step(iteration)
    optimizer.clear_grad()


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_optimizer_goes_on_to_the_last_bit(kind: str) -> None:
    model, optimizer = model_and_optimizer(kind)
    for iteration in range(3):
        step(model, optimizer, iteration)
    weights, state = {n: t.numpy() for n, t in model.state_dict().items()}, optimizer.state_dict()
    step(model, optimizer, 3)
    other, restored = model_and_optimizer(kind)
    other.set_state_dict({n: paddle.to_tensor(value) for n, value in weights.items()})
    restored.set_state_dict(state)
    step(other, restored, 3)
    for (name, one), two in zip(model.state_dict().items(), other.state_dict().values()):
        assert one.numpy().tobytes() == two.numpy().tobytes(), name
    for name, value in optimizer.state_dict().items():
        assert value.tobytes() == restored.state_dict()[name].tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_names_do_not_depend_on_which_parameters_have_had_gradients(kind: str) -> None:
    model, optimizer = model_and_optimizer(kind)
    before = set(optimizer.state_dict())
    step(model, optimizer, 0)
    assert set(optimizer.state_dict()) == before


def test_the_state_of_another_optimizer_is_refused() -> None:
    _, momentum = model_and_optimizer("Momentum")
    _, adam = model_and_optimizer("Adam")
    with pytest.raises(CheckpointError, match="resume with the same config"):
        adam.set_state_dict(momentum.state_dict())
