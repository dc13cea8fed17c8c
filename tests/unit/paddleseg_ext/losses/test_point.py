"""The loss at points, against hand computation."""

from __future__ import annotations

import math

import paddle
import pytest

from paddleseg_ext.errors import ConfigError
from paddleseg_ext.losses import build_losses

TERM = {"type": "PointCrossEntropy", "output": "points", "name": "loss_point", "size_divisor": 2}


def loss(coords, label, logits):
    outputs = {"points": paddle.to_tensor([logits], stop_gradient=False), "point_coords": paddle.to_tensor([coords])}
    return build_losses([TERM])(outputs, {"label": paddle.to_tensor([label])})["loss_point"], outputs["points"]


def test_it_is_the_mean_over_points_whose_nearest_pixel_has_a_label():
    label = [[0, 1], [255, 1]]
    coords = [[0.2, 0.2], [0.9, 0.1], [0.1, 0.9]]  # pixels (0, 0), (0, 1) and the ignored one
    value, points = loss(coords, label, [[2.0, 0.0, 5.0], [0.0, 0.0, 1.0]])
    expected = (math.log(1 + math.exp(-2.0)) + math.log(2.0)) / 2
    assert float(value) == pytest.approx(expected, rel=1e-6)
    value.backward()
    assert points.grad.numpy()[0, :, 2].tolist() == [0.0, 0.0]
    assert points.grad.numpy()[0, 0, 1] == pytest.approx(0.25, rel=1e-6)


def test_coordinates_are_those_of_the_padded_image():
    value, _ = loss([[0.1, 0.5], [0.9, 0.5]], [[0]], [[3.0, -50.0], [0.0, 50.0]])  # 1x1, padded to 2x2
    assert float(value) == pytest.approx(math.log(1 + math.exp(-3.0)), rel=1e-5)


def test_it_is_zero_without_labels():
    value, points = loss([[0.1, 0.5]], [[255, 255]], [[3.0], [0.0]])
    value.backward()
    assert float(value) == 0.0 and float(points.grad.abs().max()) == 0.0


def test_missing_coordinates_are_named():
    with pytest.raises(ConfigError, match="loss_point needs 'point_coords'; available: points"):
        build_losses([TERM])({"points": paddle.zeros([1, 2, 1])}, {"label": paddle.zeros([1, 2, 2], dtype="int64")})
