"""Average precision of instances as COCO measures it, equal to pycocotools' COCOeval for masks ("segm").

For each class, each overlap 0.5, 0.55 ... 0.95 and each range of areas (all, small, medium, large):
- The 100 best predictions of a class in an image take objects in the order of their scores: each the free object with
  the largest IoU, at least the overlap; of equal ones the last. Crowds and objects outside the range are taken only
  where no other fits, and a crowd by any number of predictions, with IoU = intersection / prediction.
- A prediction with such an object counts neither as right nor as wrong, nor does one without object whose own area is
  outside the range.
- AP is the mean of the precision at recall 0, 0.01 ... 1, precision being made to fall with recall.

A class without objects in the range has no AP (NaN; -1 there) and is left out of the means. AR is not computed.

Predictions of equal score are taken image by image, in the order of the data set; there, in the order of image ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics.by_image import SegmentMetric
from paddleseg_ext.metrics.figures import or_none, shown
from paddleseg_ext.metrics.instance import InstanceMask, table_of
from paddleseg_ext.metrics.runs import PairTable, total
from paddleseg_ext.metrics.segments import Category, Segment, check_predicted, check_segments

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = {"all": (0, 10**10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 10**10)}
MAX_PREDICTIONS = 100  # of a class, in an image


class LabelMask(NamedTuple):
    """A labelled object as a mask of its own.

    Attributes:
        category_id: its class.
        mask: (H, W) bool.
        is_crowd: whether it is a group whose objects are not told apart.
        area: pixels that decide whether it is small, medium or large; by default those of the mask.
    """

    category_id: int
    mask: np.ndarray
    is_crowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class CocoInstanceResult:
    """The figures of an evaluation, in 0..1; NaN without objects.

    Attributes:
        categories: classes whose objects are told apart.
        num_images: images counted.
        num_objects: objects of each class, without crowds.
        ap: mean over the overlaps, per class.
        ap50: at overlap 0.5, per class.
        mean_ap: mean over classes and overlaps.
        mean_ap50: mean over classes at overlap 0.5.
        mean_ap75: mean over classes at overlap 0.75.
        mean_ap_by_area: of "small" (to 32**2 pixels), "medium" and "large" (from 96**2) objects.
    """

    categories: tuple[Category, ...]
    num_images: int
    num_objects: tuple[int, ...]
    ap: tuple[float, ...]
    ap50: tuple[float, ...]
    mean_ap: float
    mean_ap50: float
    mean_ap75: float
    mean_ap_by_area: dict[str, float]

    def summary(self) -> str:
        """One line: "AP 0.3210, AP50 0.5714, AP75 0.3312, small 0.1512, medium ... over 80 of 80 classes"."""
        areas = ", ".join(f"{name} {shown(value)}" for name, value in self.mean_ap_by_area.items())
        counted = sum(number > 0 for number in self.num_objects)
        return (
            f"AP {shown(self.mean_ap)}, AP50 {shown(self.mean_ap50)}, AP75 {shown(self.mean_ap75)}, {areas} "
            f"over {counted} of {len(self.categories)} classes"
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON; what has no value is None."""
        return {
            "num_images": self.num_images,
            "AP": or_none(self.mean_ap),
            "AP50": or_none(self.mean_ap50),
            "AP75": or_none(self.mean_ap75),
            **{f"AP_{name}": or_none(value) for name, value in self.mean_ap_by_area.items()},
            "classes": [
                {
                    "id": category.id,
                    "name": category.name,
                    "num_objects": self.num_objects[k],
                    "AP": or_none(self.ap[k]),
                    "AP50": or_none(self.ap50[k]),
                }
                for k, category in enumerate(self.categories)
            ],
        }

    def table(self) -> Table:
        """The figures by class name, in per cent, for the console."""
        return table_of(self)


class _Objects(NamedTuple):
    """Predictions (P) or labelled objects (G) of an image, places of classes being those in `categories`.

    Attributes:
        classes: (N,) int64.
        pixels: (N,) int64 of their masks.
        scores: (N,) float64; of predictions.
        crowds: (N,) bool; of labels.
        areas: (N,) that decide about ranges.
    """

    classes: np.ndarray
    pixels: np.ndarray
    scores: np.ndarray
    crowds: np.ndarray
    areas: np.ndarray


