"""What goes wrong during training, and what is left of the run then."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from runs import losses_of, messages_of, start, wait_for, write_config

from paddleseg_ext.engine.checkpoint import load_checkpoint
from paddleseg_ext.errors import CheckpointError, TrainingError

pytestmark = pytest.mark.integration

Train = Callable[..., Any]


def test_a_loss_that_is_not_finite_stops_the_run_with_the_samples(run_train: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 4: not finite: the loss"):
        run_train(model={"poison_at": 3}, runtime={"save_interval": 2})
    dump = json.loads((tmp_path / "run/nonfinite_iter_4.json").read_text())
    assert dump["losses"] == {"loss_seg": "nan"}
    assert len(dump["samples"]) == 4
    assert all(Path(sample["image"]).exists() for sample in dump["samples"])
    assert set(dump["gradient_norms"]) >= {"conv.weight", "head.bias"}
    assert dump["config"]["batch_size"] == 4
    assert dump["non_finite_weights"] == []
    assert load_checkpoint(tmp_path / "run/iter_2").iteration == 2
    assert not (tmp_path / "run/iter_4").exists()


def test_a_gradient_that_is_not_finite_stops_the_run_even_if_the_loss_hides_it(run_train: Train) -> None:
    with pytest.raises(TrainingError, match=r"step 4: not finite: \d of 6 gradients, such as that of conv.weight"):
        run_train(model={"poison_at": 3, "poison": "image"})  # the ReLU makes 0 of NaN


@pytest.mark.parametrize("poison", ["image", "logits"])
def test_such_steps_can_be_skipped_a_limited_number_of_times(run_train: Train, tmp_path: Path, poison: str) -> None:
    model = {"poison_at": 3, "poison": poison}
    run_train(iters=6, model=model, runtime={"on_nan": "skip", "max_nan_skips": 1})
    last = load_checkpoint(tmp_path / "run/iter_6")
    assert last.state["nan_skips"] == 1
    assert all(np.isfinite(value).all() for value in last.arrays["model"].values())
    with pytest.raises(TrainingError, match="step 4"):
        run_train(iters=6, model=model, runtime={"on_nan": "skip", "max_nan_skips": 0})


def test_a_batch_without_labels_has_loss_0_and_is_counted(run_train: Train, tmp_path: Path, monkeypatch: Any) -> None:
    from paddleseg_ext.data import TrainLoader

    original = TrainLoader.__next__

    def without_labels(self: Any) -> Any:
        batch = original(self)
        batch["label"][...] = 255
        return batch

    monkeypatch.setattr(TrainLoader, "__next__", without_labels)
    run_train(iters=2, runtime={"save_interval": 2})
    assert losses_of(tmp_path / "run") == {1: 0.0, 2: 0.0}
    assert load_checkpoint(tmp_path / "run/iter_2").state["ignored_batches"] == 2
    assert any("no pixel" in text for text in messages_of(tmp_path / "run"))


def test_weights_that_are_not_finite_are_never_saved(run_train: Train, tmp_path: Path, monkeypatch: Any) -> None:
    from paddleseg_ext.engine import train as module

    original = module.training_step

    def break_a_weight(model: Any, *args: Any, **kwargs: Any) -> Any:
        terms = original(model, *args, **kwargs)
        if args[3] == 2:
            model.head.bias.set_value(np.full(19, np.inf, np.float32))
        return terms

    monkeypatch.setattr(module, "training_step", break_a_weight)
    with pytest.raises(TrainingError, match=r"iteration 3: 1 weights are not finite \(head.bias\)"):
        run_train(runtime={"save_interval": 1})
    assert load_checkpoint(tmp_path / "run/iter_2").iteration == 2
    assert not (tmp_path / "run/iter_3").exists()


def test_a_checkpoint_is_written_before_its_evaluation(run_train: Train, tmp_path: Path, monkeypatch: Any) -> None:
    from paddleseg_ext.engine import tasks as module

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("evaluation fails")

    monkeypatch.setattr(module, "evaluate", fail)
    with pytest.raises(RuntimeError, match="evaluation fails"):
        run_train(options={"do_eval": True})
    assert load_checkpoint(tmp_path / "run/iter_6").iteration == 6


def test_a_place_that_cannot_be_written_to_is_refused_before_training(run_train: Train, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    with pytest.raises(CheckpointError) as error:
        run_train()
    assert error.value.exit_code == 74
    assert (tmp_path / "run").read_text() == "precious"


def test_a_full_disk_ends_training_and_leaves_the_last_checkpoint(
    run_train: Train, tmp_path: Path, monkeypatch: Any
) -> None:
    from paddleseg_ext.engine import checkpoint as module

    original = module._write_file

    def full(path: Path, write: Any) -> Any:
        if "iter_12" in str(path) and path.name.startswith("model"):
            raise OSError(28, "No space left on device")
        return original(path, write)

    monkeypatch.setattr(module, "_write_file", full)
    with pytest.raises(CheckpointError, match="No space left on device") as error:
        run_train()
    assert error.value.exit_code == 74
    assert load_checkpoint(tmp_path / "run/iter_6").iteration == 6
    assert (tmp_path / "run/last_checkpoint").read_text() == "iter_6\n"
    assert not (tmp_path / "run/iter_12").exists()


def test_logging_never_stops_training(run_train: Train, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from paddleseg_ext import log

    class FullDisk:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            pass

        def close(self) -> None:
            pass

    original = log._open_for_append
    monkeypatch.setattr(log, "_open_for_append", lambda path: FullDisk() if "json" in path.name else original(path))
    monkeypatch.setitem(sys.modules, "visualdl", None)  # importing it raises
    assert run_train(options={"use_vdl": True}, iters=2).iteration == 2
    out = capsys.readouterr().out
    assert out.count("logging to VisualDL failed") == 1
    assert out.count("logging to train.jsonl failed") == 1


def test_a_worker_that_dies_does_not_stop_training(run_train: Train, tmp_path: Path, monkeypatch: Any) -> None:
    from paddleseg_ext.data import TrainLoader

    original, killed = TrainLoader.__next__, []

    def kill_one(self: Any) -> Any:
        batch = original(self)
        if not killed:
            import multiprocessing

            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)
        return batch

    run_train("whole", iters=6)
    monkeypatch.setattr(TrainLoader, "__next__", kill_one)
    logging.getLogger("paddleseg_ext").propagate = True
    run_train("killed", iters=6, runtime={"num_workers": 2})
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "killed")
    assert any("worker died" in text for text in messages_of(tmp_path / "killed"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_says_so_by_the_exit_code(
    tiny: ModuleType, city: Path, tmp_path: Path, number: int, code: int
) -> None:
    config = write_config(tiny, city, tmp_path / "c.yml", iters=100000, runtime={"save_interval": 5})
    process = start(Path(tiny.__file__), "--config", config, "--save_dir", "out", cwd=tmp_path)
    wait_for(tmp_path / "out/last_checkpoint", process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    last = (tmp_path / "out/last_checkpoint").read_text().strip()
    assert load_checkpoint(tmp_path / "out" / last).iteration == max(losses_of(tmp_path / "out"))
    assert "interrupted after" in out


def test_a_second_signal_does_not_wait_for_the_step(tiny: ModuleType, city: Path, tmp_path: Path) -> None:
    config = write_config(tiny, city, tmp_path / "c.yml", model={"seconds": 60.0})
    process = start(Path(tiny.__file__), "--config", config, "--save_dir", "out", cwd=tmp_path)
    wait_for(tmp_path / "out/train.jsonl", process)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5.0) == 143
    process.communicate()
    assert not (tmp_path / "out/last_checkpoint").exists()
