"""Gradients of biases: a sum may cancel to nothing but rounding, and only then may it differ by its rounding."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as PF
import pytest
import torch
import torch.nn.functional as TF

from parity import Case, Side, chain, inputs, run
from parity.bench import Bench
from parity.torch_side import TorchSide
from parity.traces import Recording, Run

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


SGD = (
    lambda model, *_: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    lambda model, *_: paddle.optimizer.Momentum(0.05, 0.9, parameters=model.parameters()),
)
ADAM = (
    lambda model, *_: torch.optim.Adam(model.parameters(), lr=0.05),
    lambda model, *_: paddle.optimizer.Adam(0.05, parameters=model.parameters()),
)


def case(change=lambda model: None, size=(33, 65), optimizers=SGD, reference=TorchNet):
    def port():
        model = PaddleNet()
        change(model)
        return model

    return Case(
        name="sums",
        reference=Side(
            reference,
            lambda _: lambda outputs, targets: {"loss": TF.cross_entropy(outputs["0"], targets["label"])},
            optimizers[0],
        ),
        port=Side(
            port,
            lambda _: lambda outputs, targets: {"loss": PF.cross_entropy(outputs["0"], targets["label"], axis=1)},
            optimizers[1],
        ),
        inputs={"image": inputs.image(2), "label": inputs.labels(2, 5, ignore=0)},
        size=size,
        upstream="owner/repository@0123456",
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


# --- Adam divides by the gradient's own magnitude, and makes an update of rounding ----------------------------------


@pytest.mark.parametrize("size", [(5, 7), (33, 65), (65, 129)])
def test_what_adam_makes_of_rounding_raises_no_alarm(size):
    result = check(case(size=size, optimizers=ADAM))
    assert result.passed, result
    for point in ("2/update/conv.bias", "2/optimizer/conv.bias.moment1"):
        ours, theirs = (result.bench.traces[side, "step"].points[point] for side in ("reference", "port"))
        assert abs(ours - theirs).max() > 1e-9 * abs(ours).max()  # only because they are nothing but rounding


class Wrong:
    """An Adam that is off after its step."""

    def __init__(self, own, change):
        self.inner, self.change = own, change
        self.parameters = {p.name: p for p in own._parameter_list}

    def step(self):
        before = {name: p.numpy() for name, p in self.parameters.items()}
        self.inner.step()
        for name, p in self.parameters.items():
            p.set_value(before[name] + self.change(p.numpy() - before[name]))

    def learning_rates(self):
        return {name: 0.05 for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "head.weight", "head.bias")}


@pytest.mark.parametrize("change", [lambda u: u * (1 + 1e-8), lambda u: u + 1e-8 * abs(u).max()])
def test_an_update_that_is_off_by_1e_8_is_found(change):
    wrong = (ADAM[0], lambda model, *rest: Wrong(ADAM[1](model, *rest), change))
    result = check(case(optimizers=wrong))
    assert result.first[1].point == "step/1/update/conv.weight"
    bias = [f for f in result.stages[-1].findings if f.point == "step/1/update/bn.weight"]
    assert not bias[0].passed


@pytest.mark.parametrize(
    ("wrong", "point"),
    [
        ({"beta1": 0.9 + 1e-8}, "step/1/optimizer/conv.weight.moment1"),
        ({"beta2": 0.999 + 1e-9}, "step/1/optimizer/conv.weight.moment2"),
        ({"epsilon": 2e-8}, "step/1/update/conv.weight"),
    ],
)
def test_a_wrong_setting_of_adam_is_found(wrong, point):
    optimizers = (ADAM[0], lambda model, *_: paddle.optimizer.Adam(0.05, parameters=model.parameters(), **wrong))
    result = check(case(optimizers=optimizers))
    assert result.first[1].point == point


# --- the chain to upstream ------------------------------------------------------------------------------------------


class Reversed(torch.nn.Conv2d):
    """Computes the same, with the sums of its gradients in another order."""

    def forward(self, x):
        axes = (0, 3) if self.kernel_size == (1, 1) else (0,)
        return super().forward(x.flip(axes)).flip(axes)


class Upstream(TorchNet):
    def __init__(self):
        super().__init__()
        self.conv = Reversed(3, 8, 3, padding=1)
        self.head = Reversed(8, 5, 1)


@pytest.mark.parametrize("optimizers", [SGD, ADAM])
def test_rounding_in_a_biass_gradient_does_not_break_the_chain_but_an_error_of_1e_8_does(tmp_path, optimizers):
    original = case(size=(17, 33), optimizers=optimizers, reference=Upstream)
    side = TorchSide(original.reference)
    recorded = Run(original.size, 0, "float64")
    trace = chain.replay(side, original, recorded)
    recorded.add(trace)
    Recording(original.name, original.upstream, {}, side.shapes(), {"only": recorded}).save(tmp_path / original.name)

    ours = case(size=(17, 33), optimizers=optimizers)
    own = chain.replay(TorchSide(ours.reference), ours, recorded)
    a, b = (t.points["train/gradient/conv.bias"] for t in (trace, own))
    assert np.abs(a - b).max() > 1e-9 * np.abs(a).max()
    assert chain.verify(ours, recordings=tmp_path).status == "verified"

    class Off(TorchNet):
        def __init__(self):
            super().__init__()
            self.head.bias.register_hook(lambda gradient: gradient * (1 + 1e-8))

    result = chain.verify(case(size=(17, 33), optimizers=optimizers, reference=Off), recordings=tmp_path)
    assert result.status == "broken" and "train/gradient/head.bias differs" in result.detail


@pytest.mark.parametrize("optimizers", [SGD, ADAM])
def test_the_stages_own_numbers_are_compared_with_upstreams_and_none_is_computed_again(
    tmp_path, monkeypatch, optimizers
):
    original = case(size=(17, 33), optimizers=optimizers, reference=Upstream)
    side, recorded = TorchSide(original.reference), Run(original.size, 0, "float64")
    recorded.add(chain.replay(side, original, recorded))
    recording = Recording(original.name, original.upstream, {}, side.shapes(), {"only": recorded})
    recording.save(tmp_path / original.name)

    ours = case(size=(17, 33), optimizers=optimizers)
    bench = Bench(ours)
    bench.keep_for_chain()
    for stage in ("weights", "forward", "forward_train", "loss", "gradients", "step"):
        assert bench.run_stage(stage).passed
    with bench.in_float32() as single:
        single.compute("gradients")  # is no part of it
    bench.reference.end_training()
    monkeypatch.setattr(chain, "replay", None)
    known = {"recordings": tmp_path, "side": bench.reference, "computed": bench.replay}
    assert chain.verify(ours, **known).status == "verified"

    _, numbers = recorded.points["step/optimizer/conv.weight." + ("velocity" if optimizers is SGD else "moment1")]
    numbers *= 1 + 1e-8
    recording.save(tmp_path / original.name)
    result = chain.verify(ours, **known)
    assert result.status == "broken" and "step/optimizer/conv.weight" in result.detail


def test_only_the_run_that_is_recorded_is_kept_for_the_chain():
    ours = case(size=(17, 33))
    weights = Bench(ours).initial
    image = np.zeros((2, 3, 17, 33), np.float32)
    for other in ({"seed": 1}, {"size": (33, 17)}, {"weights": weights}, {"inputs": {"image": image}}):
        bench = Bench(ours, **other)
        bench.keep_for_chain()
        assert bench.replay is None
