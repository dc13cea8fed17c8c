"""The divisor of the cross-entropy with a floor."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_ext.losses import CrossEntropy, ValidFractionCrossEntropy


def value(labelled: int, **arguments: float) -> float:
    """Of 100 pixels, some labelled, all with logits (0, 0): each has a loss of ln 2."""
    label = np.full((1, 10, 10), 255, np.int64)
    label.reshape(-1)[:labelled] = 1
    return float(ValidFractionCrossEntropy(**arguments)(paddle.zeros([1, 2, 10, 10]), paddle.to_tensor(label)))


@pytest.mark.parametrize("labelled", [10, 50, 100])
def test_above_the_floor_it_is_the_mean_over_labelled_pixels(labelled: int) -> None:
    assert value(labelled) == pytest.approx(np.log(2), rel=1e-6)


@pytest.mark.parametrize(("labelled", "share"), [(5, 0.5), (1, 0.1), (0, 0.0)])
def test_below_it_the_sum_is_divided_by_a_tenth_of_all_pixels(labelled: int, share: float) -> None:
    assert value(labelled) == pytest.approx(share * np.log(2), rel=1e-6)


def test_with_enough_labels_it_equals_the_plain_mean() -> None:
    random = np.random.RandomState(0)
    logits = paddle.to_tensor(random.standard_normal((2, 5, 6, 7)).astype(np.float32))
    label = random.randint(0, 5, (2, 6, 7))
    label[0, :3] = 255
    label = paddle.to_tensor(label)
    assert float(ValidFractionCrossEntropy()(logits, label)) == pytest.approx(float(CrossEntropy()(logits, label)))


def test_a_floor_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="min_fraction is 0"):
        ValidFractionCrossEntropy(min_fraction=0)
