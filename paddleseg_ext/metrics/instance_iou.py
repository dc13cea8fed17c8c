"""IoU and iIoU of Cityscapes, equal to cityscapesScripts' evalPixelLevelSemanticLabeling.

Everything is in label ids 0..33, of which 19 are evaluated. Pixels with another label do not count; a prediction of
another id misses its label and is no false positive.

iIoU (nIoU in the official output) weighs each pixel of an object with (average size of its class) / (its size), so
that small objects count as much as large ones: weighted TP / (weighted TP + FP + weighted FN). Only classes whose
objects are told apart have one, groups of objects do not enter its TP and FN, and false positives are not weighted.
Groups of classes (flat, human, vehicle ...) have both figures too; a pixel is right if its class is in the group.

Sums of weights are added image by image, within an image by instance id, as there, in any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from paddleseg_ext.data.classes import CITYSCAPES_LABELS, IGNORE
from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics.by_image import ByImage
from paddleseg_ext.metrics.figures import or_none, percent, shown
from paddleseg_ext.metrics.runs import PairTable, pair_table, total

NUM_IDS = len(CITYSCAPES_LABELS)
GROUPS = {
    "flat": (7, 8, 9, 10),
    "construction": (11, 12, 13, 14, 15, 16),
    "object": (17, 18, 19, 20),
    "nature": (21, 22),
    "sky": (23,),
    "human": (24, 25),
    "vehicle": (26, 27, 28, 29, 30, 31, 32, 33),
}
# Pixels of an average object, by label id. Source: mcordts/cityscapesScripts evalPixelLevelSemanticLabeling.py
AVERAGE_SIZES = {
    24: 3462.4756337644,
    25: 3930.4788056518,
    26: 12794.0202738185,
    27: 27855.1264367816,
    28: 35732.1511111111,
    31: 67583.7075812274,
    32: 6298.7200839748,
    33: 4672.3249222261,
}
IDS_PER_CLASS = 1000
EVALUATED = tuple(label.id for label in CITYSCAPES_LABELS if label.train_id != IGNORE)
CLASSES = tuple(CITYSCAPES_LABELS[i].name for i in EVALUATED)


def labels_of(instance_ids: np.ndarray) -> np.ndarray:
    """The label id of each instance id: 7 -> 7, 26003 -> 26."""
    return np.where(instance_ids < IDS_PER_CLASS, instance_ids, instance_ids // IDS_PER_CLASS)


@dataclass(frozen=True)
class CityscapesIoUResult:
    """The figures of an evaluation, in 0..1; NaN for what does not occur or is not defined.

    Attributes:
        classes: names of the 19 classes.
        groups: names of the 7 groups.
        num_images: images counted.
        iou: per class.
        iiou: per class; NaN for classes without objects.
        group_iou: per group.
        group_iiou: per group; only "human" and "vehicle" have one.
        miou: mean of `iou`, without NaN; likewise the other means.
        miiou: see above.
        group_miou: see above.
        group_miiou: see above.
        matrix: (34, 34) int64 pixels, row = label id, column = predicted id.
    """

    classes: tuple[str, ...]
    groups: tuple[str, ...]
    num_images: int
    iou: tuple[float, ...]
    iiou: tuple[float, ...]
    group_iou: tuple[float, ...]
    group_iiou: tuple[float, ...]
    miou: float
    miiou: float
    group_miou: float
    group_miiou: float
    matrix: np.ndarray

    def summary(self) -> str:
        """One line: "mIoU 0.8060, iIoU 0.6100, groups 0.9100 and 0.7900"."""
        return (
            f"mIoU {shown(self.miou)}, iIoU {shown(self.miiou)}, "
            f"groups {shown(self.group_miou)} and {shown(self.group_miiou)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON; what has no value is None."""

        def rows(names: Sequence[str], iou: Sequence[float], iiou: Sequence[float]) -> list[dict[str, Any]]:
            return [{"name": n, "iou": or_none(a), "iiou": or_none(b)} for n, a, b in zip(names, iou, iiou)]

        return {
            "num_images": self.num_images,
            "mIoU": or_none(self.miou),
            "iIoU": or_none(self.miiou),
            "group_mIoU": or_none(self.group_miou),
            "group_iIoU": or_none(self.group_miiou),
            "classes": rows(self.classes, self.iou, self.iiou),
            "groups": rows(self.groups, self.group_iou, self.group_iiou),
        }

    def table(self) -> Table:
        """The figures by name, in per cent, for the console."""
        table = Table()
        table.add_column("class")
        table.add_column("IoU", justify="right")
        table.add_column("iIoU", justify="right")
        for name, iou, iiou in zip(self.classes, self.iou, self.iiou):
            table.add_row(name, percent(iou), percent(iiou))
        table.add_section()
        for name, iou, iiou in zip(self.groups, self.group_iou, self.group_iiou):
            table.add_row(f"group {name}", percent(iou), percent(iiou))
        table.add_section()
        table.add_row("mean of classes", percent(self.miou), percent(self.miiou))
        table.add_row("mean of groups", percent(self.group_miou), percent(self.group_miiou))
        return table


