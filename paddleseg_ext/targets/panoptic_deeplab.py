"""What Panoptic-DeepLab learns from a panoptic map: classes, a heat map of centres, and offsets to them.

H W image, S segments. The rules, those of detectron2 (which differ from bowenc0221/panoptic-deeplab@cf8e20b in the
place of the Gaussian alone, there rounded down):
- A thing's centre is the mean of its pixels' coordinates in the map given, so after any crop. Its Gaussian sits on the
  rounded centre (halves to the even number), its offsets lead to the centre itself. Where Gaussians overlap the larger
  value counts.
- A crowd keeps its class, centre and offsets, but neither centre nor offsets have a weight there.
- Stuff has a weight for the centre, where it is 0, and by default none for offsets; void has neither.
- Things below `small_instance_area`, crowds too, weigh more in the semantic loss.

Upstream: facebookresearch/detectron2@02b5c4e projects/Panoptic-DeepLab/panoptic_deeplab/target_generator.py
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from paddleseg_ext.segments import Segment, row_runs, segment_places


def panoptic_deeplab_targets(
    panoptic: np.ndarray,
    segments: Sequence[Segment],
    *,
    thing_ids: Collection[int],
    sigma: int = 8,
    small_instance_area: int = 4096,
    small_instance_weight: float = 3.0,
    ignore_stuff_in_offset: bool = True,
    ignore_crowd_in_semantic: bool = False,
    ignore_index: int = 255,
) -> dict[str, np.ndarray]:
    """Targets of the three branches.

    Args:
        panoptic: (H, W) integers, segment ids; what `segments` does not list is void.
        segments: what the ids mean, each id once; some may have no pixel (left). Categories are 0..K-1.
        thing_ids: classes whose objects are told apart.
        sigma: of the Gaussians in pixels; detectron2 has 10 for Cityscapes, 8 for COCO, as the paper's authors have.
        small_instance_area: things with fewer pixels are small.
        small_instance_weight: semantic weight of their pixels.
        ignore_stuff_in_offset: whether offsets of stuff, which are 0, are left out.
        ignore_crowd_in_semantic: whether crowds are void for the semantic branch.
        ignore_index: class of void.

    Returns:
        label: (H, W) int64 classes, `ignore_index` on void.
        semantic_weights: (H, W) float32, `small_instance_weight` on small things, else 1.
        center: (1, H, W) float32 in 0..1.
        center_weights: (H, W) float32, 1 on all segments but crowds, else 0.
        offset: (2, H, W) float32, (y, x) in pixels: pixel + offset = centre; 0 where no thing is.
        offset_weights: (H, W) float32, 1 on things but crowds, else 0.
    """
    places = segment_places(panoptic, [segment.id for segment in segments])
    regions = _regions(places, len(segments))
    classes = np.array([segment.category_id for segment in segments] + [ignore_index], np.int64)
    crowd = np.array([bool(segment.is_crowd) for segment in segments] + [True])
    thing = np.isin(classes, list(thing_ids))
    thing[-1] = False

    weights = np.where(thing & (regions.areas < small_instance_area), small_instance_weight, 1).astype(np.float32)
    label = np.where(crowd, ignore_index, classes) if ignore_crowd_in_semantic else classes
    offset_weights = ~crowd & thing if ignore_stuff_in_offset else ~crowd
    things = np.flatnonzero(thing[: len(segments)] & (regions.areas[: len(segments)] > 0))
    return {
        "label": label[places],
        "semantic_weights": weights[places],
        "center": _heat_map(places.shape, regions.centers[things], sigma)[None],
        "center_weights": (~crowd).astype(np.float32)[places],
        "offset": _offsets(places, thing, regions.centers),
        "offset_weights": offset_weights.astype(np.float32)[places],
    }


class _Regions(NamedTuple):
    """Segments and, as the last one, void.

    Attributes:
        areas: (S + 1,) int64 pixels.
        centers: (S + 1, 2) float64, mean (y, x) of the pixels; 0 without any.
    """

    areas: np.ndarray
    centers: np.ndarray


def _regions(places: np.ndarray, count: int) -> _Regions:
    """Sums over runs are whole numbers, so means are rounded only once."""
    starts, lengths = row_runs(places)
    keys = places.ravel()[starts]
    y, x = np.divmod(starts, places.shape[1])

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(keys, weights=values, minlength=count + 1)

    areas = total(lengths)
    sums = np.stack([total(y * lengths), total(lengths * (2 * x + lengths - 1) // 2)], axis=1)
    return _Regions(areas.astype(np.int64), sums / np.maximum(areas, 1)[:, None])


def _offsets(places: np.ndarray, thing: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """(2, H, W) float32: the difference of float64 centres and coordinates, rounded."""
    offset = np.zeros((2, places.size), np.float32)
    pixels = np.flatnonzero(thing[places])
    owners = places.ravel()[pixels]
    y, x = np.divmod(pixels, places.shape[1])
    offset[0, pixels] = centers[owners, 0] - y
    offset[1, pixels] = centers[owners, 1] - x
    return offset.reshape(2, *places.shape)


def _heat_map(size: tuple[int, int], centers: np.ndarray, sigma: int) -> np.ndarray:
    """(H, W) float32: a Gaussian at each rounded centre, the larger value where they overlap."""
    height, width = size
    heat = np.zeros(size, np.float32)
    patch = _gaussian(sigma)
    reach = patch.shape[0] // 2
    for y, x in np.rint(centers).astype(np.int64).tolist():
        top, left = max(y - reach, 0), max(x - reach, 0)
        bottom, right = min(y + reach + 1, height), min(x + reach + 1, width)
        part = patch[top - y + reach : bottom - y + reach, left - x + reach : right - x + reach]
        np.maximum(heat[top:bottom, left:right], part, out=heat[top:bottom, left:right])
    return heat


@functools.lru_cache(maxsize=8)
def _gaussian(sigma: int) -> np.ndarray:
    """(6 sigma + 3, 6 sigma + 3) float32 with 1 in the middle."""
    distance = np.arange(-3 * sigma - 1, 3 * sigma + 2, dtype=np.float64) ** 2
    return np.exp(-(distance[None] + distance[:, None]) / (2 * sigma**2)).astype(np.float32)
