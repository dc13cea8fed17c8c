"""The tools as a user runs them: from another folder, with the commands of the documentation."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.cli

DEMO = "configs/demo/stdc1_demo_256x128.yml"
STDC = ["--config", "configs/stdc/stdc1_cityscapes_1024x512_60k.yml"]
# the recipe on the generated city, cut down to a size that tests can afford
SMALL_DATA = ["train_dataset.dataset_root=data/demo_city", "val_dataset.dataset_root=data/demo_city"]
SMALL = [*SMALL_DATA, "train_dataset.transforms.3.crop_size=[64, 64]", "lr_scheduler.warmup_iters=1"]


def run(tool: str, folder: Path, *arguments: str, seconds: float = 150) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "tools" / tool), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=seconds, env=environment
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a city of a few small scenes, where the demo's tools find it."""
    from paddleseg_ext.data.demo import DemoSettings, make_demo

    folder = tmp_path_factory.mktemp("work with spaces")
    make_demo(folder / "data/demo_city", DemoSettings(6, 2, 1, height=64, width=64))
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The folder, after document 004's training command on the small city."""
    done = run(
        "train.py",
        folder,
        *STDC,
        *"--num_workers 2 --use_vdl --do_eval --save_interval 2 --save_dir output/stdc1".split(),
        *"--iters 3 --batch_size 2 --log_iters 1 --learning_rate 0.001 --seed 1 --keep_checkpoint_max 1".split(),
        "--opts",
        *SMALL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_training_writes_what_its_help_promises(trained: Path) -> None:
    out = trained / "output/stdc1"
    assert {"iter_3", "best_model", "last_checkpoint", "train.log", "train.jsonl"} <= {p.name for p in out.iterdir()}
    assert not (out / "iter_2").exists()
    assert (out / "best_model/model.pdparams").exists()
    assert list(out.glob("vdlrecords.*.log"))
    log = (out / "train.log").read_text()
    assert "BATCH 2 INSTEAD OF 48" in log
    assert "iter: 3/3, loss: " in log and "loss_detail_dice: " in log
    assert log.count("[EVAL] #Images: 2 mIoU: ") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "scale 1\n"),
        ("--aug_eval --flip_horizontal", "scale 1, flips horizontal\n"),
        ("--aug_eval --scales 0.75 1.0 1.25", "scales 0.75 1 1.25\n"),
        ("--scales 0.5", "m50"),
        ("--scales 0.75", "m75"),
    ],
)
def test_the_five_protocols_of_evaluation_run_as_written(trained: Path, arguments: str, said: str) -> None:
    done = run(
        "val.py", trained, *STDC, "--model_path", "output/stdc1/best_model/model.pdparams", *arguments.split(),
        "--opts", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    assert "[EVAL] #Images: 2 mIoU: " in done.stdout


def test_predict_writes_overlay_palette_and_ids(trained: Path) -> None:
    done = run(
        "predict.py",
        trained,
        *STDC,
        *"--model_path output/stdc1/iter_3 --image_path data/demo_city/leftImg8bit/val".split(),
        *"--save_dir output/result --custom_color 0 255 0".split(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = {kind: sorted((trained / "output/result" / kind).rglob("*.png")) for kind in
             ("added_prediction", "pseudo_color_prediction", "class_ids")}  # fmt: skip
    assert [len(found) for found in files.values()] == [2, 2, 2]
    with Image.open(files["pseudo_color_prediction"][0]) as palette, Image.open(files["class_ids"][0]) as ids:
        assert palette.mode == "P" and palette.getpalette()[:3] == [0, 255, 0]
        np.testing.assert_array_equal(np.array(palette), np.array(ids))


def test_resuming_a_finished_run_does_nothing(trained: Path) -> None:
    before = (trained / "output/stdc1/iter_3/manifest.json").read_bytes()
    arguments = "--iters 3 --batch_size 2 --learning_rate 0.001 --seed 1 --resume auto --save_dir output/stdc1".split()
    done = run("train.py", trained, *STDC, *arguments, "--opts", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 iterations are done" in done.stdout
    assert (trained / "output/stdc1/iter_3/manifest.json").read_bytes() == before


def test_curves_are_drawn(trained: Path) -> None:
    done = run("analyze_log.py", trained, "output/stdc1", "--keys", "loss", "mIoU", "--out", "curves.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert (trained / "curves.png").stat().st_size > 5000
    done = run("analyze_log.py", trained, "output/stdc1", "--list")
    assert "output/stdc1: loss_seg: " in done.stdout and " at 3" in done.stdout


def test_without_arguments_evaluation_takes_the_demos_best_weights(trained: Path) -> None:
    done = run("val.py", trained, "--aug_eval", "--scales", "0.75", "1.0", "1.25")
    assert done.returncode == 2
    assert "make demo" in done.stderr
    options = ["--iters", "1", "--batch_size", "2", "--do_eval", "--opts", "lr_scheduler.warmup_iters=0"]
    crop = "train_dataset.transforms.3.crop_size=[64, 64]"
    done = run("train.py", trained, *options, crop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("no --config: using configs/demo/")
    done = run("val.py", trained, "--aug_eval", "--scales", "0.75", "1.0", "1.25", "--json", "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((trained / "figures.json").read_text())["test_config"]["scales"] == [0.75, 1.0, 1.25]
    done = run("predict.py", trained)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 picture predicted; results in output/result" in done.stdout


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("val.py", "--sclaes 0.5", "error: unknown arguments --sclaes 0.5. Did you mean '--scales'?"),
        ("val.py", "--scales 0", "error: --scales 0.0: test_config.scales.0: expected a number > 0"),
        ("val.py", "--aug_eval --scales nan", "test_config.scales.0: expected float, got nan"),
        ("val.py", "--aug_eval --scales -1", "error: --scales -1.0: test_config.scales.0: expected a number > 0"),
        ("val.py", "--aug_eval --scales", "error: argument --scales: expected at least one argument"),
        ("val.py", "--scales 0.5 0.75", "error: --scales 0.5 0.75: has no effect without aug_eval"),
        ("val.py", "--flip_horizontal", "error: --flip_horizontal: has no effect without aug_eval"),
        ("val.py", "--is_slide", "needs crop_size and stride"),
        ("val.py", "--config configs/demo/stdc1_demo_256x128.yml", "error: --model_path: missing"),
        ("val.py", "--model_path nowhere.pdparams", "nowhere.pdparams: there is no such file"),
        (
            "val.py",
            "--config configs/stdc/stdc1.yml",
            "error: configs/stdc/stdc1.yml: there is no such file. Did you m",
        ),
        ("train.py", "--iters 0", "error: --iters 0: expected int >= 1, got 0"),
        ("train.py", "--precision bf16", "on the CPU"),
        ("train.py", "--opts model.backbone.typ=STDC2", "typ"),
        ("train.py", "--resume nowhere", "error: nowhere: "),
        ("predict.py", "--model_path x --image_path nowhere", "error: nowhere: there is no such file or folder"),
        ("predict.py", "--config configs/demo/stdc1_demo_256x128.yml", "error: --model_path: missing"),
        ("analyze_log.py", "nowhere", "error: nowhere: cannot be read"),
    ],
)
def test_a_users_error_is_one_message_and_exit_code_2(folder: Path, tool: str, arguments: str, message: str) -> None:
    done = run(tool, folder, *arguments.split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


class Evil:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize(
    ("tool", "flag"), [("train.py", "--pretrained"), ("val.py", "--model_path"), ("predict.py", "--model_path")]
)
def test_weights_that_would_run_code_are_refused_by_the_name_of_what_they_call(
    folder: Path, tmp_path: Path, tool: str, flag: str
) -> None:
    canary, weights = tmp_path / "canary", tmp_path / "w.pdparams"
    weights.write_bytes(pickle.dumps({"w": np.ones(3), "x": Evil(f"touch {canary}")}))
    arguments = [
        "--config",
        DEMO,
        flag,
        str(weights),
        *(["--save_dir", str(tmp_path / "out")] if "train" in tool else []),
    ]
    arguments += ["--image_path", "data/demo_city/leftImg8bit/test"] if "predict" in tool else []
    done = run(tool, folder, *arguments)
    assert done.returncode == 2
    assert "posix.system" in done.stderr and str(weights) in done.stderr and "Traceback" not in done.stderr
    assert not canary.exists()
    pickle.loads(weights.read_bytes())  # the payload is live
    assert canary.exists()


def test_a_label_of_34_is_named_with_its_file_and_what_to_do(tmp_path: Path) -> None:
    from paddleseg_ext.data.demo import DemoSettings, make_demo

    make_demo(tmp_path / "data/demo_city", DemoSettings(2, 1, 0, height=64, width=64))
    (label,) = (tmp_path / "data/demo_city/gtFine/val").rglob("*labelTrainIds.png")
    pixels = np.array(Image.open(label))
    pixels[:2, :3] = 34
    Image.fromarray(pixels).save(label)
    done = run("val.py", tmp_path, "--random_weights")
    assert done.returncode == 2
    assert str(label.name) in done.stderr and "34" in done.stderr and "prepare_cityscapes.py" in done.stderr


def test_a_full_disk_ends_with_exit_code_74(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "tools/train.py"), "--iters", "1", "--batch_size", "2", "--save_dir"]
    options = ["--opts", "lr_scheduler.warmup_iters=0", "train_dataset.transforms.3.crop_size=[64, 64]"]
    limited = (
        "import resource, signal, sys, runpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [command[0], "-c", limited, *command[1:], str(tmp_path / "out"), *options],
        cwd=folder, capture_output=True, text=True, check=False, timeout=150,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 74, done.stdout + done.stderr
    assert "cannot be written" in done.stderr and "bytes" in done.stderr
    assert not list((tmp_path / "out").glob("iter_*"))


@pytest.mark.parametrize("tool", ["train.py", "val.py", "predict.py", "analyze_log.py"])
def test_help_is_quick_and_complete(tmp_path: Path, tool: str) -> None:
    done = run(tool, tmp_path, "--help")
    assert done.returncode == 0
    paddleseg = {
        "train.py": "--config --device --save_dir --num_workers --do_eval --use_vdl --use_ema --resume_model --iters "
        "--batch_size --learning_rate --save_interval --log_iters --keep_checkpoint_max --early_stop_intervals --seed "
        "--precision --amp_level --opts",
        "val.py": "--config --model_path --num_workers --device --aug_eval --scales --flip_horizontal --flip_vertical "
        "--is_slide --crop_size --stride --opts",
        "predict.py": "--config --model_path --image_path --save_dir --device --aug_pred --scales --flip_horizontal "
        "--flip_vertical --is_slide --crop_size --stride --custom_color",
        "analyze_log.py": "--keys --legend --out",
    }
    assert [flag for flag in paddleseg[tool].split() if flag not in done.stdout] == []
