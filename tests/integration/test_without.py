"""Packages that are not needed: the tools run where they are missing, or raise when they are imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.integration

# A `sitecustomize` module, which Python imports by itself at the start.
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise {error}(name + " is blocked")

sys.meta_path.insert(0, Blocker())
"""
BLOCKED = ("torch", "visualdl", "tensorboard", "tensorboardX", "onnx", "onnxruntime", "paddle2onnx", "pycocotools")
BLOCKED += ("cityscapesscripts", "panopticapi", "matplotlib", "pandas", "tkinter", "reprod_log", "detectron2")


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_training_evaluation_and_prediction_need_none_of_them(
    tiny: ModuleType, city: Path, tmp_path: Path, error: str
) -> None:
    (tmp_path / "block").mkdir()
    (tmp_path / "block/sitecustomize.py").write_text(BLOCKER.format(blocked=set(BLOCKED), error=error))
    config = tmp_path / "c.yml"
    config.write_text(json.dumps(tiny.config_data(city, iters=2)))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "block")}
    environment.pop("DISPLAY", None)

    def run(tool: str, *arguments: str) -> str:
        command = [sys.executable, tiny.__file__, tool, "--config", str(config), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = run("train", "--do_eval", "--use_vdl", "--save_dir", "out")
    assert said.count("visualdl is blocked") == 1  # one warning
    assert "logging to VisualDL failed" in said and "Traceback" not in said
    assert "mIoU" in run("val", "--model_path", "out/iter_2", "--save_dir", "pictures")
    run("predict", "--model_path", "out/iter_2", "--image_path", str(city / "leftImg8bit/test"), "--save_dir", "result")
    assert len(list((tmp_path / "result/added_prediction").rglob("*.png"))) == 1
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 3
