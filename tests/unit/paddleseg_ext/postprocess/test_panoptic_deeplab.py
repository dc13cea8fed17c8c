"""Panoptic-DeepLab's post-processing against hand computation, and against a search through all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paddleseg_ext.postprocess import all_segments, argmax_classes, panoptic_deeplab
from paddleseg_ext.postprocess.nearest import nearest_center
from paddleseg_ext.postprocess.panoptic_deeplab import find_centers
from paddleseg_ext.segments import Segment

THINGS = (2, 3)
RULES: dict[str, Any] = {"thing_ids": THINGS, "stuff_area": 5, "nms_kernel": 3}


def logits_of(label: np.ndarray, num_classes: int = 4, value: float = 4.0) -> np.ndarray:
    return np.where(np.arange(num_classes)[:, None, None] == label, value, 0).astype(np.float32)


def heat_of(shape: tuple[int, int], *peaks: tuple[int, int, float]) -> np.ndarray:
    heat = np.zeros((1, *shape), np.float32)
    for y, x, value in peaks:
        heat[0, y, x] = value
    return heat


def no_offset(shape: tuple[int, int]) -> np.ndarray:
    return np.zeros((2, *shape), np.float32)


def brute_force(semantic: np.ndarray, center: np.ndarray, offset: np.ndarray, **rules: Any) -> tuple[np.ndarray, dict]:
    """Ids and scores, by loops over pixels, instances and classes."""
    things, stuff_area, kernel = rules["thing_ids"], rules["stuff_area"], rules["nms_kernel"]
    threshold, top_k = rules.get("threshold", 0.1), rules.get("top_k", 200)
    (num_classes, height, width), heat, half = semantic.shape, center[0], kernel // 2
    label = semantic.argmax(axis=0)
    kept = np.where(heat > threshold, heat, -1)
    windows = np.pad(kept, half, constant_values=-np.inf)
    peaks = []
    for y in range(height):
        for x in range(width):
            if kept[y, x] > 0 and kept[y, x] == windows[y : y + kernel, x : x + kernel].max():
                peaks.append((y, x))
    if len(peaks) >= top_k:
        limit = sorted((kept[p] for p in peaks), reverse=True)[top_k - 1]
        peaks = [p for p in peaks if kept[p] > limit]
    owner = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            if peaks and label[y, x] in things:
                there = offset[:, y, x] + np.array([y, x], offset.dtype)
                squares = [(np.array(p, offset.dtype) - there) ** 2 for p in peaks]
                owner[y, x] = 1 + int(np.argmin([np.sqrt(s[0] + s[1]) for s in squares]))
    ids, scores, counts = np.full((height, width), -1, np.int64), {}, dict.fromkeys(range(num_classes), 0)
    exponents = np.exp(semantic - semantic.max(axis=0))
    for number in range(1, len(peaks) + 1):
        mask = owner == number
        if mask.any():
            winner = int(np.bincount(label[mask], minlength=num_classes).argmax())
            counts[winner] += 1
            ids[mask] = winner * 1000 + counts[winner]
            prob = (exponents[winner] / exponents.sum(axis=0))[mask].mean()
            y, x = (int(axis.mean()) for axis in np.nonzero(mask))
            scores[winner * 1000 + counts[winner]] = float(prob * heat[y, x])
    for k in set(range(num_classes)) - set(things):
        if (label == k).sum() >= stuff_area:
            ids[label == k] = k * 1000
    return ids, scores


def random_maps(seed: int, dtype: Any, shape: tuple[int, int] = (21, 34)) -> tuple[np.ndarray, ...]:
    """Maps with ties: few values of heat, whole offsets, some of them far away."""
    rng = np.random.default_rng(seed)
    blocks = rng.normal(size=(4, 3, 5)).repeat(7, axis=1).repeat(7, axis=2)[:, : shape[0], : shape[1]]
    semantic = (blocks * 4 + rng.normal(size=(4, *shape))).astype(dtype)
    heat = np.where(rng.random((1, *shape)) < 0.05, rng.integers(0, 11, (1, *shape)) / 10, 0).astype(dtype)
    offset = rng.integers(-9, 10, (2, *shape)) / (2 if seed % 2 else 1) * (5 if seed % 3 == 0 else 1)
    return semantic, heat, offset.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_ids_and_scores_equal_the_search_through_all_pairs(seed: int, dtype: Any) -> None:
    maps = random_maps(seed, dtype)
    rules = {**RULES, "top_k": (200, 9)[seed % 2]}
    expected, scores = brute_force(*maps, **rules)
    ids, things = panoptic_deeplab(*maps, **rules)
    np.testing.assert_array_equal(ids, expected)
    assert [segment.id for segment in things] == sorted(scores) and len(things) > 3
    for segment in things:
        assert segment.score == pytest.approx(scores[segment.id], rel=1e-5)
        assert segment.category_id == segment.id // 1000


# Centres


def test_the_threshold_is_strict() -> None:
    heat = heat_of((9, 9), (1, 1, 0.5), (1, 7, 0.25), (7, 4, 0.26))[0]
    assert find_centers(heat, threshold=0.25, nms_kernel=3).tolist() == [[1, 1], [7, 4]]


def test_a_plateau_keeps_all_its_pixels_in_the_order_of_rows() -> None:
    heat = heat_of((9, 9), (4, 2, 0.9), (4, 3, 0.9), (3, 4, 0.9), (4, 4, 0.8))[0]
    assert find_centers(heat, nms_kernel=7).tolist() == [[3, 4], [4, 2], [4, 3]]


def test_a_smaller_peak_in_the_window_of_a_larger_one_is_no_center() -> None:
    heat = heat_of((9, 20), (4, 4, 0.9), (4, 7, 0.8), (4, 8, 0.7))[0]
    assert find_centers(heat, nms_kernel=7).tolist() == [[4, 4]]  # 0.7 is out of its reach but in that of 0.8
    assert find_centers(heat, nms_kernel=5).tolist() == [[4, 4], [4, 7]]


def test_a_peak_in_the_corner_is_a_center() -> None:
    assert find_centers(heat_of((5, 5), (0, 0, 0.4), (4, 4, 0.4))[0], nms_kernel=7).tolist() == [[0, 0], [4, 4]]


@pytest.mark.parametrize(("peaks", "centers"), [(199, 199), (200, 199), (250, 199)])
def test_two_hundred_peaks_leave_at_most_199_centers(peaks: int, centers: int) -> None:
    heat = np.zeros((64, 64), np.float32)
    places = np.arange(peaks)
    heat[places // 16 * 2, places % 16 * 2] = 0.2 + places / 1000
    found = find_centers(heat, nms_kernel=1)
    assert len(found) == centers
    assert found[-1].tolist() == [(peaks - 1) // 16 * 2, (peaks - 1) % 16 * 2]  # the largest heat is the last


def test_ties_at_the_last_place_are_all_dropped() -> None:
    heat = heat_of((3, 20), *((1, x, 0.5) for x in range(0, 12, 2)), (1, 14, 0.9))[0]
    assert find_centers(heat, nms_kernel=1, top_k=3).tolist() == [[1, 14]]
    assert len(find_centers(heat, nms_kernel=1, top_k=8)) == 7
    assert len(find_centers(heat, nms_kernel=1, top_k=None)) == 7


# Grouping and merging


def test_things_in_an_image_without_centers_are_void() -> None:
    label = np.array([[0, 0, 0], [0, 0, 2], [2, 3, 3]])
    ids, things = panoptic_deeplab(logits_of(label), heat_of((3, 3), (0, 0, 0.1)), no_offset((3, 3)), **RULES)
    np.testing.assert_array_equal(ids, [[0, 0, 0], [0, 0, -1], [-1, -1, -1]])
    assert things == []


def test_the_first_of_equally_near_centers_wins() -> None:
    label = np.full((1, 9), 2)
    ids, _ = panoptic_deeplab(logits_of(label), heat_of((1, 9), (0, 2, 0.5), (0, 6, 0.9)), no_offset((1, 9)), **RULES)
    assert ids[0].tolist() == [2001] * 5 + [2002] * 4


def test_an_instance_takes_its_most_frequent_class_and_of_equals_the_smallest() -> None:
    label = np.array([[3, 3, 2, 0, 0, 0, 2, 3, 2, 3]])
    heat = heat_of((1, 10), (0, 1, 0.5), (0, 7, 0.5))
    ids, things = panoptic_deeplab(logits_of(label), heat, no_offset((1, 10)), **{**RULES, "stuff_area": 3})
    assert ids[0].tolist() == [3001] * 3 + [0] * 3 + [2001] * 4
    assert [(s.id, s.category_id) for s in things] == [(2001, 2), (3001, 3)]


def test_instances_are_numbered_by_class_in_the_order_of_their_centers() -> None:
    label = np.array([[2, 2, 3, 3, 2, 2]])
    heat = heat_of((1, 6), (0, 0, 0.2), (0, 2, 0.3), (0, 5, 0.9))
    ids, _ = panoptic_deeplab(logits_of(label), heat, no_offset((1, 6)), **{**RULES, "nms_kernel": 1})
    assert ids[0].tolist() == [2001, 2001, 3001, 3001, 2002, 2002]


def test_a_center_without_pixels_takes_no_number() -> None:
    label = np.array([[0, 0, 0, 0, 0, 2, 2]])
    heat = heat_of((1, 7), (0, 0, 0.9), (0, 6, 0.5))
    ids, things = panoptic_deeplab(logits_of(label), heat, no_offset((1, 7)), **RULES)
    assert ids[0].tolist() == [0] * 5 + [2001] * 2
    assert [segment.id for segment in things] == [2001]


def test_stuff_stays_from_the_limit_on_and_things_have_none() -> None:
    label = np.array([[0, 0, 0, 0, 0, 1, 1, 1, 1, 2]])
    ids, _ = panoptic_deeplab(logits_of(label), heat_of((1, 10), (0, 9, 0.5)), no_offset((1, 10)), **RULES)
    assert ids[0].tolist() == [0] * 5 + [-1] * 4 + [2001]


def test_pixels_follow_their_offsets() -> None:
    label = np.full((1, 8), 2)
    offset = no_offset((1, 8))
    offset[1, 0, :4] = 6  # the left half belongs to the right centre
    offset[1, 0, 4:] = -4
    ids, _ = panoptic_deeplab(logits_of(label), heat_of((1, 8), (0, 1, 0.5), (0, 7, 0.5)), offset, **RULES)
    assert ids[0].tolist() == [2002] * 4 + [2001] * 4


def test_a_score_is_mean_probability_times_the_heat_at_the_middle_of_the_mask() -> None:
    label = np.full((1, 5), 2)
    semantic = logits_of(label, value=2.0)
    heat = heat_of((1, 5), (0, 0, 0.9), (0, 2, 0.05))  # the peak is at the left end, the middle is at 2
    _, things = panoptic_deeplab(semantic, heat, no_offset((1, 5)), **RULES)
    prob = np.exp(2) / (np.exp(2) + 3)
    assert things == [Segment(2001, 2, pytest.approx(prob * 0.05, rel=1e-6))]


def test_of_equal_logits_the_first_class_counts() -> None:
    scores = np.random.default_rng(0).integers(0, 3, (19, 70, 9)).astype(np.float32)
    np.testing.assert_array_equal(argmax_classes(scores), scores.argmax(axis=0))
    assert argmax_classes(scores).dtype == np.uint8


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"offset \(2, 4, 3\); expected"):
        panoptic_deeplab(logits_of(np.zeros((3, 3))), heat_of((3, 3)), no_offset((4, 3)), **RULES)
    with pytest.raises(ValueError, match="nms_kernel is 4; expected an odd number"):
        panoptic_deeplab(
            logits_of(np.zeros((3, 3))), heat_of((3, 3)), no_offset((3, 3)), thing_ids=THINGS, nms_kernel=4
        )


def test_the_input_stays_as_it_is() -> None:
    maps = random_maps(1, np.float32)
    copies = [array.copy() for array in maps]
    panoptic_deeplab(*maps, **RULES)
    for array, copy in zip(maps, copies):
        np.testing.assert_array_equal(array, copy)


def test_segments_for_metrics_have_void_0_and_ids_one_larger() -> None:
    ids, segments = all_segments(np.array([[0, 0, 2001], [-1, 1000, 2001]]), [Segment(2001, 2, 0.25)])
    np.testing.assert_array_equal(ids, [[1, 1, 2002], [0, 1001, 2002]])
    assert segments == [Segment(1, 0), Segment(1001, 1), Segment(2002, 2, 0.25)]


# The search for the nearest centre


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 17, 150])
def test_the_nearest_center_is_that_of_all_pairs_ties_included(count: int, dtype: Any) -> None:
    rng = np.random.default_rng(count)
    centers = np.unique(rng.integers(0, 120, (count, 2)), axis=0)
    y, x = (rng.integers(-80, 400, (2, 4000)) / 2).astype(dtype)  # halves tie, and many points are far outside
    dy, dx = (centers[:, axis].astype(dtype)[:, None] - point for axis, point in enumerate((y, x)))
    np.testing.assert_array_equal(nearest_center(y, x, centers), np.sqrt(dy * dy + dx * dx).argmin(axis=0))


def test_points_that_are_no_numbers_belong_to_the_first_center() -> None:
    y, x = np.array([np.nan, 40.0], np.float32), np.array([3.0, np.inf], np.float32)
    assert nearest_center(y, x, np.array([[0, 0], [40, 3]])).tolist() == [0, 0]
