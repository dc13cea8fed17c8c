"""Average precision of instances, equal to cityscapesScripts' evalInstanceLevelSemanticLabeling.

The ground truth is a map of instance ids: id * 1000 + k is object k of class id, and an id below 1000 is all that is
labelled with that class as a whole, which for a thing is a group. Predictions are objects with a class and a score,
as a map of ids, or as masks that may overlap.

For each class and each overlap 0.5, 0.55 ... 0.95:
- A prediction matches an object if their IoU is strictly above the overlap; void is not taken out of the union.
  Objects below 100 pixels do not count, neither found nor missed.
- Of several predictions that match one object, the one with the best score is right and the others are wrong.
- A prediction that matches nothing, not even a group or a small object, is wrong, unless more than `overlap` of it is
  void, group or small object (a small group counts twice).
- Void are the labels that are ignored in evaluation, as a whole. Single objects of such a class are not: a prediction
  on caravan 29001 is wrong, on the caravans 29 it is void.
- AP is the area under precision over recall in steps, objects never matched being missed at every score.

A class without objects has no AP (NaN) and is left out of the mean; with objects and without predictions it has 0.
Where the official tool fails with an IndexError (objects and predictions, but at some overlap no object is matched and
every prediction is ignored) AP is 0, since nothing was found.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics.by_image import ByImage
from paddleseg_ext.metrics.figures import or_none, percent, shown
from paddleseg_ext.metrics.runs import PairTable, compact, joint_runs, pair_table, total
from paddleseg_ext.metrics.segments import Category, Segment, check_predicted, check_segments

OVERLAPS = np.arange(0.5, 1.0, 0.05)
MIN_PIXELS = 100
_IDS_PER_CLASS = 1000  # instance id // this = class, from this on


class InstanceMask(NamedTuple):
    """A predicted object as a mask of its own.

    Attributes:
        category_id: its class.
        score: confidence, any finite number.
        mask: (H, W) bool.
    """

    category_id: int
    score: float
    mask: np.ndarray


@dataclass(frozen=True)
class InstanceResult:
    """The figures of an evaluation, in 0..1.

    Attributes:
        categories: classes whose objects are told apart.
        num_images: images counted.
        num_objects: objects of each class that count.
        ap: mean over the overlaps, per class; NaN for a class without objects.
        ap50: AP at overlap 0.5, per class.
        matrix: (classes, overlaps) AP.
        mean_ap: mean over all classes with objects, and overlaps.
        mean_ap50: mean over all classes with objects, at overlap 0.5.
    """

    categories: tuple[Category, ...]
    num_images: int
    num_objects: tuple[int, ...]
    ap: tuple[float, ...]
    ap50: tuple[float, ...]
    matrix: np.ndarray
    mean_ap: float
    mean_ap50: float

    def summary(self) -> str:
        """One line: "AP 0.3210, AP50 0.5714 over 8 of 8 classes"."""
        counted = sum(number > 0 for number in self.num_objects)
        return (
            f"AP {shown(self.mean_ap)}, AP50 {shown(self.mean_ap50)} over {counted} of {len(self.categories)} classes"
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON; what has no value is None."""
        return {
            "num_images": self.num_images,
            "AP": or_none(self.mean_ap),
            "AP50": or_none(self.mean_ap50),
            "overlaps": OVERLAPS.tolist(),
            "classes": [
                {
                    "id": category.id,
                    "name": category.name,
                    "num_objects": self.num_objects[k],
                    "AP": or_none(self.ap[k]),
                    "AP50": or_none(self.ap50[k]),
                    "AP_by_overlap": [or_none(value) for value in self.matrix[k].tolist()],
                }
                for k, category in enumerate(self.categories)
            ],
        }

    def table(self) -> Table:
        """The figures by class name, in per cent, for the console."""
        return table_of(self)


def table_of(result: Any) -> Table:
    """AP by class name, in per cent, for the console; of results that have `ap`, `ap50` and their means."""
    table = Table()
    table.add_column("class")
    for column in ("AP", "AP50", "objects"):
        table.add_column(column, justify="right")
    for k, category in enumerate(result.categories):
        table.add_row(category.name, percent(result.ap[k]), percent(result.ap50[k]), str(result.num_objects[k]))
    table.add_section()
    table.add_row("mean", percent(result.mean_ap), percent(result.mean_ap50), str(sum(result.num_objects)))
    return table


class _Image(NamedTuple):
    """What an image contributes; places of classes are those in `categories`.

    Attributes:
        object_classes: (G,) class of each object that counts.
        pred_classes: (P,) class of each prediction.
        scores: (P,) float64.
        ignored: (P,) float64, share of the prediction that is void, group or small object.
        best_overlaps: (P,) float64, largest IoU with anything labelled with its class; 0 if it touches nothing.
        match_preds: (M,) prediction of each pair that could match.
        match_objects: (M,) its object.
        match_overlaps: (M,) float64, their IoU.
    """

    object_classes: np.ndarray
    pred_classes: np.ndarray
    scores: np.ndarray
    ignored: np.ndarray
    best_overlaps: np.ndarray
    match_preds: np.ndarray
    match_objects: np.ndarray
    match_overlaps: np.ndarray


