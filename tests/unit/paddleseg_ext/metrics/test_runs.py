"""The pass over two maps, against counting pixel by pixel."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics.runs import joint_runs, pair_table


def count_by_pixels(first: np.ndarray, second: np.ndarray) -> Counter:
    return Counter(zip(first.ravel().tolist(), second.ravel().tolist()))


def count_by_runs(first: np.ndarray, second: np.ndarray) -> Counter:
    runs = joint_runs(first, second)
    counts: Counter = Counter()
    for a, b, length in zip(runs.first.tolist(), runs.second.tolist(), runs.lengths.tolist()):
        counts[a, b] += length
    return counts


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint32])
@pytest.mark.parametrize("cell", [1, 2, 16])
def test_runs_count_what_a_loop_over_pixels_counts(dtype: type, cell: int) -> None:
    rng = np.random.default_rng(cell)
    first, second = (np.kron(rng.integers(0, 200, (8, 9)), np.ones((cell, cell))).astype(dtype) for _ in range(2))
    second = np.roll(second, 1, axis=1)
    assert count_by_runs(first, second) == count_by_pixels(first, second)


def test_restless_maps_of_large_ids_are_counted() -> None:
    first = np.arange(24, dtype=np.int32).reshape(4, 6) * 1000
    assert count_by_runs(first, -first) == count_by_pixels(first, -first)


def test_a_run_goes_on_in_the_next_row() -> None:
    runs = joint_runs(np.zeros((4, 8), np.uint8), np.ones((4, 8), np.uint8))
    assert [array.tolist() for array in runs] == [[0], [1], [32]]


def test_maps_without_pixels_have_no_runs() -> None:
    assert count_by_runs(np.zeros((0, 4), np.int32), np.zeros((0, 4), np.int32)) == Counter()


def test_maps_that_are_not_contiguous_are_read_in_their_own_order() -> None:
    first = np.arange(400, dtype=np.int32).reshape(20, 20)[::2, ::-1]
    second = first.T
    assert count_by_runs(first, second) == count_by_pixels(first, second)


@pytest.mark.parametrize(("factor", "shape"), [(1, (12, 18)), (1000, (12, 18)), (2**23, (12, 18)), (9, (40, 60))])
def test_the_table_holds_each_pair_once_in_ascending_order(factor: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(factor)
    label, pred = (rng.integers(0, 250, shape) * factor for _ in range(2))
    if shape == (40, 60):  # more pairs of ids than the counting table holds
        label, pred = (np.arange(label.size).reshape(shape) // 2 + k for k in (0, 5))
    table = pair_table(label, pred)
    expected = sorted(count_by_pixels(label, pred).items())
    assert list(zip(table.gt.tolist(), table.pred.tolist())) == [pair for pair, _ in expected]
    assert table.pixels.tolist() == [count for _, count in expected]


def test_areas_are_those_of_each_map() -> None:
    label, pred = np.array([[5, 5, 0], [5, 0, 9]]), np.array([[1, 2, 2], [2, 2, 2]])
    table = pair_table(label, pred)
    assert [array.tolist() for array in table.areas("gt")] == [[0, 5, 9], [2, 3, 1]]
    assert [array.tolist() for array in table.areas("pred")] == [[1, 2], [1, 5]]


@pytest.mark.parametrize("value", [-1, 2**31])
def test_ids_out_of_range_are_refused(value: int) -> None:
    with pytest.raises(DataError, match="frankfurt: the prediction has ids"):
        pair_table(np.zeros((2, 2), int), np.array([[0, 0], [0, value]]), "frankfurt")


def test_a_table_of_no_pixels_is_empty() -> None:
    assert [len(array) for array in pair_table(np.zeros((0, 3), int), np.zeros((0, 3), int))] == [0, 0, 0]