class _Weighted(NamedTuple):
    """Weighted pixels of an object.

    Attributes:
        label: its class.
        tp: right.
        fn: missed.
        group_tp: predicted as some class of its group.
        group_fn: predicted as another group.
    """

    label: int
    tp: float
    fn: float
    group_tp: float
    group_fn: float


class CityscapesIoU(ByImage[list[_Weighted]]):
    """Counts pixels and objects image by image."""

    def __init__(self) -> None:
        super().__init__()
        self._matrix = np.zeros((NUM_IDS, NUM_IDS), np.int64)

    def update(
        self,
        pred: np.ndarray,
        instance: np.ndarray,
        label: np.ndarray | None = None,
        *,
        image: str = "image",
        index: int | None = None,
    ) -> None:
        """Counts an image.

        Args:
            pred: (H, W) label ids 0..33.
            instance: (H, W) instance ids of the ground truth: a label id, or label id * 1000 + number.
            label: (H, W) label ids of the ground truth, which `instance` holds too unless they disagree.
            image: its name, for messages.
            index: its number in the data set; by default one more than the largest so far.

        Raises:
            DataError: if the maps differ in size, hold other ids, or the image was counted before.
        """
        table = pair_table(instance, pred, image)
        pixels = None if label is None else pair_table(label, pred, image)
        self.add(table, pixels, image=image, index=index)

    def add(
        self, table: PairTable, pixels: PairTable | None = None, *, image: str = "image", index: int | None = None
    ) -> None:
        """Counts an image from its table of pairs of instance id and predicted label id.

        Args:
            table: pairs in any order; a pair may come several times.
            pixels: the table of label ids and predicted label ids, if the instance ids do not say them.
            image: as in `update`.
            index: as in `update`.
        """
        index = self._free_index(index, image)
        labels, pred, counts = (labels_of(table.gt), table.pred, table.pixels) if pixels is None else pixels
        for name, ids in (("label", labels), ("prediction", pred), ("prediction", table.pred)):
            if len(ids) and ids.max() >= NUM_IDS:
                raise DataError(
                    f"{image}: the {name} has the id {ids.max()}; expected label ids 0..{NUM_IDS - 1}; "
                    "convert train ids with cityscapes_label_ids()"
                )
        self._matrix += total(labels * NUM_IDS + pred, counts, NUM_IDS**2).reshape(NUM_IDS, NUM_IDS)
        self._images[index] = _weigh_objects(table)

    def state(self) -> dict[str, Any]:
        """All that was counted, to be sent to another process (it can be pickled)."""
        return {**super().state(), "matrix": self._matrix.copy()}

    def merge_state(self, state: Mapping[str, Any]) -> None:
        """Adds what another process has counted.

        Raises:
            DataError: if both counted the same image.
        """
        super().merge_state(state)
        self._matrix += state["matrix"]

    def result(self) -> CityscapesIoUResult:
        """The figures."""
        by_class, by_group = self._sum_objects()
        nothing = [0.0, 0.0]
        iou, iiou, group_iou, group_iiou = [], [], [], []
        for i in EVALUATED:
            iou.append(self._iou((i,), (i,)))
            weighs = i in AVERAGE_SIZES
            iiou.append(self._weighted_iou((i,), by_class.get(i, nothing)) if weighs else math.nan)
        for name, ids in GROUPS.items():
            group_iou.append(self._iou(ids, [i for i in ids if i in EVALUATED]))
            weighs = all(CITYSCAPES_LABELS[i].has_instances for i in ids)
            group_iiou.append(self._weighted_iou(ids, by_group.get(name, nothing)) if weighs else math.nan)
        return CityscapesIoUResult(
            classes=CLASSES,
            groups=tuple(GROUPS),
            num_images=self.num_images,
            iou=tuple(iou),
            iiou=tuple(iiou),
            group_iou=tuple(group_iou),
            group_iiou=tuple(group_iiou),
            miou=_mean(iou),
            miiou=_mean(iiou),
            group_miou=_mean(group_iou),
            group_miiou=_mean(group_iiou),
            matrix=self._matrix.copy(),
        )

    def _iou(self, group: Sequence[int], ids: Sequence[int]) -> float:
        """IoU of some ids of a group as one class; what is confused with the rest of the group is no false positive."""
        tp = int(self._matrix[np.ix_(ids, ids)].sum())
        fn = int(self._matrix[list(ids)].sum()) - tp
        whole = tp + self._false_positives(group, ids) + fn
        return tp / whole if whole else math.nan

    def _weighted_iou(self, group: Sequence[int], sums: Sequence[float]) -> float:
        """IoU of a group from weighted TP and FN."""
        tp, fn = sums
        whole = tp + self._false_positives(group, group) + fn  # in this order, which the last bit depends on
        return tp / whole if whole else math.nan

    def _false_positives(self, group: Sequence[int], ids: Sequence[int]) -> int:
        """Pixels of evaluated labels outside a group that are predicted as one of some ids."""
        return int(self._matrix[np.ix_([i for i in EVALUATED if i not in group], ids)].sum())

    def _sum_objects(self) -> tuple[dict[int, list[float]], dict[str, list[float]]]:
        """Weighted TP and FN of each class and group, in the official order."""
        group_of = {i: name for name, ids in GROUPS.items() for i in ids}
        by_class: dict[int, list[float]] = {}
        by_group: dict[str, list[float]] = {}
        for objects in self._in_order():
            for item in objects:
                sums = by_class.setdefault(item.label, [0.0, 0.0])
                sums[0] += item.tp
                sums[1] += item.fn
                sums = by_group.setdefault(group_of[item.label], [0.0, 0.0])
                sums[0] += item.group_tp
                sums[1] += item.group_fn
        return by_class, by_group


