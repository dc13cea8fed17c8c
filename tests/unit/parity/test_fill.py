"""Generated weights: from name and shape alone, and such that a mistake changes a number."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from parity import fill

CONV = ("layer1.conv.weight", (64, 32, 3, 3))
NAMES = [CONV, ("fc.weight", (10, 32)), ("bn.weight", (512,)), ("bn.bias", (512,)), ("bn.running_mean", (512,)),
         ("bn.running_var", (512,))]  # fmt: skip


@pytest.mark.parametrize(("name", "shape"), NAMES)
def test_the_same_name_shape_and_seed_give_the_same_tensor(name, shape):
    first = fill.tensor(name, shape, 3)
    np.random.seed(1)  # no other random state plays a part
    assert np.array_equal(first, fill.tensor(name, list(shape), 3))
    assert first.shape == shape


@pytest.mark.parametrize(("name", "shape"), NAMES)
def test_another_name_or_seed_gives_another_tensor(name, shape):
    value = fill.tensor(name, shape)
    others = [fill.tensor(f"other.{name}", shape), fill.tensor(name, shape, 1)]
    for other in others:
        assert np.mean(value == other) < 0.05


def test_another_shape_is_not_a_part_of_the_same_stream():
    assert not np.array_equal(fill.tensor("bn.bias", (8,)), fill.tensor("bn.bias", (16,))[:8])


def test_square_tensors_are_not_symmetric():
    value = fill.tensor("fc.weight", (64, 64))
    assert np.mean(value == value.T) < 0.05


def test_seed_is_the_start_of_a_sha256_in_little_endian():
    first_bytes = hashlib.sha256(b"7/conv.weight/2,3").hexdigest()[:8]
    reversed_bytes = "".join(first_bytes[i : i + 2] for i in (6, 4, 2, 0))
    assert fill.seed_of("conv.weight", (2, 3), 7) == int(reversed_bytes, 16)


@pytest.mark.parametrize(("name", "shape"), NAMES)
def test_values_are_float32_and_hardly_any_is_0_or_1(name, shape):
    value = fill.tensor(name, shape)
    assert value.dtype == np.float32 and np.isfinite(value).all()
    assert np.mean((value == 0) | (np.abs(value) == 1)) < 0.01


@pytest.mark.parametrize("name", ["bn.weight", "bn.bias", "bn.running_mean"])
def test_signs_are_mixed(name):
    negative = np.mean(fill.tensor(name, (2048,)) < 0)
    assert 0.1 < negative < 0.55


def test_running_variances_are_positive():
    value = fill.tensor("bn.running_var", (2048,))
    assert value.min() >= 0.5 and value.max() <= 1.5


def test_running_mean_and_variance_are_told_apart():
    assert (
        abs(fill.tensor("bn.running_mean", (2048,)).mean()) < 0.05 < 0.9 < fill.tensor("bn.running_var", (2048,)).mean()
    )


def test_kernels_are_scaled_by_fan_in_so_that_activations_keep_their_size():
    shapes = [(64, 32, 3, 3), (128, 512), (256, 1, 5, 5), (1024, 8, 1, 1)]
    gains = [fill.tensor("conv.weight", shape).std() * np.sqrt(np.prod(shape[1:])) for shape in shapes]
    assert gains == pytest.approx([gains[0]] * 4, rel=0.05) and 0.5 < gains[0] < 2


def test_no_channel_is_switched_off_by_its_scale():
    assert np.abs(fill.tensor("bn.weight", (4096,))).min() >= 0.5


def test_vectors_lie_on_a_grid_that_float32_holds_exactly():
    for name in ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
        scaled = fill.tensor(name, (512,)).astype(np.float64) * 4096
        assert np.array_equal(scaled, np.round(scaled))


def test_counters_are_integers():
    counter = fill.tensor("bn.num_batches_tracked", ())
    assert counter.dtype == np.int64 and counter.shape == () and counter == 0


def test_a_state_keeps_names_and_their_order():
    shapes = {"b.weight": (2, 3), "a.bias": (2,), "bn.num_batches_tracked": ()}
    state = fill.state(shapes, 5)
    assert list(state) == list(shapes)
    assert all(np.array_equal(state[name], fill.tensor(name, shape, 5)) for name, shape in shapes.items())