class _ClassInImage(NamedTuple):
    """What a class in an image contributes; A ranges of areas, T overlaps, D predictions with the best first.

    Attributes:
        scores: (D,) float64.
        matched: (A, T, D) bool.
        ignored: (A, T, D) bool, neither right nor wrong.
        num_objects: (A,) int64 that can be found.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_objects: np.ndarray


class CocoInstanceAP(SegmentMetric[dict[int, _ClassInImage]]):
    """Collects predictions and objects image by image; those of other classes are left out.

    Args:
        categories: classes whose objects are told apart.
    """

    def add(
        self,
        table: PairTable,
        pred_segments: Sequence[Segment],
        label_segments: Sequence[Segment],
        *,
        image: str = "image",
        index: int | None = None,
    ) -> None:
        """Counts an image whose objects do not overlap from its table of pairs; otherwise as `update`.

        Raises:
            DataError: as `update`, or if a score is not finite.
        """
        check_predicted(pred_segments, np.unique(table.pred), f"{image}: prediction")
        preds, labels = (
            [segment for segment in segments if segment.category_id in self._places]
            for segments in (pred_segments, label_segments)
        )
        check_segments(preds, self._places, f"{image}: prediction")
        check_segments(labels, self._places, f"{image}: label")
        p, g = (_places_of(ids, some) for ids, some in ((table.pred, preds), (table.gt, labels)))
        pred_pixels = total(p[p >= 0], table.pixels[p >= 0], len(preds))
        label_pixels = total(g[g >= 0], table.pixels[g >= 0], len(labels))
        both = (p >= 0) & (g >= 0)
        shared = np.zeros((len(preds), len(labels)), np.int64)
        shared[p[both], g[both]] = table.pixels[both]
        areas = [n if segment.area is None else segment.area for n, segment in zip(label_pixels.tolist(), labels)]
        self._add(self._objects(preds, pred_pixels), self._objects(labels, label_pixels, areas), shared, image, index)

    def update_masks(
        self,
        masks: Sequence[InstanceMask],
        labels: Sequence[LabelMask],
        *,
        image: str = "image",
        index: int | None = None,
    ) -> None:
        """Counts an image whose predictions and objects may overlap; other classes are left out.

        Raises:
            DataError: if the masks differ in size, a score is not finite, or the image was counted before.
        """
        masks = [entry for entry in masks if entry.category_id in self._places]
        labels = [entry for entry in labels if entry.category_id in self._places]
        sizes = {np.shape(entry.mask) for entry in (*masks, *labels)}
        if len(sizes) > 1:
            raise DataError(f"{image}: masks of {sorted(sizes)}; expected one (height, width)")
        pixels = math.prod(sizes.pop()) if sizes else 0
        # whole numbers below 2**53 are exact in float64, and its product is the fast one
        rows, columns = (
            np.array([np.ravel(entry.mask) != 0 for entry in some], np.float64).reshape(len(some), pixels)
            for some in (masks, labels)
        )
        areas = [sum_ if entry.area is None else entry.area for sum_, entry in zip(columns.sum(axis=1), labels)]
        pred_objects = self._objects(masks, rows.sum(axis=1).astype(np.int64))
        label_objects = self._objects(labels, columns.sum(axis=1).astype(np.int64), areas)
        self._add(pred_objects, label_objects, (rows @ columns.T).astype(np.int64), image, index)

    def result(self) -> CocoInstanceResult:
        """The figures."""
        count = len(self.categories)
        # the order of the axes is that in which the means are added
        precision = np.full((len(AREA_RANGES), len(OVERLAPS), len(RECALLS), count), np.nan)
        num_objects, images = [0] * count, self._in_order()
        for k in range(count):
            found = [image[k] for image in images if k in image]
            if found:
                precision[..., k] = _precision(found)
                num_objects[k] = int(sum(entry.num_objects[0] for entry in found))
        whole = precision[0]
        return CocoInstanceResult(
            categories=self.categories,
            num_images=self.num_images,
            num_objects=tuple(num_objects),
            ap=tuple(_mean(whole[..., k]) for k in range(count)),
            ap50=tuple(_mean(whole[0, :, k]) for k in range(count)),
            mean_ap=_mean(whole),
            mean_ap50=_mean(whole[0]),
            mean_ap75=_mean(whole[5]),
            mean_ap_by_area={name: _mean(precision[a]) for a, name in enumerate(AREA_RANGES) if a > 0},
        )

    def _objects(self, entries: Sequence[Any], pixels: np.ndarray, areas: Sequence[float] | None = None) -> _Objects:
        return _Objects(
            classes=np.array([self._places[entry.category_id] for entry in entries], np.int64),
            pixels=pixels,
            scores=np.array([getattr(entry, "score", 1.0) for entry in entries], np.float64),
            crowds=np.array([getattr(entry, "is_crowd", False) for entry in entries], bool),
            areas=pixels if areas is None else np.array(areas),
        )

    def _add(self, preds: _Objects, labels: _Objects, shared: np.ndarray, image: str, index: int | None) -> None:
        """Counts an image whose predictions and objects share (P, G) pixels."""
        index = self._free_index(index, image)
        if not np.isfinite(preds.scores).all():
            raise DataError(f"{image}: a predicted object has no finite score; expected a number; check the network")
        found = {}
        for k in np.union1d(preds.classes, labels.classes).tolist():
            p = np.flatnonzero(preds.classes == k)
            p = p[np.argsort(-preds.scores[p], kind="stable")][:MAX_PREDICTIONS]
            g = np.flatnonzero(labels.classes == k)
            some_preds, some_labels = (_Objects(*(x[i] for x in all_)) for all_, i in ((preds, p), (labels, g)))
            found[k] = _match(some_preds, some_labels, shared[np.ix_(p, g)])
        self._images[index] = found


def _places_of(ids: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """Place of each id in a list, -1 where it is not listed."""
    places = {segment.id: place for place, segment in enumerate(segments)}
    return np.array([places.get(ident, -1) for ident in ids.tolist()], np.int64)


def _match(preds: _Objects, labels: _Objects, shared: np.ndarray) -> _ClassInImage:
    """Matches predictions of a class, the best first, with objects of the class."""
    union = preds.pixels[:, None] + np.where(labels.crowds, 0, labels.pixels - shared)
    ious = shared / np.maximum(union, 1)
    shape = (len(AREA_RANGES), len(OVERLAPS), len(preds.scores))
    matched, ignored, num_objects = np.zeros(shape, bool), np.zeros(shape, bool), []
    for a, (low, high) in enumerate(AREA_RANGES.values()):
        aside = labels.crowds | (labels.areas < low) | (labels.areas > high)
        num_objects.append(np.count_nonzero(~aside))
        order = np.argsort(aside, kind="stable")
        for t, overlap in enumerate(OVERLAPS.tolist()):
            for d, g in _pairs(ious[:, order], aside[order], labels.crowds[order], overlap):
                matched[a, t, d], ignored[a, t, d] = True, aside[order[g]]
        ignored[a] |= ~matched[a] & ((preds.areas < low) | (preds.areas > high))
    return _ClassInImage(preds.scores, matched, ignored, np.array(num_objects))


def _pairs(ious: np.ndarray, aside: np.ndarray, crowds: np.ndarray, overlap: float) -> list[tuple[int, int]]:
    """Which prediction takes which object at an overlap.

    Args:
        ious: (D, G), the best prediction first, objects that are set aside last.
        aside: (G,) bool, crowds and objects outside the range.
        crowds: (G,) bool.
        overlap: least IoU.
    """
    found: list[tuple[int, int]] = []
    taken: set[int] = set()
    fits = ious >= overlap
    for d in np.flatnonzero(fits.any(axis=1)).tolist():
        best = -1
        for g in np.flatnonzero(fits[d]).tolist():
            if g in taken and not crowds[g]:
                continue
            if best < 0 or (ious[d, g] >= ious[d, best] and (aside[best] or not aside[g])):
                best = g
        if best >= 0:
            taken.add(best)
            found.append((d, best))
    return found


def _precision(found: Sequence[_ClassInImage]) -> np.ndarray:
    """(A, T, R) precision of a class at each recall; NaN in ranges without objects."""
    precision = np.full((len(AREA_RANGES), len(OVERLAPS), len(RECALLS)), np.nan)
    num_objects = np.sum([entry.num_objects for entry in found], axis=0)
    scores = np.concatenate([entry.scores for entry in found])
    order = np.argsort(-scores, kind="stable")
    matched, ignored = (
        np.concatenate([getattr(entry, name) for entry in found], axis=2)[..., order] for name in ("matched", "ignored")
    )
    right, wrong = (np.cumsum(x & ~ignored, axis=2).astype(np.float64) for x in (matched, ~matched))
    for a in np.flatnonzero(num_objects).tolist():
        for t in range(len(OVERLAPS)):
            values = right[a, t] / (wrong[a, t] + right[a, t] + np.spacing(1))
            falling = np.append(np.maximum.accumulate(values[::-1])[::-1], 0.0)
            precision[a, t] = falling[np.searchsorted(right[a, t] / num_objects[a], RECALLS, side="left")]
    return precision


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN, in numpy's order of adding."""
    present = values[~np.isnan(values)]
    return float(np.mean(present)) if len(present) else math.nan
