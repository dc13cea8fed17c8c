"""Selections of the largest elements: of several that are alike both sides take the same, and mistakes still show."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch

from parity import Case, inputs, run
from parity.case import Side
from parity.paddle_float64 import exact_operators
from parity.ties import GRID, first_largest
from parity.torch_hooks import first_of_equals

pytestmark = pytest.mark.parity

TIED = np.random.RandomState(0).randint(0, 4, (3, 40)).astype(np.float64)
APART = np.random.RandomState(1).standard_normal((2, 3, 25))


def torch_topk(values, k, **settings):
    x = torch.tensor(values, requires_grad=True)
    with first_of_equals():
        found = x.topk(k, **settings)
        found.values.sum().backward()
    return found.values.detach().numpy(), found.indices.numpy(), x.grad.numpy()


@pytest.mark.parametrize("values", [TIED, APART, np.arange(12).reshape(3, 4) % 5, np.array([True, False, True])])
@pytest.mark.parametrize("descending", [True, False])
def test_both_sides_sort_alike_and_stably(values, descending):
    with first_of_equals(), exact_operators():
        theirs = torch.tensor(values).sort(descending=descending)
        again = torch.tensor(values).argsort(descending=descending)
        ours = paddle.argsort(paddle.to_tensor(values.astype(np.float64)), descending=descending)
        numbers = paddle.sort(paddle.to_tensor(values.astype(np.float64)), descending=descending)
    own = torch.tensor(values).sort(descending=descending, stable=True)
    assert torch.equal(theirs.values, own.values) and torch.equal(theirs.indices, own.indices)
    assert torch.equal(again, own.indices) and np.array_equal(ours.numpy(), own.indices.numpy())
    assert np.array_equal(numbers.numpy(), own.values.double().numpy())


def paddle_topk(values, k, *, dim=-1, largest=True):
    x = paddle.to_tensor(values, stop_gradient=False)
    with exact_operators():
        found, indices = paddle.topk(x, k, axis=dim, largest=largest)
        found.sum().backward()
    return found.numpy(), indices.numpy(), x.grad.numpy()


@pytest.mark.parametrize("values", [TIED, APART, TIED[:, :1], np.array([1.0, np.inf, np.inf, -np.inf, 2.0])])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dim", [-1, 0])
def test_both_sides_take_the_same_elements(values, largest, dim):
    k = min(2, values.shape[dim])
    theirs, ours = (topk(values, k, dim=dim, largest=largest) for topk in (torch_topk, paddle_topk))
    for one, other in zip(theirs, ours):
        assert one.dtype == other.dtype and np.array_equal(one, other)
    own = torch.tensor(values).topk(k, dim=dim, largest=largest)
    assert np.array_equal(theirs[0], own.values.numpy())  # torch's own values, whichever of equal ones it takes


def test_where_nothing_is_equal_torchs_own_choice_is_kept():
    for dim in (0, 1, 2):
        assert np.array_equal(torch_topk(APART, 2, dim=dim)[1], torch.tensor(APART).topk(2, dim=dim).indices.numpy())


def test_nan_is_the_largest_as_torch_has_it():
    values = np.array([1.0, np.nan, 3.0, np.nan, 2.0])
    for largest in (True, False):
        with first_of_equals():
            found = torch.tensor(values).topk(4, largest=largest).values
        assert torch.equal(found.isnan(), torch.tensor(values).topk(4, largest=largest).values.isnan())


def test_elements_that_differ_by_rounding_only_are_equal_and_others_are_not():
    assert first_largest(np.array([1.0, 1.0 + 1e-15, 0.5]), 2).tolist() == [0, 1]
    assert first_largest(np.array([1.0, 1.0 + 4 * GRID, 0.5]), 2).tolist() == [1, 0]
    assert first_largest(np.array([1e9, 1.0, 1.0 + 1e-3]), 3).tolist() == [0, 1, 2]  # of the largest magnitude


def test_torchs_own_kernel_is_back_afterwards_also_from_within():
    x = torch.tensor(TIED[0])
    before = x.topk(5).indices.tolist()
    with first_of_equals():
        with first_of_equals():
            pass
        inside = x.topk(5).indices.tolist()
    assert inside == first_largest(TIED[0], 5).tolist() and x.topk(5).indices.tolist() == before != inside


def test_a_single_number_is_its_own_largest():
    with first_of_equals():
        assert torch.tensor(3.0, dtype=torch.float64).topk(1) == (3.0, 0)


def hardest(count, own_count=None, select=None):
    """A case whose loss is the mean over the largest numbers of a map with blocks of equal pixels."""

    def reference():
        from torch import nn

        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Upsample(scale_factor=4, mode="nearest"))

    def port():
        from paddle import nn

        return nn.Sequential(nn.Conv2D(3, 4, 3, padding=1), nn.Upsample(scale_factor=4, mode="nearest"))

    def torch_losses(targets):
        def losses(outputs, targets):
            pixels = (outputs["0"] ** 2).flatten()
            factors = torch.arange(1, len(pixels) + 1)  # equal pixels become unequal in their last bit, otherwise here
            return {"loss": (select or by_topk)(pixels * factors / factors, count)}

        return losses

    def paddle_losses(targets):
        def losses(outputs, targets):
            pixels = (outputs["0"] ** 2).flatten()
            factors = paddle.arange(1, len(pixels) + 1, dtype=pixels.dtype)
            return {"loss": paddle.topk(pixels / factors * factors, own_count or count)[0].mean()}

        return losses

    return Case(
        name="hardest",
        reference=Side(reference, torch_losses),
        port=Side(port, paddle_losses),
        inputs={"image": inputs.image(2)},
        size=(8, 8),
    )


def by_topk(pixels, count):
    return pixels.topk(count).values.mean()


def by_sort(pixels, count):
    return pixels.sort(descending=True).values[:count].mean()


@pytest.mark.parametrize("select", [by_topk, by_sort])
@pytest.mark.parametrize("count", [*range(1, 400, 40), *range(2, 400, 40)])
def test_a_loss_over_the_hardest_pixels_of_a_resized_map_is_proven(count, select):
    result = run(hardest(count, select=select))
    assert result.passed, result.first


def test_one_pixel_too_few_is_still_found():
    result = run(hardest(200, 199))
    assert not result.passed and result.first[0].stage == "loss"
