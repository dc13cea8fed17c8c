"""PQ, COCO's AP and mIoU of panoptic predictions on any data set; Cityscapes, whose tools differ, has one of its own.

The objects of AP are those of the panoptic ground truth, which do not overlap and whose areas are its own. The figures
of COCO's instance task, from `instances_val2017.json`, differ a little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_ext.metrics.coco_instance import CocoInstanceAP, CocoInstanceResult
from paddleseg_ext.metrics.confusion import ConfusionMatrix, SegmentationResult
from paddleseg_ext.metrics.panoptic import PanopticQuality, PanopticResult
from paddleseg_ext.metrics.runs import pair_table
from paddleseg_ext.metrics.segments import Category, Segment, check_segments


@dataclass(frozen=True)
class PanopticEvaluation:
    """The figures of an evaluation.

    Attributes:
        panoptic: PQ, SQ and RQ.
        instance: AP of the things, as COCO measures it.
        semantic: IoU of the network's semantic branch.
    """

    panoptic: PanopticResult
    instance: CocoInstanceResult
    semantic: SegmentationResult

    def summary(self) -> str:
        """One line for each metric."""
        return "\n".join((self.panoptic.summary(), self.instance.summary(), self.semantic.summary()))

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON; what has no value is None."""
        parts = {"panoptic": self.panoptic, "instance": self.instance, "semantic": self.semantic}
        return {name: part.to_dict() for name, part in parts.items()}


class PanopticEvaluator:
    """PQ, AP of the things, and IoU of the classes.

    Args:
        categories: K classes with the publisher's ids; predictions and labels name them 0..K-1.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        self.panoptic = PanopticQuality(categories)
        self.instance = CocoInstanceAP([category for category in self.categories if category.is_thing])
        self.semantic = ConfusionMatrix(len(self.categories))

    def update(
        self,
        pred: np.ndarray,
        pred_segments: Sequence[Segment],
        label: np.ndarray,
        label_segments: Sequence[Segment],
        *,
        semantic: np.ndarray,
        classes: np.ndarray,
        image: str = "image",
        index: int | None = None,
    ) -> None:
        """Counts an image.

        Args:
            pred: (H, W) segment ids; 0 is void.
            pred_segments: one for each id in `pred`, those of things with a score.
            label: (H, W) segment ids; 0 is void.
            label_segments: one for each id in `label`.
            semantic: (H, W) predicted classes.
            classes: (H, W) labelled classes, 255 = ignored.
            image: its name, for messages.
            index: its number in the data set; by default one more than the largest so far.

        Raises:
            DataError: if the maps differ in size or do not fit their segments, or the image was counted before.
        """
        pred_segments, label_segments = (
            self._published(segments, f"{image}: {what}")
            for segments, what in ((pred_segments, "prediction"), (label_segments, "label"))
        )
        table = pair_table(label, pred, image)
        self.panoptic.add(table, pred_segments, label_segments, image=image, index=index)
        self.instance.add(table, pred_segments, label_segments, image=image, index=index)
        self.semantic.update(semantic, classes, image)

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
        self.semantic.load_state(self.semantic.state() + state["semantic"])

    def result(self) -> PanopticEvaluation:
        """The figures."""
        names = [category.name for category in self.categories]
        return PanopticEvaluation(self.panoptic.result(), self.instance.result(), self.semantic.result(names))

    def _published(self, segments: Sequence[Segment], where: str) -> list[Segment]:
        check_segments(segments, range(len(self.categories)), where)
        return [segment._replace(category_id=self.categories[segment.category_id].id) for segment in segments]
