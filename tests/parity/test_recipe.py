"""What the parity case proves is what the configs train."""

import pytest

from parity import cases
from parity.cases import stdc

pytestmark = pytest.mark.parity


@pytest.fixture(params=["stdc1", "stdc2"])
def recipe(request):
    from paddleseg_ext.config import import_components, load_config, validate

    import_components()
    config = load_config(f"configs/stdc/{request.param}_cityscapes_1024x512_60k.yml")
    validate(config, "train", do_eval=True)
    return request.param, config.data


def test_the_config_trains_the_proven_model(recipe):
    name, config = recipe
    model = {**config["model"], "backbone": {**config["model"]["backbone"]}}
    assert model.pop("backbone") == {
        "type": name.upper(), "pretrained": None, "classifier": True, "alias_stages": True,
    }  # fmt: skip
    assert model == {"type": "STDCSeg", "num_classes": stdc.NUM_CLASSES, "abs_gamma": True, "unused_heads": True}


def test_the_config_uses_the_proven_optimizer_and_schedule(recipe):
    _, config = recipe
    optimizer = dict(config["optimizer"])
    assert optimizer.pop("param_groups") == [dict(rule) for rule in stdc.PARAM_GROUPS]
    assert optimizer == {"type": "Momentum", "momentum": 0.9, "weight_decay": 5e-4}
    assert config["iters"] == cases.get("stdc1").step.iters
    scheduler = dict(config["lr_scheduler"])
    assert scheduler.pop("type") == "PolynomialDecay"
    assert scheduler.pop("end_lr", 0.0) == 0.0
    assert scheduler == {
        "learning_rate": 0.01, "power": 0.9, "warmup_iters": 1000, "warmup_start_lr": 1e-5, "warmup": "multiplicative",
    }  # fmt: skip


def test_the_config_uses_the_proven_losses_and_transforms(recipe):
    _, config = recipe
    ohem = [{**term} for term in config["losses"] if term["type"] == "OhemCrossEntropy"]
    assert [(term["output"], term["name"]) for term in ohem] == [
        ("semantic", "loss_seg"), ("aux16", "loss_aux16"), ("aux32", "loss_aux32"),
    ]  # fmt: skip
    assert all(term["thresh"] == 0.7 and term["min_kept_ratio"] == 1 / 16 for term in ohem)
    detail = config["losses"][3]
    assert (detail["type"], detail["output"], detail["decay_fuse_kernel"]) == ("DetailAggregateLoss", "detail8", True)
    transforms = config["train_dataset"]["transforms"]
    assert [t["type"] for t in transforms] == [
        "ColorJitter", "HorizontalFlip", "RandomScale", "ResizeUpRandomCrop", "Normalize",
    ]  # fmt: skip
    assert tuple(transforms[2]["scales"]) == stdc.SCALES
