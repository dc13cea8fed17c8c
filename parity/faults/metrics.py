"""Mistakes in the figures of an evaluation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import numpy as np

from parity.faults.fault import Fault, Patient, change_side, kind, set_attributes

Figures = dict[str, Any]


def _figures(name: str, text: str, needs: str, edit: Callable[[Figures], Figures], words: tuple[str, ...]) -> None:
    """A kind that makes other figures of an evaluation that has one called `needs`."""

    def sites(patient: Patient) -> Iterator[Fault]:
        for evaluation, figures in (patient.case.port.metrics or {}).items() if patient.reaches("metrics") else ():
            if needs not in figures():
                continue

            def plant(patient: Patient, stack: ExitStack, evaluation: str = evaluation, figures: Any = figures) -> None:
                wrong = lambda: {**figures(), **edit(figures())}  # noqa: E731
                change_side(patient, stack, metrics={**patient.case.port.metrics, evaluation: wrong})

            figures_of = "|".join(re.escape(figure) for figure in edit(figures()))
            point = f"{re.escape(evaluation)}/({figures_of})"
            yield Fault(name, evaluation, plant, begins="metrics", point=point, words=words)

    kind(name, text)(sites)


def _dice(own: Figures) -> Figures:
    iou = [2 * value / (1 + value) for value in own["IoU"]]
    return {"IoU": iou, "mean IoU": float(np.nanmean(iou))}


def _whole_misses(own: Figures) -> Figures:
    counts = np.array([own["TP"], own["FP"], own["FN"]], np.float64)
    right, half = counts[0], counts[0] + (counts[1] + counts[2]) / 2
    with np.errstate(invalid="ignore"):
        return {"PQ": list(np.array(own["PQ"], np.float64) / (right / half) * (right / counts.sum(axis=0)))}


_figures("metric-dice", "Dice is reported as IoU", "IoU", _dice, ("Dice",))
_figures("metric-whole-misses", "PQ counts what is missed in full, not by half", "TP", _whole_misses, ("half|halves",))
_figures(
    "metric-pq-product",
    "PQ is the mean SQ times the mean RQ",
    "PQ all",
    lambda own: {name: [own[name][1] * own[name][2], *own[name][1:]] for name in own if name.startswith("PQ ")},
    ("product",),
)
_figures("metric-ap50", "AP50 is reported as AP", "AP50", lambda own: {"AP": own["AP50"]}, ("AP is the official AP50",))


@kind("metric-by-image", "IoU is averaged over the images, not computed of all their pixels")
def metric_by_image(patient: Patient) -> Iterator[Fault]:
    """What a batch's mean does."""

    def plant(patient: Patient, stack: ExitStack) -> None:
        from paddleseg_ext.metrics import ConfusionMatrix

        own_update, own_result = ConfusionMatrix.update, ConfusionMatrix.result
        single: list[float] = []

        def update(self: Any, pred: Any, label: Any, image: str = "image") -> None:
            if not self.num_images:
                single.clear()
            alone = type(self)(self.num_classes, self.ignore_index)
            own_update(alone, pred, label, image)
            single.append(own_result(alone).miou)
            own_update(self, pred, label, image)

        def result(self: Any, *arguments: Any, **keywords: Any) -> Any:
            return dataclasses.replace(own_result(self, *arguments, **keywords), miou=float(np.mean(single)))

        set_attributes(stack, ConfusionMatrix, update=update, result=result)

    if "cityscapes_semantic" in (patient.case.port.metrics or {}):
        words = ("mean IoU", "images|mean of the classes")
        yield Fault(
            "metric-by-image",
            "ConfusionMatrix",
            plant,
            begins="metrics",
            point="cityscapes_semantic/mean IoU",
            words=words,
        )


@kind("metric-ignored", "ignored pixels count as the first class")
def metric_ignored(patient: Patient) -> Iterator[Fault]:
    """255 clipped to 0."""

    def plant(patient: Patient, stack: ExitStack) -> None:
        from paddleseg_ext.metrics import ConfusionMatrix

        own = ConfusionMatrix.update

        def update(self: Any, pred: Any, label: Any, image: str = "image") -> None:
            own(self, pred, np.where(label == self.ignore_index, 0, label), image)

        set_attributes(stack, ConfusionMatrix, update=update)

    if "cityscapes_semantic" in (patient.case.port.metrics or {}):
        words = ("IoU", "ignored")
        yield Fault(
            "metric-ignored",
            "ConfusionMatrix",
            plant,
            begins="metrics",
            point="cityscapes_semantic/(mean )?IoU",
            words=words,
        )
