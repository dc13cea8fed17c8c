"""Which elements a selection of the largest picks where several are alike: the first ones, on both sides. Numpy only.

Neither framework says which of two equal elements `topk` takes, and they take different ones: a resized map has equal
pixels along its borders, a loss over the hardest pixels then learns from another one of them, and every gradient of a
correct port differs. In float64 both sides' `topk` therefore ask this module.
"""

from __future__ import annotations

import numpy as np

GRID = 2.0**-36  # of the largest magnitude; closer elements count as equal: what computed them may round otherwise


def first_largest(values: np.ndarray, k: int, axis: int = -1, *, largest: bool = True) -> np.ndarray:
    """Indices of the k largest elements along an axis, in descending order; of equal ones the first come first.

    Args:
        values: any shape, floats; NaN counts as larger than any number, as in torch.
        k: 0 to the length of the axis.
        axis: along which elements are chosen.
        largest: if not, the k smallest in ascending order.

    Returns:
        Shape of `values` but for k along the axis, int64.
    """
    finite = np.abs(values[np.isfinite(values)])
    scale = float(finite.max()) if finite.size else 0.0
    ranks = np.round(values / (scale * GRID)) if scale * GRID > 0.0 else values
    ranks = np.where(np.isnan(values), np.inf, ranks)
    order = np.argsort(-ranks if largest else ranks, axis=axis, kind="stable")
    return np.take(order, np.arange(k), axis=axis)
