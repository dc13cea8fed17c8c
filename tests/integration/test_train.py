from __future__ import annotations

import json
import logging
import os
import random
import shutil
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

from paddleseg_ext.errors import CheckpointError, ConfigError, TrainingError, WeightError
from paddleseg_ext.plots import read_log

pytestmark = pytest.mark.integration

Train = Callable[..., Any]
EMA = {"ema": {"decay": 0.9}}


def losses_of(folder: Path) -> dict[int, float]:
    return {record["iteration"]: record["loss"] for record in read_log(folder) if record["kind"] == "train"}


def checkpoint(folder: Path) -> Any:
    from paddleseg_ext.engine.checkpoint import load_checkpoint

    return load_checkpoint(folder)


def assert_same_state(one: Path, other: Path) -> None:
    """Every array is equal to the last bit, and so is all other state."""
    a, b = checkpoint(one), checkpoint(other)
    assert {group: set(values) for group, values in a.arrays.items()} == {
        group: set(values) for group, values in b.arrays.items()
    }
    for group, values in a.arrays.items():
        for name, value in values.items():
            assert value.tobytes() == b.arrays[group][name].tobytes(), f"{group}/{name}"
    for key in ("processes", "history", "seed", "scaler", "nan_skips", "ignored_batches"):
        assert a.state[key] == b.state[key], key


def only_first_checkpoint(source: Path, target: Path, *, with_evaluations: bool = True) -> None:
    """What a run that was killed after its first checkpoint has left."""
    shutil.copytree(source / "iter_6", target / "iter_6")
    (target / "last_checkpoint").write_text("iter_6\n")
    if with_evaluations and (source / "evaluations.json").exists():
        entries = json.loads((source / "evaluations.json").read_text())
        (target / "evaluations.json").write_text(json.dumps(entries[:1]))


