from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data.classes import CITYSCAPES_LABELS
from paddleseg_ext.errors import ConfigError, DataError, WeightError

pytestmark = pytest.mark.integration

Train = Callable[..., Any]


@pytest.fixture(scope="session")
def weights(tiny: ModuleType, city: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after a few steps, so that it predicts several classes."""
    from paddleseg_ext.config import Config
    from paddleseg_ext.engine.train import TrainOptions, train

    folder = tmp_path_factory.mktemp("weights")
    train(Config.from_dict(tiny.config_data(city)), TrainOptions(save_dir=str(folder), device="cpu"))
    return folder / "iter_12"


@pytest.fixture
def run_val(tiny: ModuleType, city: Path, weights: Path) -> Callable[..., Any]:
    """Evaluates the tiny model in this process: `run_val(test_config={...}, json_path=...)`."""
    from paddleseg_ext.config import Config, validate
    from paddleseg_ext.engine.val import ValOptions, val

    def run(test_config: dict[str, Any] | None = None, **options: Any) -> Any:
        config = Config.from_dict({**tiny.config_data(city), "test_config": test_config or {}})
        validate(config, "val")
        run.said = []
        options = {"model_path": str(weights), "device": "cpu", **options}
        return val(config, ValOptions(**options), lambda line: run.said.append(str(line)))

    return run


def official(city: Path, predictions: Path, tmp_path: Path) -> dict[str, Any]:
    """The figures of cityscapesScripts for label-id PNGs, its own program."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script  # noqa: N813

    truths = sorted(str(path) for path in (city / "gtFine/val").rglob("*_gtFine_labelIds.png"))
    files = [str(predictions / Path(path).name.replace("_gtFine_labelIds", "_leftImg8bit")) for path in truths]
    args = script.args
    args.evalInstLevelScore, args.quiet, args.JSONOutput = False, True, False
    args.evalPixelAccuracy, args.evalLabels = False, []
    return script.evaluateImgLists(files, truths, args)


def test_miou_is_the_official_one_to_the_last_bit(run_val: Any, city: Path, tmp_path: Path) -> None:
    result = run_val()
    assert run_val(format_dir=str(tmp_path / "ids")) is None
    theirs = official(city, tmp_path / "ids", tmp_path)
    assert result.miou == theirs["averageScoreClasses"]
    names = {label.name for label in CITYSCAPES_LABELS}
    for name, iou in zip(result.classes, result.iou):
        other = theirs["classScores"][name]
        assert name in names and (iou == other or (np.isnan(iou) and np.isnan(other)))


def test_files_for_a_test_server_hold_label_ids_of_the_original_size(run_val: Any, city: Path, tmp_path: Path) -> None:
    run_val(format_dir=str(tmp_path / "ids"))
    files = sorted((tmp_path / "ids").iterdir())
    images = sorted((city / "leftImg8bit/val").rglob("*.png"))
    assert sorted(file.name for file in files) == sorted(image.name for image in images)
    allowed = {label.id for label in CITYSCAPES_LABELS if label.train_id != 255}
    for file in files:
        pixels = np.array(Image.open(file))
        assert pixels.shape == (64, 128) and pixels.dtype == np.uint8
        assert set(np.unique(pixels)) <= allowed


def test_a_part_without_labels_can_be_formatted_but_not_scored(
    tiny: ModuleType, city: Path, weights: Path, tmp_path: Path
) -> None:
    from paddleseg_ext.config import Config
    from paddleseg_ext.engine.val import ValOptions, val

    data = tiny.config_data(city)
    data["val_dataset"]["mode"] = "test"
    config = Config.from_dict(data)
    with pytest.raises(DataError, match="--format_only"):
        val(config, ValOptions(str(weights), device="cpu"), lambda line: None)
    val(config, ValOptions(str(weights), device="cpu", format_dir=str(tmp_path / "ids")), lambda line: None)
    assert len(list((tmp_path / "ids").iterdir())) == 1


def test_json_and_pictures_are_written(run_val: Any, tmp_path: Path) -> None:
    result = run_val(json_path=str(tmp_path / "a/figures.json"), save_dir=str(tmp_path / "pictures"))
    figures = json.loads((tmp_path / "a/figures.json").read_text())
    assert figures["mIoU"] == result.miou
    assert len(figures["classes"]) == 19
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 3


def test_a_place_where_the_figures_cannot_be_written_is_refused_before_the_evaluation(
    run_val: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"file.*; expected to read and write there"):
        run_val(json_path=str(tmp_path / "file/figures.json"))
    with pytest.raises(DataError, match="expected to read and write there"):
        run_val(json_path=str(tmp_path))
    assert not any("mIoU" in line for line in run_val.said)
    with pytest.raises(WeightError):
        run_val(json_path=str(tmp_path / "figures.json"), model_path=str(tmp_path / "none.npz"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_without_weights_nothing_is_evaluated_unless_wanted(run_val: Any) -> None:
    with pytest.raises(ConfigError, match=r"--model_path: missing; .*--random_weights"):
        run_val(model_path=None)
    assert run_val(model_path=None, random_weights=True).num_images == 3


def test_weights_of_another_model_are_refused_with_names(run_val: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **{"backbone.weight": np.zeros((3, 3), np.float32)})
    with pytest.raises(WeightError) as error:
        run_val(model_path=str(tmp_path / "other.npz"))
    assert "missing: conv.weight" in str(error.value) and "unexpected: backbone.weight" in str(error.value)


def test_one_scale_alone_is_stdcs_protocol(run_val: Any) -> None:
    half = run_val({"scales": [0.5]})
    assert any("m50" in line for line in run_val.said)
    explicit = run_val({"aug_eval": True, "scales": [0.5], "resize_align_corners": True})
    assert half.iou == explicit.iou


def test_flips_and_scales_are_averaged(run_val: Any) -> None:
    plain = run_val()
    averaged = run_val({"aug_eval": True, "scales": [0.75, 1.0, 1.25], "flip_horizontal": True})
    assert averaged.miou != plain.miou
    assert averaged.num_pixels == plain.num_pixels


def test_two_processes_count_what_one_counts(
    tiny: ModuleType, city: Path, weights: Path, run_val: Any, tmp_path: Path
) -> None:
    config = tmp_path / "c.yml"
    config.write_text(json.dumps(tiny.config_data(city)))
    arguments = ["--config", config, "--model_path", weights, "--json", "two.json", "--num_threads", "1"]
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo", tiny.__file__, "val"]
    done = subprocess.run(
        [sys.executable, *map(str, [*launcher, *arguments])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tiny.REPOSITORY)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = run_val().to_dict(), json.loads((tmp_path / "two.json").read_text())
    assert {key: two[key] for key in one} == json.loads(json.dumps(one))
