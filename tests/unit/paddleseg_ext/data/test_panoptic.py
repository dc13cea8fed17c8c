"""Panoptic data sets and their files, against cityscapesScripts where it has a program for it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data.coco_classes import COCO_CATEGORIES, COCO_PALETTE
from paddleseg_ext.data.datasets import Cityscapes, CityscapesPanoptic, COCOPanoptic
from paddleseg_ext.data.loader import EvalLoader, TrainLoader
from paddleseg_ext.data.panoptic_format import read_ids, segments_info, write_ids
from paddleseg_ext.data.prepare_coco import prepare_coco_panoptic
from paddleseg_ext.data.prepare_panoptic import write_cityscapes_panoptic
from paddleseg_ext.data.transforms import (
    Compose,
    HorizontalFlip,
    Normalize,
    PanopticDeepLabTarget,
    RandomCropCatMaxRatio,
    RandomScale,
)
from paddleseg_ext.errors import ConfigError, DataError
from paddleseg_ext.segments import Segment, segment_places
from paddleseg_ext.targets import panoptic_deeplab_targets

NORMALIZE = Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])


# Cityscapes


@pytest.mark.parametrize("train_ids", [False, True])
def test_the_panoptic_files_of_the_generated_city_are_those_of_cityscapesscripts(
    train_ids: bool, city: Path, tmp_path: Path
) -> None:
    module = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs")
    module.convert2panoptic(str(city / "gtFine"), str(tmp_path), useTrainId=train_ids, setNames=["val"])
    (path,) = write_cityscapes_panoptic(city, ["val"], train_ids=train_ids)
    name = f"cityscapes_panoptic_val{'_trainId' if train_ids else ''}"
    ours, theirs = (json.loads(file.read_text()) for file in (Path(path), tmp_path / f"{name}.json"))
    assert Path(path) == city / "gtFine" / f"{name}.json"
    assert ours["images"] == theirs["images"]
    assert ours["annotations"] == theirs["annotations"]
    assert [c["id"] for c in ours["categories"]] == [c["id"] for c in theirs["categories"]]
    assert [(c["name"], c["isthing"], c["color"]) for c in ours["categories"]] == [
        (c["name"], c["isthing"], c["color"]) for c in theirs["categories"]
    ]
    for entry in theirs["annotations"]:
        files = (city / "gtFine" / name / entry["file_name"], tmp_path / name / entry["file_name"])
        np.testing.assert_array_equal(*(np.array(Image.open(file)) for file in files))


def test_a_panoptic_sample_says_what_the_official_files_say(city: Path, tmp_path: Path) -> None:
    module = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs")
    module.convert2panoptic(str(city / "gtFine"), str(tmp_path), useTrainId=True, setNames=["train"])
    truth = json.loads((tmp_path / "cityscapes_panoptic_train_trainId.json").read_text())
    entries = {entry["image_id"]: entry for entry in truth["annotations"]}
    dataset = CityscapesPanoptic(str(city), "train")
    assert dataset.thing_ids == (11, 12, 13, 14, 15, 16, 17, 18)
    for index in range(len(dataset)):
        sample, entry = dataset[index], entries[dataset.image_id(index)]
        official = read_ids(tmp_path / "cityscapes_panoptic_train_trainId" / entry["file_name"])
        listed = {(s["id"], s["category_id"], bool(s["iscrowd"]), s["area"]) for s in entry["segments_info"]}
        assert {(s.id, s.category_id, s.is_crowd, s.area) for s in sample["segments"]} == listed
        np.testing.assert_array_equal(
            np.where(np.isin(sample["panoptic"], [s.id for s in sample["segments"]]), sample["panoptic"], 0), official
        )


def test_the_label_of_a_panoptic_sample_is_the_map_of_training_ids(city: Path) -> None:
    panoptic, semantic = CityscapesPanoptic(str(city), "val"), Cityscapes(str(city), "val")
    for one, other in zip(panoptic, semantic):
        np.testing.assert_array_equal(one["label"], other["label"])
        np.testing.assert_array_equal(one["image"], other["image"])


def test_a_test_set_has_pictures_alone(city: Path) -> None:
    assert set(CityscapesPanoptic(str(city), "test")[0]) == {"image", "meta"}


def test_missing_instance_maps_are_named(write_cityscapes: Callable[..., Path]) -> None:
    root = write_cityscapes("train")
    with pytest.raises(DataError, match=r"no label \*/\*_gtFine_instanceIds.png for 1 of them"):
        CityscapesPanoptic(str(root), "train")


def test_an_id_that_cityscapes_does_not_have_is_refused(write_cityscapes: Callable[..., Path]) -> None:
    dataset = CityscapesPanoptic(str(write_cityscapes("train", kind="instanceIds", label=77)), "train")
    with pytest.raises(DataError, match=r"instanceIds.png: has the instance ids \[77\]"):
        dataset[0]


# Training and evaluation samples


def test_targets_are_those_of_the_flipped_scaled_and_cropped_map(city: Path) -> None:
    dataset = CityscapesPanoptic(str(city), "train")
    geometry = [RandomScale([1.5]), RandomCropCatMaxRatio((48, 32), 1.0), HorizontalFlip(1.0)]
    target = PanopticDeepLabTarget(sigma=2, small_instance_area=30)
    raw, rng = dataset[1], np.random.default_rng(4)
    before, draws = Compose(geometry).record(raw, rng)
    sample = Compose([*geometry, NORMALIZE, target]).replay(raw, [*draws, {}, {}])
    assert "panoptic" not in sample and "segments" not in sample
    assert before["panoptic"].dtype == np.int32 and before["panoptic"].shape == (32, 48)
    expected = panoptic_deeplab_targets(
        before["panoptic"], raw["segments"], thing_ids=dataset.thing_ids, sigma=2, small_instance_area=30
    )
    for name, array in expected.items():
        np.testing.assert_array_equal(sample[name], array, err_msg=name)
    np.testing.assert_array_equal(sample["label"], before["label"])
    x = np.asarray(Image.fromarray(raw["panoptic"]).resize((96, 48), Image.Resampling.NEAREST))
    crop = x[draws[1]["y"] : draws[1]["y"] + 32, draws[1]["x"] : draws[1]["x"] + 48]
    np.testing.assert_array_equal(before["panoptic"], crop[:, ::-1])


def test_batches_hold_the_targets(city: Path) -> None:
    dataset = CityscapesPanoptic(str(city), "train", [HorizontalFlip(), NORMALIZE, PanopticDeepLabTarget(sigma=2)])
    batch = next(TrainLoader(dataset, batch_size=2, seed=0))
    assert {name: (array.shape, str(array.dtype)) for name, array in batch.items()} == {
        "image": ((2, 3, 32, 64), "float32"),
        "index": ((2,), "int64"),
        "label": ((2, 32, 64), "int64"),
        "semantic_weights": ((2, 32, 64), "float32"),
        "center": ((2, 1, 32, 64), "float32"),
        "center_weights": ((2, 32, 64), "float32"),
        "offset": ((2, 2, 32, 64), "float32"),
        "offset_weights": ((2, 32, 64), "float32"),
    }


def test_evaluation_keeps_map_and_segments(city: Path) -> None:
    dataset = CityscapesPanoptic(str(city), "val", [NORMALIZE])
    sample, raw = next(iter(EvalLoader(dataset))), dataset[0]
    assert sample["segments"] == raw["segments"] and sample["meta"]["thing_ids"] == dataset.thing_ids
    np.testing.assert_array_equal(sample["panoptic"], raw["panoptic"])


def test_targets_need_a_panoptic_data_set(city: Path) -> None:
    with pytest.raises(DataError, match="has no panoptic map; expected a data set with one"):
        PanopticDeepLabTarget().apply(Cityscapes(str(city), "train")[0], {})
    with pytest.raises(ConfigError, match="PanopticDeepLabTarget: sigma is 0"):
        PanopticDeepLabTarget(sigma=0)


# COCO


def write_coco(root: Path, **changes: Any) -> Path:
    """Two images of 4 x 6: a person (crowd) and sky; two persons and void."""
    maps = [np.full((4, 6), 70000, np.uint32), np.full((4, 6), 5, np.uint32)]
    maps[0][:, 3:], maps[1][2:], maps[1][0, 0] = 187, 300, 0
    segments = [
        [(70000, 1, 1, 12), (187, 187, 0, 12)],
        [(5, 1, 0, 11), (300, 1, 0, 12)],
    ]
    (root / "images/val2017").mkdir(parents=True)
    (root / "annotations/panoptic_val2017").mkdir(parents=True)
    for number, ids in enumerate(maps, 7):
        Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(root / f"images/val2017/{number:012d}.jpg")
        write_ids(root / f"annotations/panoptic_val2017/{number:012d}.png", ids)
    annotations = [
        {
            "image_id": number,
            "file_name": f"{number:012d}.png",
            "segments_info": [
                {"id": i, "category_id": c, "iscrowd": crowd, "area": area, "bbox": [0, 0, 1, 1]}
                for i, c, crowd, area in part
            ],
        }
        for number, part in enumerate(segments, 7)
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "height": 4, "width": 6} for n in (7, 8)],
        "annotations": annotations[::-1],
        "categories": [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in COCO_CATEGORIES],
    }
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps({**content, **changes}))
    return root


def test_the_classes_of_coco_are_80_things_and_53_stuff() -> None:
    assert len(COCO_CATEGORIES) == len(COCO_PALETTE) == 133
    assert sum(category.is_thing for category in COCO_CATEGORIES) == 80
    assert tuple(COCO_CATEGORIES[0]) == (1, "person", True)
    assert tuple(COCO_CATEGORIES[79]) == (90, "toothbrush", True)
    assert tuple(COCO_CATEGORIES[80]) == (92, "banner", False)
    assert tuple(COCO_CATEGORIES[-1]) == (200, "rug-merged", False)


def test_a_prepared_coco_gives_classes_in_the_order_of_the_published_ids(tmp_path: Path) -> None:
    assert prepare_coco_panoptic(write_coco(tmp_path), ["val"], check_pixels=True) == {"val": 2}
    assert (tmp_path / "val_panoptic.txt").read_text().splitlines()[0] == (
        "images/val2017/000000000007.jpg,annotations/panoptic_val2017/000000000007.png"
    )
    dataset = pickle.loads(pickle.dumps(COCOPanoptic(str(tmp_path), "val")))  # as workers get it
    assert dataset.num_classes == 133 and dataset.thing_ids == tuple(range(80))
    assert [dataset.image_id(i) for i in range(2)] == [7, 8]
    assert dataset.published_ids[[0, 79, 80, 132]].tolist() == [1, 90, 92, 200]
    first, second = dataset[0], dataset[1]
    sky = [category.id for category in COCO_CATEGORIES].index(187)
    assert first["segments"] == (Segment(70000, 0, is_crowd=True, area=12), Segment(187, sky, area=12))
    np.testing.assert_array_equal(first["label"][0], [0, 0, 0, sky, sky, sky])
    assert second["label"][0].tolist() == [255, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda r: (r / "annotations/panoptic_val2017.json").unlink(), "panoptic_val2017.json: no such file"),
        (lambda r: (r / "images/val2017/000000000008.jpg").unlink(), "val2017: 1 of 2 files are missing"),
        (lambda r: (r / "annotations/panoptic_val2017.json").write_text("{"), "cannot be read"),
        (
            lambda r: write_ids(r / "annotations/panoptic_val2017/000000000007.png", np.full((4, 6), 9)),
            r"the ids \[9\] are in the PNG alone and \[187, 70000\] in the JSON alone",
        ),
    ],
)
def test_what_is_wrong_with_cocos_files_is_named(break_it: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    break_it(root)
    with pytest.raises(DataError, match=message):
        prepare_coco_panoptic(root, ["val"], check_pixels=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": []}, "its categories are not COCO's 133"),
        ({"images": []}, r"images annotated but not listed: \[7, 8\]"),
        ({"annotations": None}, "has no list of annotations"),
    ],
)
def test_a_json_that_is_not_cocos_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        prepare_coco_panoptic(write_coco(tmp_path, **changes), ["val"])


def test_a_segment_of_an_unknown_class_and_a_duplicate_image_are_refused(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    path = root / "annotations/panoptic_val2017.json"
    good = json.loads(path.read_text())
    for change, message in (
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=12), "unknown category 12"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=0), "segment id 0; expected 1.."),
        (lambda c: c["annotations"].append(c["annotations"][0]), r"images annotated twice: \[8\]"),
    ):
        content = json.loads(json.dumps(good))
        change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            prepare_coco_panoptic(root, ["val"])


def test_an_unprepared_coco_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prepare_coco_panoptic.py --root"):
        COCOPanoptic(str(write_coco(tmp_path)), "val")
    (tmp_path / "panoptic_val2017.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"panoptic_val2017.npz: damaged"):
        COCOPanoptic(str(tmp_path), "val")


# The format


def test_ids_survive_the_png(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 256], [65536, 26003, 2**24 - 1]])
    write_ids(tmp_path / "ids.png", ids)
    np.testing.assert_array_equal(read_ids(tmp_path / "ids.png"), ids)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "ids.png"))[1, 1], [26003 % 256, 26003 // 256, 0])


def test_areas_and_boxes_are_those_of_the_pixels() -> None:
    ids = np.array([[1, 1, 0, 9], [0, 1, 0, 9], [0, 0, 0, 1]])
    entries = segments_info(ids, [Segment(9, 3), Segment(1, 2, is_crowd=True)])
    assert entries == [
        {"id": 9, "category_id": 3, "area": 2, "bbox": [3, 0, 1, 2], "iscrowd": 0},
        {"id": 1, "category_id": 2, "area": 4, "bbox": [0, 0, 4, 3], "iscrowd": 1},
    ]
    with pytest.raises(DataError, match=r"segments \[4\] have no pixels"):
        segments_info(ids, [Segment(4, 0)])


@pytest.mark.parametrize("ids", [[3, 70, 12], [2**24 - 1, 5, 2**20], []])
def test_places_of_ids_are_those_in_the_list(ids: list[int]) -> None:
    panoptic = np.random.default_rng(0).choice([*ids, 0, 4, 2**24 - 2 if max(ids, default=0) > 99 else 6], (9, 11))
    expected = [[ids.index(value) if value in ids else len(ids) for value in row] for row in panoptic.tolist()]
    np.testing.assert_array_equal(segment_places(panoptic, ids), expected)
