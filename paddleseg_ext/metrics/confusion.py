"""Semantic segmentation: IoU, Dice, accuracy, precision, recall and kappa from one confusion matrix.

K classes. `I` is a class's intersection, `L` its label pixels, `P` its predicted pixels, all where the label is not
ignored: IoU = I / (L + P - I), Dice = 2 I / (L + P), recall = I / L, precision = I / P.

Two conventions for classes that do not occur:
- "present", which equals cityscapesScripts to the last bit: a class with neither label nor predicted pixels has no
  IoU (NaN, shown as "-") and is left out of the mean. A class that is predicted but never labelled has IoU 0, and
  counts. A value whose denominator is 0 is NaN.
- "paddleseg": an absent class has IoU 1, as if it were segmented perfectly, and Dice 0; precision and recall without a
  denominator are 0; the means are over all K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics.figures import or_none, percent, shown
from paddleseg_ext.metrics.runs import check_maps, joint_runs, total

CONVENTIONS = ("present", "paddleseg")


@dataclass(frozen=True)
class SegmentationResult:
    """The figures of an evaluation; all are in 0..1, except kappa, which can be negative.

    Attributes:
        classes: K names.
        convention: how absent classes count, see the module.
        num_images: images counted.
        num_pixels: pixels counted, those with an ignored label left out.
        label_pixels: K numbers of labelled pixels.
        pred_pixels: K numbers of predicted pixels.
        iou: K values; NaN for a class that does not occur.
        dice: K values; NaN for a class that does not occur.
        precision: K values; NaN for a class that is never predicted.
        recall: K values; NaN for a class that is never labelled.
        miou: mean of `iou`.
        mdice: mean of `dice`.
        mean_accuracy: mean of `recall`, what other tools call mAcc.
        accuracy: share of pixels that are right.
        kappa: Cohen's kappa, agreement beyond chance. Where chance alone would agree everywhere (label and prediction
            are one and the same class) it is 1, the limit of perfect agreement, and not 0 / 0.
    """

    classes: tuple[str, ...]
    convention: str
    num_images: int
    num_pixels: int
    label_pixels: tuple[int, ...]
    pred_pixels: tuple[int, ...]
    iou: tuple[float, ...]
    dice: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    miou: float
    mdice: float
    mean_accuracy: float
    accuracy: float
    kappa: float

    @property
    def class_accuracy(self) -> tuple[float, ...]:
        """Share of each class's labelled pixels that are right, which is its recall."""
        return self.recall

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes that are neither labelled nor predicted anywhere."""
        counts = zip(self.classes, self.label_pixels, self.pred_pixels)
        return tuple(name for name, label, pred in counts if label == pred == 0)

    def summary(self) -> str:
        """One line: "mIoU 0.7512, accuracy 0.9533, kappa 0.9391, Dice 0.8477 over 18 of 19 classes (absent: train)"."""
        present = len(self.classes) - len(self.absent)
        names = f" (absent: {', '.join(self.absent)})" if self.absent else ""
        rule = ", absent classes counted as PaddleSeg does" if self.convention == "paddleseg" else ""
        return (
            f"mIoU {shown(self.miou)}, accuracy {shown(self.accuracy)}, kappa {shown(self.kappa)}, "
            f"Dice {shown(self.mdice)} over {present} of {len(self.classes)} classes{names}{rule}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON; what has no value is None."""
        means = {
            "mIoU": self.miou,
            "accuracy": self.accuracy,
            "mean_accuracy": self.mean_accuracy,
            "kappa": self.kappa,
            "mDice": self.mdice,
        }
        return {
            "convention": self.convention,
            "num_images": self.num_images,
            "num_pixels": self.num_pixels,
            **{name: or_none(value) for name, value in means.items()},
            "absent_classes": list(self.absent),
            "classes": [
                {
                    "name": name,
                    "iou": or_none(self.iou[k]),
                    "dice": or_none(self.dice[k]),
                    "accuracy": or_none(self.class_accuracy[k]),
                    "precision": or_none(self.precision[k]),
                    "recall": or_none(self.recall[k]),
                    "label_pixels": self.label_pixels[k],
                    "pred_pixels": self.pred_pixels[k],
                }
                for k, name in enumerate(self.classes)
            ],
        }

    def table(self) -> Table:
        """The figures by class name, in per cent, for the console."""
        table = Table()
        table.add_column("class")
        for column in ("IoU", "Dice", "accuracy", "precision", "share of pixels"):
            table.add_column(column, justify="right")
        for k, name in enumerate(self.classes):
            share = self.label_pixels[k] / self.num_pixels if self.num_pixels else math.nan
            values = (self.iou[k], self.dice[k], self.recall[k], self.precision[k], share)
            table.add_row(name, *map(percent, values))
        table.add_section()
        table.add_row("mean", *map(percent, (self.miou, self.mdice, self.mean_accuracy)), "", "")
        return table


