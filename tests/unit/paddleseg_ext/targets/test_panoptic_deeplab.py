"""Targets of Panoptic-DeepLab against hand computation, and against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paddleseg_ext.segments import Segment
from paddleseg_ext.targets import panoptic_deeplab_targets

THINGS = (2, 3)


def by_loops(panoptic: np.ndarray, segments: list[Segment], sigma: int, small: int) -> dict[str, np.ndarray]:
    """The rules, pixel by pixel."""
    height, width = panoptic.shape
    found = {s.id: s for s in segments}
    out = {name: np.zeros((height, width)) for name in ("center", "center_weights", "offset_weights", "y", "x")}
    out["label"], out["semantic_weights"] = np.full((height, width), 255), np.ones((height, width))
    pixels = {s.id: [(y, x) for y in range(height) for x in range(width) if panoptic[y, x] == s.id] for s in segments}
    for y in range(height):
        for x in range(width):
            segment = found.get(int(panoptic[y, x]))
            if segment is None:
                continue
            mine, thing = pixels[segment.id], segment.category_id in THINGS
            out["label"][y, x] = segment.category_id
            out["center_weights"][y, x] = not segment.is_crowd
            out["offset_weights"][y, x] = thing and not segment.is_crowd
            if thing:
                out["semantic_weights"][y, x] = 3 if len(mine) < small else 1
                out["y"][y, x] = sum(p[0] for p in mine) / len(mine) - y
                out["x"][y, x] = sum(p[1] for p in mine) / len(mine) - x
    for segment in segments:
        mine = pixels[segment.id]
        if segment.category_id in THINGS and mine:
            cy, cx = (round(sum(p[axis] for p in mine) / len(mine)) for axis in (0, 1))
            for y in range(max(0, cy - 3 * sigma - 1), min(height, cy + 3 * sigma + 2)):
                for x in range(max(0, cx - 3 * sigma - 1), min(width, cx + 3 * sigma + 2)):
                    value = math.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))
                    out["center"][y, x] = max(out["center"][y, x], value)
    return out


def random_scene(seed: int, largest: int) -> tuple[np.ndarray, list[Segment]]:
    rng = np.random.default_rng(seed)
    panoptic = np.zeros((24, 40), np.int32)
    ids = (rng.permutation(30)[:12] + 1) * (largest // 31)
    for ident in ids[:-1]:  # the last one has no pixel
        y, x = rng.integers(20), rng.integers(36)
        panoptic[y : y + rng.integers(1, 12), x : x + rng.integers(1, 16)] = ident
    panoptic[0, :5] = largest  # listed nowhere
    segments = [Segment(int(i), int(rng.integers(4)), is_crowd=bool(rng.random() < 0.3)) for i in ids]
    return panoptic, segments


@pytest.mark.parametrize("largest", [33018, 2**24 - 1])
@pytest.mark.parametrize("seed", range(3))
def test_every_map_equals_the_rules_pixel_by_pixel(seed: int, largest: int) -> None:
    panoptic, segments = random_scene(seed, largest)
    targets = panoptic_deeplab_targets(panoptic, segments, thing_ids=THINGS, sigma=2, small_instance_area=40)
    expected = by_loops(panoptic, segments, sigma=2, small=40)
    for name in ("label", "semantic_weights", "center_weights", "offset_weights"):
        np.testing.assert_array_equal(targets[name], expected[name], err_msg=name)
    np.testing.assert_allclose(targets["center"][0], expected["center"], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(targets["offset"], [expected["y"], expected["x"]], rtol=1e-6, atol=1e-6)


def test_shapes_and_types_are_those_that_losses_take() -> None:
    targets = panoptic_deeplab_targets(np.zeros((6, 8), np.int32), [], thing_ids=THINGS)
    assert {name: (array.shape, str(array.dtype)) for name, array in targets.items()} == {
        "label": ((6, 8), "int64"),
        "semantic_weights": ((6, 8), "float32"),
        "center": ((1, 6, 8), "float32"),
        "center_weights": ((6, 8), "float32"),
        "offset": ((2, 6, 8), "float32"),
        "offset_weights": ((6, 8), "float32"),
    }


def test_a_map_of_nothing_but_void_has_no_weight_but_the_semantic_one() -> None:
    targets = panoptic_deeplab_targets(np.full((6, 8), 7), [], thing_ids=THINGS)
    assert (targets["label"] == 255).all()
    assert (targets["semantic_weights"] == 1).all()
    for name in ("center", "center_weights", "offset", "offset_weights"):
        assert not targets[name].any(), name


def test_the_gaussian_is_on_the_rounded_center_and_offsets_lead_to_the_center_itself() -> None:
    panoptic = np.zeros((9, 12), np.int32)
    panoptic[2:4, 5:9] = 1  # centre (2.5, 6.5): halves go to the even number, 2 and 6
    targets = panoptic_deeplab_targets(panoptic, [Segment(1, 2)], thing_ids=THINGS, sigma=2)
    assert targets["center"][0, 2, 6] == 1
    assert (targets["center"] == 1).sum() == 1
    np.testing.assert_allclose(targets["center"][0, 2, 8], math.exp(-4 / 8), rtol=1e-6)
    np.testing.assert_array_equal(targets["offset"][:, 2, 5], [0.5, 1.5])
    np.testing.assert_array_equal(targets["offset"][:, 3, 8], [-0.5, -1.5])
    assert not targets["offset"][:, panoptic == 0].any()


def test_overlapping_gaussians_take_the_larger_value() -> None:
    panoptic = np.zeros((5, 20), np.int32)
    panoptic[2, 5], panoptic[2, 8] = 1, 2
    two = panoptic_deeplab_targets(panoptic, [Segment(1, 2), Segment(2, 3)], thing_ids=THINGS, sigma=2)["center"]
    ones = [
        panoptic_deeplab_targets(panoptic, [Segment(ident, 2)], thing_ids=THINGS, sigma=2)["center"] for ident in (1, 2)
    ]
    np.testing.assert_array_equal(two, np.maximum(*ones))


def test_a_gaussian_reaches_three_sigma_and_one_pixel() -> None:
    panoptic = np.zeros((40, 41), np.int32)
    panoptic[20, 20] = 1
    center = panoptic_deeplab_targets(panoptic, [Segment(1, 2)], thing_ids=THINGS, sigma=3)["center"][0]
    assert np.flatnonzero(center[20]).tolist() == list(range(10, 31))


def test_a_crowd_keeps_class_center_and_offset_but_has_no_weight() -> None:
    panoptic = np.zeros((8, 8), np.int32)
    panoptic[2:5, 2:5] = 2000
    arguments = {"thing_ids": THINGS, "sigma": 1, "small_instance_area": 10}
    crowd = panoptic_deeplab_targets(panoptic, [Segment(2000, 2, is_crowd=True)], **arguments)
    single = panoptic_deeplab_targets(panoptic, [Segment(2000, 2)], **arguments)
    for name in ("label", "semantic_weights", "center", "offset"):
        np.testing.assert_array_equal(crowd[name], single[name], err_msg=name)
    assert (crowd["semantic_weights"][panoptic > 0] == 3).all()
    assert not crowd["center_weights"].any() and not crowd["offset_weights"].any()
    ignored = panoptic_deeplab_targets(
        panoptic, [Segment(2000, 2, is_crowd=True)], **arguments, ignore_crowd_in_semantic=True
    )
    assert (ignored["label"] == 255).all()


def test_stuff_has_a_weight_for_offsets_only_if_that_is_wanted() -> None:
    panoptic = np.full((4, 4), 9, np.int32)
    for ignore, weight in ((True, 0), (False, 1)):
        targets = panoptic_deeplab_targets(panoptic, [Segment(9, 0)], thing_ids=THINGS, ignore_stuff_in_offset=ignore)
        assert (targets["offset_weights"] == weight).all()
        assert (targets["center_weights"] == 1).all() and not targets["center"].any()


def test_the_limit_of_small_instances_is_strict_and_stuff_is_never_small() -> None:
    panoptic = np.zeros((10, 10), np.int32)
    panoptic[0, :9], panoptic[1, :10], panoptic[2, :2] = 1, 2, 3
    segments = [Segment(1, 2), Segment(2, 2), Segment(3, 0)]
    weights = panoptic_deeplab_targets(panoptic, segments, thing_ids=THINGS, small_instance_area=10)["semantic_weights"]
    assert [weights[panoptic == ident].max() for ident in (1, 2, 3)] == [3, 1, 1]


def test_what_the_crop_leaves_of_an_instance_decides() -> None:
    panoptic = np.zeros((12, 12), np.int32)
    panoptic[2:10, 2:10] = 1  # 64 pixels, centre 5.5
    cropped = panoptic[:, 6:]
    targets = panoptic_deeplab_targets(cropped, [Segment(1, 2)], thing_ids=THINGS, sigma=1, small_instance_area=64)
    assert targets["semantic_weights"].max() == 3  # 32 are left
    assert targets["center"][0, 6, 2] == 1  # the mean of columns 0..3 is 1.5, rounded to 2
    np.testing.assert_array_equal(targets["offset"][:, 5, 0], [0.5, 1.5])
