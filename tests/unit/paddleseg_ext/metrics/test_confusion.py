"""Semantic metrics against hand computations, a loop over pixels, and cityscapesScripts itself."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from paddleseg_ext.data.classes import CITYSCAPES_CLASSES, cityscapes_label_ids
from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics import ConfusionMatrix, SegmentationResult

# Label and prediction of 10 pixels: class 0 right 3 times, class 1 right twice, one 0 taken for 1, two 1 for 0,
# one 1 for 2, one pixel ignored. Class 3 does not occur.
LABEL = np.array([[0, 0, 0, 0, 1], [1, 1, 1, 1, 255]], np.uint8)
PRED = np.array([[0, 0, 0, 1, 1], [1, 0, 0, 2, 0]], np.uint8)


def result_of(label: np.ndarray, pred: np.ndarray, num_classes: int, **options: str) -> SegmentationResult:
    matrix = ConfusionMatrix(num_classes)
    matrix.update(pred, label)
    return matrix.result(**options)


def test_the_figures_of_ten_pixels_are_those_computed_by_hand() -> None:
    result = result_of(LABEL, PRED, 4)
    assert result.num_pixels == 9
    assert result.label_pixels == (4, 5, 0, 0)
    assert result.pred_pixels == (5, 3, 1, 0)
    assert result.iou[:3] == (3 / 6, 2 / 6, 0 / 1)
    assert result.dice[:3] == (6 / 9, 4 / 8, 0.0)
    assert result.precision[:3] == (3 / 5, 2 / 3, 0.0)
    assert result.recall[:2] == (3 / 4, 2 / 5)
    assert result.class_accuracy == result.recall
    assert result.miou == pytest.approx((3 / 6 + 2 / 6 + 0) / 3, rel=1e-15)
    assert result.mdice == pytest.approx((6 / 9 + 4 / 8 + 0) / 3, rel=1e-15)
    assert result.mean_accuracy == pytest.approx((3 / 4 + 2 / 5) / 2, rel=1e-15)
    assert result.accuracy == 5 / 9
    by_chance = (4 * 5 + 5 * 3) / 81
    assert result.kappa == pytest.approx((5 / 9 - by_chance) / (1 - by_chance), rel=1e-14)


def test_a_class_that_does_not_occur_has_no_value_and_is_left_out_of_the_mean() -> None:
    result = result_of(LABEL, PRED, 4)
    assert all(math.isnan(values[3]) for values in (result.iou, result.dice, result.precision, result.recall))
    assert result.absent == ("3",)


def test_a_class_that_is_only_predicted_has_iou_zero_and_counts() -> None:
    result = result_of(LABEL, PRED, 4)
    assert result.iou[2] == 0
    assert math.isnan(result.recall[2])


def test_paddleseg_convention_scores_one_present_class_of_three_as_paddleseg_does() -> None:
    label = np.zeros((4, 4), np.uint8)
    result = result_of(label, label, 3, convention="paddleseg")
    assert (result.miou, result.mdice) == (1.0, 1 / 3)
    assert result.iou == (1.0, 1.0, 1.0)
    assert result.dice == (1.0, 0.0, 0.0)
    assert result.precision == result.recall == (1.0, 0.0, 0.0)


def test_paddleseg_convention_averages_over_all_classes() -> None:
    result = result_of(LABEL, PRED, 4, convention="paddleseg")
    assert result.miou == np.mean([3 / 6, 2 / 6, 0.0, 1.0])
    assert result.mdice == np.mean([6 / 9, 4 / 8, 0.0, 0.0])
    assert result.accuracy == 5 / 9


def test_kappa_of_one_class_everywhere_is_one_and_not_nan() -> None:
    label = np.ones((4, 4), np.uint8)
    assert result_of(label, label, 3).kappa == 1.0


def test_kappa_of_a_constant_prediction_is_zero() -> None:
    assert result_of(LABEL, np.zeros_like(LABEL), 4).kappa == 0.0


def test_kappa_does_not_overflow_on_a_large_data_set() -> None:
    matrix = ConfusionMatrix(2)
    matrix.matrix[:2, :2] = 4_000_000_000
    assert matrix.result().kappa == 0.0


def test_no_pixels_give_no_figures() -> None:
    result = result_of(np.full((2, 2), 255), np.zeros((2, 2), np.uint8), 2)
    assert result.num_pixels == 0
    assert all(math.isnan(value) for value in (result.miou, result.accuracy, result.kappa, result.mdice))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("cell", [1, 16])
def test_the_matrix_is_what_a_loop_over_pixels_counts(dtype: type, cell: int) -> None:
    rng = np.random.default_rng(3)
    label, pred = (np.kron(rng.integers(0, 6, (6, 7)), np.ones((cell, cell), int)) for _ in range(2))
    label[label == 5] = 255
    pred[pred == 5] = 0
    matrix = ConfusionMatrix(5)
    matrix.update(pred.astype(dtype), label.astype(np.uint8))
    expected = np.zeros((5, 5), np.int64)
    for row, column in zip(label.ravel(), pred.ravel()):
        if row != 255:
            expected[row, column] += 1
    np.testing.assert_array_equal(matrix.matrix[:, :5], expected)
    assert matrix.matrix[:, 5].sum() == 0


@pytest.mark.parametrize(("num_classes", "ignore_index"), [(2, -1), (2, 300), (300, 1000)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8])
def test_maps_need_not_be_able_to_hold_the_ignored_value_or_all_classes(
    num_classes: int, ignore_index: int, dtype: type
) -> None:
    matrix = ConfusionMatrix(num_classes, ignore_index)
    matrix.update(np.array([[0, 1, 1]], dtype), np.array([[0, 0, 1]], dtype))
    assert matrix.matrix[:2, :2].tolist() == [[1, 1], [0, 1]]
    assert matrix.matrix.sum() == 3


def test_a_prediction_of_another_size_is_refused_with_the_name_of_the_image() -> None:
    with pytest.raises(DataError, match=r"frankfurt_1: the prediction is 2 x 4 but the label is 2 x 5"):
        ConfusionMatrix(4).update(PRED[:, :4], LABEL, image="frankfurt_1")


@pytest.mark.parametrize("value", [-1, 4, 255, 256, 1000])
def test_a_predicted_id_that_is_no_class_is_refused(value: int) -> None:
    pred = PRED.astype(np.int64)
    pred[0, 2] = value
    matrix = ConfusionMatrix(4)
    with pytest.raises(DataError, match=rf"img: the prediction has values \{{{value}\}}; expected 0..3;"):
        matrix.update(pred, LABEL, image="img")
    assert matrix.matrix.sum() == matrix.num_images == 0


def test_a_predicted_id_that_is_no_class_is_refused_where_the_label_is_ignored_too() -> None:
    pred = PRED.copy()
    pred[1, 4] = 9
    with pytest.raises(DataError, match="prediction"):
        ConfusionMatrix(4).update(pred, LABEL)


@pytest.mark.parametrize("value", [-1, 4, 34, 254])
def test_a_label_that_is_no_class_is_refused(value: int) -> None:
    label = LABEL.astype(np.int16)
    label[0, 0] = value
    with pytest.raises(DataError, match=rf"the label has values \{{{value}\}}; expected 0..3 and ignore 255"):
        ConfusionMatrix(4).update(PRED, label)


def test_logits_are_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        ConfusionMatrix(4).update(PRED.astype(np.float32), LABEL)


def test_void_predictions_miss_their_label_and_are_no_false_positives() -> None:
    pred = PRED.copy()
    pred[0, :2] = 255
    matrix = ConfusionMatrix(4, allow_void=True)
    matrix.update(pred, LABEL)
    result = matrix.result()
    assert result.iou[0] == 1 / 6
    assert result.pred_pixels == (3, 3, 1, 0)
    assert result.accuracy == 3 / 9


def test_merging_two_processes_equals_one() -> None:
    rng = np.random.default_rng(0)
    maps = [(rng.integers(0, 5, (9, 9)), rng.integers(0, 5, (9, 9))) for _ in range(6)]
    whole, parts = ConfusionMatrix(5), [ConfusionMatrix(5), ConfusionMatrix(5)]
    for i, (pred, label) in enumerate(maps):
        whole.update(pred, label)
        parts[i % 2].update(pred, label)
    summed = ConfusionMatrix(5)
    summed.load_state(parts[0].state() + parts[1].state())
    parts[0].merge(parts[1])
    assert parts[0].result() == summed.result() == whole.result()
    assert whole.result().num_images == 6


def test_matrices_of_other_classes_do_not_merge() -> None:
    with pytest.raises(ValueError, match="merge: 4 classes into 5"):
        ConfusionMatrix(5).merge(ConfusionMatrix(4))
    with pytest.raises(ValueError, match="state has shape"):
        ConfusionMatrix(5).load_state(ConfusionMatrix(4).state())


def test_the_result_as_data_has_null_for_what_has_no_value() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(PRED, LABEL)
    data = json.loads(json.dumps(matrix.result(["a", "b", "c", "d"]).to_dict(), allow_nan=False))
    assert data["absent_classes"] == ["d"]
    assert data["accuracy"] == 5 / 9
    assert data["classes"][3]["iou"] is None
    assert data["classes"][0] == {
        "name": "a",
        "iou": 0.5,
        "dice": 6 / 9,
        "accuracy": 0.75,
        "precision": 0.6,
        "recall": 0.75,
        "label_pixels": 4,
        "pred_pixels": 5,
    }


def test_the_table_names_classes_and_shows_a_dash_for_an_absent_one() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(PRED, LABEL)
    out = io.StringIO()
    Console(file=out, width=160).print(matrix.result(["road", "wall", "car", "train"]).table())
    rows = [line.replace("\u2502", " ").split() for line in out.getvalue().splitlines()]
    assert ["road", "50.00", "66.67", "75.00", "60.00", "44.44"] in rows
    assert ["train", "-", "-", "-", "-", "0.00"] in rows
    assert ["mean", "27.78", "38.89", "57.50"] in rows


def test_the_summary_says_which_classes_are_left_out() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(PRED, LABEL)
    names = ["road", "wall", "car", "train"]
    assert matrix.result(names).summary() == (
        "mIoU 0.2778, accuracy 0.5556, kappa 0.2174, Dice 0.3889 over 3 of 4 classes (absent: train)"
    )
    assert matrix.result(names, convention="paddleseg").summary().endswith("absent classes counted as PaddleSeg does")


def test_the_number_of_names_is_checked() -> None:
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        ConfusionMatrix(3).result(["a", "b"])


# cityscapesScripts itself

IDS = cityscapes_label_ids()


def official_scores(folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[float], float]:
    """Class IoUs and their mean from cityscapesScripts, given (prediction, label) maps of train ids."""
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    pred_paths, label_paths = [], []
    for i, (pred, label) in enumerate(pairs):
        pred_paths.append(str(folder / f"{i}_pred.png"))
        label_paths.append(str(folder / f"{i}_gtFine_labelIds.png"))
        Image.fromarray(IDS[pred]).save(pred_paths[-1])
        Image.fromarray(IDS[label]).save(label_paths[-1])
    args = official.args
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    scores = official.evaluateImgLists(pred_paths, label_paths, args)["classScores"]
    return [scores[name] for name in CITYSCAPES_CLASSES], official.getScoreAverage(scores, args)


def fuzz_pair(rng: np.random.Generator, num_classes: int, void: bool) -> tuple[np.ndarray, np.ndarray]:
    """(prediction, label): blocks of classes, some of them right, with ignored pixels, of (48, 64)."""
    label = np.kron(rng.integers(0, num_classes, (6, 8)), np.ones((8, 8), np.uint8)).astype(np.uint8)
    pred = np.where(rng.random(label.shape) < 0.3, rng.integers(0, num_classes, label.shape), label).astype(np.uint8)
    label[rng.random(label.shape) < 0.1] = 255
    if void:
        pred[rng.random(label.shape) < 0.05] = 255
    return pred, label


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_ious_and_their_mean_equal_cityscapesscripts_to_the_last_bit(tmp_path: Path, seed: int, void: bool) -> None:
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(1, 20))  # the classes above do not occur
    pairs = [fuzz_pair(rng, num_classes, void) for _ in range(4)]
    expected, expected_mean = official_scores(tmp_path, pairs)
    matrix = ConfusionMatrix(19, allow_void=void)
    for pred, label in pairs:
        matrix.update(pred, label)
    result = matrix.result(CITYSCAPES_CLASSES)
    assert np.array(result.iou).tobytes() == np.array(expected).tobytes()
    assert result.miou == expected_mean


def test_an_absent_class_has_no_iou_in_cityscapesscripts_either(tmp_path: Path) -> None:
    pred = label = np.zeros((8, 8), np.uint8)
    expected, expected_mean = official_scores(tmp_path, [(pred, label)])
    result = result_of(label, pred, 19)
    assert expected_mean == result.miou == 1.0
    assert [math.isnan(value) for value in expected] == [math.isnan(value) for value in result.iou]
