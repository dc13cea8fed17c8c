"""Training runs of a tiny model: what they learn, log and leave behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from runs import assert_same_state, losses_of

from paddleseg_ext.errors import ConfigError, WeightError
from paddleseg_ext.plots import read_log

pytestmark = pytest.mark.integration

Train = Callable[..., Any]
EMA = {"ema": {"decay": 0.9}}


def test_the_loss_falls_within_20_iterations(run_train: Train, tmp_path: Path) -> None:
    run_train(iters=20, batch_size=8, model={"dropout": 0.0})
    losses = losses_of(tmp_path / "run")
    assert len(losses) == 20
    assert np.mean([losses[i] for i in range(16, 21)]) < 0.9 * losses[1]


def test_two_runs_with_one_seed_are_equal_whatever_the_workers(run_train: Train, tmp_path: Path) -> None:
    runs = {"first": 0, "again": 0, "two": 2, "four": 4}
    for name, workers in runs.items():
        run_train(name, iters=4, runtime={"num_workers": workers})
    for name in runs:
        assert losses_of(tmp_path / name) == losses_of(tmp_path / "first"), name
        assert_same_state(tmp_path / name / "iter_4", tmp_path / "first/iter_4")


def test_pretrained_weights_must_fit_unless_allowed_by_name(run_train: Train, tmp_path: Path) -> None:
    run_train("first")
    other = {"model": {"num_classes": 19, "norm": "group"}}
    with pytest.raises(WeightError, match=r"norm\._mean"):
        run_train("second", {"pretrained": str(tmp_path / "first/iter_12")}, **other)
    options = {"pretrained": str(tmp_path / "first/iter_12"), "allow": (r"norm\._.*",)}
    assert run_train("third", options, iters=1, **other).iteration == 1


def test_a_new_run_sets_an_earlier_one_aside(run_train: Train, tmp_path: Path) -> None:
    run_train(iters=6, options={"do_eval": True})
    (tmp_path / "run/notes.txt").write_text("mine")
    before = (tmp_path / "run/iter_6/manifest.json").read_bytes()
    run_train(iters=3)
    assert (tmp_path / "run/earlier_run_1/iter_6/manifest.json").read_bytes() == before
    assert (tmp_path / "run/earlier_run_1/best_model/model.pdparams").exists()
    assert (tmp_path / "run/notes.txt").exists()
    assert sorted(losses_of(tmp_path / "run")) == [1, 2, 3]


def test_early_stopping_counts_evaluations_below_the_best() -> None:
    from paddleseg_ext.engine.train import stale_evaluations

    def count(*scores: float) -> int:
        return stale_evaluations([{"iteration": i, "mIoU": score} for i, score in enumerate(scores)])

    assert count() == count(0.1) == count(0.1, 0.2) == 0
    assert count(0.2, 0.1, 0.2) == 1  # an equal result neither counts nor resets
    assert count(0.2, 0.1, 0.1, 0.3) == 0
    assert count(0.3, 0.2, 0.1) == 2


def test_training_stops_early_when_evaluations_get_no_better(
    run_train: Train, tmp_path: Path, monkeypatch: Any
) -> None:
    from paddleseg_ext.engine import train as module

    scores = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(module, "_evaluate_weights", lambda run, weights: next(scores))
    result = run_train(options={"do_eval": True}, iters=10, runtime={"save_interval": 1, "early_stop_intervals": 2})
    assert (result.iteration, result.best) == (3, {"iteration": 1, "mIoU": 0.5})


def test_visualdl_gets_scalars_and_pictures(run_train: Train, tmp_path: Path) -> None:
    from visualdl import LogReader

    run_train(
        options={"use_vdl": True, "do_eval": True}, iters=4, runtime={"save_interval": 4, "vis_interval": 2, **EMA}
    )
    (file,) = (tmp_path / "run").glob("vdlrecords.*.log")
    reader = LogReader(file_path=str(file))
    scalars = reader.get_tags()["scalar"]
    assert {"Train/loss", "Train/lr", "Evaluate/mIoU", "Evaluate/Ema_mIoU"} <= set(scalars)
    recorded = [entry.value for entry in reader.get_data("scalar", "Train/loss")]
    np.testing.assert_allclose(recorded, list(losses_of(tmp_path / "run").values()), rtol=1e-6)
    assert len(reader.get_data("image", "Train/sample")) == 2


def test_each_loss_is_logged_under_its_name(run_train: Train, tmp_path: Path) -> None:
    losses = [
        {"type": "CrossEntropy", "output": "semantic", "name": "loss_ce"},
        {"type": "DiceLoss", "output": "semantic", "name": "loss_dice", "weight": 3.0},
    ]
    run_train(iters=1, losses=losses)
    (record,) = [record for record in read_log(tmp_path / "run") if record["kind"] == "train"]
    assert set(record["losses"]) == {"loss_ce", "loss_dice"}
    assert record["loss"] == pytest.approx(sum(record["losses"].values()))
    assert "loss_dice: " in (tmp_path / "run/train.log").read_text()


def test_the_first_line_of_the_log_says_how_the_run_was_made(run_train: Train, tmp_path: Path) -> None:
    run_train(iters=1)
    record = next(record for record in read_log(tmp_path / "run") if record["kind"] == "start")
    assert record["device"] == "cpu"
    assert record["weights from"] == "nowhere: trained from scratch"
    assert record["config"]["lr_scheduler"]["learning_rate"] == 0.05
    assert {"Python", "paddle", "numpy", "OpenCV"} <= set(record["versions"])
    assert "seed" in record and "command" in record


def test_a_low_precision_on_a_cpu_is_refused(run_train: Train) -> None:
    with pytest.raises(ConfigError, match="no effect"):
        run_train(runtime={"precision": "bf16"})


def test_the_average_of_the_weights_follows_its_formula(tiny: ModuleType) -> None:
    import paddle

    from paddleseg_ext import optim
    from paddleseg_ext.registry import MODELS

    model = MODELS.get("TinyNet")(num_classes=3)
    average = optim.EMA(model, 0.75)
    first = model.head.weight.numpy()
    model.head.weight.set_value(paddle.zeros_like(model.head.weight))
    average.update()
    np.testing.assert_allclose(average.state_dict()["head.weight"], 0.75 * first, rtol=1e-6)
    with average.applied():
        np.testing.assert_allclose(model.head.weight.numpy(), 0.75 * first, rtol=1e-6)
    assert (model.head.weight.numpy() == 0).all()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_weights_of_16_bits_are_kept_exactly_and_readable(tiny: ModuleType, kind: str) -> None:
    from paddleseg_ext.engine.snapshot import weights_of
    from paddleseg_ext.models.pretrained import assign
    from paddleseg_ext.registry import MODELS

    model, other = (MODELS.get("TinyNet")(num_classes=3) for _ in range(2))
    model.to(dtype=kind)
    arrays = weights_of(model)
    assert {value.dtype for value in arrays.values()} == {np.dtype(np.float32)}
    assign(other, arrays, where="test")
    np.testing.assert_array_equal(other.conv.weight.numpy(), model.conv.weight.astype("float32").numpy())
    other.to(dtype=kind)
    assign(other, arrays, where="test")
    assert other.conv.weight.numpy().tobytes() == model.conv.weight.numpy().tobytes()
