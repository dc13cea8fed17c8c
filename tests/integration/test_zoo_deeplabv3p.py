"""The recipes of DeepLabv3+ build, train, evaluate and predict on the generated city; and they are the proven ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from runs import losses_of

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPOSITORY / "configs" / "deeplabv3p").glob("*.yml"))
UPSTREAMS_PARAMETERS = 53_569_715  # of bowenc0221's DeepLabV3Plus on Xception-65


def recipe(name: str) -> dict:
    from paddleseg_ext.config import import_components, load_config

    import_components()
    return load_config(str(REPOSITORY / "configs" / "deeplabv3p" / f"{name}.yml")).data


def shrunk(config: dict, city: Path) -> dict:
    """The recipe at the city's size, for two steps of a batch of 2, and with a backbone that is less deep."""
    for section in ("train_dataset", "val_dataset"):
        config[section]["dataset_root"] = str(city)
    for transform in config["train_dataset"]["transforms"]:
        if "crop_size" in transform:
            transform["crop_size"] = [64, 64]
        if "short_edge_length" in transform:
            transform["short_edge_length"] = [64, 72]
    model = config["model"]
    if model["type"] == "Detectron2DeepLabV3Plus":
        model["backbone"]["type"] = "ResNet52"
        model["train_size"] = [64, 64]
    else:
        model["backbone"]["middle_blocks"] = 1
    scheduler = dict(config["lr_scheduler"])
    if "warmup_iters" in scheduler:
        scheduler["warmup_iters"] = 1
    runtime = {**config["runtime"], "log_iters": 1, "save_interval": 2}
    return {**config, "batch_size": 2, "iters": 2, "lr_scheduler": scheduler, "runtime": runtime}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_builds_trains_evaluates_and_predicts(path: Path, city: Path, tmp_path: Path) -> None:
    from paddleseg_ext.config import Config, validate
    from paddleseg_ext.engine.train import TrainOptions, train

    config = Config.from_dict(shrunk(recipe(path.stem), city))
    validate(config, "train", do_eval=True)
    train(config, TrainOptions(save_dir=str(tmp_path), device="cpu", do_eval=True))
    losses = losses_of(tmp_path)
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses.values())
    assert (tmp_path / "evaluations.json").exists()
    import paddle

    from paddleseg_ext.engine.parts import build_model
    from paddleseg_ext.engine.weights import load_weights

    model = build_model(config)
    load_weights(model, tmp_path / "best_model")
    model.eval()
    with paddle.no_grad():
        pred = model(paddle.zeros([1, 3, 64, 128]))["semantic"].argmax(1).numpy()
    assert pred.shape == (1, 64, 128) and np.isin(pred, np.arange(19)).all()


def test_the_bn_recipe_builds_upstreams_number_of_parameters() -> None:
    from paddleseg_ext.config import Config
    from paddleseg_ext.engine.parts import build_model

    model = build_model(Config.from_dict(recipe("deeplabv3p_xception65_bn_cityscapes_1025x513_90k")))
    state = model.state_dict()
    learnt = {name: value for name, value in state.items() if name.rpartition(".")[2] not in ("_mean", "_variance")}
    assert sum(math.prod(value.shape) for value in learnt.values()) == UPSTREAMS_PARAMETERS


def test_the_recipes_train_with_the_proven_groups_and_losses() -> None:
    from parity.cases import deeplabv3p as proven

    gn = recipe("deeplabv3p_xception65_gn_cityscapes_769x769_500k")
    bn = recipe("deeplabv3p_xception65_bn_cityscapes_1025x513_90k")
    r103 = recipe("deeplabv3p_r103_cityscapes_1024x512_90k")
    for config, groups, decay in (
        (gn, proven.FLUID_GROUPS, 4e-5),
        (bn, proven.BOWENC_GROUPS, 1e-4),
        (r103, proven.DETECTRON2_GROUPS, 1e-4),
    ):
        optimizer = dict(config["optimizer"])
        assert optimizer.pop("param_groups") == [dict(rule) for rule in groups]
        assert optimizer == {"type": "Momentum", "momentum": 0.9, "weight_decay": decay}
    assert [len(config["losses"]) for config in (gn, bn, r103)] == [1, 1, 1]
    assert (gn["losses"][0]["type"], gn["losses"][0]["min_fraction"]) == ("ValidFractionCrossEntropy", 0.1)
    assert bn["losses"][0]["type"] == "CrossEntropy"
    assert (r103["losses"][0]["type"], r103["losses"][0]["top_k"]) == ("TopKCrossEntropy", 0.2)


def test_the_group_norm_recipe_is_that_of_the_reported_number() -> None:
    config = recipe("deeplabv3p_xception65_gn_cityscapes_769x769_500k")
    assert (config["batch_size"], config["iters"]) == (4, 500_000)
    schedule = config["lr_scheduler"]
    assert (schedule["learning_rate"], schedule["power"], schedule.get("warmup_iters", 0)) == (0.001, 0.9, 0)
    smoke = recipe("deeplabv3p_xception65_gn_cityscapes_769x769_50")
    assert (smoke["batch_size"], smoke["iters"]) == (1, 50)
    assert recipe("deeplabv3p_xception65_bn_cityscapes_769x769_500k")["model"]["backbone"]["norm_type"] == "bn"
