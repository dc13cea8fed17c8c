"""Gradients of biases: a sum may cancel to nothing but rounding, and only then may it differ by its rounding."""

from __future__ import annotations

import paddle
import paddle.nn.functional as PF
import pytest
import torch
import torch.nn.functional as TF

from parity import Case, Side, inputs, run

pytestmark = pytest.mark.parity


class TorchNet(torch.nn.Module):
    """The batch norm takes away what the bias of `conv` adds, and so its gradient; that of `head` is ordinary."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.head(torch.relu(self.bn(self.conv(x))))


class PaddleNet(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 8, 3, padding=1)
        self.bn = paddle.nn.BatchNorm2D(8)
        self.head = paddle.nn.Conv2D(8, 5, 1)

    def forward(self, x):
        return self.head(PF.relu(self.bn(self.conv(x))))


def case(change=lambda model: None, size=(33, 65)):
    def port():
        model = PaddleNet()
        change(model)
        return model

    return Case(
        name="sums",
        reference=Side(
            TorchNet,
            lambda _: lambda outputs, targets: {"loss": TF.cross_entropy(outputs["0"], targets["label"])},
            lambda model, *_: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        ),
        port=Side(
            port,
            lambda _: lambda outputs, targets: {"loss": PF.cross_entropy(outputs["0"], targets["label"], axis=1)},
            lambda model, *_: paddle.optimizer.Momentum(0.05, 0.9, parameters=model.parameters()),
        ),
        inputs={"image": inputs.image(2), "label": inputs.labels(2, 5, ignore=0)},
        size=size,
    )


def check(checked):
    return run(checked, stages=["gradients", "step"], float32=False, upstream=False)


@pytest.mark.parametrize("size", [(5, 7), (33, 65), (65, 129)])
def test_a_bias_under_a_batch_norm_raises_no_alarm_although_its_gradient_is_rounding(size):
    result = check(case(size=size))
    assert result.passed, result
    ours, theirs = (result.bench.traces[side, "gradients"].points["conv.bias"] for side in ("reference", "port"))
    assert abs(ours).max() < 1e-13 and abs(ours - theirs).max() > 1e-9 * abs(ours).max()


@pytest.mark.parametrize(
    ("bias", "wrong"),
    [
        ("head", lambda gradient: gradient * (1 + 1e-8)),
        ("head", lambda gradient: gradient + 1e-9),
        ("conv", lambda gradient: gradient + 1e-11),
        ("bn", lambda gradient: gradient * (1 + 1e-8)),
    ],
)
def test_a_wrong_gradient_of_a_bias_is_found_all_the_same(bias, wrong):
    result = check(case(lambda model: getattr(model, bias).bias.register_hook(wrong)))
    assert result.first[1].point == f"gradients/{bias}.bias"


def test_a_bias_that_gets_no_gradient_is_found():
    result = check(case(lambda model: setattr(model.conv.bias, "stop_gradient", True)))
    assert (result.first[1].point, result.first[1].verdict) == ("gradients/conv.bias", "gradient")
