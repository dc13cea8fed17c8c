"""What is particular to PointRend's cases: margins of its discrete choices, and the recipe that they prove."""

from __future__ import annotations

import numpy as np
import pytest

from parity import cases, fill
from parity.cases import pointrend

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def leads():
    """For each image and subdivision, the leads of all pixels' best classes in the reference, ascending."""
    from parity.reference.pointrend import uncertainty
    from parity.reference.semantic_fpn import upsample
    from parity.torch_side import TorchSide

    case = cases.get("pointrend_r50")
    side = TorchSide(case.reference)
    side.load(fill.state(side.shapes(), 0))
    inputs, targets = case.split(case.batch(0, 0, case.size))
    points = side.observe(inputs, targets, train=False, backward=False).points
    maps = {name: side._tensor(points[f"output/{name}"]) for name in ("stride4", "stride2")}
    return {name: np.sort(-uncertainty(upsample(x, 2)).flatten(1).numpy(), axis=1) for name, x in maps.items()}


@pytest.mark.parametrize("step", ["stride4", "stride2"])
def test_the_choice_of_points_is_no_matter_of_rounding(leads, step):
    count = pointrend.SUBDIVISION_NUM_POINTS
    lead = leads[step]
    assert lead.shape[1] > count  # a choice at all
    margin = lead[:, count] - lead[:, count - 1]
    assert margin.min() > 1e-7 * np.abs(lead).max()


@pytest.fixture
def recipe():
    from paddleseg_ext.config import import_components, load_config, validate

    import_components()
    config = load_config("configs/pointrend/pointrend_r101_cityscapes_1024x512_65k.yml")
    validate(config, "train", do_eval=True)
    return config.data


def test_the_config_trains_the_proven_model(recipe):
    model = dict(recipe["model"])
    backbone = model.pop("backbone")
    assert backbone == {"type": "ResNet101", "norm": "FrozenBN", "stride_in_1x1": True, "pretrained": None}
    assert pointrend.BACKBONES["pointrend_r101"] == {"depth": 101, "norm": "FrozenBN"}
    assert model == {
        "type": "PointRend", "num_classes": 19, "num_points": 2048, "oversample_ratio": 3,
        "importance_sample_ratio": 0.75, "subdivision_num_points": 8192,
    }  # fmt: skip


def test_the_config_uses_the_proven_optimizer_and_schedule(recipe):
    optimizer = dict(recipe["optimizer"])
    assert optimizer.pop("param_groups") == [dict(rule) for rule in pointrend.PARAM_GROUPS]
    assert optimizer == {"type": "Momentum", "momentum": 0.9, "weight_decay": 1e-4}
    step = cases.get("pointrend_r101").step
    assert recipe["iters"] == step.iters
    assert recipe["lr_scheduler"] == {
        "type": "StepDecay", "learning_rate": 0.01, "milestones": pointrend.milestones(step),
        "warmup_iters": step.warmup_iters, "warmup_start_lr": 1e-5,
    }  # fmt: skip
    assert pointrend.milestones(step) == [40000, 55000]


def test_the_config_uses_the_proven_losses_and_transforms(recipe):
    assert [(t["type"], t["output"], t.get("weight", 1.0)) for t in recipe["losses"]] == [
        ("CrossEntropy", "semantic", 1.0), ("PointCrossEntropy", "points", 1.0),
    ]  # fmt: skip
    resize, crop, color, flip, normalize = recipe["train_dataset"]["transforms"]
    assert resize["short_edge_length"] == [512, 768, 1024, 1280, 1536, 1792, 2048] and resize["max_size"] == 4096
    assert (crop["crop_size"], crop["cat_max_ratio"], crop["attempts"]) == ([1024, 512], 0.75, 9)
    assert (color, flip) == ({"type": "ColorAugSSD"}, {"type": "HorizontalFlip"})
    assert (normalize["mean"], normalize["order"]) == ([103.53, 116.28, 123.675], "BGR")  # MSRA's: blue, green, red
