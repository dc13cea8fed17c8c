from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools/data"

pytestmark = pytest.mark.cli


def run(tool: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / f"{tool}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a small generated city in data/demo_city."""
    folder = tmp_path_factory.mktemp("work")
    done = run("make_demo", folder, "--train", "3", "--val", "2", "--test", "1", "--size", "64", "32")
    assert (done.returncode, done.stderr) == (0, "")
    assert "data/demo_city: 3 training, 2 validation and 1 test scenes of 64 x 32 (seed 0)" in done.stdout
    return folder


def test_make_demo_twice_keeps_what_is_there(folder: Path) -> None:
    again = run("make_demo", folder, "--train", "3", "--val", "2", "--test", "1", "--size", "64", "32")
    assert again.returncode == 0
    other = run("make_demo", folder, "--seed", "1")
    assert other.returncode == 2
    assert other.stderr.startswith("error: data/demo_city: a city generated with other settings")
    assert "Traceback" not in other.stderr


def test_check_data_reports_classes_and_writes_json(folder: Path) -> None:
    done = run("check_data", folder, "--dataset_root", "data/demo_city", "--num_workers", "0", "--json", "report.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: 3 samples, 0 problems; height x width: 32x64: 3" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert set(report) == {"train", "val"}
    assert report["val"]["problems"] == []


def test_check_data_takes_a_configuration(folder: Path) -> None:
    (folder / "c.yml").write_text("val_dataset: {type: Cityscapes, dataset_root: nowhere, mode: val}\n")
    done = run("check_data", folder, "--config", "c.yml", "--opts", "val_dataset.dataset_root=data/demo_city")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("val_dataset: 2 samples, 0 problems")
    done = run("check_data", folder, "--config", "c.yml")
    assert done.returncode == 2
    assert "c.yml:1: val_dataset: dataset_root nowhere: no such folder" in done.stdout


def test_check_data_takes_list_files(folder: Path) -> None:
    lists = ("num_classes=19", "train_path=data/demo_city/train.txt", "separator=','")
    options = ("--type", "Dataset", "--dataset_root", "data/demo_city", "--mode", "train", "--num_workers", "0")
    done = run("check_data", folder, *options, "--opts", *lists)
    assert (done.returncode, done.stderr) == (0, "")
    done = run("check_data", folder, *options, "--opts", "num_classes=4", *lists[1:])
    assert done.returncode == 2
    assert "expected 0..3 and ignore 255; check num_classes (4)" in done.stdout


def test_check_data_names_a_bad_file_and_exits_with_2(folder: Path) -> None:
    path = sorted((folder / "data/demo_city/leftImg8bit/val").rglob("*.png"))[1]
    data = path.read_bytes()
    try:
        path.write_bytes(data[: len(data) // 2])
        done = run("check_data", folder, "--dataset_root", "data/demo_city", "--num_workers", "0")
    finally:
        path.write_bytes(data)
    assert done.returncode == 2
    assert f"problem: {path.relative_to(folder)}: damaged image" in done.stdout


def test_prepare_cityscapes_from_archives(folder: Path) -> None:
    for kind in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(folder / f"{kind}.zip", "w") as archive:
            for path in sorted((folder / "data/demo_city" / kind).rglob("*.png")):
                if "TrainIds" not in path.name:
                    archive.write(path, path.relative_to(folder / "data/demo_city").as_posix())
    done = run("prepare_cityscapes", folder, "leftImg8bit.zip", "gtFine.zip", "--root", "data/c", "--separator", ";")
    assert (done.returncode, done.stderr) == (0, "")
    assert "21 files placed" not in done.stdout and "16 files placed, 0 kept, 5 training-id maps" in done.stdout
    assert "train     3 images,     3 with training ids (the published set has 2975)" in done.stdout
    assert (folder / "data/c/train.txt").read_text().count(";gtFine/train/") == 3
    incomplete = run("prepare_cityscapes", folder, "leftImg8bit.zip", "--root", "data/d")
    assert incomplete.returncode == 2
    assert "error: data/d: train: 3 of 3 images have no label" in incomplete.stderr


@pytest.mark.parametrize("tool", ["make_demo", "prepare_cityscapes", "check_data"])
def test_help_and_unknown_flags(folder: Path, tool: str) -> None:
    assert run(tool, folder, "--help").returncode == 0
    done = run(tool, folder, "--frobnicate")
    assert done.returncode == 2
    assert "--frobnicate" in done.stderr and "Traceback" not in done.stderr
