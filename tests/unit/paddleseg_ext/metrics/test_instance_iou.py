"""IoU and iIoU against cityscapesScripts itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from paddleseg_ext.data.classes import CITYSCAPES_LABELS
from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics import CityscapesIoU
from paddleseg_ext.metrics.instance_iou import AVERAGE_SIZES, GROUPS


def same_bits(found: float, expected: float) -> bool:
    return found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize("seed", range(10))
def test_every_figure_equals_cityscapesscripts_to_the_last_bit(
    seed: int, fuzz_images: Callable, official_pixel_level: Callable
) -> None:
    images = fuzz_images(seed)
    expected = official_pixel_level(images)
    metric = CityscapesIoU()
    for image in images:
        metric.update(image.semantic, image.instance)
    result = metric.result()
    assert result.matrix.tolist() == expected["confMatrix"]
    for names, values, key in [
        (result.classes, result.iou, "classScores"),
        (result.classes, result.iiou, "classInstScores"),
        (result.groups, result.group_iou, "categoryScores"),
        (result.groups, result.group_iiou, "categoryInstScores"),
    ]:
        different = {n: (v, expected[key][n]) for n, v in zip(names, values) if not same_bits(v, expected[key][n])}
        assert not different
    means = (result.miou, result.miiou, result.group_miou, result.group_miiou)
    keys = ("classScores", "classInstScores", "categoryScores", "categoryInstScores")
    assert all(same_bits(mean, expected[f"mean_{key}"]) for mean, key in zip(means, keys))


def test_iiou_of_two_objects_is_that_computed_by_hand() -> None:
    """A car of 4 pixels is found by half, one of 12 whole, 2 road pixels are taken for car; both cars weigh alike."""
    instance = np.array([[26000] * 4 + [26001] * 12 + [7] * 4])
    pred = np.array([[26, 26, 7, 7] + [26] * 12 + [26, 26, 7, 7]])
    metric = CityscapesIoU()
    metric.update(pred, instance)
    result = metric.result()
    size = AVERAGE_SIZES[26]
    car = result.classes.index("car")
    assert result.iou[car] == 14 / 18
    assert result.iiou[car] == pytest.approx(1.5 * size / (1.5 * size + 2 + 0.5 * size), rel=1e-14)
    assert result.group_iiou[result.groups.index("vehicle")] == result.iiou[car]


def test_a_group_has_no_iiou_and_counts_for_iou() -> None:
    metric = CityscapesIoU()
    metric.update(np.array([[24, 24, 7, 7]]), np.array([[24, 24, 24, 7]]))
    result = metric.result()
    person = result.classes.index("person")
    assert result.iou[person] == 2 / 3
    assert math.isnan(result.iiou[person])


def test_label_ids_may_disagree_with_the_instance_ids() -> None:
    metric = CityscapesIoU()
    metric.update(np.array([[26, 26]]), np.array([[26001, 7]]), np.array([[7, 7]]))
    result = metric.result()
    assert result.matrix[7, 26] == 2
    assert result.iiou[result.classes.index("car")] == pytest.approx(AVERAGE_SIZES[26] / (AVERAGE_SIZES[26] + 2))


def test_the_groups_and_sizes_are_cityscapesscripts() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    module = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    groups: dict[str, list[int]] = {}
    for label in labels:
        if label.category != "void" and label.id >= 0:
            groups.setdefault(label.category, []).append(label.id)
    assert groups == {name: list(ids) for name, ids in GROUPS.items()}
    assert list(groups) == list(GROUPS)
    for ident, size in AVERAGE_SIZES.items():
        assert module.args.avgClassSize[CITYSCAPES_LABELS[ident].name] == size


def test_merged_processes_equal_one_to_the_last_bit(fuzz_images: Callable) -> None:
    images = fuzz_images(3)
    whole, parts = CityscapesIoU(), [CityscapesIoU(), CityscapesIoU()]
    for i, image in enumerate(images):
        whole.update(image.semantic, image.instance)
        parts[i % 2].update(image.semantic, image.instance, index=i)
    parts[1].merge(parts[0])
    assert json.dumps(parts[1].result().to_dict()) == json.dumps(whole.result().to_dict())


@pytest.mark.parametrize(
    ("pred", "instance", "message"),
    [
        (34, 7, "the prediction has the id 34"),
        (255, 7, "the prediction has the id 255"),
        (7, 34001, "the label has the id 34"),
        (7, 255, "the label has the id 255"),
        (7, -1, "ids from -1"),
    ],
)
def test_ids_that_are_no_labels_are_refused(pred: int, instance: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CityscapesIoU().update(np.full((2, 2), pred), np.full((2, 2), instance), image="img")


def test_an_image_is_counted_once() -> None:
    metric = CityscapesIoU()
    maps: Any = (np.full((2, 2), 7), np.full((2, 2), 7))
    metric.update(*maps, index=5)
    with pytest.raises(DataError, match="img: image 5 was counted before"):
        metric.update(*maps, image="img", index=5)


def test_the_result_as_data_has_no_nan() -> None:
    metric = CityscapesIoU()
    metric.update(np.full((2, 2), 7), np.full((2, 2), 7))
    data = json.loads(json.dumps(metric.result().to_dict(), allow_nan=False))
    assert data["mIoU"] == 1.0
    assert data["iIoU"] is None
