"""The harness's other commands, run as people run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cli

ROOT = Path(__file__).resolve().parents[2]

MODELS = """
def reference():
    from torch import nn
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def port():
    from paddle import nn

    class Net(nn.Layer):
        def __init__(self):
            super().__init__()
            norm = nn.BatchNorm2D(8{options})
            self.body = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv2D(8, 4, 1))

        def forward(self, x):
            return self.body(x)

    return Net()
"""


def parity(*arguments, cwd):
    command = [sys.executable, "-W", "ignore", str(ROOT / "parity" / "check.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def test_init_begins_the_models_then_the_case_and_the_case_passes(tmp_path):
    begun = parity("init", "mine", cwd=tmp_path)
    assert begun.returncode == 0 and "put your two models into it" in begun.stdout
    assert parity("init", "mine.py", cwd=tmp_path).returncode == 0  # the two that it suggests
    (tmp_path / "mine_case.py").unlink()
    (tmp_path / "mine.py").write_text(MODELS.format(options=""))
    done = parity("init", "mine.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mine_case.py: 8 of 8 tensors carry over, by 4 rules; 0 open" in done.stdout
    logged = ("--report-dtype", "none", "--reprod-log", "logs")
    assert parity("mine_case.py", *logged, cwd=tmp_path).returncode == 0
    read = parity("compare", "logs/mine", "logs/mine", cwd=tmp_path)
    assert read.returncode == 0 and "pass forward: 5 points, 0 differ" in read.stdout, read.stdout
    again = parity("init", "mine.py", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    (tmp_path / "there").mkdir()
    elsewhere = parity("init", "mine.py", "--out", "there/mine_case.py", cwd=tmp_path)
    assert elsewhere.returncode == 2 and "expected a file beside mine.py" in elsewhere.stderr


def test_a_page_is_written_and_two_recordings_are_compared(tmp_path):
    (tmp_path / "mine.py").write_text(MODELS.format(options=", epsilon=1e-3"))
    assert parity("init", "mine.py", cwd=tmp_path).returncode == 0
    here = parity("mine_case.py", "--html", "here.html", "--json", "here.json", cwd=tmp_path)
    assert here.returncode == 1, here.stderr
    page = (tmp_path / "here.html").read_text()
    assert "The port mine is not equal to its original" in page and "epsilon 0.001, reference 1e-05" in page
    assert "Paddle's float32 error" in page.replace("&#x27;", "'")
    one = parity("record", "mine_case.py", "--side", "reference", "--out", "a.npz", cwd=tmp_path)
    other = parity("record", "mine_case.py", "--side", "port", "--against", "a.npz", "--out", "b.npz", cwd=tmp_path)
    assert (one.returncode, other.returncode) == (0, 0), other.stderr
    for port in ("b.npz", "mine_case.py"):
        there = parity("compare", "a.npz", port, "--json", "there.json", "--html", "there.html", cwd=tmp_path)
        assert there.returncode == 1, there.stderr
        reports = [json.loads((tmp_path / name).read_text())["cases"][0] for name in ("here.json", "there.json")]
        stages = [[(s["stage"], s["points"], s["first"], s["worst"]) for s in report["stages"]] for report in reports]
        assert stages[0] == stages[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["record", "mine_case.py", "--side", "port", "--out", "b.npz"], "there is no such file"),
        (["record", "stdc1", "--side", "port", "--out", "b.npz"], "give its recording, --against"),
        (["record", "stdc1", "--side", "reference", "--out", "b.zip"], "ends in .npz"),
        (["record", "stdc1", "--side", "reference", "--out", "b.npz", "--against", "a.npz"], "leave it out"),
        (["compare", "a.npz", "b.npz"], "there is no such file"),
        (["compare", ".", "b.npz"], "one is a folder"),
        (["init", "no-name"], "cannot be imported"),
        (["init", "."], "cannot be imported"),
        (["init", "none/mine.py"], "there is no folder none"),
        (["init", "mine.py", "--out", "none/mine.py"], "there is no folder none"),
        (["record", "stdc1", "--side", "reference", "--out", "none/b.npz"], "there is no folder none"),
        (["compare", "a.npz", "b.npz", "--html", "none/b.html"], "there is no folder none"),
        (["probe", "nothing-like-this"], "no probe's name has it"),
        (["stdc1", "--fault-score", "none.json"], "there is no such file"),
    ],
)
def test_bad_usage_exits_2_with_one_message(tmp_path, arguments, expected):
    done = parity(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert expected in done.stderr and "Traceback" not in done.stderr


def test_init_says_which_line_or_which_model_raises(tmp_path):
    (tmp_path / "mine.py").write_text("\nimport nothing_like_this\n")
    done = parity("init", "mine.py", cwd=tmp_path)
    assert done.returncode == 2 and "mine.py:2: importing it raised ModuleNotFoundError" in done.stderr
    (tmp_path / "mine.py").write_text(MODELS.format(options=", no_such_option=1"))
    done = parity("init", "mine.py", cwd=tmp_path)
    assert done.returncode == 3 and "mine.py: the port cannot be built: TypeError" in done.stderr
    assert "Traceback" not in done.stderr and "ccache" not in done.stderr
