"""Generated inputs: from name, size and seed alone, with the structure that reaches a network's corners."""

from __future__ import annotations

import numpy as np
import pytest

from parity import inputs

SIZES = [(33, 65), (64, 48), (129, 257), (5, 3)]


@pytest.mark.parametrize("spec", [inputs.image(2, 3), inputs.labels(2, 19)])
def test_inputs_depend_on_name_size_and_seed_and_on_nothing_else(spec):
    first = spec.make("x", (33, 65), 1)
    np.random.seed(1)
    assert np.array_equal(first, spec.make("x", (33, 65), 1))
    for other in (spec.make("y", (33, 65), 1), spec.make("x", (33, 65), 2)):
        assert other.shape == first.shape and not np.array_equal(first, other)
    assert not np.array_equal(first, spec.make("x", (33, 66), 1)[..., :65])


@pytest.mark.parametrize("size", SIZES)
def test_images_are_nchw_float32_on_a_grid_of_a_64th(size):
    image = inputs.image(2, 3).make("image", size)
    assert image.shape == (2, 3, *size) and image.dtype == np.float32
    scaled = image.astype(np.float64) * 64
    assert np.array_equal(scaled, np.round(scaled))


def test_images_are_about_normalised():
    image = inputs.image(4, 3).make("image", (129, 257))
    assert abs(image.mean()) < 0.2 and 0.7 < image.std() < 1.4


def test_images_and_channels_of_a_batch_differ():
    image = inputs.image(2, 3).make("image", (33, 65))
    planes = image.reshape(6, -1)
    assert all(not np.array_equal(planes[i], planes[j]) for i in range(6) for j in range(i))


def test_images_are_not_symmetric_so_that_flips_and_transpositions_show():
    image = inputs.image(1, 1).make("image", (32, 32))[0, 0]
    for other in (image[::-1], image[:, ::-1], image.T):
        assert np.mean(image == other) < 0.1


def test_images_have_structure_beyond_noise():
    image = inputs.image(1, 1).make("image", (128, 128))[0, 0].astype(np.float64)
    neighbours = np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]
    far = np.corrcoef(image[:, 64:].ravel(), image[:, :-64].ravel())[0, 1]
    assert neighbours > 0.6 > abs(far)


@pytest.mark.parametrize("size", SIZES)
def test_labels_are_class_ids_or_ignored(size):
    label = inputs.labels(2, 19).make("label", size)
    assert label.shape == (2, *size) and label.dtype == np.int64
    assert set(np.unique(label)) <= {*range(19), 255}


def test_labels_have_regions_of_many_classes_and_some_ignored_pixels_in_each_image():
    label = inputs.labels(3, 19).make("label", (65, 129))
    for one in label:
        assert len(np.unique(one)) > 6
        assert 0.02 < np.mean(one == 255) < 0.5
        assert np.mean(one[:, 1:] == one[:, :-1]) > 0.8


def test_the_top_rows_of_labels_are_ignored():
    label = inputs.labels(2, 19).make("label", (64, 32))
    assert (label[:, :2] == 255).all()


def test_the_ignored_id_and_the_number_of_classes_can_be_chosen():
    label = inputs.labels(2, 3, ignore=7).make("label", (33, 65))
    assert set(np.unique(label)) == {0, 1, 2, 7}


def test_draws_are_exact_in_float32_between_0_and_1_and_independent_of_the_size():
    spec = inputs.uniform(2, (50, 2))
    draws = spec.make("draws", (33, 65), 1)
    assert draws.shape == (2, 50, 2) and draws.dtype == np.float32
    assert ((draws > 0) & (draws < 1)).all() and (draws * 8192 % 2 == 1).all()
    assert np.array_equal(draws, spec.make("draws", (9, 9), 1)) and not np.array_equal(
        draws, spec.make("draws", (9, 9), 2)
    )
    assert len(np.unique(draws)) > 150
