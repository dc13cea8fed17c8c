"""AP of objects against pycocotools, and against what can be computed by hand."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics import Category, CocoInstanceAP, CocoInstanceResult, InstanceMask, LabelMask, Segment

CATEGORIES = tuple(Category(ident, name, True) for ident, name in ((1, "person"), (3, "car"), (18, "dog"), (90, "cup")))
SIZE = (120, 160)


def random_mask(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    height, width = rng.integers(3, 110, 2)
    y, x = rng.integers(0, SIZE[0] - 4), rng.integers(0, SIZE[1] - 4)
    mask[y : y + height, x : x + width] = True
    return mask


def random_labels(rng: np.random.Generator) -> list[LabelMask]:
    """Overlapping objects, crowds, areas that are not those of the mask; no cup in any image."""
    labels = []
    for _ in range(int(rng.integers(0, 9))):
        mask = random_mask(rng)
        area = float(mask.sum()) if rng.random() < 0.7 else float(rng.choice([32**2, 96**2, 500.5, 20000]))
        labels.append(LabelMask(int(rng.choice([1, 3, 18])), mask, bool(rng.random() < 0.2), area))
    return labels


def random_preds(rng: np.random.Generator, labels: list[LabelMask], most: int = 3) -> list[InstanceMask]:
    """Shifted labels, several of some, and inventions, empty ones too; many scores are equal."""
    preds = []
    for label in labels:
        for _ in range(int(rng.integers(0, most + 1))):
            shift = tuple(rng.integers(-4, 5, 2)) if rng.random() < 0.8 else (0, 0)
            k = label.category_id if rng.random() < 0.9 else int(rng.choice([1, 3, 18, 90]))
            preds.append(InstanceMask(k, float(rng.integers(1, 8)) / 8, np.roll(label.mask, shift, (0, 1))))
    for _ in range(int(rng.integers(0, 4))):
        mask = random_mask(rng) & (rng.random() < 0.9)
        preds.append(InstanceMask(int(rng.choice([1, 3, 18, 90])), float(rng.random()), mask))
    return preds


def official(images: list[tuple[list[InstanceMask], list[LabelMask]]]) -> Any:
    """The COCOeval of pycocotools after `summarize`."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    encode = pytest.importorskip("pycocotools.mask").encode
    truth, found = coco.COCO(), []
    annotations = []
    for number, (preds, labels) in enumerate(images, 1):
        for label in labels:
            area = label.mask.sum() if label.area is None else label.area
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label.category_id}
            entry |= {"iscrowd": int(label.is_crowd), "area": float(area), "bbox": [0, 0, 1, 1]}
            annotations.append(entry | {"segmentation": encode(np.asfortranarray(label.mask, np.uint8))})
        for pred in preds:
            entry = {"image_id": number, "category_id": pred.category_id, "score": pred.score}
            found.append(entry | {"segmentation": encode(np.asfortranarray(pred.mask, np.uint8))})
    truth.dataset = {
        "images": [{"id": number, "height": SIZE[0], "width": SIZE[1]} for number in range(1, len(images) + 1)],
        "annotations": annotations,
        "categories": [{"id": c.id, "name": c.name} for c in CATEGORIES],
    }
    truth.createIndex()
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(found), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def assert_equal_to_official(result: CocoInstanceResult, evaluation: Any) -> None:
    by_area = result.mean_ap_by_area
    means = [result.mean_ap, result.mean_ap50, result.mean_ap75, by_area["small"], by_area["medium"], by_area["large"]]
    assert [-1 if math.isnan(value) else value for value in means] == evaluation.stats[:6].tolist()
    for k in range(len(CATEGORIES)):
        for value, precision in (
            (result.ap[k], evaluation.eval["precision"][:, :, k, 0, 2]),
            (result.ap50[k], evaluation.eval["precision"][0, :, k, 0, 2]),
        ):
            assert math.isnan(value) if (precision == -1).all() else value == np.mean(precision)


@pytest.mark.parametrize("seed", range(12))
def test_overlapping_masks_give_pycocotools_figures_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(8):
        labels = random_labels(rng)
        images.append((random_preds(rng, labels), labels))
    metric = CocoInstanceAP(CATEGORIES)
    for preds, labels in images:
        metric.update_masks(preds, labels)
    assert_equal_to_official(metric.result(), official(images))


def test_of_more_than_100_predictions_of_a_class_in_an_image_the_best_count() -> None:
    rng = np.random.default_rng(99)
    labels = [LabelMask(1, random_mask(rng)) for _ in range(30)]
    preds = random_preds(rng, labels, most=12)
    assert sum(pred.category_id == 1 for pred in preds) > 120
    metric = CocoInstanceAP(CATEGORIES)
    metric.update_masks(preds, labels)
    assert_equal_to_official(metric.result(), official([(preds, labels)]))


