from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from paddleseg_ext.data import Cityscapes, image_io
from paddleseg_ext.data.classes import CITYSCAPES_LABELS, cityscapes_train_ids
from paddleseg_ext.data.demo import DemoSettings, make_demo, scene
from paddleseg_ext.errors import ConfigError, DataError

SMALL = DemoSettings(num_train=2, num_val=1, num_test=1, height=32, width=64)


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_is_that_of_cityscapes(city: Path) -> None:
    stem = "train/minitown/minitown_000001_000019"
    assert (city / f"leftImg8bit/{stem}_leftImg8bit.png").is_file()
    for kind in ("labelIds", "labelTrainIds", "instanceIds"):
        assert (city / f"gtFine/{stem}_gtFine_{kind}.png").is_file()
    assert [len(Cityscapes(str(city), mode)) for mode in ("train", "val", "test")] == [7, 3, 1]


def test_training_and_validation_come_from_different_cities(city: Path) -> None:
    names = {mode: {p.name for p in (city / "leftImg8bit" / mode).iterdir()} for mode in ("train", "val", "test")}
    assert not names["train"] & names["val"] and not names["val"] & names["test"]


def test_ids_follow_the_published_rules(city: Path) -> None:
    has_instances = {label.id for label in CITYSCAPES_LABELS if label.has_instances}
    known = {label.id for label in CITYSCAPES_LABELS}
    for path in sorted((city / "gtFine").rglob("*labelIds.png")):
        labels = image_io.read_label(path)
        train_ids = image_io.read_label(str(path).replace("labelIds", "labelTrainIds"))
        instances = image_io.read_instances(str(path).replace("labelIds", "instanceIds"))
        assert set(np.unique(labels).tolist()) <= known
        assert np.array_equal(cityscapes_train_ids()[labels], train_ids)
        assert np.array_equal(np.where(instances >= 1000, instances // 1000, instances), labels)
        assert {int(i) // 1000 for i in np.unique(instances) if i >= 1000} <= has_instances
        assert (train_ids[-1] == 255).all() and (train_ids[0] == 255).all()  # the border has no class


def test_a_default_scene_holds_several_objects_of_a_class() -> None:
    instances = np.unique(scene(DemoSettings(), "train", 0).instance_ids)
    counts = np.bincount(instances[instances >= 1000] // 1000)
    assert counts.max() >= 2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, second = make_demo(tmp_path / "a", SMALL), make_demo(tmp_path / "b", SMALL)
    other = make_demo(tmp_path / "c", DemoSettings(2, 1, 1, height=32, width=64, seed=1))
    assert digest(first) == digest(second)
    assert digest(first) != digest(other)


def test_scenes_do_not_depend_on_how_many_there_are(city: Path) -> None:
    settings = DemoSettings(num_train=1, num_val=0, num_test=0, height=32, width=64, seed=5)
    image = image_io.read_image(city / "leftImg8bit/train/democity/democity_000000_000019_leftImg8bit.png")
    assert np.array_equal(scene(settings, "train", 0).image, image)


def test_a_finished_city_is_left_alone(tmp_path: Path) -> None:
    root = make_demo(tmp_path / "a", SMALL)
    path = root / "train.txt"
    path.write_text("mine")
    make_demo(root, SMALL)
    assert path.read_text() == "mine"


def test_another_city_in_its_place_needs_force(tmp_path: Path) -> None:
    root = make_demo(tmp_path / "a", SMALL)
    other = DemoSettings(1, 1, 0, height=32, width=64)
    with pytest.raises(DataError, match="generated with other settings"):
        make_demo(root, other)
    make_demo(root, other, force=True)
    assert len(Cityscapes(str(root))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_anything_else_is_never_touched(tmp_path: Path, force: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="nothing was changed"):
        make_demo(tmp_path / "a", SMALL, force=force)
    assert (tmp_path / "a" / "thesis.tex").read_text() == "years of work"


def test_an_interrupted_generation_leaves_no_folder(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "a", SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_and_impossible_settings_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(DataError, match="is a file"):
        make_demo(tmp_path / "a", SMALL)
    with pytest.raises(ConfigError, match="too small"):
        make_demo(tmp_path / "b", DemoSettings(height=16))
