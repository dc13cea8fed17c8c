"""HRNet: its features, its names, and the switch that no name tells."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_ext.models.backbones import HRNetW18
from paddleseg_ext.models.backbones.hrnet import HighResolutionModule, _fuse


@pytest.fixture(scope="module")
def network():
    paddle.seed(0)
    return HRNetW18().eval()


@pytest.mark.parametrize("size", [(64, 96), (33, 65)])
def test_features_have_strides_4_to_32(network, size):
    with paddle.no_grad():
        features = network(paddle.randn([1, 3, *size]))
    assert list(features) == list(network.channels) == list(network.strides)
    for name, feature in features.items():
        stride = network.strides[name]
        assert tuple(feature.shape) == (1, network.channels[name], *(-(-side // stride) for side in size))


def test_it_has_upstreams_1830_tensors_without_the_counters(network):
    names = list(network.state_dict())
    norms = [name for name in names if name.endswith("._mean")]
    assert len(names) + len(norms) == 1830
    assert names[0] == "conv1.weight" and names[-1].startswith("stage4.2.fuse_layers.3.2.0.1.")
    assert {name.split(".")[0] for name in names} == {
        "conv1", "bn1", "conv2", "bn2", "layer1",
        "transition1", "stage2", "transition2", "stage3", "transition3", "stage4",
    }  # fmt: skip


def test_branches_that_go_down_two_steps_activate_in_between_only():
    steps = _fuse([4, 8, 16], 0, 2)
    assert [[type(layer).__name__ for layer in step] for step in steps] == [
        ["Conv2D", "BatchNorm2D", "ReLU"],
        ["Conv2D", "BatchNorm2D"],
    ]
    assert [step[0].weight.shape[:2] for step in steps] == [[4, 4], [16, 4]]


def test_the_enlargement_follows_align_corners():
    outputs = {}
    for align_corners in (True, False):
        paddle.seed(0)
        module = HighResolutionModule([2, 4], align_corners=align_corners).eval()
        features = [paddle.zeros([1, 2, 4, 6]), paddle.arange(24, dtype="float32").reshape([1, 4, 2, 3])]
        for branch in module.branches:
            branch.forward = lambda x: x  # what goes in is fused
        conv = module.fuse_layers[0]["1"][0]
        conv.weight.set_value(np.eye(2, 4, dtype="float32")[..., None, None])
        outputs[align_corners] = module(features)[0].numpy()[0, 0] * np.sqrt(np.float32(1 + 1e-5))
    source = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    rows, columns = np.linspace(0, 1, 4)[:, None], np.linspace(0, 2, 6)[None]
    np.testing.assert_allclose(outputs[True], 3 * rows + columns, atol=1e-5)
    halves = 3 * np.clip((np.arange(4) + 0.5) / 2 - 0.5, 0, 1)[:, None] + np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)
    np.testing.assert_allclose(outputs[False], halves, atol=1e-5)
    assert source[1, 2] == outputs[True][-1, -1].round(4)