@pytest.mark.parametrize("seed", range(6))
def test_a_map_of_segments_gives_the_figures_of_its_masks_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    metric, images = CocoInstanceAP(CATEGORIES), []
    for _ in range(6):
        maps, segments = np.zeros((2, *SIZE), np.int64), [[], []]
        drawn = random_labels(rng)
        for side in range(2):
            for number, label in enumerate(drawn, 1):
                if rng.random() < 0.9:
                    maps[side][np.roll(label.mask, side * int(rng.integers(0, 5)), 1)] = 7 * number
            for number, label in enumerate(drawn, 1):
                if (maps[side] == 7 * number).any():
                    area = int(label.area) if side == 0 else None
                    segments[side].append(
                        Segment(
                            7 * number, label.category_id, rng.integers(1, 5) / 4, label.is_crowd and side == 0, area
                        )
                    )
        truth = [LabelMask(s.category_id, maps[0] == s.id, s.is_crowd, s.area) for s in segments[0]]
        images.append(([InstanceMask(s.category_id, s.score, maps[1] == s.id) for s in segments[1]], truth))
        metric.update(maps[1], segments[1], maps[0], segments[0])
    assert_equal_to_official(metric.result(), official(images))


def square(side: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[:side, :side] = True
    return mask


def test_ap_of_one_object_found_second_is_computed_by_hand() -> None:
    wrong = np.zeros(SIZE, bool)
    wrong[100:, 100:] = True
    metric = CocoInstanceAP(CATEGORIES)
    metric.update_masks([InstanceMask(1, 0.9, wrong), InstanceMask(1, 0.5, square(40))], [LabelMask(1, square(40))])
    result = metric.result()
    assert result.ap[0] == result.mean_ap == pytest.approx(0.5, abs=1e-12)
    assert result.mean_ap_by_area["medium"] == pytest.approx(1.0 / 2, abs=1e-12)
    assert result.num_objects == (1, 0, 0, 0)
    assert all(math.isnan(value) for value in (result.ap[1], result.mean_ap_by_area["small"]))


def test_a_prediction_on_a_crowd_is_neither_right_nor_wrong() -> None:
    metric = CocoInstanceAP(CATEGORIES)
    labels = [LabelMask(1, square(100), is_crowd=True), LabelMask(1, np.roll(square(20), 130, 1))]
    metric.update_masks([InstanceMask(1, 0.9, square(30)), InstanceMask(1, 0.5, labels[1].mask)], labels)
    assert metric.result().mean_ap == pytest.approx(1.0, abs=1e-12)


def test_several_processes_give_the_figures_of_one() -> None:
    rng = np.random.default_rng(5)
    images = [(random_preds(rng, labels), labels) for labels in (random_labels(rng) for _ in range(7))]
    whole, total = CocoInstanceAP(CATEGORIES), CocoInstanceAP(CATEGORIES)
    for index, (preds, labels) in enumerate(images):
        whole.update_masks(preds, labels, index=index)
    for part in ((1, 3, 5), (0, 2, 4, 6)):
        metric = CocoInstanceAP(CATEGORIES)
        for index in part:
            metric.update_masks(*images[index], index=index)
        total.merge_state(pickle.loads(pickle.dumps(metric.state())))
    assert total.result() == whole.result() and total.num_images == 7


def test_a_map_that_does_not_fit_its_segments_or_was_counted_elsewhere_is_refused() -> None:
    metric, other = CocoInstanceAP(CATEGORIES), CocoInstanceAP(CATEGORIES)
    ids = square(9).astype(np.int64) * 5
    with pytest.raises(DataError, match=r"street: prediction: the map has the ids \[5\], which no segment lists"):
        metric.update(ids, [], ids, [Segment(5, 1)], image="street")
    for one in (metric, other):
        one.update(ids, [Segment(5, 1, 0.5)], ids, [Segment(5, 1)], index=3)
    with pytest.raises(DataError, match=r"the images \[3\] were counted by two processes"):
        metric.merge(other)
    assert metric.num_images == 1


def test_no_images_have_no_figures() -> None:
    result = CocoInstanceAP(CATEGORIES).result()
    assert math.isnan(result.mean_ap) and result.summary().startswith("AP -, AP50 -, AP75 -, small -")
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["AP_large"] is None
    assert result.table().row_count == len(CATEGORIES) + 1


def test_what_cannot_be_counted_is_refused() -> None:
    metric = CocoInstanceAP(CATEGORIES)
    with pytest.raises(DataError, match="street: a predicted object has no finite score"):
        metric.update_masks([InstanceMask(1, math.nan, square(3))], [], image="street")
    with pytest.raises(DataError, match=r"masks of \[\(2, 2\), \(120, 160\)\]"):
        metric.update_masks([InstanceMask(1, 0.5, square(3))], [LabelMask(1, np.ones((2, 2)))])
    metric.update_masks([], [], index=3)
    with pytest.raises(DataError, match="image 3 was counted before"):
        metric.update_masks([], [], index=3)
