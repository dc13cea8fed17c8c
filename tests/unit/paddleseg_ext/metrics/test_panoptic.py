"""Panoptic quality against the official evaluators, and against what can be computed by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics import Category, PanopticQuality, PanopticResult, Segment
from paddleseg_ext.metrics.cityscapes import CATEGORIES, panoptic_segments
from paddleseg_ext.metrics.panoptic import evaluate_files, read_ids

ROAD_AND_CAR = (Category(7, "road", False), Category(26, "car", True))


def coco(image: Any, segments: list[Segment], file_name: str) -> dict:
    entries = [
        {"id": s.id, "category_id": s.category_id, "iscrowd": int(s.is_crowd), "area": s.area or 0} for s in segments
    ]
    return {"image_id": image.name, "file_name": file_name, "segments_info": entries}


def label_segments(image: Any) -> list[Segment]:
    return panoptic_segments(*np.unique(image.instance, return_counts=True))


def label_map(image: Any) -> np.ndarray:
    return np.where(np.isin(image.instance, [s.id for s in label_segments(image)]), image.instance, 0)


@pytest.fixture
def as_files(tmp_path: Path, write_panoptic: Callable) -> Callable[[list], tuple[dict, dict]]:
    """Writes a data set; its truth and prediction in COCO's format."""

    def write(images: list) -> tuple[dict, dict]:
        categories = [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in CATEGORIES]
        truth: dict = {"categories": categories, "annotations": []}
        predicted: dict = {"annotations": []}
        for image in images:
            name = write_panoptic("truth", image.name, label_map(image))
            truth["annotations"].append(coco(image, label_segments(image), name))
            name = write_panoptic("predicted", image.name, image.pred)
            predicted["annotations"].append(coco(image, image.segments, name))
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        (tmp_path / "predicted.json").write_text(json.dumps(predicted))
        return truth, predicted

    return write


def count(images: list) -> PanopticQuality:
    metric = PanopticQuality(CATEGORIES)
    for image in images:
        metric.update(image.pred, image.segments, label_map(image), label_segments(image))
    return metric


def assert_equal_to_official(result: PanopticResult, expected: dict) -> None:
    for k, category in enumerate(result.categories):
        stat = expected["stat"][category.id]
        assert (result.tp[k], result.fp[k], result.fn[k]) == (stat.tp, stat.fp, stat.fn)
        figures = expected["all"][1][category.id]
        if stat.tp + stat.fp + stat.fn == 0:
            assert figures == {"pq": 0.0, "sq": 0.0, "rq": 0.0}
            assert math.isnan(result.pq[k])
        else:
            assert figures == {"pq": result.pq[k], "sq": result.sq[k], "rq": result.rq[k]}
    for group in ("all", "things", "stuff"):
        np.testing.assert_array_equal(
            list(getattr(result, group)), [expected[group][0][key] for key in ("pq", "sq", "rq", "n")]
        )


@pytest.mark.parametrize("seed", range(6))
def test_every_figure_equals_the_official_tool_to_the_last_bit(
    seed: int, fuzz_images: Callable, official_panoptic: Callable, as_files: Callable
) -> None:
    images = fuzz_images(seed)
    expected = official_panoptic(*as_files(images))
    assert_equal_to_official(count(images).result(), expected)


@pytest.mark.parametrize("chunks", [2, 3, 8])
def test_the_order_of_sums_of_several_processes_is_the_official_one(
    chunks: int, fuzz_images: Callable, official_panoptic: Callable, as_files: Callable
) -> None:
    images = fuzz_images(7)
    expected = official_panoptic(*as_files(images), chunks=chunks)
    assert_equal_to_official(count(images).result(chunks=chunks), expected)


def test_files_give_the_figures_of_the_arrays(tmp_path: Path, fuzz_images: Callable, as_files: Callable) -> None:
    images = fuzz_images(2)
    as_files(images)
    assert evaluate_files(tmp_path / "truth.json", tmp_path / "predicted.json") == count(images).result()


# Rules, one at a time: (label, prediction) as (id, pixels) one after the other


