"""The image pooling of both pyramids, and the order in which branches are joined."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.models.layers.aspp import ASPP, Detectron2ASPP
from paddleseg_ext.models.layers.norm_type import NormType
from paddleseg_ext.models.layers.separable import DepthwiseSeparableConv2D, separable_conv

BN = NormType("bn")


def pooled(aspp: Detectron2ASPP, x: paddle.Tensor) -> np.ndarray:
    return aspp.convs[4][0](x).numpy()


def test_a_fixed_window_is_the_global_mean_on_a_crop_and_a_local_one_on_a_larger_image() -> None:
    aspp = Detectron2ASPP(4, 8, pool_size=(2, 3))
    random = np.random.RandomState(0).standard_normal((1, 4, 2, 6)).astype(np.float32)
    crop, image = paddle.to_tensor(random[..., :3]), paddle.to_tensor(random)
    np.testing.assert_allclose(pooled(aspp, crop), random[..., :3].mean((2, 3), keepdims=True), rtol=1e-5, atol=1e-6)
    windows = [random[..., i : i + 3].mean((2, 3)) for i in range(4)]
    np.testing.assert_allclose(pooled(aspp, image)[:, :, 0], np.stack(windows, axis=-1), rtol=1e-5, atol=1e-6)


def test_a_feature_map_that_is_no_multiple_of_the_window_is_refused_with_both_sizes() -> None:
    aspp = Detectron2ASPP(4, 8, pool_size=(2, 3))
    with pytest.raises(ValueError, match=r"2x4.*2x3"):
        aspp(paddle.zeros([1, 4, 2, 4]))


def test_without_a_window_the_pooling_is_global() -> None:
    assert pooled(Detectron2ASPP(4, 8), paddle.ones([1, 4, 5, 7])).shape == (1, 4, 1, 1)


@pytest.mark.parametrize("first", [False, True])
def test_the_image_pooling_is_joined_first_or_last(first: bool) -> None:
    aspp = ASPP(4, 8, dilations=(1, 2, 3), norm=BN, pool_first=first)
    aspp.eval()
    joined = []
    aspp.project.register_forward_pre_hook(lambda layer, inputs: joined.append(inputs[0].numpy()))
    x = paddle.to_tensor(np.random.RandomState(1).standard_normal((1, 4, 5, 6)).astype(np.float32))
    aspp(x)
    place = slice(0, 8) if first else slice(32, 40)
    np.testing.assert_array_equal(joined[0][:, place], aspp.convs[4](x).numpy())


def test_only_the_recipe_with_pool_norm_normalises_the_image_pooling() -> None:
    norms = [
        [layer for layer in ASPP(4, 32, dilations=(1, 2, 3), norm=BN, pool_norm=wanted).convs[4].sublayers()]
        for wanted in (False, True)
    ]
    assert [any(isinstance(layer, nn.BatchNorm2D) for layer in layers) for layers in norms] == [False, True]


def test_both_separable_convolutions_keep_the_size_and_have_one_kernel_per_channel() -> None:
    x = paddle.zeros([1, 4, 7, 9])
    for layer, kernel in (
        (separable_conv(4, 8, 5, dilation=3, norm=BN), "0.0.weight"),
        (DepthwiseSeparableConv2D(4, 8, 5, dilation=3), "depthwise.weight"),
    ):
        assert layer(x).shape == [1, 8, 7, 9]
        assert layer.state_dict()[kernel].shape == [4, 1, 5, 5]
