"""The recipes of Panoptic-DeepLab build, train, evaluate and predict on the generated city."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from runs import losses_of

pytestmark = pytest.mark.integration

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "panoptic_deeplab").glob("*.yml"))
CITY = [path for path in CONFIGS if "cityscapes" in path.name]
COCO = [path for path in CONFIGS if "coco" in path.name]
SMALLER = {"HRNetW48": {"type": "HRNetW18"}, "Xception65": {"middle_blocks": 1}}  # for the time it takes


def shrunk(config: dict, city: Path) -> dict:
    """The recipe at the city's size, for two steps."""
    for section in ("train_dataset", "val_dataset"):
        config[section]["dataset_root"] = str(city)
    for transform in config["train_dataset"]["transforms"]:
        if "crop_size" in transform:
            transform["crop_size"] = [64, 64]
        if "short_edge_length" in transform:
            transform["short_edge_length"] = [64, 72]
    config["model"].update(train_size=[64, 64], aspp_channels=32, decoder_channels=[32, 16], head_channels=[32, 8])
    config["model"]["backbone"].update(SMALLER.get(config["model"]["backbone"]["type"], {}))
    config["lr_scheduler"]["warmup_iters"] = 1
    config["runtime"].update(save_interval=2, log_iters=1)
    return {**config, "batch_size": 2, "iters": 2}


@pytest.mark.parametrize("path", CITY, ids=lambda path: path.stem)
def test_a_recipe_trains_evaluates_and_predicts(path: Path, city: Path, tmp_path: Path) -> None:
    from paddleseg_ext.config import Config, import_components, load_config, validate
    from paddleseg_ext.engine.train import TrainOptions, train
    from paddleseg_ext.predictor import Predictor

    import_components()
    original = load_config(str(path))
    validate(original, "train", do_eval=True)
    config = Config.from_dict(shrunk(original.data, city))
    train(config, TrainOptions(save_dir=str(tmp_path), device="cpu", do_eval=True))
    for term in ("loss", "loss_sem_seg", "loss_center", "loss_offset"):
        values = losses_of(tmp_path, term)
        assert list(values) == [1, 2] and all(math.isfinite(value) for value in values.values()), term
    picture = sorted((city / "leftImg8bit" / "val").rglob("*.png"))[0]
    prediction = Predictor.from_config(config, tmp_path / "best_model", device="cpu")(picture)
    assert prediction.image.shape == (64, 128, 3)
    assert prediction.ids.shape == (64, 128)
    assert {segment.id for segment in prediction.segments} == set(np.unique(prediction.ids).tolist()) - {0}


@pytest.mark.parametrize("path", COCO, ids=lambda path: path.stem)
def test_the_recipe_for_coco_takes_a_step(path: Path) -> None:
    import paddle

    from paddleseg_ext.config import Config, import_components, load_config, validate
    from paddleseg_ext.engine.parts import build_learning, build_model
    from paddleseg_ext.engine.step import training_step
    from paddleseg_ext.segments import Segment
    from paddleseg_ext.targets import panoptic_deeplab_targets

    import_components()
    original = load_config(str(path))
    validate(original, "train", do_eval=True)
    data = shrunk(original.data, Path("none"))
    data["model"]["size_divisibility"] = 64
    config = Config.from_dict(data)
    model = build_model(config)
    losses, optimizer = build_learning(config, model)
    panoptic = np.zeros((64, 60), np.int32)
    panoptic[10:30, 5:40], panoptic[30:] = 7, 9
    targets = panoptic_deeplab_targets(panoptic, [Segment(7, 3), Segment(9, 100)], thing_ids=range(80), sigma=8)
    batch = {name: paddle.to_tensor(np.stack([value, value])) for name, value in targets.items()}
    batch["image"] = paddle.randn([2, 3, 64, 60])
    model.train()
    terms = training_step(model, losses, optimizer, batch, 0)
    assert set(terms) == {"loss_sem_seg", "loss_center", "loss_offset"}
    assert all(math.isfinite(value) and value > 0 for value in terms.values())
