from __future__ import annotations

import io
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddleseg_ext.log import RunLog, duration, heartbeat, train_line, without_nan

RECORD: dict[str, Any] = {
    "iteration": 10,
    "iters": 20,
    "epoch": 1,
    "loss": 10.4875,
    "losses": {"loss_seg": 4.0, "loss_aux": 6.4875},
    "lr": 0.005839,
    "batch_cost": 4.5799,
    "reader_cost": 0.01095,
    "ips": 0.4367,
    "memory_mb": 812.4,
    "eta_seconds": 45.8,
}


def test_a_line_of_training_is_paddlesegs_with_each_loss_by_name() -> None:
    assert train_line(RECORD) == (
        "[TRAIN] epoch: 1, iter: 10/20, loss: 10.4875, loss_seg: 4.0000, loss_aux: 6.4875, lr: 0.005839, "
        "batch_cost: 4.5799, reader_cost: 0.01095, ips: 0.4367 samples/sec, mem: 812 MB | ETA 00:00:45"
    )
    assert ", loss: 4.0000, lr:" in train_line({**RECORD, "loss": 4.0, "losses": {"loss_seg": 4.0}})


def test_durations_are_hours_minutes_and_seconds() -> None:
    assert [duration(s) for s in (0, 59.9, 61, 3661, 360000)] == [
        "00:00:00",
        "00:00:59",
        "00:01:01",
        "01:01:01",
        "100:00:00",
    ]


def test_what_json_cannot_hold_becomes_null() -> None:
    found = without_nan({"a": math.nan, "b": [math.inf, 1.5], "c": np.float32(2.0), "d": np.arange(2), 3: None})
    assert found == {"a": None, "b": [None, 1.5], "c": 2.0, "d": [0, 1], "3": None}


def test_lines_go_to_console_file_and_json(tmp_path: Path) -> None:
    console = io.StringIO()
    log = RunLog(tmp_path, stream=console)
    log.start({"iteration": 0, "config": {"a": 1}}, "two\nlines")
    log.train(RECORD)
    log.warn("careful", once=True)
    log.warn("careful", once=True)
    log.close()
    text = (tmp_path / "train.log").read_text()
    assert console.getvalue() == text
    assert text.count("careful") == 1
    records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records] == ["start", "train", "message"]
    assert records[1]["losses"] == RECORD["losses"]


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"kind": "tr')
    log = RunLog(tmp_path, stream=io.StringIO())
    log.train(RECORD)
    log.close()
    assert json.loads((tmp_path / "train.jsonl").read_text().splitlines()[1])["iteration"] == 10


def test_other_processes_say_nothing(tmp_path: Path) -> None:
    console = io.StringIO()
    log = RunLog(tmp_path, is_main=False, use_vdl=True, stream=console)
    log.start({}, "banner")
    log.train(RECORD)
    log.warn("careful")
    log.evaluation({"weights": "model", "iteration": 1, "images": 1, "mIoU": 1, "Acc": 1, "Kappa": 1, "Dice": 1})
    log.close()
    assert console.getvalue() == ""
    assert list(tmp_path.iterdir()) == []


def test_warnings_of_the_packages_modules_are_logged(tmp_path: Path) -> None:
    log = RunLog(tmp_path, stream=io.StringIO())
    logging.getLogger("paddleseg_ext.data.workers").warning("a data worker died (%s)", "killed")
    log.close()
    logging.getLogger("paddleseg_ext.data.workers").warning("after the run")
    text = (tmp_path / "train.log").read_text()
    assert "WARNING: a data worker died (killed)" in text
    assert "after the run" not in text


def test_a_console_that_has_gone_does_not_matter(tmp_path: Path) -> None:
    console = io.StringIO()
    log = RunLog(tmp_path, stream=console)
    console.close()
    log.info("on")
    log.close()
    assert "INFO: on" in (tmp_path / "train.log").read_text()


def test_without_a_terminal_there_is_no_bar(tmp_path: Path) -> None:
    console = io.StringIO()
    log = RunLog(tmp_path, stream=console)
    with log.progress("training", 3) as advance:
        for _ in range(3):
            advance()
    log.close()
    assert console.getvalue() == ""


def test_without_a_bar_a_line_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 20.0, 31.0, 40.0, 61.5, 70.0])  # the start, and six steps
    monkeypatch.setattr("paddleseg_ext.log.time.monotonic", lambda: next(clock))
    said: list[str] = []
    advance = heartbeat("evaluating", 6, said.append, seconds=30.0)
    for _ in range(6):
        advance()
    assert said == ["evaluating: 3 of 6, 00:00:31 left", "evaluating: 5 of 6, 00:00:12 left"]


def test_a_quiet_console_shows_warnings_only_and_the_file_everything(tmp_path: Path) -> None:
    console = io.StringIO()
    log = RunLog(tmp_path, level="warning", stream=console)
    log.info("ordinary")
    log.warn("careful")
    log.close()
    assert "careful" in console.getvalue() and "ordinary" not in console.getvalue()
    assert "ordinary" in (tmp_path / "train.log").read_text() and "careful" in (tmp_path / "train.log").read_text()
