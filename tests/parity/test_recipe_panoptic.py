"""What the parity cases of Panoptic-DeepLab prove is what its configs train."""

import pytest

from parity import cases
from parity.cases import panoptic_deeplab as proven

pytestmark = pytest.mark.parity

CONFIGS = {
    "panoptic_deeplab_r52": "r52",
    "panoptic_deeplab_r52_dsconv": "r52_dsconv",
    "panoptic_deeplab_xception65": "xception65",
    "panoptic_deeplab_hrnet48": "hrnet48",
    "panoptic_deeplab_hrnet48_dsconv": "hrnet48_dsconv",
}


@pytest.fixture(params=list(CONFIGS))
def recipe(request):
    from paddleseg_ext.config import import_components, load_config, validate

    import_components()
    name = f"panoptic_deeplab_{CONFIGS[request.param]}_cityscapes_1024x512_90k.yml"
    config = load_config(f"configs/panoptic_deeplab/{name}")
    validate(config, "train", do_eval=True)
    return request.param, config.data


def test_every_case_has_a_config():
    assert list(CONFIGS) == list(proven.RECIPES)


def test_the_config_trains_the_proven_model(recipe):
    name, config = recipe
    expected = proven.model_arguments(proven.RECIPES[name])
    model = dict(config["model"])
    backbone = dict(model.pop("backbone"))
    assert backbone.pop("type") == proven.RECIPES[name].backbone
    defaults = {
        "align_corners": True,
        "output_stride": 16,
        "pretrained": None,
        "out_features": ["res2", "res3", "res5"],
    }
    assert all(defaults[key] == value for key, value in backbone.items())
    assert (model.pop("type"), model.pop("num_classes")) == ("PanopticDeepLab", proven.NUM_CLASSES)
    assert (model.pop("train_size"), model.pop("aspp_dropout")) == ([1024, 512], 0.1)
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in model.items()}
    assert lists == {key: value for key, value in expected.items() if key in lists}
    assert expected.get("size_divisibility", 0) == lists.get("size_divisibility", 0)


def test_the_config_uses_the_proven_losses_optimizer_and_schedule(recipe):
    name, config = recipe
    named = [{"target": "label", "name": f"loss_{term['output']}", "weight": 1.0, **term} for term in config["losses"]]
    own = [{"target": "label", "name": f"loss_{term['output']}", "weight": 1.0, **term} for term in proven.LOSSES]
    assert named == own
    assert config["optimizer"] == {"type": "Adam"}
    step = cases.get(name).step
    assert config["iters"] == step.iters
    assert config["lr_scheduler"] == {
        "type": "WarmupPolynomialDecay",
        "learning_rate": proven.LEARNING_RATE,
        "power": 0.9,
        "warmup_iters": step.warmup_iters,
        "warmup_factor": 1e-3,
    }