def row(*parts: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.full(pixels, ident) for ident, pixels in parts])[None]


def result_of(
    label: np.ndarray, label_segments: list[Segment], pred: np.ndarray, pred_segments: list[Segment]
) -> PanopticResult:
    metric = PanopticQuality(ROAD_AND_CAR)
    metric.update(pred, pred_segments, label, label_segments)
    return metric.result()


def test_an_iou_of_exactly_one_half_is_no_match() -> None:
    for pixels, tp in ((100, 0), (99, 1)):
        result = result_of(
            row((1, 50), (0, 0), (2, 100)), [Segment(1, 26), Segment(2, 7)], row((5, pixels), (6, 150 - pixels)),
            [Segment(5, 26), Segment(6, 7)],
        )  # fmt: skip
        assert result.tp[1] == tp
        assert result.fp[1] == result.fn[1] == 1 - tp


def test_void_is_taken_out_of_the_union() -> None:
    """A car of 60 pixels predicted with 60 more: IoU 60 / 120 is no match, but 60 / 110 with 10 of them void is."""
    for void, match in ((0, False), (10, True)):
        label = row((1, 60), (0, void), (2, 100 - void))
        result = result_of(label, [Segment(1, 26), Segment(2, 7)], row((5, 120), (0, 40)), [Segment(5, 26)])
        assert (result.tp[1] == 1) == match
    assert result.pq[1] == result.sq[1] == 60 / 110


def test_a_prediction_that_is_more_than_half_void_is_no_false_positive() -> None:
    for void, fp in ((50, 1), (51, 0)):
        label = row((0, void), (2, 200 - void))
        result = result_of(label, [Segment(2, 7)], row((5, 100), (6, 100)), [Segment(5, 26), Segment(6, 7)])
        assert result.fp[1] == fp


def test_a_prediction_on_the_crowd_of_its_class_is_no_false_positive() -> None:
    for category, fp in ((26, 0), (7, 1)):
        segments = [Segment(1, 26, is_crowd=True), Segment(2, 7)]
        result = result_of(row((1, 100), (2, 100)), segments, row((5, 100), (0, 100)), [Segment(5, category)])
        assert sum(result.fp) == fp
        assert (result.fn[0], result.fn[1]) == (1, 0)


def test_of_two_crowds_of_a_class_the_last_listed_counts() -> None:
    crowds = [Segment(1, 26, is_crowd=True), Segment(2, 26, is_crowd=True)]
    label, pred = row((1, 100), (2, 100)), row((5, 100), (0, 100))
    assert result_of(label, crowds, pred, [Segment(5, 26)]).fp[1] == 1
    assert result_of(label, crowds[::-1], pred, [Segment(5, 26)]).fp[1] == 0


def test_a_label_id_that_is_not_listed_is_neither_void_nor_a_segment() -> None:
    label = row((1, 60), (9, 60), (2, 40))
    result = result_of(label, [Segment(1, 26), Segment(2, 7)], row((5, 120), (6, 40)), [Segment(5, 26), Segment(6, 7)])
    assert (result.tp, result.fp, result.fn) == ((1, 0), (0, 1), (0, 1))


def test_the_listed_area_of_a_label_is_trusted() -> None:
    label, pred = row((1, 100)), row((5, 100))
    assert result_of(label, [Segment(1, 26, area=150)], pred, [Segment(5, 26)]).sq[1] == 100 / 150


def test_a_listed_label_without_pixels_is_missed() -> None:
    assert result_of(row((2, 10)), [Segment(1, 26), Segment(2, 7)], row((6, 10)), [Segment(6, 7)]).fn == (0, 1)


def test_a_class_that_does_not_occur_has_no_figure_and_is_left_out() -> None:
    result = result_of(row((2, 10)), [Segment(2, 7)], row((6, 10)), [Segment(6, 7)])
    assert math.isnan(result.pq[1])
    assert (result.all.pq, result.all.n) == (1.0, 1)
    assert math.isnan(result.things.pq)
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["things"] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert "PQ 1.0000, SQ 1.0000, RQ 1.0000 over 1 of 2 classes; things PQ -" in result.summary()


