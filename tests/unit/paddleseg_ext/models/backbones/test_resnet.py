"""ResNets: their layers' names and shapes, what is frozen, where they stride, how they start."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.models.backbones import ResNet, ResNet50, ResNet52, ResNet101, ResNet103
from paddleseg_ext.models.layers import ConvNorm2D, FrozenBatchNorm2D


@pytest.fixture(scope="module")
def image():
    return paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype("float32"))


def sizes(features):
    return {name: tuple(value.shape[1:]) for name, value in features.items()}


def test_r50_has_features_of_strides_4_to_32(image):
    net = ResNet50()
    assert sizes(net(image)) == {
        "res2": (256, 16, 24), "res3": (512, 8, 12), "res4": (1024, 4, 6), "res5": (2048, 2, 3),
    }  # fmt: skip
    assert net.channels == {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
    assert net.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def test_r52_dilates_res5_by_2_4_8_and_has_stride_16():
    with paddle.LazyGuard():
        net = ResNet52(out_features=("res2", "res5"))
    assert [block.conv2._dilation[0] for block in net.res5] == [2, 4, 8]
    assert {block.conv2._stride[0] for block in net.res5} == {1} and net.res5[0].shortcut._stride == [1, 1]
    assert net.stem.conv3.weight.shape == [128, 64, 3, 3]
    assert (net.channels, net.strides) == ({"res2": 256, "res5": 2048}, {"res2": 4, "res5": 16})


def test_stride_8_dilates_res4_by_2_and_res5_by_4():
    with paddle.LazyGuard():
        net = ResNet(50, res4_dilation=2, res5_dilation=4, out_features=("res5",))
    assert net.strides == {"res5": 8}
    dilations = [
        {(block.conv2._dilation[0], block.conv2._stride[0]) for block in stage} for stage in (net.res4, net.res5)
    ]
    assert dilations == [{(2, 1)}, {(4, 1)}]


@pytest.mark.parametrize(("in_1x1", "strides"), [(True, (2, 1)), (False, (1, 2))])
def test_the_switch_decides_which_convolution_strides(in_1x1, strides):
    with paddle.LazyGuard():
        block = ResNet50(stride_in_1x1=in_1x1, out_features=("res3",)).res3[0]
    assert (block.conv1._stride[0], block.conv2._stride[0]) == strides
    assert block.shortcut._stride == [2, 2]


def test_stages_beyond_the_last_feature_do_not_exist():
    net = ResNet50(out_features=("stem", "res3"))
    assert not hasattr(net, "res4") and net.channels == {"stem": 64, "res3": 512}


@pytest.mark.parametrize(("build", "blocks"), [(ResNet101, (3, 4, 23, 3)), (ResNet103, (3, 4, 23, 3))])
def test_depths(build, blocks):
    with paddle.LazyGuard():
        net = build()
    assert tuple(len(getattr(net, name)) for name in ("res2", "res3", "res4", "res5")) == blocks


def test_frozen_norms_are_buffers_and_fit_the_files_of_others():
    frozen, learning = ResNet50(out_features=("res2",)), ResNet50(norm="BN", out_features=("res2",))
    assert {name for name, _ in frozen.named_parameters() if ".norm." in name} == set()
    assert set(frozen.state_dict()) == set(learning.state_dict())
    assert "stem.conv1.norm._variance" in frozen.state_dict()


def test_a_frozen_norm_computes_a_batch_norm_in_evaluation_and_never_changes():
    rng = np.random.default_rng(0)
    ours, theirs = FrozenBatchNorm2D(3), nn.BatchNorm2D(3)
    state = {name: rng.uniform(0.5, 1.5, 3).astype("float32") for name in ("weight", "bias", "_mean", "_variance")}
    for layer in (ours, theirs):
        layer.set_state_dict({name: paddle.to_tensor(value) for name, value in state.items()})
    theirs.eval()
    ours.train()
    x = paddle.to_tensor(rng.standard_normal((2, 3, 4, 4)).astype("float32"))
    np.testing.assert_allclose(ours(x).numpy(), theirs(x).numpy(), rtol=1e-5, atol=1e-6)
    assert all((ours.state_dict()[name].numpy() == value).all() for name, value in state.items())


def test_freezing_covers_the_stem_and_the_first_stages_only():
    net = ResNet50(norm="BN", freeze_at=2, out_features=("res3",))
    trained = {name.split(".")[0] for name, p in net.named_parameters() if not p.stop_gradient}
    assert trained == {"res3"}
    assert isinstance(net.stem.conv1.norm, FrozenBatchNorm2D) and isinstance(net.res3[0].conv1.norm, nn.BatchNorm2D)


def test_convolutions_start_with_a_variance_of_two_over_fan_out():
    paddle.seed(0)
    net = ResNet50(out_features=("res3",))
    for layer in net.sublayers():
        if isinstance(layer, ConvNorm2D) and layer.weight.numel() > 20000:
            weight = layer.weight.numpy()
            assert abs(weight.var() / (2 / (weight.shape[0] * weight[0, 0].size)) - 1) < 0.05
            assert abs(weight.mean()) < 0.1 * weight.std()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 34}, "depth: 34"),
        ({"stem": "deep"}, "stem: 'deep'"),
        ({"norm": "LN"}, "norm: 'LN'"),
        ({"res4_dilation": 2}, "res4_dilation, res5_dilation"),
        ({"out_features": ("res6",)}, "out_features"),
        ({"freeze_at": 6}, "freeze_at: 6"),
    ],
)
def test_what_it_cannot_build_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)
