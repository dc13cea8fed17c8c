"""Average precision against cityscapesScripts itself, and against what can be computed by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics import Category, InstanceAP, InstanceMask, InstanceResult, Segment
from paddleseg_ext.metrics.cityscapes import THINGS, VOID_IDS

CAR = (Category(26, "car", True),)
# Data sets on which the official tool does not fail
MASK_SEEDS = (0, 1, 3, 4, 5, 6, 7, 8, 9, 10)
MAP_SEEDS = (0, 1, 4, 5, 6, 7, 9, 10, 11, 12)


def same_bits(found: float, expected: float) -> bool:
    return found == expected or (math.isnan(found) and math.isnan(expected))


def assert_equal_to_official(result: InstanceResult, expected: dict) -> None:
    names = [category.name for category in result.categories]
    assert names == expected["instLabels"]
    assert result.matrix.tobytes() == np.array(expected["resultApMatrix"][0]).tobytes()
    averages = expected["averages"]
    assert same_bits(result.mean_ap, averages["allAp"])
    assert same_bits(result.mean_ap50, averages["allAp50%"])
    for name, ap, ap50 in zip(names, result.ap, result.ap50):
        assert same_bits(ap, averages["classes"][name]["ap"])
        assert same_bits(ap50, averages["classes"][name]["ap50%"])


@pytest.mark.parametrize("seed", MASK_SEEDS)
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_overlapping_masks_give_cityscapesscripts_figures_to_the_last_bit(
    seed: int, fuzz_images: Callable, official_instance_level: Callable
) -> None:
    images = fuzz_images(seed)
    expected = official_instance_level(images, lambda image: image.masks)
    metric = InstanceAP(THINGS, VOID_IDS)
    for image in images:
        metric.update_masks([InstanceMask(*mask) for mask in image.masks], image.instance)
    assert expected is not None
    assert_equal_to_official(metric.result(), expected)


@pytest.mark.parametrize("seed", MAP_SEEDS)
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_a_map_of_segments_gives_the_figures_of_its_masks_to_the_last_bit(
    seed: int, fuzz_images: Callable, official_instance_level: Callable
) -> None:
    images = fuzz_images(seed)
    metric = InstanceAP(THINGS, VOID_IDS)
    for image in images:
        metric.update(image.pred, image.segments, image.instance)
    expected = official_instance_level(
        images, lambda image: [(s.category_id, s.score, image.pred == s.id) for s in image.segments]
    )
    assert expected is not None
    assert_equal_to_official(metric.result(), expected)


def cars(*objects: tuple[int, int]) -> np.ndarray:
    """(1, n) instance ids: (id, pixels) one after the other."""
    return np.concatenate([np.full(pixels, ident) for ident, pixels in objects])[None]


def test_ap_is_the_area_in_steps_computed_by_hand() -> None:
    """Three cars. By score: right, wrong, right; one car is missed."""
    instance = cars((26000, 200), (26001, 200), (26002, 200), (7, 300))
    pred = cars((1, 200), (2, 200), (0, 200), (3, 300))
    metric = InstanceAP(CAR, ())
    metric.update(pred, [Segment(1, 26, 0.9), Segment(2, 26, 0.3), Segment(3, 26, 0.5)], instance)
    result = metric.result()
    # precision 1 at recall 1/3, 1/2 at 1/3, 2/3 at 2/3; each is weighted with half the recall gained on either side
    points = [(2 / 3, 2 / 3), (1 / 2, 1 / 3), (1.0, 1 / 3), (1.0, 0.0)]
    recalls = [points[0][1], *(recall for _, recall in points), 0.0]
    area = sum(p * (recalls[i] - recalls[i + 2]) / 2 for i, (p, _) in enumerate(points))
    assert result.ap[0] == pytest.approx(area, rel=1e-15)
    assert result.num_objects == (3,)


def test_the_better_of_two_predictions_is_right_and_the_other_wrong() -> None:
    instance = cars((26000, 1000))
    masks = [InstanceMask(26, score, instance == 26000) for score in (0.2, 0.8)]
    metric = InstanceAP(CAR, ())
    metric.update_masks(masks, instance)
    # precision 1/2 at 0.2 and 1 at 0.8, recall 1 at both: the first has no width
    assert metric.result().ap[0] == 1.0


def test_a_prediction_on_a_group_is_ignored_and_on_a_single_void_object_wrong() -> None:
    """A wrong prediction at 0.9 and a right one at 0.5: precision 0 and 1/2 at recall 0 and 1, each over half of it."""
    for other, expected in ((26, 1.0), (29, 1.0), (29001, 0.25)):
        instance = cars((26000, 200), (other, 200))
        metric = InstanceAP(CAR, (29, 30))
        metric.update(cars((1, 200), (2, 200)), [Segment(1, 26, 0.5), Segment(2, 26, 0.9)], instance)
        assert metric.result().ap50[0] == pytest.approx(expected), other


def test_objects_below_100_pixels_do_not_count() -> None:
    for pixels, number in ((99, 0), (100, 1)):
        instance = cars((26000, pixels), (7, 100))
        metric = InstanceAP(CAR, ())
        metric.update(instance * 0, [], instance)
        assert metric.result().num_objects == (number,)


def test_a_class_without_objects_has_no_ap_and_without_predictions_ap_0() -> None:
    categories = (*CAR, Category(24, "person", True), Category(25, "rider", True))
    instance = cars((26000, 200), (24000, 200), (7, 200))
    metric = InstanceAP(categories, ())
    metric.update(cars((1, 200), (0, 200), (2, 200)), [Segment(1, 26), Segment(2, 25)], instance)
    result = metric.result()
    assert result.ap[:2] == (pytest.approx(1.0), 0.0)
    assert math.isnan(result.ap[2])
    assert result.mean_ap == pytest.approx(0.5)
    assert result.to_dict()["classes"][2]["AP"] is None
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_where_the_official_tool_fails_ap_is_0(official_instance_level: Callable, fuzz_images: Callable) -> None:
    """One car that nothing matches, one prediction that is all void."""
    image = fuzz_images(0)[0]
    instance = np.full((48, 64), 3, np.int32)
    instance[:20, :20] = 26001
    mask = np.zeros((48, 64), bool)
    mask[30:, 30:] = True
    image = image._replace(instance=instance, masks=[(26, 0.5, mask)])
    assert official_instance_level([image], lambda image: image.masks) is None
    metric = InstanceAP(THINGS, VOID_IDS)
    metric.update_masks([InstanceMask(26, 0.5, mask)], instance)
    assert metric.result().ap[2] == 0.0


def test_no_images_give_no_figures() -> None:
    result = InstanceAP(THINGS, VOID_IDS).result()
    assert math.isnan(result.mean_ap)
    assert "AP -" in result.summary()


def test_merged_processes_equal_one_to_the_last_bit(fuzz_images: Callable) -> None:
    whole, parts = InstanceAP(THINGS, VOID_IDS), [InstanceAP(THINGS, VOID_IDS) for _ in range(3)]
    for i, image in enumerate(fuzz_images(1)):
        whole.update(image.pred, image.segments, image.instance)
        parts[i % 3].update(image.pred, image.segments, image.instance, index=i)
    parts[2].merge(parts[1])
    parts[2].merge(parts[0])
    assert parts[2].result().matrix.tobytes() == whole.result().matrix.tobytes()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"img: mask 1 is \(2, 3\) but the label is \(1, 4\)"):
        InstanceAP(CAR, ()).update_masks([InstanceMask(26, 1.0, np.ones((2, 3), bool))], cars((7, 4)), image="img")


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_refused(score: float) -> None:
    with pytest.raises(DataError, match="no finite score"):
        InstanceAP(CAR, ()).update(cars((1, 4)), [Segment(1, 26, score)], cars((7, 4)))


def test_an_image_is_counted_once() -> None:
    metric = InstanceAP(CAR, ())
    metric.update(cars((0, 4)), [], cars((7, 4)), index=0)
    with pytest.raises(DataError, match="image 0 was counted before"):
        metric.update(cars((0, 4)), [], cars((7, 4)), index=0)
