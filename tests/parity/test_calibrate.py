"""Calibrated statistics: those of one batch, on the reference, on the port and on upstream's side alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest
import torch

from parity import Case, Side, chain, fill, inputs, run
from parity.bench import Bench
from parity.case import CALIBRATION
from parity.torch_side import TorchSide
from parity.traces import Recording, Run

pytestmark = pytest.mark.parity


class Frozen(torch.nn.Module):
    """A norm whose statistics are buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x):
        return (x - self.running_mean[:, None, None]) * (self.running_var[:, None, None] + 1e-5).rsqrt()


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = torch.nn.BatchNorm2d(8)
        self.drop = torch.nn.Dropout(0.5)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, stride=2)
        self.norm2 = Frozen()
        self.unused = torch.nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm2(self.conv2(self.drop(torch.relu(self.norm1(self.conv1(x))))))


class PaddleFrozen(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.register_buffer("_mean", paddle.zeros([8]))
        self.register_buffer("_variance", paddle.ones([8]))

    def forward(self, x):
        epsilon = paddle.full_like(self._variance, 1e-5)
        return (x - self._mean.reshape([-1, 1, 1])) / (self._variance + epsilon).sqrt().reshape([-1, 1, 1])


class PaddleNet(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv1 = paddle.nn.Conv2D(3, 8, 3, padding=1, bias_attr=False)
        self.norm1 = paddle.nn.BatchNorm2D(8)
        self.drop = paddle.nn.Dropout(0.5)
        self.conv2 = paddle.nn.Conv2D(8, 8, 3, stride=2)
        self.norm2 = PaddleFrozen()
        self.unused = paddle.nn.BatchNorm2D(4)

    def forward(self, x):
        return self.norm2(self.conv2(self.drop(paddle.nn.functional.relu(self.norm1(self.conv1(x))))))


CASE = Case(
    name="calibrated",
    reference=TorchNet,
    port=PaddleNet,
    inputs={"image": inputs.image(2)},
    size=(13, 21),
    upstream="owner/repository@0123456",
    calibrate=True,
)
PLAIN = dataclasses.replace(CASE, calibrate=False)


def expected(seed=0):
    """The statistics by torch's own batch norms, which average with momentum 1 and count n-1."""
    net = TorchNet().double()
    net.load_state_dict({name: torch.from_numpy(v) for name, v in generated(seed).items()})
    image = CASE.make_inputs(seed * 1000 + CALIBRATION)["image"]
    x = net.conv1(torch.from_numpy(image).double())
    first = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=True)
    net.norm1.momentum = 1.0
    y = net.conv2(torch.relu(net.norm1.train()(x)))
    own = net.norm1.running_mean, net.norm1.running_var
    assert all(torch.allclose(a, b) for a, b in zip(first, own))
    n = x.numel() // 8
    return {
        "norm1.running_mean": own[0].detach().numpy(),
        "norm1.running_var": own[1].detach().numpy() * (n - 1) / n,
        "norm2.running_mean": y.mean((0, 2, 3)).detach().numpy(),
        "norm2.running_var": (y - y.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3)).detach().numpy(),
    }


def generated(seed=0):
    return fill.state(TorchSide(Side(TorchNet)).shapes(), seed)


def calibrated(dtype="float64", seed=0):
    side = TorchSide(Side(TorchNet), dtype=dtype)
    side.load(generated(seed))
    side.calibrate([CASE.make_inputs(seed * 1000 + CALIBRATION)["image"]])
    return side.state()


@pytest.mark.parametrize("seed", [0, 3])
def test_statistics_are_the_mean_and_the_biased_variance_of_what_each_norm_gets_in_float32(seed):
    state = calibrated(seed=seed)
    for name, value in expected(seed).items():
        np.testing.assert_allclose(state[name], value.astype(np.float32), rtol=1e-12, atol=1e-14)


def test_nothing_else_changes_and_a_norm_that_does_not_run_keeps_its_statistics():
    state, before = calibrated(), generated()
    assert set(state) == set(before)
    for name in set(before) - set(expected()):
        np.testing.assert_array_equal(state[name], before[name])
    assert state["norm1.num_batches_tracked"] == 0


def test_a_float32_side_calibrates_in_float64():
    for name, value in expected().items():
        state = calibrated("float32")
        assert state[name].dtype == np.float32
        np.testing.assert_allclose(state[name], value, rtol=2e-7, atol=1e-7)


def test_both_sides_start_from_them_and_agree():
    result = run(CASE, stages=["forward", "forward_train"], upstream=False)
    assert result.passed, result
    result.bench._restore()
    reference, port = (side.buffers() for side in (result.bench.reference, result.bench.port))
    for name, value in expected().items():
        np.testing.assert_allclose(reference[name], value, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(reference[name], reference[name].astype(np.float32))
        np.testing.assert_array_equal(port[name], reference[name])
    assert result.settings["weights"] == "generated, statistics calibrated"
    activations = result.bench.traces["reference", "forward"].points["norm2"]
    assert abs(activations.mean()) < 1 and 0.5 < activations.std() < 2  # another batch, the same distribution


def test_a_case_that_does_not_ask_starts_from_what_is_generated():
    bench = Bench(PLAIN)
    assert all(np.array_equal(bench.initial[name], value) for name, value in generated().items())


def test_given_weights_keep_their_own_statistics():
    bench = Bench(CASE, weights=generated())
    assert all(np.array_equal(bench.initial[name], value) for name, value in generated().items())


def test_a_model_that_raises_is_a_crash_of_the_reference():
    def model():
        net = TorchNet()
        net.conv2.forward = None
        return net

    result = run(dataclasses.replace(CASE, reference=Side(model)), upstream=False)
    assert result.exit_code == 3 and "calibrating the reference raised TypeError" in result.stages[0].crash


def record(case, folder):
    side = TorchSide(Side(TorchNet))
    made = Run(case.size, 0, "float64")
    made.add(chain.replay(side, case, made))
    Recording(case.name, case.upstream, {}, side.shapes(), {"only": made}).save(folder / case.name)


def test_upstreams_side_of_the_chain_is_calibrated_alike(tmp_path):
    record(CASE, tmp_path)
    assert chain.verify(CASE, recordings=tmp_path).status == "verified"
    assert chain.verify(PLAIN, recordings=tmp_path).status == "broken"
    record(PLAIN, tmp_path)
    assert chain.verify(CASE, recordings=tmp_path).status == "broken"


def test_an_isolated_reference_is_calibrated_too():
    from parity.isolation import RemoteSide

    remote = RemoteSide(lambda: TorchSide(Side(TorchNet)), "reference")
    try:
        remote.load(generated())
        remote.calibrate([CASE.make_inputs(CALIBRATION)["image"]])
        state = remote.state()
    finally:
        remote.close()
    assert all(np.array_equal(state[name], value) for name, value in calibrated().items())
