from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.errors import DataError
from paddleseg_ext.plots import curves, plot, read_log


def train(iteration: int, loss: float) -> dict[str, Any]:
    return {"kind": "train", "iteration": iteration, "loss": loss, "losses": {"loss_seg": loss}, "lr": 0.1}


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


RESUMED = (
    {"kind": "start", "iteration": 0},
    train(10, 3.0),
    train(20, 2.0),
    train(30, 1.5),
    '{"kind": "train", "iter',
    {"kind": "start", "iteration": 20},
    train(30, 1.4),
    {"kind": "eval", "iteration": 30, "weights": "model", "mIoU": 0.5, "class_iou": {"car": 0.7, "bus": None}},
    {"kind": "eval", "iteration": 30, "weights": "ema", "mIoU": 0.6},
)


def test_steps_that_a_crash_has_lost_are_counted_once(tmp_path: Path) -> None:
    write(tmp_path / "run/train.jsonl", *RESUMED)
    found = curves(read_log(tmp_path / "run"))
    assert found["loss"] == ([10, 20, 30], [3.0, 2.0, 1.4])
    assert found["loss_seg"] == found["loss"]
    assert found["mIoU"] == ([30], [0.5])
    assert found["mIoU (EMA)"] == ([30], [0.6])
    assert found["IoU car"] == ([30], [0.7])
    assert "IoU bus" not in found


@pytest.mark.parametrize("content", ["", "not json\n", '[1, 2]\n{"a": 1}\n'])
def test_a_file_without_records_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(DataError, match="no line is a record"):
        read_log(tmp_path / "log.jsonl")


def test_a_folder_without_a_log_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl: cannot be read"):
        read_log(tmp_path)


def test_runs_are_drawn_into_one_picture(tmp_path: Path) -> None:
    found = curves(read_log(write(tmp_path / "log.jsonl", *RESUMED)))
    out = plot({"one": found, "other": found}, None, tmp_path / "new/curves.png")
    with Image.open(out) as image:
        pixels = np.array(image.convert("RGB"))
    assert pixels.shape[0] > 200 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_an_unknown_curve_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    found = curves(read_log(write(tmp_path / "log.jsonl", *RESUMED)))
    with pytest.raises(DataError, match=r"no run has los; available: loss, lr, loss_seg"):
        plot({"one": found}, ["los"], tmp_path / "curves.png")


def test_a_picture_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    found = curves(read_log(write(tmp_path / "log.jsonl", *RESUMED)))
    with pytest.raises(DataError, match=r"ends in \.png"):
        plot({"one": found}, ["loss"], tmp_path / "curves.xyz")
