"""How the made-up maps' results become numbers that are compared."""

from __future__ import annotations

import numpy as np
import pytest

from parity.cases.panoptic_samples import as_points


def integers(*scores: float) -> list[int]:
    instances = [(number, 13, score) for number, score in enumerate(scores)]
    return as_points("image", np.zeros((2, 2)), instances, discrete=True)["image/scores"].tolist()


def test_scores_below_1_are_in_units_of_a_millionth() -> None:
    assert integers(0.0, 0.25, 0.1234564, -0.5, 0.9999994) == [0, 250000, 123456, -500000, 999999]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("score", [1.0, -1.5, 2.9e17, -9.8e20, 1e300])
def test_scores_of_any_size_differ_when_they_differ_by_a_millionth_part(score: float) -> None:
    same, other, opposite = integers(score * (1 + 1e-12), score * (1 + 4e-6), -score)
    assert integers(score) == [same]
    assert same not in (other, opposite)
