"""The nearest of some centres for very many points, without a distance for each pair.

A brute-force search compares K centres with each of P points. Here the plane is cut into cells first. Of the centres
only those can be nearest to a point of a cell whose smallest distance from the cell is at most the smallest of all
largest distances; in most cells that is a single one, which needs no distance at all. Where there are several, the
distances are computed, and compared, as the brute-force search would: the result is the same to the last tie.

K centres, P points, C candidates.
"""

from __future__ import annotations

import numpy as np

CELL = 16  # side of a cell in the unit of the points
_SLACK = 1e-3  # of squared distances, relative: far above any rounding of points and distances
_BLOCK = 2**21  # distances at once where nothing can be left out


def nearest_center(y: np.ndarray, x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The nearest centre of each point; of equally near ones the first.

    "Equally near" means equal after rounding: distances are sqrt(dy * dy + dx * dx) in the type of the points.

    Args:
        y: (P,) float32 or float64.
        x: (P,), same type.
        centers: (K, 2) int64 (y, x), 0 or more, K at least 1.

    Returns:
        (P,) int32 places in `centers`.
    """
    if len(centers) == 1:
        return np.zeros(len(y), np.int32)
    rows, cols = (centers.max(axis=0) // CELL + 3).tolist()  # a rim of one cell around all centres
    # what lies outside of the grid, or is NaN, is compared with all
    inside = (y >= -CELL) & (y < (rows - 1) * CELL) & (x >= -CELL) & (x < (cols - 1) * CELL)
    if not inside.all():
        out = np.empty(len(y), np.int32)
        out[inside] = _in_grid(y[inside], x[inside], centers, rows, cols)
        out[~inside] = _among_all(y[~inside], x[~inside], centers)
        return out
    return _in_grid(y, x, centers, rows, cols)


def _in_grid(y: np.ndarray, x: np.ndarray, centers: np.ndarray, rows: int, cols: int) -> np.ndarray:
    row, col = (
        np.minimum(((values + CELL) / CELL).astype(np.int32), count - 1)  # rounding may reach the far edge
        for values, count in ((y, rows), (x, cols))
    )
    cells = row * np.int32(cols) + col
    first, open_cells = _only_candidates(centers, rows, cols)
    nearest = first[cells]
    points = np.flatnonzero(nearest < 0)
    if len(points):
        of_point = -1 - nearest[points]  # place of the point's cell among the open ones
        nearest[points] = _among_some(y[points], x[points], centers, open_cells, of_point)
    return nearest


def _only_candidates(centers: np.ndarray, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """What is known of each cell.

    Returns:
        (cells,) int32: the only centre that can be nearest; -1 - i in the i-th open cell, where there are several.
        (open cells, K) bool: which ones.
    """
    lows, highs = [], []
    for axis, count in enumerate((rows, cols)):
        start = (np.arange(count) - 1.0)[:, None] * CELL - centers[None, :, axis]  # relative to each centre
        end = start + CELL
        lows.append(np.maximum(np.maximum(start, -end), 0) ** 2)
        highs.append(np.maximum(np.abs(start), np.abs(end)) ** 2)
    reach = (highs[0][:, None] + highs[1][None]).min(axis=2)
    possible = lows[0][:, None] + lows[1][None] <= (reach * (1 + _SLACK))[..., None]
    possible = possible.reshape(rows * cols, len(centers))
    is_open = possible.sum(axis=1) > 1
    known = possible.argmax(axis=1).astype(np.int32)
    known[is_open] = -1 - np.arange(np.count_nonzero(is_open), dtype=np.int32)
    return known, possible[is_open]


def _among_some(
    y: np.ndarray, x: np.ndarray, centers: np.ndarray, possible: np.ndarray, of_point: np.ndarray
) -> np.ndarray:
    """The nearest among the candidates of each point's cell, by their rank: all first ones, all second ones ..."""
    counts = possible.sum(axis=1)
    candidates = np.argsort(~possible, axis=1, kind="stable")[:, : counts.max()]  # ascending, so the first wins ties
    best = candidates[of_point, 0].astype(np.int32)
    shortest = _distance(y, x, centers[best])
    places = np.arange(len(y))
    for rank in range(1, candidates.shape[1]):
        places = places[counts[of_point[places]] > rank]
        rivals = candidates[of_point[places], rank]
        distance = _distance(y[places], x[places], centers[rivals])
        nearer = distance < shortest[places]
        best[places[nearer]] = rivals[nearer]
        shortest[places[nearer]] = distance[nearer]
    return best


def _among_all(y: np.ndarray, x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    step = max(1, _BLOCK // len(centers))
    parts = [
        _distance(y[start : start + step, None], x[start : start + step, None], centers[None]).argmin(axis=1)
        for start in range(0, len(y), step)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _distance(y: np.ndarray, x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    dy = centers[..., 0].astype(y.dtype) - y
    dx = centers[..., 1].astype(x.dtype) - x
    return np.sqrt(dy * dy + dx * dx)
