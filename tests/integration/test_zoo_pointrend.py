"""The recipes of PointRend and SemanticFPN build, and train and evaluate on the generated city."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from runs import losses_of

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    path for name in ("pointrend", "semantic_fpn") for path in (REPOSITORY / "configs" / name).glob("*.yml")
)


def shrunk(config: dict, city: Path) -> dict:
    """The recipe at the city's size, for two steps."""
    for section in ("train_dataset", "val_dataset"):
        config[section]["dataset_root"] = str(city)
    for transform in config["train_dataset"]["transforms"]:
        if "crop_size" in transform:
            transform["crop_size"] = [96, 64]
        if "short_edge_length" in transform:
            transform["short_edge_length"] = [64, 72]
    if config["model"]["type"] == "PointRend":
        config["model"].update(num_points=64, subdivision_num_points=500)
    scheduler = {**config["lr_scheduler"], "warmup_iters": 1}
    runtime = {**config["runtime"], "log_iters": 1}
    return {**config, "batch_size": 2, "iters": 2, "lr_scheduler": scheduler, "runtime": runtime}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_builds_trains_and_evaluates(path: Path, city: Path, tmp_path: Path) -> None:
    from paddleseg_ext.config import Config, import_components, load_config, validate
    from paddleseg_ext.engine.train import TrainOptions, train

    import_components()
    original = load_config(str(path))
    validate(original, "train", do_eval=True)
    data = shrunk(original.data, city)
    if "r101" in path.stem and "80k" not in path.stem:
        data["model"]["backbone"]["type"] = "ResNet50"  # for the time it takes
    config = Config.from_dict(data)
    train(config, TrainOptions(save_dir=str(tmp_path), device="cpu", do_eval=True))
    losses = losses_of(tmp_path)
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses.values())
