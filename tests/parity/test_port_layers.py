"""Layers of the ports against computations by hand, without their references."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_ext.models.backbones.stdcnet import CatBottleneck
from paddleseg_ext.models.stdc import AbsGammaBatchNorm2D

pytestmark = pytest.mark.parity

RANDOM = np.random.RandomState(0)
EPSILON = float(np.float32(1e-5))


def norm(gamma, beta):
    layer = AbsGammaBatchNorm2D(len(gamma))
    layer.to(dtype="float64")
    layer.weight.set_value(np.float64(gamma))
    layer.bias.set_value(np.float64(beta))
    layer.train()
    return layer


def normalised(x):
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + EPSILON)


def test_abs_gamma_norm_scales_by_the_magnitude_and_its_constant():
    gamma, beta = np.array([2.0, -0.5, 0.0]), np.array([0.25, -1.0, 3.0])
    x = RANDOM.standard_normal((2, 3, 4, 5))
    scale = (np.abs(gamma) + EPSILON).reshape(1, 3, 1, 1)
    expected = normalised(x) * scale + beta.reshape(1, 3, 1, 1)
    np.testing.assert_allclose(norm(gamma, beta)(paddle.to_tensor(x)).numpy(), expected, rtol=1e-11, atol=1e-12)


def test_abs_gamma_norm_does_not_see_the_sign_of_gamma():
    x = paddle.to_tensor(RANDOM.standard_normal((2, 2, 3, 3)))
    assert np.array_equal(norm([1.5, -0.5], [0.0, 1.0])(x).numpy(), norm([-1.5, 0.5], [0.0, 1.0])(x).numpy())


def test_gradient_of_gamma_has_its_sign_and_is_zero_at_zero():
    gamma = np.array([2.0, -0.5, 0.0])
    x, weight = RANDOM.standard_normal((2, 3, 4, 5)), RANDOM.standard_normal((2, 3, 4, 5))
    layer = norm(gamma, np.zeros(3))
    (layer(paddle.to_tensor(x)) * paddle.to_tensor(weight)).sum().backward()
    of_scale = (normalised(x) * weight).sum((0, 2, 3))
    np.testing.assert_allclose(layer.weight.grad.numpy(), of_scale * np.sign(gamma), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(layer.bias.grad.numpy(), weight.sum((0, 2, 3)), rtol=1e-11)


def test_abs_gamma_norm_uses_its_running_statistics_in_evaluation():
    layer = norm([2.0, -0.5], [0.5, 0.0])
    layer._mean.set_value(np.array([1.0, -2.0]))
    layer._variance.set_value(np.array([4.0, 0.25]))
    layer.eval()
    x = RANDOM.standard_normal((1, 2, 2, 2))
    mean, var = np.array([1.0, -2.0]).reshape(1, 2, 1, 1), np.array([4.0, 0.25]).reshape(1, 2, 1, 1)
    scale = (np.array([2.0, 0.5]) + EPSILON).reshape(1, 2, 1, 1)
    expected = (x - mean) / np.sqrt(var + EPSILON) * scale + np.array([0.5, 0.0]).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("stride", "out"), [(1, (5, 7)), (2, (3, 4))])
def test_bottleneck_concatenates_a_half_a_quarter_and_two_eighths(stride, out):
    block = CatBottleneck(6, 32, stride=stride)
    assert [conv.conv.weight.shape[0] for conv in block.conv_list] == [16, 8, 4, 4]
    assert block(paddle.rand([2, 6, 5, 7])).shape == [2, 32, *out]


def test_first_part_of_a_strided_bottleneck_is_pooled_with_its_padding_counted():
    block = CatBottleneck(3, 16, stride=2)
    block.eval()
    x = paddle.rand([1, 3, 6, 5])
    first = block.conv_list[0](x).numpy()
    padded = np.pad(first, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros((1, 8, 3, 3))
    for row in range(3):
        for column in range(3):
            expected[:, :, row, column] = (
                padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].sum((2, 3)) / 9
            )
    np.testing.assert_allclose(block(x).numpy()[:, :8], expected, rtol=1e-5, atol=1e-6)