def test_the_loss_falls_within_20_iterations(run_train: Train, tmp_path: Path) -> None:
    run_train(iters=20, batch_size=8, model={"dropout": 0.0})
    losses = losses_of(tmp_path / "run")
    assert len(losses) == 20
    assert np.mean([losses[i] for i in range(16, 21)]) < 0.9 * losses[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_stop_and_resume_equals_never_stopping_to_the_last_bit(run_train: Train, tmp_path: Path, workers: int) -> None:
    run_train("whole", {"do_eval": True}, runtime={**EMA})
    only_first_checkpoint(tmp_path / "whole", tmp_path / "resumed")
    run_train("resumed", {"do_eval": True, "resume": "auto"}, runtime={**EMA, "num_workers": workers})
    assert_same_state(tmp_path / "whole/iter_12", tmp_path / "resumed/iter_12")
    whole, resumed = losses_of(tmp_path / "whole"), losses_of(tmp_path / "resumed")
    assert resumed == {i: loss for i, loss in whole.items() if i > 6}
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
    kernel = checkpoint(tmp_path / "whole/iter_4").arrays["losses"]["loss_detail.fuse_kernel"].ravel()
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


def test_batches_and_losses_do_not_depend_on_the_workers(run_train: Train, tmp_path: Path) -> None:
    for workers in (0, 1, 2):
        run_train(f"workers{workers}", iters=4, runtime={"num_workers": workers})
    runs = [losses_of(tmp_path / f"workers{workers}") for workers in (0, 1, 2)]
    assert runs[0] == runs[1] == runs[2]


def test_a_checkpoint_is_written_before_its_evaluation(run_train: Train, tmp_path: Path, monkeypatch: Any) -> None:
    from paddleseg_ext.engine import train as module

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("evaluation fails")

    monkeypatch.setattr(module, "evaluate", fail)
    with pytest.raises(RuntimeError, match="evaluation fails"):
        run_train(options={"do_eval": True})
    assert checkpoint(tmp_path / "run/iter_6").iteration == 6


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
    said = [record["text"] for record in read_log(tmp_path / "run") if record["kind"] == "message"]
    assert any("iters: 12 -> 14" in text for text in said)
    assert checkpoint(tmp_path / "run/iter_14").iteration == 14


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
    third = checkpoint(tmp_path / "third/iter_1")
    for name, value in checkpoint(best).arrays["model"].items():
        if not name.startswith("norm._"):
            np.testing.assert_array_equal(third.arrays["model"][name], value)


def test_pretrained_weights_must_fit_unless_allowed_by_name(run_train: Train, tmp_path: Path) -> None:
    run_train("first")
    other = {"model": {"num_classes": 19, "norm": "group"}}
    with pytest.raises(WeightError, match=r"norm\._mean"):
        run_train("second", {"pretrained": str(tmp_path / "first/iter_12")}, **other)
    options = {"pretrained": str(tmp_path / "first/iter_12"), "allow": (r"norm\._.*",)}
    assert run_train("third", options, iters=1, **other).iteration == 1


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(run_train: Train, tmp_path: Path) -> None:
    run_train("whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    file = tmp_path / "resumed/iter_12/model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run_train("resumed", {"resume": "auto"})
    assert_same_state(tmp_path / "whole/iter_12", tmp_path / "resumed/iter_12")
    said = [record["text"] for record in read_log(tmp_path / "resumed") if record["kind"] == "message"]
    assert any("iter_12" in text and "SHA-256" in text for text in said)


def test_a_new_run_sets_an_earlier_one_aside(run_train: Train, tmp_path: Path) -> None:
    run_train(iters=6, options={"do_eval": True})
    (tmp_path / "run/notes.txt").write_text("mine")
    before = (tmp_path / "run/iter_6/manifest.json").read_bytes()
    run_train(iters=3)
    assert (tmp_path / "run/earlier_run_1/iter_6/manifest.json").read_bytes() == before
    assert (tmp_path / "run/earlier_run_1/best_model/model.pdparams").exists()
    assert (tmp_path / "run/notes.txt").exists()
    assert sorted(losses_of(tmp_path / "run")) == [1, 2, 3]


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
    assert checkpoint(tmp_path / "run/iter_2").iteration == 2
    assert not (tmp_path / "run/iter_4").exists()


def test_a_gradient_that_is_not_finite_stops_the_run_even_if_the_loss_hides_it(run_train: Train) -> None:
    with pytest.raises(TrainingError, match=r"step 4: not finite: \d of 6 gradients, such as that of conv.weight"):
        run_train(model={"poison_at": 3, "poison": "image"})  # the ReLU makes 0 of NaN


@pytest.mark.parametrize("poison", ["image", "logits"])
def test_such_steps_can_be_skipped_a_limited_number_of_times(run_train: Train, tmp_path: Path, poison: str) -> None:
    model = {"poison_at": 3, "poison": poison}
    run_train(iters=6, model=model, runtime={"on_nan": "skip", "max_nan_skips": 1})
    last = checkpoint(tmp_path / "run/iter_6")
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
    assert checkpoint(tmp_path / "run/iter_2").state["ignored_batches"] == 2
    said = [record["text"] for record in read_log(tmp_path / "run") if record["kind"] == "message"]
    assert any("no pixel" in text for text in said)


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
    assert checkpoint(tmp_path / "run/iter_2").iteration == 2
    assert not (tmp_path / "run/iter_3").exists()


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
    assert checkpoint(tmp_path / "run/iter_6").iteration == 6
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
    said = [record["text"] for record in read_log(tmp_path / "killed") if record["kind"] == "message"]
    assert any("worker died" in text for text in said)


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


# --- in processes of their own -----------------------------------------------------------------------------


def write_config(tiny: ModuleType, city: Path, path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(tiny.config_data(city, **changes)))  # JSON is YAML
    return path


def start(script: Path, *arguments: Any, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(script), "train", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)


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
    assert checkpoint(tmp_path / "out" / last).iteration == max(losses_of(tmp_path / "out"))
    assert "interrupted after" in out


def test_killed_at_random_moments_the_run_ends_as_if_never_interrupted(
    tiny: ModuleType, city: Path, tmp_path: Path, run_train: Train
) -> None:
    changes = {"iters": 40, "runtime": {"save_interval": 1, "log_iters": 20, **EMA}}
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
        assert checkpoint(tmp_path / "killed" / last).iteration >= 1
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
