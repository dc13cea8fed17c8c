"""In which order a selection or a sort takes elements that are alike: the first ones first, on both sides. Numpy only.

Neither framework says which of two equal elements `topk` takes, and elements that should be equal, such as border
pixels of a resized map, are rounded otherwise by each. A loss over the hardest pixels then learns from another one of
them, and every gradient of a correct port differs. In float64 both sides' `topk` and `sort` therefore ask this module.
"""

from __future__ import annotations

import numpy as np

GRID = 2.0**-36  # of the largest magnitude; closer elements count as equal: what computed them may round otherwise


def ordered(values: np.ndarray, axis: int = -1, *, descending: bool = False) -> np.ndarray:
    """Indices that sort along an axis; of equal elements the first come first.

    Args:
        values: any shape; NaN counts as larger than any number, as in torch.
        axis: along which elements are sorted.
        descending: the largest first.

    Returns:
        Shape of `values`, int64.
    """
    ranks = values
    if values.dtype.kind == "f":
        finite = np.abs(values[np.isfinite(values)])
        step = GRID * float(finite.max()) if finite.size else 0.0
        ranks = np.where(np.isnan(values), np.inf, np.round(values / step) if step > 0.0 else values)
    if not descending:
        return np.argsort(ranks, axis=axis, kind="stable")
    backwards = np.flip(np.argsort(np.flip(ranks, axis), axis=axis, kind="stable"), axis)
    return ranks.shape[axis] - 1 - backwards


def first_largest(values: np.ndarray, k: int, axis: int = -1, *, largest: bool = True) -> np.ndarray:
    """Indices of the k largest elements along an axis, or the k smallest, in their order; see `ordered`."""
    return np.take(ordered(values, axis, descending=largest), np.arange(k), axis=axis)