class ConfusionMatrix:
    """Pixels counted by label and prediction.

    Args:
        num_classes: K.
        ignore_index: label of the pixels that do not count.
        allow_void: whether a prediction may be `ignore_index` too. Such pixels miss their label's class and are no
            other class's, as cityscapesScripts counts a predicted void. Without it they are an error, since a
            network with K outputs cannot predict them.

    Attributes:
        matrix: (K, K + 1) int64; row = label, column = prediction, the last column is void. It is not normalised.
        num_images: calls of `update`, those of merged matrices included.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, *, allow_void: bool = False) -> None:
        if num_classes < 1 or 0 <= ignore_index < num_classes:
            raise ValueError(f"num_classes {num_classes}, ignore_index {ignore_index}; expected K >= 1, index not in K")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.allow_void = allow_void
        self.matrix = np.zeros((num_classes, num_classes + 1), np.int64)
        self.num_images = 0

    def update(self, pred: np.ndarray, label: np.ndarray, image: str = "image") -> None:
        """Counts the pixels of an image.

        Args:
            pred: (H, W) integers in 0..K-1.
            label: (H, W) integers in 0..K-1, or `ignore_index`.
            image: its name, for messages.

        Raises:
            DataError: if the shapes differ or a value is no class; nothing is counted then.
            TypeError: if one of the maps does not hold integers.
        """
        pred, label = np.asarray(pred), np.asarray(label)
        check_maps(label, pred, image)
        runs = joint_runs(label, pred)
        rows = self._indices(runs.first, image, "label", may_ignore=True)
        columns = self._indices(runs.second, image, "prediction", may_ignore=self.allow_void)
        size = self.num_classes + 1
        counts = total(rows * size + columns, runs.lengths, size * size).reshape(size, size)
        self.matrix += counts[:-1]
        self.num_images += 1

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds what another matrix, of another process, has counted.

        Raises:
            ValueError: if it counts other classes.
        """
        if (other.num_classes, other.ignore_index) != (self.num_classes, self.ignore_index):
            raise ValueError(f"merge: {other.num_classes} classes into {self.num_classes}, or other ignore_index")
        self.matrix += other.matrix
        self.num_images += other.num_images

    def state(self) -> np.ndarray:
        """All counts as one vector: (K * (K + 1) + 1,) int64.

        The sum of the states of several processes is the state of the merged matrix, so that one all-reduce merges.
        """
        return np.append(self.matrix.ravel(), self.num_images)

    def load_state(self, state: np.ndarray) -> None:
        """Takes over counts that `state` returned.

        Raises:
            ValueError: if they are of another number of classes.
        """
        if np.shape(state) != (self.matrix.size + 1,):
            raise ValueError(f"state has shape {np.shape(state)}; expected ({self.matrix.size + 1},)")
        self.matrix = np.array(state[:-1], np.int64).reshape(self.matrix.shape)
        self.num_images = int(state[-1])

    def result(self, classes: Sequence[str] | None = None, *, convention: str = "present") -> SegmentationResult:
        """The figures.

        Args:
            classes: K names; numbers by default.
            convention: "present" or "paddleseg", see the module.
        """
        names = tuple(map(str, range(self.num_classes))) if classes is None else tuple(classes)
        if len(names) != self.num_classes:
            raise ValueError(f"classes: {len(names)} names for {self.num_classes} classes")
        if convention not in CONVENTIONS:
            raise ValueError(f"convention {convention!r}; expected one of {', '.join(CONVENTIONS)}")
        right = np.diagonal(self.matrix).tolist()
        label = self.matrix.sum(axis=1).tolist()
        pred = self.matrix[:, :-1].sum(axis=0).tolist()
        return SegmentationResult(
            classes=names,
            convention=convention,
            num_images=self.num_images,
            num_pixels=sum(label),
            label_pixels=tuple(label),
            pred_pixels=tuple(pred),
            kappa=_kappa(right, label, pred),
            **_ratios(right, label, pred, paddleseg=convention == "paddleseg"),
        )

    def _indices(self, values: np.ndarray, image: str, what: str, *, may_ignore: bool) -> np.ndarray:
        """Rows or columns of the (K + 1, K + 1) count: the class, or K for what is ignored."""
        if values.dtype == np.uint8:
            table = np.full(max(256, self.num_classes), -1)
            table[: self.num_classes] = np.arange(self.num_classes)
            if may_ignore and 0 <= self.ignore_index < 256:
                table[self.ignore_index] = self.num_classes
            indices = table[values]
            if not indices.size or indices.min() >= 0:
                return indices
        wrong = (values < 0) | (values >= self.num_classes)
        indices = values.astype(np.int64)
        if may_ignore:
            ignored = values == self.ignore_index
            wrong &= ~ignored
            indices[ignored] = self.num_classes
        if wrong.any():
            found = np.unique(values[wrong]).tolist()
            listed = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
            allowed = f"0..{self.num_classes - 1}" + (f" and ignore {self.ignore_index}" if may_ignore else "")
            raise DataError(
                f"{image}: the {what} has values {{{listed}}}; expected {allowed}; "
                "check num_classes and whether the ids are train ids"
            )
        return indices


