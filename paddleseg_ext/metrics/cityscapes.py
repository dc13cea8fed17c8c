"""All figures of a panoptic prediction on Cityscapes from one pass over each image.

Label ids 0..33 as published; 19 of them, those with a train id, are evaluated. Their ground truth is the map of
instance ids, from which the panoptic one follows: a label that is ignored in evaluation is void, a thing without
number is a crowd. That differs between the metrics, as in the official tools: caravan 29001 is void for PQ, but a
prediction on it is a false positive for AP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_ext.data.classes import CITYSCAPES_LABELS
from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics.instance import InstanceAP, InstanceResult
from paddleseg_ext.metrics.instance_iou import (
    EVALUATED,
    IDS_PER_CLASS,
    NUM_IDS,
    CityscapesIoU,
    CityscapesIoUResult,
    labels_of,
)
from paddleseg_ext.metrics.panoptic import PanopticQuality, PanopticResult
from paddleseg_ext.metrics.runs import PairTable, pair_table
from paddleseg_ext.metrics.segments import VOID, Category, Segment, check_segments

CATEGORIES = tuple(
    Category(i, CITYSCAPES_LABELS[i].name, CITYSCAPES_LABELS[i].has_instances) for i in EVALUATED
)  # in label ids
THINGS = tuple(category for category in CATEGORIES if category.is_thing)
VOID_IDS = tuple(i for i in range(NUM_IDS) if i not in EVALUATED)
_HAS_INSTANCES = np.array([label.has_instances for label in CITYSCAPES_LABELS])


@dataclass(frozen=True)
class CityscapesResult:
    """The figures of a panoptic evaluation.

    Attributes:
        panoptic: PQ, SQ and RQ.
        instance: AP of the things.
        semantic: IoU and iIoU.
    """

    panoptic: PanopticResult
    instance: InstanceResult
    semantic: CityscapesIoUResult

    def summary(self) -> str:
        """One line for each metric."""
        return "\n".join((self.panoptic.summary(), self.instance.summary(), self.semantic.summary()))

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON; what has no value is None."""
        parts = {"panoptic": self.panoptic, "instance": self.instance, "semantic": self.semantic}
        return {name: part.to_dict() for name, part in parts.items()}


class CityscapesEvaluator:
    """PQ, AP, IoU and iIoU of panoptic predictions.

    Args:
        train_ids: whether predictions name classes by train ids 0..18, as networks do; otherwise by label ids.
    """

    def __init__(self, *, train_ids: bool = True) -> None:
        self.panoptic = PanopticQuality(CATEGORIES)
        self.instance = InstanceAP(THINGS, VOID_IDS)
        self.semantic = CityscapesIoU()
        self._label_ids = dict(enumerate(EVALUATED)) if train_ids else {i: i for i in EVALUATED}

    def update(
        self,
        pred: np.ndarray,
        pred_segments: Sequence[Segment],
        instance: np.ndarray,
        *,
        semantic: np.ndarray | None = None,
        image: str = "image",
        index: int | None = None,
    ) -> None:
        """Counts an image.

        Args:
            pred: (H, W) segment ids; 0 is void.
            pred_segments: one for each id in `pred`, those of things with a score.
            instance: (H, W) instance ids of the ground truth.
            semantic: (H, W) classes from a network's semantic branch, for IoU and iIoU; by default those of the
                segments.
            image: its name, for messages.
            index: its number in the data set; by default one more than the largest so far.

        Raises:
            DataError: if the maps differ in size or do not fit their segments, or the image was counted before.
        """
        check_segments(pred_segments, self._label_ids, f"{image}: prediction")
        segments = [s._replace(category_id=self._label_ids[s.category_id]) for s in pred_segments]
        table = pair_table(instance, pred, image)
        panoptic_table, label_segments = panoptic_truth(table)
        self.panoptic.add(panoptic_table, segments, label_segments, image=image, index=index)
        self.instance.add(table, segments, image=image, index=index)
        if semantic is None:
            label_ids = {VOID: VOID, **{segment.id: segment.category_id for segment in segments}}
            pixels = table
        else:
            label_ids, pixels = self._label_ids, pair_table(instance, semantic, image)
            unknown = sorted(set(pixels.pred.tolist()) - label_ids.keys())
            if unknown:
                raise DataError(f"{image}: the semantic map has the ids {unknown[:5]}; expected the 19 classes")
        labels = np.array([label_ids[ident] for ident in pixels.pred.tolist()], np.int64)
        self.semantic.add(pixels._replace(pred=labels), image=image, index=index)

    def state(self) -> dict[str, Any]:
        """All counts, to be sent to another process (it can be pickled)."""
        return {
            "panoptic": self.panoptic.state(),
            "instance": self.instance.state(),
            "semantic": self.semantic.state(),
        }

    def merge_state(self, state: Mapping[str, Any]) -> None:
        """Adds what another process has counted."""
        self.panoptic.merge_state(state["panoptic"])
        self.instance.merge_state(state["instance"])
        self.semantic.merge_state(state["semantic"])

    def merge(self, other: CityscapesEvaluator) -> None:
        """Adds what another one has counted."""
        self.merge_state(other.state())

    def result(self) -> CityscapesResult:
        """The figures."""
        return CityscapesResult(self.panoptic.result(), self.instance.result(), self.semantic.result())


def panoptic_truth(table: PairTable) -> tuple[PairTable, list[Segment]]:
    """The panoptic ground truth of a table of instance ids: ids of ignored labels become void.

    Returns:
        The table, in which void may come in pieces; the labelled segments, ascending by id.
    """
    ids, areas = table.areas("gt")
    segments = panoptic_segments(ids, areas)
    counted = np.isin(table.gt, [segment.id for segment in segments])
    return table._replace(gt=np.where(counted, table.gt, VOID)), segments


def panoptic_segments(ids: np.ndarray, areas: np.ndarray) -> list[Segment]:
    """The labelled segments of an image, as cityscapesScripts' createPanopticImgs lists them.

    Args:
        ids: instance ids that occur, ascending.
        areas: their pixels.
    """
    return [
        Segment(ident, label, is_crowd=ident < IDS_PER_CLASS and bool(_HAS_INSTANCES[label]), area=area)
        for ident, label, area in zip(ids.tolist(), labels_of(ids).tolist(), areas.tolist())
        if label in EVALUATED
    ]
