"""What a configuration says about its task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paddleseg_ext.config import Config, import_components, load_config, settings, validate
from paddleseg_ext.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[4]
PANOPTIC = sorted(path for path in (REPOSITORY / "configs").glob("*/*.yml") if "task: panoptic" in path.read_text())


@pytest.fixture(scope="module", autouse=True)
def components() -> None:
    import_components()


def problem_of(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Config.from_dict(data))
    return str(caught.value)


def test_the_rules_of_detectron2s_cityscapes_configuration_are_the_default() -> None:
    expected = {"threshold": 0.1, "nms_kernel": 7, "top_k": 200, "stuff_area": 2048}
    assert settings(Config.from_dict({"task": "panoptic"}), "postprocess") == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"task": "panoptik"}, "task: expected 'semantic' or 'panoptic', got 'panoptik'"),
        ({"postprocess": {"top_k": 9}}, "postprocess: has no effect without 'task: panoptic'"),
        ({"task": "panoptic", "postprocess": {"topk": 9}}, "postprocess.topk: unknown key. Did you mean 'top_k'?"),
        ({"task": "panoptic", "postprocess": {"nms_kernel": 6}}, "postprocess.nms_kernel: expected an odd number, got"),
        ({"task": "panoptic", "postprocess": {"stuff_area": -1}}, "postprocess.stuff_area: expected int >= 0, got -1"),
        ({"task": "panoptic", "postprocess": {"threshold": "a"}}, "postprocess.threshold: expected float, got 'a'"),
        ({"task": "panoptic", "test_config": {"aug_eval": True}}, "test_config.aug_eval: 'task: panoptic' takes the"),
        ({"task": "panoptic", "test_config": {"scales": [0.5]}}, "test_config.scales: 'task: panoptic' takes the"),
    ],
)
def test_what_does_not_fit_the_task_is_a_problem(data: dict[str, Any], message: str) -> None:
    assert message in problem_of(data)


@pytest.mark.parametrize("data", [{"task": "semantic"}, {"task": "panoptic", "postprocess": {"top_k": None}}])
def test_what_fits_is_none(data: dict[str, Any]) -> None:
    validate(Config.from_dict(data))


@pytest.mark.parametrize("name", ["cityscapes_panoptic", "coco_panoptic"])
def test_the_panoptic_data_sets_of_configs_are_valid(name: str) -> None:
    config = load_config(REPOSITORY / f"configs/_base_/datasets/{name}.yml")
    validate(config)
    assert config.get("task") == "panoptic"


def test_the_demo_is_a_panoptic_one() -> None:
    names = [path.name for path in PANOPTIC]
    assert "panoptic_deeplab_stdc1_demo_256x128.yml" in names
    validate(load_config(REPOSITORY / "configs/demo/panoptic_deeplab_stdc1_demo_256x128.yml"), "train", do_eval=True)