def test_an_image_of_nothing_but_void_changes_nothing() -> None:
    metric = PanopticQuality(ROAD_AND_CAR)
    metric.update(row((5, 10)), [Segment(5, 26)], row((0, 10)), [])
    result = metric.result()
    assert (result.tp, result.fp, result.fn) == ((0, 0), (0, 0), (0, 0))
    assert math.isnan(result.all.pq)


# What is wrong


@pytest.mark.parametrize(
    ("pred", "segments", "message"),
    [
        (row((5, 4)), [], r"img: prediction: the map has the ids \[5\], which no segment lists"),
        (row((0, 4)), [Segment(5, 26)], r"the segments \[5\] have no pixels"),
        (row((5, 4)), [Segment(5, 99)], r"unknown categories \[99\]"),
        (row((5, 4)), [Segment(5, 26), Segment(5, 7)], r"the segments \[5\] are listed twice"),
        (row((0, 4)), [Segment(0, 26)], "a segment has the id 0"),
        (row((5, 5)), [Segment(5, 26)], "the prediction is 1 x 5 but the label is 1 x 4"),
        (row((-5, 4)), [Segment(-5, 26)], "has ids from -5"),
    ],
)
def test_a_map_that_does_not_fit_its_segments_is_refused(
    pred: np.ndarray, segments: list[Segment], message: str
) -> None:
    metric = PanopticQuality(ROAD_AND_CAR)
    with pytest.raises(DataError, match=message):
        metric.update(pred, segments, row((1, 4)), [Segment(1, 26)], image="img")
    assert metric.num_images == 0


def test_an_image_is_counted_once() -> None:
    metric, other = PanopticQuality(ROAD_AND_CAR), PanopticQuality(ROAD_AND_CAR)
    for one in (metric, other):
        one.update(row((0, 4)), [], row((0, 4)), [], index=3)
    with pytest.raises(DataError, match="image 3 was counted before"):
        metric.update(row((0, 4)), [], row((0, 4)), [], index=3)
    with pytest.raises(DataError, match=r"the images \[3\] were counted by two processes"):
        metric.merge(other)


def test_merged_processes_equal_one_to_the_last_bit(fuzz_images: Callable) -> None:
    images = fuzz_images(4)
    parts = [PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES)]
    for i, image in enumerate(images):
        parts[i % 2].update(image.pred, image.segments, label_map(image), label_segments(image), index=i)
    parts[1].merge(parts[0])
    assert parts[1].result() == count(images).result()


def test_an_image_without_prediction_or_with_two_is_refused(
    tmp_path: Path, fuzz_images: Callable, as_files: Callable
) -> None:
    _, predicted = as_files(fuzz_images(0, 2))
    entries = predicted["annotations"]
    for changed, message in ((entries[:1], "there is no prediction for image"), (entries + entries[:1], "twice")):
        (tmp_path / "predicted.json").write_text(json.dumps({"annotations": changed}))
        with pytest.raises(DataError, match=message):
            evaluate_files(tmp_path / "truth.json", tmp_path / "predicted.json")


def test_a_missing_file_is_named(tmp_path: Path, fuzz_images: Callable, as_files: Callable) -> None:
    images = fuzz_images(0, 2)
    as_files(images)
    (tmp_path / "predicted" / f"{images[1].name}.png").unlink()
    with pytest.raises(DataError, match=f"{images[1].name}.png: there is no such file"):
        evaluate_files(tmp_path / "truth.json", tmp_path / "predicted.json")
    with pytest.raises(DataError, match=r"nothing.json: cannot be read"):
        evaluate_files(tmp_path / "nothing.json", tmp_path / "predicted.json")


def test_ids_are_read_from_red_green_and_blue(tmp_path: Path, write_panoptic: Callable) -> None:
    ids = np.array([[0, 1, 256], [65536, 26003, 2**24 - 1]])
    write_panoptic("truth", "image", ids)
    np.testing.assert_array_equal(read_ids(tmp_path / "truth" / "image.png"), ids)
