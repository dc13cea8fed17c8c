"""What tests of training look at, and how they start it in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from paddleseg_ext.engine.checkpoint import load_checkpoint
from paddleseg_ext.plots import read_log


def losses_of(folder: Path, key: str = "loss") -> dict[int, float]:
    """Step -> total loss, one of its terms or another figure, from the log."""
    records = [record for record in read_log(folder) if record["kind"] == "train"]
    return {record["iteration"]: {**record, **record["losses"]}[key] for record in records}


def messages_of(folder: Path) -> list[str]:
    """The warnings of the log."""
    return [record["text"] for record in read_log(folder) if record["kind"] == "message"]


def assert_same_state(one: Path, other: Path) -> None:
    """Every array is equal to the last bit, and so is all other state."""
    a, b = load_checkpoint(one), load_checkpoint(other)
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


def write_config(tiny: ModuleType, city: Path, path: Path, **changes: Any) -> Path:
    """Writes the tiny model's configuration to a file."""
    path.write_text(json.dumps(tiny.config_data(city, **changes)))  # JSON is YAML
    return path


def start(script: Path, *arguments: Any, cwd: Path) -> subprocess.Popen[str]:
    """Starts tools/train.py with the tiny model."""
    command = [sys.executable, str(script), "train", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    """Returns when a file is there, or the process has ended."""
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)