def _weigh_objects(table: PairTable) -> list[_Weighted]:
    """The objects of an image, ascending by instance id."""
    ids, places = np.unique(table.gt, return_inverse=True)
    labels = labels_of(ids)
    sizes = total(places, table.pixels, len(ids))
    group_of = np.full(NUM_IDS, -1)
    for number, members in enumerate(GROUPS.values()):
        group_of[list(members)] = number
    wanted = (ids > IDS_PER_CLASS) & np.isin(labels, list(AVERAGE_SIZES))
    row_labels = np.where(wanted, labels, 0)[places]
    right = (table.pred == row_labels) * table.pixels
    in_group = (group_of[table.pred] == group_of[row_labels]) * table.pixels
    tp, group_tp = (total(places, pixels, len(ids)) for pixels in (right, in_group))
    found = []
    for place in np.flatnonzero(wanted).tolist():
        label, size = int(labels[place]), int(sizes[place])
        weight = AVERAGE_SIZES[label] / float(size)
        hits = (int(tp[place]), size - int(tp[place]), int(group_tp[place]), size - int(group_tp[place]))
        found.append(_Weighted(label, *(float(hit) * weight for hit in hits)))
    return found


def _mean(values: Sequence[float]) -> float:
    """Mean of what is not NaN, added from left to right."""
    sum_of, count = 0.0, 0
    for value in values:
        if not math.isnan(value):
            sum_of += value
            count += 1
    return sum_of / count if count else math.nan
