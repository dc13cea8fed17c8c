"""Pictures of segments: every colour where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_ext.errors import ConfigError, DataError
from paddleseg_ext.panoptic_pictures import (
    colorize_segments,
    panoptic_comparison,
    panoptic_overlay,
    segment_colors,
)
from paddleseg_ext.segments import Segment

COLORS = np.array([[128, 64, 128], [0, 0, 142]], np.uint8)
THINGS = (1,)
SEGMENTS = [Segment(1, 0), Segment(1001, 1), Segment(1002, 1)]
IDS = np.array([[1, 1, 1, 1, 1], [1, 1001, 1001, 1002, 1], [1, 1001, 1001, 1002, 0]])


def test_stuff_has_its_colour_and_every_object_another_shade() -> None:
    many = [Segment(ident, 1) for ident in range(1, 41)]
    colors = segment_colors(many, COLORS, THINGS)
    assert len({tuple(color) for color in colors.tolist()}) == 40
    assert (colors[:, 2] > colors[:, :2].max(axis=1)).all()  # all are blue
    np.testing.assert_array_equal(segment_colors(SEGMENTS, COLORS, THINGS)[0], COLORS[0])


def test_void_is_black_and_segments_have_one_colour_each() -> None:
    picture = colorize_segments(IDS, SEGMENTS, COLORS, THINGS)
    table = segment_colors(SEGMENTS, COLORS, THINGS)
    assert picture[2, 4].tolist() == [0, 0, 0]
    for place, segment in enumerate(SEGMENTS):
        assert (picture[segment.id == IDS] == table[place]).all()


def test_an_overlay_leaves_void_as_it_is_and_draws_contours_around_objects() -> None:
    image = np.full((3, 5, 3), 100, np.uint8)
    table = segment_colors(SEGMENTS, COLORS, THINGS)
    plain = panoptic_overlay(image, IDS, SEGMENTS, COLORS, THINGS, opacity=1.0, contours=False)
    np.testing.assert_array_equal(plain[2, 4], [100, 100, 100])
    np.testing.assert_array_equal(plain[1, 1], table[1])
    lined = panoptic_overlay(image, IDS, SEGMENTS, COLORS, THINGS, opacity=1.0)
    white = (lined == 255).all(axis=2)
    np.testing.assert_array_equal(white, [[0, 1, 1, 1, 0], [1, 0, 1, 1, 0], [1, 0, 1, 1, 0]])


def test_names_change_only_pixels_near_objects() -> None:
    image, ids = np.zeros((128, 256, 3), np.uint8), np.ones((128, 256), np.int32)
    ids[20:60, 20:80] = 1001
    arguments = (image, ids, SEGMENTS[:2], COLORS, THINGS)
    without = panoptic_overlay(*arguments)
    named = panoptic_overlay(*arguments, names=("road", "car"))
    rows, cols, _ = np.nonzero(named != without)
    assert len(rows) and rows.min() >= 20 and rows.max() < 60 and cols.min() >= 20 and cols.max() < 80


def test_a_comparison_shows_four_pictures_and_the_classes_in_sight() -> None:
    image, ids = np.zeros((32, 64, 3), np.uint8), np.ones((32, 64), np.int32)
    part = (ids, SEGMENTS[:1])
    panel = panoptic_comparison(image, part, part, classes=("road", "car"), colors=COLORS, thing_ids=THINGS)
    assert panel.shape[1] > 2 * 64 and panel.shape[0] > 2 * 32
    assert (panel == COLORS[0]).all(axis=2).sum() > 2 * 32 * 64  # ground truth, prediction, legend


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="expected one size"):
        panoptic_overlay(np.zeros((2, 2, 3), np.uint8), IDS, SEGMENTS, COLORS, THINGS)
    with pytest.raises(ConfigError, match="opacity: 2"):
        panoptic_overlay(np.zeros((3, 5, 3), np.uint8), IDS, SEGMENTS, COLORS, THINGS, opacity=2)
