"""What the panoptic cases give to post-processing: outputs of made-up weights at the sizes it is made for."""

from __future__ import annotations

import numpy as np
import pytest

from parity.cases.panoptic_deeplab import _at_most

VALUES = np.random.RandomState(0).standard_normal((2, 5, 7))


@pytest.mark.parametrize("factor", [2.0**-3, 1.0, 1e19, 3e300])
def test_no_value_exceeds_the_limit_and_no_digit_changes(factor):
    given = VALUES * factor
    found = _at_most(32.0, given)
    assert np.abs(found).max() <= 32.0
    mantissas = [np.frexp(array)[0] for array in (given, found)]
    assert np.array_equal(*mantissas)


def test_what_is_small_enough_stays_as_it_is():
    assert np.array_equal(_at_most(32.0, VALUES), VALUES)
    assert np.array_equal(_at_most(1.0, np.zeros((2, 2))), np.zeros((2, 2)))


def test_what_is_not_finite_is_left_to_the_verdict():
    assert np.isnan(_at_most(1.0, np.array([np.nan, 5.0]))).any()
