from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOOL = Path(__file__).resolve().parents[2] / "tools/print_config.py"

pytestmark = pytest.mark.cli


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yml").write_text("iters: 100\nruntime: {seed: 1, log_iters: 5}\n")
    (tmp_path / "main.yml").write_text("_base_: base.yml\nbatch_size: 2\nruntime: {seed: 2}\n")
    return tmp_path


def test_prints_the_merged_configuration_as_yaml(folder: Path) -> None:
    done = run(folder, "main.yml", "--no_check", "--opts", "iters=7", "meta.note=no")
    assert (done.returncode, done.stderr) == (0, "")
    expected = {"iters": 7, "runtime": {"seed": 2, "log_iters": 5}, "batch_size": 2, "meta": {"note": "no"}}
    assert yaml.safe_load(done.stdout) == expected


def test_prints_where_each_value_came_from(folder: Path) -> None:
    done = run(folder, "--config", "main.yml", "--no_check", "--where", "--opts", "batch_size=3")
    origins = dict(line.split("#") for line in done.stdout.splitlines())
    assert {key.strip(): origin.strip() for key, origin in origins.items()} == {
        "iters: 100": "base.yml:1",
        "runtime:": "main.yml:3",
        "seed: 2": "main.yml:3",
        "log_iters: 5": "base.yml:2",
        "batch_size: 3": "--opts batch_size=3",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --config: missing; expected a YAML file"),
        (["mian.yml"], "error: mian.yml: there is no such file. Did you mean 'main.yml'?"),
        (["main.yml", "--config", "base.yml"], "error: two configurations: main.yml and --config base.yml; give one."),
        (["main.yml", "--were"], "error: unknown argument --were. Did you mean '--where'?"),
        (["main.yml", "--opts", "iters"], "error: --opts iters: expected KEY=VALUE"),
        (["main.yml", "--command", "trian"], "error: argument --command: invalid choice: 'trian'"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(folder: Path, arguments: list[str], message: str) -> None:
    done = run(folder, *arguments, "--no_check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = run(folder, "gone.yml", "--no_check", "--debug")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    (folder / "long.yml").write_text("".join(f"key{i}: {'x' * 100}\n" for i in range(5000)))
    command = f"{sys.executable} {TOOL} long.yml --no_check | head -n 1"
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""


def test_a_configuration_is_checked_against_the_real_components(folder: Path) -> None:
    (folder / "bad.yml").write_text(
        "_base_: main.yml\nmodel:\n  type: STDCSeg\n  num_classes: 19\n  backbone: {type: STDC1, pretraind: null}\n"
        "losses:\n  - {type: OhemCrossEntropy, output: semantic, min_kept: many}\n"
    )
    done = run(folder, "bad.yml", "--command", "val")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: 3 problems in the configuration:"
    starts = [
        "bad.yml:5: model.backbone.pretraind: ",
        "bad.yml:7: losses.0.min_kept: ",
        "bad.yml:1: val_dataset: missing",
    ]
    assert [line.startswith(start) for line, start in zip(done.stderr.splitlines()[1:], starts)] == [True] * 3


def test_the_schema_lists_components_and_their_arguments(folder: Path) -> None:
    done = run(folder, "--schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert "loss: " in done.stdout and " CrossEntropy, " in done.stdout
    done = run(folder, "--schema", "OhemCrossEntropy", "PolynomialDecay")
    assert "thresh: float or null, default 0.7" in done.stdout
    assert "learning_rate: float, required" in done.stdout