class InstanceAP(ByImage[_Image]):
    """Collects predictions and objects image by image.

    Args:
        categories: classes whose objects are told apart, with the ids that instance ids are made of.
        void_ids: labels that are ignored in evaluation.
    """

    def __init__(self, categories: Sequence[Category], void_ids: Sequence[int]) -> None:
        super().__init__()
        self.categories = tuple(categories)
        self.void_ids = np.array(sorted(void_ids), np.int64)
        self._places = {category.id: k for k, category in enumerate(self.categories)}

    def update(
        self,
        pred: np.ndarray,
        pred_segments: Sequence[Segment],
        instance: np.ndarray,
        *,
        image: str = "image",
        index: int | None = None,
    ) -> None:
        """Counts an image whose predicted objects do not overlap.

        Args:
            pred: (H, W) segment ids; 0 is void.
            pred_segments: one for each id in `pred`; those of other classes are left out.
            instance: (H, W) instance ids of the ground truth.
            image: its name, for messages.
            index: its number in the data set; by default one more than the largest so far.

        Raises:
            DataError: if the maps differ in size or do not fit their segments, a score is not finite, or the image
                was counted before.
        """
        table = pair_table(instance, pred, image)
        check_predicted(pred_segments, np.unique(table.pred), f"{image}: prediction")
        self.add(table, pred_segments, image=image, index=index)

    def update_masks(
        self, masks: Sequence[InstanceMask], instance: np.ndarray, *, image: str = "image", index: int | None = None
    ) -> None:
        """Counts an image whose predicted objects may overlap; empty masks and other classes are left out.

        Raises:
            DataError: if a mask has another size, a score is not finite, or the image was counted before.
        """
        runs = joint_runs(instance, instance)
        ids, places = compact(runs.first, f"{image}: the label")
        areas = total(places, runs.lengths, len(ids))
        place_of = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
        place_of[ids] = np.arange(len(ids))
        rows, segments = [np.zeros((0, 3), np.int64)], []
        for number, entry in enumerate(masks, 1):
            if entry.category_id not in self._places:
                continue
            counts = _total_under(entry.mask, instance, place_of, f"{image}: mask {number}")
            touched = np.flatnonzero(counts)
            if len(touched):
                rows.append(np.stack([ids[touched], np.full(len(touched), number), counts[touched]], axis=1))
                segments.append(Segment(number, entry.category_id, entry.score))
        gt, pred, pixels = np.concatenate(rows).T
        self.add(PairTable(gt, pred, pixels), segments, image=image, index=index, label_areas=(ids, areas))

    def add(
        self,
        table: PairTable,
        pred_segments: Sequence[Segment],
        *,
        image: str = "image",
        index: int | None = None,
        label_areas: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Counts an image from its table of pairs of instance id and segment id.

        Args:
            table: pairs in any order, each once.
            pred_segments: those of other classes are left out.
            image: its name, for messages.
            index: as in `update`.
            label_areas: all instance ids, ascending, and their pixels; by default the table's, which must then hold
                every pixel.
        """
        index = self._free_index(index, image)
        segments = [segment for segment in pred_segments if segment.category_id in self._places]
        check_segments(segments, self._places, f"{image}: prediction")
        if not all(math.isfinite(segment.score) for segment in segments):
            raise DataError(f"{image}: a predicted object has no finite score; expected a number; check the network")
        ids, areas = table.areas("gt") if label_areas is None else label_areas
        self._images[index] = self._collect(table, segments, ids, areas)

    def result(self) -> InstanceResult:
        """The figures."""
        all_images = _join(self._in_order())
        matrix = np.array(
            [[_average_precision(all_images, k, overlap) for overlap in OVERLAPS] for k in range(len(self.categories))]
        ).reshape(len(self.categories), len(OVERLAPS))
        objects = np.bincount(all_images.object_classes, minlength=len(self.categories))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a mean of nothing but NaN is NaN
            means = float(np.nanmean(matrix)), float(np.nanmean(matrix[:, 0]))
        return InstanceResult(
            categories=self.categories,
            num_images=self.num_images,
            num_objects=tuple(objects.tolist()),
            ap=tuple(float(np.average(row)) for row in matrix),
            ap50=tuple(matrix[:, 0].tolist()),
            matrix=matrix,
            mean_ap=means[0],
            mean_ap50=means[1],
        )

    def _collect(
        self, table: PairTable, segments: Sequence[Segment], gt_ids: np.ndarray, gt_areas: np.ndarray
    ) -> _Image:
        """Reduces a table to what the figures depend on."""
        gt_classes = self._classes_of(gt_ids)
        pred_ids = np.array([segment.id for segment in segments], np.int64)
        pred_classes = np.array([self._places[segment.category_id] for segment in segments], np.int64)
        order = np.argsort(pred_ids)
        rows = np.flatnonzero(np.isin(table.pred, pred_ids))
        p = order[np.searchsorted(pred_ids, table.pred[rows], sorter=order)]
        g = np.searchsorted(gt_ids, table.gt[rows])
        pixels = table.pixels[rows]
        areas = total(p, pixels, len(pred_ids))

        # what each prediction has in common with void, groups and small objects
        group, small = gt_ids < _IDS_PER_CLASS, gt_areas < MIN_PIXELS
        same = pred_classes[p] == gt_classes[g]
        times = np.isin(gt_ids, self.void_ids)[g] + np.where(same, group[g] * 1 + small[g], 0)
        ignored = total(p, times * pixels, len(pred_ids)) / areas

        p, g, pixels = p[same], g[same], pixels[same]
        overlaps = pixels / (gt_areas[g] + areas[p] - pixels)
        best = np.zeros(len(pred_ids))
        np.maximum.at(best, p, overlaps)
        counts = ~(group | small) & (gt_classes >= 0)
        places = np.cumsum(counts) - 1
        could = counts[g] & (overlaps > OVERLAPS[0])
        scores = np.array([segment.score for segment in segments], np.float64)
        return _Image(
            gt_classes[counts], pred_classes, scores, ignored, best, p[could], places[g[could]], overlaps[could]
        )

    def _classes_of(self, instance_ids: np.ndarray) -> np.ndarray:
        """Place of each instance id's class, -1 where it is no class of ours."""
        labels = np.where(instance_ids < _IDS_PER_CLASS, instance_ids, instance_ids // _IDS_PER_CLASS)
        return np.array([self._places.get(label, -1) for label in labels.tolist()], np.int64)


def _total_under(mask: np.ndarray, instance: np.ndarray, place_of: np.ndarray, where: str) -> np.ndarray:
    """Pixels of each instance id under a mask, looked for in its bounding box.

    Args:
        mask: (H, W); what is not 0 belongs to it.
        instance: (H, W) instance ids.
        place_of: place in the result of each id.
        where: image and mask, for messages.
    """
    if mask.shape != instance.shape:
        raise DataError(f"{where} is {mask.shape} but the label is {instance.shape}; expected the same (height, width)")
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.zeros(1, np.int64)
    band = slice(rows[0], rows[-1] + 1)
    columns = np.flatnonzero(mask[band].any(axis=0))
    box = band, slice(columns[0], columns[-1] + 1)
    return np.bincount(place_of[instance[box][mask[box] != 0]])


def _join(images: Sequence[_Image]) -> _Image:
    """All images as one, predictions and objects numbered on."""
    num_preds = np.cumsum([0] + [len(image.scores) for image in images])
    num_objects = np.cumsum([0] + [len(image.object_classes) for image in images])
    shifted = [
        image._replace(match_preds=image.match_preds + num_preds[i], match_objects=image.match_objects + num_objects[i])
        for i, image in enumerate(images)
    ]
    nothing, none = np.empty(0, np.int64), np.empty(0)
    empty = _Image(nothing, nothing, none, none, none, nothing, nothing, none)
    return _Image(*(np.concatenate(arrays) for arrays in zip(empty, *shifted)))


def _average_precision(images: _Image, k: int, overlap: float) -> float:
    """AP of class k at an overlap."""
    num_objects = np.count_nonzero(images.object_classes == k)
    mine = images.pred_classes == k
    if num_objects == 0:
        return math.nan
    if not mine.any():
        return 0.0
    matched = (images.pred_classes[images.match_preds] == k) & (images.match_overlaps > overlap)
    scores, objects = images.scores[images.match_preds[matched]], images.match_objects[matched]
    order = np.lexsort((-scores, objects))  # the best of each object first
    is_best = np.ones(len(order), bool)
    is_best[1:] = objects[order][1:] != objects[order][:-1]
    wrong = mine & (images.best_overlaps <= overlap) & (images.ignored <= overlap)
    y_score = np.concatenate([scores[order], images.scores[wrong]])
    y_true = np.concatenate([is_best, np.zeros(np.count_nonzero(wrong))])
    return _area(y_true, y_score, num_objects - np.count_nonzero(is_best))


def _area(y_true: np.ndarray, y_score: np.ndarray, missed: int) -> float:
    """Area under precision over recall; which numpy functions add is part of the result's last bits.

    Args:
        y_true: 1 for right, 0 for wrong.
        y_score: its score.
        missed: objects that no prediction matches.
    """
    if not len(y_score):
        return 0.0
    order = np.argsort(y_score)
    right_before = np.concatenate([[0.0], np.cumsum(y_true[order])])
    _, first = np.unique(y_score[order], return_index=True)  # equal scores are one point of the curve
    tp = right_before[-1] - right_before[first]
    precision = np.append(tp / (len(y_score) - first), 1.0)
    recall = np.append(tp / (right_before[-1] + missed), 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(np.dot(precision, np.convolve(padded, [-0.5, 0, 0.5], "valid")))
