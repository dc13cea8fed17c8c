"""Points: samples against a loop, ties of the nearest pixel, the least certain pixels, the points of training."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddleseg_ext.models.layers.points import (
    sample_labels,
    sample_points,
    training_points,
    uncertain_points,
    uncertainty,
)


def bilinear(feature, x, y):
    """The value of a map, (H, W), at a point in [0, 1] x [0, 1]; 0 beyond it."""
    height, width = feature.shape
    px, py = x * width - 0.5, y * height - 0.5
    total = 0.0
    for row in (math.floor(py), math.floor(py) + 1):
        for col in (math.floor(px), math.floor(px) + 1):
            if 0 <= row < height and 0 <= col < width:
                total += feature[row, col] * (1 - abs(px - col)) * (1 - abs(py - row))
    return total


def test_samples_are_bilinear_and_fade_to_zero_at_the_border():
    rng = np.random.default_rng(0)
    features, coords = rng.standard_normal((2, 3, 5, 7)), rng.uniform(size=(2, 20, 2))
    coords[:, :4] = [[0, 0], [1, 1], [0.5 / 7, 0.5 / 5], [0.01, 0.99]]
    found = sample_points(paddle.to_tensor(features), paddle.to_tensor(coords)).numpy()
    for n in range(2):
        for p, (x, y) in enumerate(coords[n]):
            for c in range(3):
                assert found[n, c, p] == pytest.approx(bilinear(features[n, c], x, y), abs=1e-12)


@pytest.mark.parametrize(
    ("x", "column"), [(0.0, 0), (0.5 / 4, 0), (1 / 4, 0), (2 / 4, 2), (3 / 4, 2), (0.2501, 1), (0.9999, 3)]
)
def test_between_two_pixels_the_even_one_counts(x, column):
    label = paddle.to_tensor(np.arange(8).reshape(1, 2, 4))
    found = sample_labels(label, paddle.to_tensor([[[x, 0.75]]], dtype="float64"))
    assert found.tolist() == [[4 + column]]


@pytest.mark.parametrize(("width", "expected"), [(3, 7), (4, 0)])
def test_at_the_far_edge_the_label_is_zero_if_the_last_pixel_is_odd(width, expected):
    label = paddle.full([1, 2, width], 7, dtype="int64")  # 2.5 goes to 2, 3.5 to 4
    assert sample_labels(label, paddle.to_tensor([[[1.0, 0.25]]])).tolist() == [[expected]]


def test_uncertainty_is_the_second_logit_minus_the_first():
    logits = paddle.to_tensor([[[1.0, 5.0], [4.0, 5.0], [2.0, -1.0]]])
    assert uncertainty(logits).tolist() == [[-2.0, 0.0]]


def test_the_least_certain_pixels_of_each_image_and_their_centres():
    lead = np.array([[[3.0, 0.5, 2.0], [1.0, 4.0, 0.25]], [[0.1, 9.0, 9.0], [9.0, 0.2, 0.3]]])
    logits = np.stack([lead, np.zeros_like(lead), np.full_like(lead, -1)], axis=1)
    index, coords = uncertain_points(paddle.to_tensor(logits), 3)
    assert index.tolist() == [[1, 3, 5], [0, 4, 5]]
    np.testing.assert_allclose(coords.numpy()[0], [[1.5 / 3, 0.25], [0.5 / 3, 0.75], [2.5 / 3, 0.75]], atol=1e-15)


def test_more_points_than_pixels_are_all_pixels():
    index, _ = uncertain_points(paddle.rand([1, 4, 2, 3]), 100)
    assert index.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_training_takes_the_least_certain_candidates_and_then_random_points():
    logits = np.zeros((1, 2, 1, 4))
    logits[0, 0, 0] = [8.0, 4.0, 2.0, 6.0]  # leads by as much
    x = (np.arange(4) + 0.5) / 4
    draws = np.stack([np.append(x, [0.9, 0.1]), np.full(6, 0.5)], axis=1)[None]
    coords = training_points(paddle.to_tensor(logits), paddle.to_tensor(draws), num_candidates=4, num_important=2)
    np.testing.assert_allclose(coords.numpy()[0, :, 0], [x[2], x[1], 0.9, 0.1])


def test_the_uncertainty_is_that_of_the_sampled_logits():
    """Half-way between two pixels that are certain of different classes, nothing is certain."""
    logits = np.zeros((1, 2, 1, 2))
    logits[0, 0, 0, 0] = logits[0, 1, 0, 1] = 9.0
    draws = paddle.to_tensor([[[0.25, 0.5], [0.5, 0.5], [0.75, 0.5]]], dtype="float64")
    coords = training_points(paddle.to_tensor(logits), draws, num_candidates=3, num_important=1)
    assert coords.tolist() == [[[0.5, 0.5]]]
