from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.engine.step import NonFiniteStepError, training_step
from paddleseg_ext.optim import PolynomialDecay, build_optimizer


class Scale(nn.Layer):
    """Multiplies by one number."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = self.create_parameter([1], default_initializer=nn.initializer.Constant(2.0))

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"out": image * self.factor}


def terms(outputs: dict[str, paddle.Tensor], batch: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
    return {"mean": outputs["out"].mean(), "half": 0.5 * (outputs["out"] * batch["label"]).sum()}


def scale_and_optimizer() -> tuple[Scale, object]:
    model = Scale()
    schedule = PolynomialDecay(learning_rate=0.1, iters=10, power=1.0)
    return model, build_optimizer({"type": "SGD"}, schedule, model=model)


def batch(value: float = 1.0) -> dict[str, paddle.Tensor]:
    return {"image": paddle.full([2], value), "label": paddle.to_tensor([1.0, 3.0])}


def test_one_step_by_hand() -> None:
    model, optimizer = scale_and_optimizer()
    values = training_step(model, terms, optimizer, batch(), 5)
    assert values == {"mean": 2.0, "half": 4.0}
    # d(mean)/df = 1, d(half)/df = .5 * (1 + 3) = 2; rate at step 5 of 10: .05
    assert model.factor.item() == pytest.approx(2.0 - 0.05 * 3.0)
    assert model.factor.grad is None or model.factor.grad.item() == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_touches_nothing(value: float) -> None:
    model, optimizer = scale_and_optimizer()
    with pytest.raises(NonFiniteStepError, match="step 4: not finite: the loss") as error:
        training_step(model, terms, optimizer, batch(value), 3)
    assert set(error.value.terms) == {"mean", "half"}
    assert not np.isfinite(error.value.gradient_norms["factor"])
    assert model.factor.item() == 2.0
    training_step(model, terms, optimizer, batch(), 3)  # no gradient is left over
    assert model.factor.item() == pytest.approx(2.0 - 0.07 * 3.0)


def test_a_gradient_that_is_not_finite_is_seen_behind_a_finite_loss() -> None:
    model, optimizer = scale_and_optimizer()

    def root(outputs: dict[str, paddle.Tensor], batch: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        return {"root": paddle.sqrt(outputs["out"]).sum()}

    with pytest.raises(NonFiniteStepError, match=r"1 of 1 gradients, such as that of factor \(root 0\)"):
        training_step(model, root, optimizer, batch(0.0), 0)


def test_terms_keep_float64() -> None:
    model, optimizer = scale_and_optimizer()
    model.to(dtype="float64")
    values = training_step(
        model,
        lambda outputs, _: {"third": (outputs["out"] / 6.0).mean()},
        optimizer,
        {"image": paddle.ones([2], "float64")},
        0,
    )
    assert values["third"] == pytest.approx(1.0 / 3.0, rel=1e-15)


class Scaler:
    """What `paddle.amp.GradScaler` does; it has no effect on a CPU."""

    def __init__(self) -> None:
        self.updates = 0

    def scale(self, loss: paddle.Tensor) -> paddle.Tensor:
        return loss * 8.0

    def step(self, inner: paddle.optimizer.Optimizer) -> None:
        gradients = [p.grad for group in inner._param_groups for p in group["params"]]
        if all(bool(paddle.isfinite(gradient).all()) for gradient in gradients):
            for gradient in gradients:
                gradient.set_value(gradient / 8.0)
            inner.step()

    def update(self) -> None:
        self.updates += 1


def test_a_scaled_loss_gives_the_same_step_and_the_terms_are_not_scaled() -> None:
    model, optimizer = scale_and_optimizer()
    scaler = Scaler()
    assert training_step(model, terms, optimizer, batch(), 5, scaler) == {"mean": 2.0, "half": 4.0}
    assert model.factor.item() == pytest.approx(2.0 - 0.05 * 3.0)
    assert scaler.updates == 1


def test_gradients_that_overflow_are_the_scalers_affair() -> None:
    model, optimizer = scale_and_optimizer()
    huge = {"image": paddle.full([2], 1e38), "label": paddle.zeros([2])}
    with paddle.no_grad():
        model.factor.set_value(paddle.to_tensor([1e-38]))
    values = training_step(model, lambda out, _: {"sum": out["out"].mean()}, optimizer, huge, 0, Scaler())
    assert values["sum"] == pytest.approx(1.0, rel=1e-3)
    assert model.factor.item() == pytest.approx(1e-38)
