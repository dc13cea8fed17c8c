"""PQ, AP and mIoU of any panoptic data set from one call, by metrics that are tested against official tools."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from paddleseg_ext.data.datasets.panoptic import classes_of
from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics import CocoInstanceAP, ConfusionMatrix, PanopticEvaluator, PanopticQuality, Segment
from paddleseg_ext.metrics.cityscapes import CATEGORIES, THINGS, panoptic_segments

PLACES = {category.id: k for k, category in enumerate(CATEGORIES)}


def as_classes(segments: list[Segment]) -> list[Segment]:
    return [segment._replace(category_id=PLACES[segment.category_id]) for segment in segments]


def feed(evaluator: PanopticEvaluator, images: list, indices: list[int]) -> PanopticEvaluator:
    for index in indices:
        image = images[index]
        truth = panoptic_segments(*np.unique(image.instance, return_counts=True))
        label = np.where(np.isin(image.instance, [s.id for s in truth]), image.instance, 0)
        pred, segments = as_classes(image.segments), as_classes(truth)
        evaluator.update(
            image.pred,
            pred,
            label,
            segments,
            semantic=image.semantic % 19,
            classes=classes_of(label, segments),
            index=index,
        )
    return evaluator


def test_the_figures_are_those_of_the_three_metrics(fuzz_images: Callable) -> None:
    images = fuzz_images(3)
    result = feed(PanopticEvaluator(CATEGORIES), images, [0, 1, 2, 3, 4, 5]).result()
    quality, matrix, precision = PanopticQuality(CATEGORIES), ConfusionMatrix(19), CocoInstanceAP(THINGS)
    for image in images:
        truth = panoptic_segments(*np.unique(image.instance, return_counts=True))
        label = np.where(np.isin(image.instance, [s.id for s in truth]), image.instance, 0)
        quality.update(image.pred, image.segments, label, truth)
        precision.update(image.pred, image.segments, label, truth)
        matrix.update(image.semantic % 19, classes_of(label, as_classes(truth)))
    assert result.panoptic == quality.result()
    assert result.instance == precision.result() and result.instance.mean_ap > 0
    assert result.semantic.miou == matrix.result().miou
    assert [entry["id"] for entry in result.to_dict()["panoptic"]["classes"]] == [c.id for c in CATEGORIES]
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.summary().count("\n") == 2


def test_two_processes_give_the_figures_of_one(fuzz_images: Callable) -> None:
    images = fuzz_images(5)
    whole = feed(PanopticEvaluator(CATEGORIES), images, [0, 1, 2, 3, 4, 5])
    total = PanopticEvaluator(CATEGORIES)
    for part in ([1, 3, 5], [0, 2, 4]):
        total.merge_state(feed(PanopticEvaluator(CATEGORIES), images, part).state())
    assert total.result() == whole.result()


def test_classes_beyond_the_data_sets_are_refused() -> None:
    evaluator, ones = PanopticEvaluator(CATEGORIES), np.ones((2, 2), np.int64)
    with pytest.raises(DataError, match=r"image: prediction: the segments have unknown categories \[19\]"):
        evaluator.update(ones, [Segment(1, 19)], ones, [Segment(1, 0)], semantic=ones, classes=ones)
