"""All metrics from one pass, and the panoptic ground truth against cityscapesScripts itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics import CityscapesEvaluator, CityscapesIoU, InstanceAP, PanopticQuality, Segment
from paddleseg_ext.metrics.cityscapes import CATEGORIES, THINGS, VOID_IDS, panoptic_segments, panoptic_truth
from paddleseg_ext.metrics.instance_iou import EVALUATED
from paddleseg_ext.metrics.panoptic import read_ids
from paddleseg_ext.metrics.runs import pair_table


def truth_of(instance: np.ndarray) -> tuple[np.ndarray, list[Segment]]:
    segments = panoptic_segments(*np.unique(instance, return_counts=True))
    return np.where(np.isin(instance, [segment.id for segment in segments]), instance, 0), segments


def as_data(*results: object) -> str:
    return json.dumps([result.to_dict() for result in results])


def test_one_pass_gives_the_figures_of_each_metric_alone(fuzz_images: Callable) -> None:
    evaluator = CityscapesEvaluator(train_ids=False)
    panoptic, instance, semantic = PanopticQuality(CATEGORIES), InstanceAP(THINGS, VOID_IDS), CityscapesIoU()
    for image in fuzz_images(5):
        evaluator.update(image.pred, image.segments, image.instance)
        panoptic.update(image.pred, image.segments, *truth_of(image.instance))
        instance.update(image.pred, image.segments, image.instance)
        classes = np.zeros(2**16, np.int64)
        for segment in image.segments:
            classes[segment.id] = segment.category_id
        semantic.update(classes[image.pred], image.instance)
    result = evaluator.result()
    assert as_data(result.panoptic, result.instance, result.semantic) == as_data(
        panoptic.result(), instance.result(), semantic.result()
    )
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.summary().count("\n") == 2


def test_train_ids_and_a_semantic_map_give_the_same_figures(fuzz_images: Callable) -> None:
    by_label, by_train = CityscapesEvaluator(train_ids=False), CityscapesEvaluator()
    for image in fuzz_images(6):
        by_label.update(image.pred, image.segments, image.instance)
        segments = [s._replace(category_id=EVALUATED.index(s.category_id)) for s in image.segments]
        by_train.update(image.pred, segments, image.instance)
    assert by_train.result().summary() == by_label.result().summary()
    assert as_data(by_train.result()) == as_data(by_label.result())


def test_the_semantic_branch_replaces_the_segments_classes_for_iou() -> None:
    instance = np.array([[7, 7, 26001, 26001]])
    evaluator = CityscapesEvaluator()
    segments = [Segment(1, 13)]
    evaluator.update(np.ones((1, 4), int), segments, instance, semantic=np.array([[0, 0, 13, 13]]))
    assert evaluator.result().semantic.miou == 1.0
    with pytest.raises(DataError, match=r"the semantic map has the ids \[19\]"):
        evaluator.update(np.ones((1, 4), int), segments, instance, semantic=np.array([[0, 0, 13, 19]]))


def test_unknown_classes_are_refused_by_their_own_id() -> None:
    with pytest.raises(DataError, match=r"img: prediction: the segments have unknown categories \[26\]"):
        CityscapesEvaluator().update(np.ones((1, 2), int), [Segment(1, 26)], np.full((1, 2), 7), image="img")


def test_merged_processes_equal_one(fuzz_images: Callable) -> None:
    whole, parts = CityscapesEvaluator(train_ids=False), [CityscapesEvaluator(train_ids=False) for _ in range(2)]
    for i, image in enumerate(fuzz_images(8)):
        whole.update(image.pred, image.segments, image.instance, image=image.name)
        parts[i % 2].update(image.pred, image.segments, image.instance, image=image.name, index=i)
    parts[0].merge(parts[1])
    assert as_data(parts[0].result()) == as_data(whole.result())


def test_the_panoptic_truth_is_what_cityscapesscripts_prepares(tmp_path: Path, fuzz_images: Callable) -> None:
    module = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs")
    images = fuzz_images(9)
    city = tmp_path / "val" / "toytown"
    city.mkdir(parents=True)
    for image in images:
        Image.fromarray(image.instance.astype(np.uint16)).save(city / f"{image.name}_gtFine_instanceIds.png")
    module.convert2panoptic(str(tmp_path), str(tmp_path), useTrainId=False, setNames=["val"])
    prepared = json.loads((tmp_path / "cityscapes_panoptic_val.json").read_text())
    assert [(c["id"], c["name"], bool(c["isthing"])) for c in prepared["categories"]] == [tuple(c) for c in CATEGORIES]
    for image, entry in zip(images, prepared["annotations"]):
        ids, segments = truth_of(image.instance)
        np.testing.assert_array_equal(ids, read_ids(tmp_path / "cityscapes_panoptic_val" / entry["file_name"]))
        assert segments == [Segment.from_coco(segment) for segment in entry["segments_info"]]
        table, from_table = panoptic_truth(pair_table(image.instance, image.pred))
        assert from_table == segments
        assert set(table.gt.tolist()) == set(np.unique(ids).tolist())
