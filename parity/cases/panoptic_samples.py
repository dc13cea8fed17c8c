"""Made-up maps for the targets and the post-processing of Panoptic-DeepLab, and what the port makes of them.

Cases compare the port with a reference on them, and recordings hold what upstream's own code makes of them.

K classes, H W image, I instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from parity import fill, inputs

NUM_CLASSES = 19
THING_IDS = tuple(range(11, 19))  # Cityscapes' train ids; below are stuff
LABEL_DIVISOR = 1000
SIZE = (24, 40)  # of the post-processing's maps

# --- targets --------------------------------------------------------------------------------------------------------

TARGET_SETTINGS: dict[str, dict[str, Any]] = {
    "cityscapes": {"sigma": 10, "small_instance_area": 300, "ignore_stuff_in_offset": True},
    "coco": {"sigma": 8, "small_instance_area": 4096, "ignore_stuff_in_offset": True},
    "stuff_too": {"sigma": 2, "small_instance_area": 0, "ignore_stuff_in_offset": False},
    "crowds_are_void": {
        "sigma": 8,
        "small_instance_area": 300,
        "ignore_stuff_in_offset": True,
        "ignore_crowd_in_semantic": True,
    },
}


def panoptic_map(seed: int) -> tuple[np.ndarray, list[dict[str, int]]]:
    """A panoptic map, (72, 110) int64, and its segments as `{id, category_id, iscrowd}`.

    There are stuff, void, objects of all sizes, some at the border, a crowd, overlapping Gaussians, an object whose
    center is at a half pixel in both directions, and one that has been cropped away.
    """
    height, width = size = (72, 110)
    regions = inputs.labels(1, num_classes=12, ignore=0).make("panoptic.regions", size, seed)[0]
    panoptic = np.where(regions < 4, 0, regions + 100).astype(np.int64)
    segments = []
    for id_ in np.unique(panoptic[panoptic > 0]).tolist():
        category = id_ % 19
        segments.append({"id": id_, "category_id": category, "iscrowd": int(id_ == 112)})
    random = np.random.RandomState(fill.seed_of("panoptic.objects", size, seed))
    boxes = [(10, 20, 13, 23), (10, 23, 14, 27), (0, 0, 5, 9), (67, 100, 72, 110), (40, 50, 60, 75)]
    corners = random.randint(2, 30, (6, 4)) + np.array([15, 60, 0, 0])
    boxes += [(y, x, y + h, x + w) for y, x, h, w in corners]
    for number, (top, left, bottom, right) in enumerate(boxes):
        id_ = 1000 * (11 + number % 8) + number
        panoptic[top : min(bottom, height), left : min(right, width)] = id_
        segments.append({"id": id_, "category_id": 11 + number % 8, "iscrowd": int(number == 8)})
    present = set(np.unique(panoptic).tolist())
    segments = [segment for segment in segments if segment["id"] in present]
    return panoptic, [*segments, {"id": 26099, "category_id": 13, "iscrowd": 0}]


# --- post-processing ------------------------------------------------------------------------------------------------


def _logits(classes: np.ndarray, name: str) -> np.ndarray:
    """(K, H, W) float64 whose largest class is the given one, by margins between 1 and 3."""
    random = np.random.RandomState(fill.seed_of(f"edge.{name}", classes.shape))
    logits = np.round(random.uniform(-1, 1, (NUM_CLASSES, *classes.shape)) * 256) / 256
    chosen = classes[None] == np.arange(NUM_CLASSES)[:, None, None]
    return np.where(chosen, 2.0 + np.abs(logits), logits)


def _heat(points: Sequence[tuple[int, int, float]], background: float = 0.0) -> np.ndarray:
    """(1, H, W) float64, a background with single values."""
    heat = np.full((1, *SIZE), background)
    for y, x, value in points:
        heat[0, y, x] = value
    return heat


def edge_cases() -> dict[str, tuple[Any, ...]]:
    """Name -> (semantic, center, offset, settings), all float64 and of one image, `SIZE`."""
    height, width = SIZE
    road_and_cars = np.where(np.arange(width) < 15, 0, 13)[None].repeat(height, 0)
    cars = np.full(SIZE, 13)
    still = np.zeros((2, *SIZE))
    common = {"thing_ids": THING_IDS, "stuff_area": 64, "top_k": 50}
    grid = [(y, x, 0.2 + 0.01 * (y + x)) for y in range(2, height, 8) for x in range(2, width, 8)]
    level = [(y, x, 0.5) for y, x, _ in grid]
    plateau = [(y, x, 0.5) for y in (10, 11) for x in (20, 21, 22)]
    two_classes = np.where(np.arange(width) % 2, 11, 14)[None].repeat(height, 0)
    stuff = np.full(SIZE, 8)
    stuff[:8, :8], stuff[:7, 20:29], stuff[16:, :5] = 2, 3, 14  # 64 and 63 pixels, and a thing without a center
    random = np.random.RandomState(fill.seed_of("edge.random", SIZE))
    classes = inputs.labels(1, NUM_CLASSES, ignore=5).make("edge.classes", SIZE)[0]
    noise = np.round(random.uniform(-0.3, 0.9, (1, *SIZE)) * 4096) / 4096
    away = np.round(random.standard_normal((2, *SIZE)) * 6 * 256) / 256
    everywhere = {**common, "nms_kernel": 3, "top_k": 200}
    return {
        "no_center": (_logits(road_and_cars, "no_center"), _heat([], 0.05), still, common),
        "at_the_threshold": (
            _logits(cars, "threshold"), _heat([(5, 5, 0.1), (12, 30, np.nextafter(0.1, 1.0))]), still, common,
        ),
        "plateau": (_logits(cars, "plateau"), _heat(plateau), still, common),
        "ties_of_distance": (_logits(cars, "ties"), _heat([(4, 10, 0.4), (4, 20, 0.9), (14, 10, 0.3)]), still, common),
        "more_peaks_than_top_k": (_logits(cars, "top_k"), _heat(grid), still, {**common, "top_k": 5}),
        "as_many_peaks_as_top_k": (_logits(cars, "as_many"), _heat(grid), still, {**common, "top_k": len(grid)}),
        "ties_at_top_k": (_logits(cars, "level"), _heat(level), still, {**common, "top_k": 5}),
        "small_stuff": (_logits(stuff, "small_stuff"), _heat([(12, 12, 0.05)]), still, common),
        "nothing_left": (_logits(road_and_cars, "nothing"), _heat([]), still, {**common, "stuff_area": 10**4}),
        "stuff_only": (_logits(stuff % 11, "stuff_only"), _heat([(12, 12, 0.8)]), still, common),
        "tie_of_votes": (_logits(two_classes, "votes"), _heat([(10, 19, 0.7)]), still, common),
        "center_without_pixels": (
            _logits(road_and_cars, "without"), _heat([(3, 3, 0.9), (12, 30, 0.9), (2, 28, 0.4)]), still + 2.5, common,
        ),
        "large_window": (_logits(cars, "window"), _heat(grid), still, {**common, "nms_kernel": 41, "top_k": 3}),
        "random": (_logits(classes, "random"), noise, away, everywhere),
        "few_of_many": (_logits(classes, "few"), noise, away, {**everywhere, "top_k": 7, "stuff_area": 16}),
    }  # fmt: skip


def segment(
    semantic: np.ndarray, center: np.ndarray, offset: np.ndarray, **settings: Any
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """The port's panoptic ids, (H, W) int64, and (id, class, score) of each instance."""
    from paddleseg_ext.postprocess import panoptic_deeplab

    ids, segments = panoptic_deeplab(semantic, center, offset, **settings)
    return ids, [(found.id, found.category_id, found.score) for found in segments]


