"""The commands around panoptic data and models, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = "configs/demo/panoptic_deeplab_stdc1_demo_256x128.yml"

pytestmark = pytest.mark.cli


def run(tool: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "tools" / tool), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=150, env=environment
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a city of a few small scenes, where the demo finds it."""
    from paddleseg_ext.data.demo import DemoSettings, make_demo

    folder = tmp_path_factory.mktemp("work with spaces")
    make_demo(folder / "data/demo_city", DemoSettings(4, 2, 1, height=64, width=128))
    return folder


def test_prepare_cityscapes_writes_panoptic_files_if_asked(folder: Path) -> None:
    done = run("data/prepare_cityscapes.py", folder, "--root", "data/demo_city", "--panoptic", "--num_workers", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  panoptic data/demo_city/gtFine/cityscapes_panoptic_val.json" in done.stdout.splitlines()
    content = json.loads((folder / "data/demo_city/gtFine/cityscapes_panoptic_val.json").read_text())
    assert len(content["annotations"]) == 2 and len(content["categories"]) == 19


def test_prepare_coco_says_what_is_missing(folder: Path) -> None:
    (folder / "coco").mkdir()
    done = run("data/prepare_coco_panoptic.py", folder, "--root", "coco", "--modes", "val")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: coco/annotations/panoptic_val2017.json: no such file; coco is empty; extract")


def test_the_demo_trains_evaluates_and_predicts(folder: Path) -> None:
    small = ["--opts", "train_dataset.transforms.3.crop_size=[64, 64]", "lr_scheduler.warmup_iters=1"]
    done = run(
        "train.py", folder, "--config", DEMO, "--iters", "2", "--batch_size", "2", "--save_dir", "out", *small
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("val.py", folder, "--config", DEMO, "--model_path", "out/iter_2", "--json", "val.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[EVAL] #Images: 2 PQ: " in done.stdout
    assert set(json.loads((folder / "val.json").read_text())) >= {"panoptic", "instance", "semantic", "postprocess"}
    images = ["--image_path", "data/demo_city/leftImg8bit/test", "--save_dir", "result", "--names"]
    done = run("predict.py", folder, "--config", DEMO, "--model_path", "out/iter_2", *images)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 picture predicted; results in result" in done.stdout
    assert len(json.loads((folder / "result/panoptic.json").read_text())["annotations"]) == 1


def test_flags_that_mean_nothing_here_are_refused(folder: Path) -> None:
    done = run("val.py", folder, "--config", DEMO, "--random_weights", "--aug_eval")
    assert done.returncode == 2
    assert "--aug_eval: 'task: panoptic' takes the whole image at its own scale; remove it." in done.stderr
