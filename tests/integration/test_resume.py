"""A run that stopped, however it did, goes on as if it never had."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from runs import assert_same_state, losses_of, messages_of, only_first_checkpoint, start, write_config

from paddleseg_ext.engine.checkpoint import load_checkpoint
from paddleseg_ext.errors import CheckpointError

pytestmark = pytest.mark.integration

Train = Callable[..., Any]
EMA = {"ema": {"decay": 0.9}}


@pytest.mark.parametrize("workers", [0, 2])
def test_stop_and_resume_equals_never_stopping_to_the_last_bit(run_train: Train, tmp_path: Path, workers: int) -> None:
    run_train("whole", {"do_eval": True}, runtime={**EMA})
    only_first_checkpoint(tmp_path / "whole", tmp_path / "resumed")
    run_train("resumed", {"do_eval": True, "resume": "auto"}, runtime={**EMA, "num_workers": workers})
    assert_same_state(tmp_path / "whole/iter_12", tmp_path / "resumed/iter_12")
    whole, resumed = losses_of(tmp_path / "whole"), losses_of(tmp_path / "resumed")
    assert resumed == {i: loss for i, loss in whole.items() if i > 6}
    rates = [losses_of(tmp_path / run, "lr") for run in ("whole", "resumed")]
    assert rates[1] == {i: rate for i, rate in rates[0].items() if i > 6}
    evaluations = [json.loads((tmp_path / run / "evaluations.json").read_text()) for run in ("whole", "resumed")]
    assert evaluations[0] == evaluations[1]


def test_upstreams_recipe_of_stdc_resumes_to_the_last_bit(city: Path, tmp_path: Path, tiny: ModuleType) -> None:
    from paddleseg_ext.config import apply_opts, load_config, validate
    from paddleseg_ext.engine.train import TrainOptions, train

    crop, root = "train_dataset.transforms.3.crop_size=[64, 64]", f"train_dataset.dataset_root={city}"
    opts = ["iters=4", "batch_size=2", "lr_scheduler.warmup_iters=1", "runtime.save_interval=2", crop, root]
    config = apply_opts(load_config("configs/stdc/stdc1_cityscapes_1024x512_60k.yml"), opts)
    validate(config, "train")
    train(config, TrainOptions(str(tmp_path / "whole"), device="cpu"))
    resumed = TrainOptions(str(tmp_path / "resumed"), device="cpu", resume=str(tmp_path / "whole/iter_2"))
    train(config, resumed)
    assert_same_state(tmp_path / "whole/iter_4", tmp_path / "resumed/iter_4")
    kernel = load_checkpoint(tmp_path / "whole/iter_4").arrays["losses"]["loss_detail.fuse_kernel"].ravel()
    assert (kernel < np.float32([0.6, 0.3, 0.1])).all()  # weight decay has begun


def test_an_evaluation_that_a_crash_has_cut_off_is_made_up_for(run_train: Train, tmp_path: Path) -> None:
    run_train("whole", {"do_eval": True})
    only_first_checkpoint(tmp_path / "whole", tmp_path / "resumed", with_evaluations=False)
    run_train("resumed", {"do_eval": True, "resume": "auto"})
    evaluations = [json.loads((tmp_path / run / "evaluations.json").read_text()) for run in ("whole", "resumed")]
    assert evaluations[0] == evaluations[1]
    assert (tmp_path / "resumed/best_model/model.pdparams").exists()


def test_the_best_model_survives_a_resumed_run_that_gets_worse(run_train: Train, tmp_path: Path) -> None:
    steps = {"lr_scheduler": {"type": "StepDecay", "learning_rate": 0.05, "milestones": [6], "gamma": 0.0}}
    run_train("run", {"do_eval": True}, **steps)
    history = json.loads((tmp_path / "run/evaluations.json").read_text())
    only_first_checkpoint(tmp_path / "run", tmp_path / "resumed")
    shutil.copytree(tmp_path / "run/best_model", tmp_path / "resumed/best_model")
    evaluations = tmp_path / "resumed/evaluations.json"
    evaluations.write_text(json.dumps([{**history[0], "mIoU": 0.99}]))
    before = (tmp_path / "resumed/best_model/manifest.json").read_bytes()
    result = run_train("resumed", {"do_eval": True, "resume": "auto"}, **steps)
    assert result.best == {"iteration": 6, "mIoU": 0.99}
    assert (tmp_path / "resumed/best_model/manifest.json").read_bytes() == before


def test_resuming_with_a_changed_configuration_is_refused_with_the_differences(
    run_train: Train, tmp_path: Path
) -> None:
    run_train(runtime={"num_workers": 0})
    changed = {"optimizer": {"type": "Momentum", "momentum": 0.8, "weight_decay": 1e-4}, "iters": 14}
    with pytest.raises(CheckpointError) as error:
        run_train(options={"resume": "auto"}, **changed)
    assert "iters: 12 -> 14" in str(error.value)
    assert "optimizer.momentum: 0.9 -> 0.8" in str(error.value)
    assert str(error.value).count("->") == 2
    run_train(options={"resume": "auto", "resume_anyway": True}, **changed)
    assert any("iters: 12 -> 14" in text for text in messages_of(tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run/iter_14").iteration == 14


def test_what_decides_nothing_may_change_on_resume(run_train: Train, tmp_path: Path) -> None:
    run_train()
    result = run_train(options={"resume": "auto"}, runtime={"log_iters": 3, "save_interval": 5, "num_workers": 1})
    assert result.iteration == 12


def test_resuming_weights_alone_is_refused_and_pretrained_starts_from_them(run_train: Train, tmp_path: Path) -> None:
    run_train("first", {"do_eval": True})
    best = tmp_path / "first/best_model"
    with pytest.raises(CheckpointError, match="--pretrained"):
        run_train("second", {"resume": str(best)})
    run_train(
        "third", {"pretrained": str(best)}, iters=1, lr_scheduler={"type": "PolynomialDecay", "learning_rate": 0.0}
    )
    third = load_checkpoint(tmp_path / "third/iter_1")
    for name, value in load_checkpoint(best).arrays["model"].items():
        if not name.startswith("norm._"):
            np.testing.assert_array_equal(third.arrays["model"][name], value)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(run_train: Train, tmp_path: Path) -> None:
    run_train("whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    file = tmp_path / "resumed/iter_12/model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run_train("resumed", {"resume": "auto"})
    assert_same_state(tmp_path / "whole/iter_12", tmp_path / "resumed/iter_12")
    assert any("iter_12" in text and "SHA-256" in text for text in messages_of(tmp_path / "resumed"))


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments_the_run_ends_as_if_never_interrupted(
    tiny: ModuleType, city: Path, tmp_path: Path, run_train: Train, workers: int
) -> None:
    changes = {"iters": 40, "runtime": {"save_interval": 1, "log_iters": 20, "num_workers": workers, **EMA}}
    run_train("whole", **changes)
    config = write_config(tiny, city, tmp_path / "c.yml", **changes)
    rng = random.Random(0)
    kills = 0
    for _ in range(int(os.environ.get("KILL_RUNS", "3"))):
        process = start(
            Path(tiny.__file__), "--config", config, "--save_dir", "killed", "--resume", "auto", cwd=tmp_path
        )
        before = (tmp_path / "killed/last_checkpoint").read_text() if kills else ""
        while process.poll() is None and _pointer(tmp_path) == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.25))
        process.kill()
        process.communicate(timeout=60)
        kills += 1
        last = _pointer(tmp_path).strip()
        assert load_checkpoint(tmp_path / "killed" / last).iteration >= 1
    process = start(Path(tiny.__file__), "--config", config, "--save_dir", "killed", "--resume", "auto", cwd=tmp_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert_same_state(tmp_path / "whole/iter_40", tmp_path / "killed/iter_40")
    assert not list((tmp_path / "killed").glob("*.tmp-*"))


def _pointer(tmp_path: Path) -> str:
    try:
        return (tmp_path / "killed/last_checkpoint").read_text()
    except FileNotFoundError:
        return ""