def as_points(
    name: str, ids: np.ndarray, instances: Sequence[tuple[int, int, float]], *, discrete: bool = False
) -> dict[str, np.ndarray]:
    """Arrays to compare.

    Args:
        name: prefix of theirs.
        ids: (H, W) panoptic ids.
        instances: (id, class, score) of each.
        discrete: the scores too are whole numbers then, see `_as_integers`.
    """
    found = sorted(instances)
    scores = np.array([score for _, _, score in found], np.float64)
    return {
        f"{name}/panoptic": np.asarray(ids, np.int64),
        f"{name}/instances": np.array([entry[:2] for entry in found], np.int64).reshape(-1, 2),
        f"{name}/scores": _as_integers(scores) if discrete else scores,
    }


def _as_integers(scores: np.ndarray) -> np.ndarray:
    """Scores rounded to units of 1e-6, int64.

    A made-up network's heat can be anything: from 1 on, the units are those of the next power of two, and 10**7 times
    its exponent is added. All scores would overflow to the same integer otherwise, right or wrong.
    """
    exponents = np.maximum(np.frexp(scores)[1], 0).astype(np.int64)
    return np.rint(np.ldexp(scores, -exponents) * 1e6).astype(np.int64) + exponents * 10**7


# --- what the port's data pipeline and post-processing make of them ------------------------------------------------


def data(seed: int) -> dict[str, np.ndarray]:
    """The port's targets for the panoptic map with each of `TARGET_SETTINGS`, and its segments of the edge cases."""
    from paddleseg_ext.segments import Segment
    from paddleseg_ext.targets import panoptic_deeplab_targets

    panoptic, segments = panoptic_map(seed)
    entries = [Segment(s["id"], s["category_id"], is_crowd=bool(s["iscrowd"])) for s in segments]
    points = {}
    for name, settings in TARGET_SETTINGS.items():
        targets = panoptic_deeplab_targets(panoptic, entries, thing_ids=THING_IDS, **settings)
        points.update({f"targets/{name}/{key}": value for key, value in targets.items()})
    for name, (*maps, settings) in edge_cases().items():
        points.update(as_points(f"segments/{name}", *segment(*maps, **settings)))
    return points
