"""Several processes that train together, on the CPU with gloo."""

from __future__ import annotations

import json
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

from paddleseg_ext.plots import read_log

pytestmark = pytest.mark.integration

# the mean over all pixels is the mean of the halves' means; group norm and no dropout, so that images are independent
CHANGES = {
    "iters": 6,
    "model": {"norm": "group", "dropout": 0.0},
    "losses": [{"type": "TopKCrossEntropy", "output": "semantic", "name": "loss_seg"}],
    "runtime": {"save_interval": 3, "ema": {"decay": 0.9}},
}


@pytest.fixture
def launch(tiny: ModuleType, city: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts training in two processes: `launch(changes of the configuration, *arguments)`."""

    def start(changes: dict[str, Any], *arguments: str) -> subprocess.Popen[str]:
        config = tmp_path / "c.yml"
        config.write_text(json.dumps(tiny.config_data(city, **json.loads(json.dumps(changes)))))
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo", tiny.__file__]
        command = [sys.executable, *launcher, "train", "--config", str(config), "--num_threads", "1", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tiny.REPOSITORY)}
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )

    return start


def arrays(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    from paddleseg_ext.engine.checkpoint import load_checkpoint

    return load_checkpoint(folder).arrays


def test_two_processes_with_half_the_batch_equal_one(launch: Any, run_train: Any, tmp_path: Path) -> None:
    process = launch({**CHANGES, "batch_size": 2}, "--save_dir", "two", "--do_eval")
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    run_train("one", {"do_eval": True}, **{**CHANGES, "batch_size": 4})
    one, two = arrays(tmp_path / "one/iter_6"), arrays(tmp_path / "two/iter_6")
    for group in ("model", "optimizer", "ema"):
        for name, value in one[group].items():
            np.testing.assert_allclose(two[group][name], value, rtol=1e-4, atol=1e-6, err_msg=f"{group}/{name}")
    losses = [
        [record["loss"] for record in read_log(tmp_path / run) if record["kind"] == "train"] for run in ("one", "two")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    scores = [json.loads((tmp_path / run / "evaluations.json").read_text()) for run in ("one", "two")]
    assert [entry["iteration"] for entry in scores[1]] == [3, 6]
    np.testing.assert_allclose([e["mIoU"] for e in scores[1]], [e["mIoU"] for e in scores[0]], atol=2e-3)
    assert sum(line.count("[TRAIN]") for line in out.splitlines()) == 6  # only one process logs


def test_a_process_that_dies_ends_all_within_a_minute(launch: Any, tmp_path: Path) -> None:
    changes = {**CHANGES, "iters": 100000, "batch_size": 2, "runtime": {"save_interval": 5}}
    process = launch(changes, "--save_dir", "two")
    victims = _wait_for_children(process, tmp_path / "two/last_checkpoint")
    os.kill(victims[-1], signal.SIGKILL)
    start = time.monotonic()
    out, _ = process.communicate(timeout=100)
    assert time.monotonic() - start < 60
    assert process.returncode != 0, out
    assert not any(_is_alive(victim) for victim in victims)
    last = (tmp_path / "two/last_checkpoint").read_text().strip()
    assert arrays(tmp_path / "two" / last)["model"]


def test_resuming_with_another_number_of_processes_is_refused(launch: Any, run_train: Any, tmp_path: Path) -> None:
    run_train("one", **{**CHANGES, "batch_size": 4})
    process = launch({**CHANGES, "batch_size": 2}, "--save_dir", "one", "--resume", "one/iter_3")
    out, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    logs = out + "".join(path.read_text() for path in (tmp_path / "log").glob("workerlog.*"))
    assert "processes: 1 -> 2" in logs


def _wait_for_children(process: subprocess.Popen[str], path: Path) -> list[int]:
    import psutil

    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    return sorted(child.pid for child in children if "tiny.py" in " ".join(child.cmdline()))


def _is_alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