def _ratios(right: Sequence[int], label: Sequence[int], pred: Sequence[int], *, paddleseg: bool) -> dict[str, Any]:
    """The figures of a result that are ratios of pixels, and their means, by name."""
    nothing = 0.0 if paddleseg else math.nan
    mean = _plain_mean if paddleseg else _mean_of_present
    iou = tuple(_ratio(i, a + p - i, 1.0 if paddleseg else math.nan) for i, a, p in zip(right, label, pred))
    dice = tuple(_ratio(2 * i, a + p, nothing) for i, a, p in zip(right, label, pred))
    recall = tuple(_ratio(i, a, nothing) for i, a in zip(right, label))
    return {
        "iou": iou,
        "dice": dice,
        "precision": tuple(_ratio(i, p, nothing) for i, p in zip(right, pred)),
        "recall": recall,
        "miou": mean(iou),
        "mdice": mean(dice),
        "mean_accuracy": mean(recall),
        "accuracy": _ratio(sum(right), sum(pred if paddleseg else label), math.nan),
    }


def _ratio(part: int, whole: int, empty: float) -> float:
    return part / whole if whole else empty


def _mean_of_present(values: Sequence[float]) -> float:
    """Mean of what is not NaN; added from left to right, as cityscapesScripts does (`sum` may compensate errors)."""
    total, count = 0.0, 0
    for value in values:
        if not math.isnan(value):
            total += value
            count += 1
    return total / count if count else math.nan


def _plain_mean(values: Sequence[float]) -> float:
    """Mean of all, added in numpy's order, as PaddleSeg does."""
    return float(np.mean(values))


def _kappa(right: Sequence[int], label: Sequence[int], pred: Sequence[int]) -> float:
    """Cohen's kappa, in whole numbers up to the last division: the products overflow 64 bits."""
    total = sum(label)
    if total == 0:
        return math.nan
    by_chance = sum(a * p for a, p in zip(label, pred))
    if by_chance == total * total:
        return 1.0
    return (total * sum(right) - by_chance) / (total * total - by_chance)
