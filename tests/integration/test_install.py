"""The wheel and the editable install carry everything, and run outside the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("paddleseg_ext", "parity", "configs", "tools", "requirements", "setup.py", "pyproject.toml", "README.md")
DEMO = "stdc1_demo_256x128.yml"


def run(*command, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's contents, and one far from the repository to run in."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source / part)
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", source / "dist", ".", cwd=source)
    (wheel,) = (source / "dist").glob("*.whl")
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel, cwd=source)
    return site


def test_the_wheel_runs_the_parity_command_and_has_the_recordings(installed, tmp_path):
    code = "import parity, paddleseg_ext; print(parity.__file__); print(paddleseg_ext.__file__)"
    origins = run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert all(origin.startswith(str(installed)) for origin in origins)
    assert "stdc1" in run("-m", "parity", "--list", cwd=tmp_path, PYTHONPATH=str(installed))
    code = "from parity import cases, chain; print(len(chain.Recording.load(chain.RECORDINGS / 'stdc2').state_dict))"
    assert run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).strip() == "733"


def test_the_wheel_finds_its_configs(installed, tmp_path):
    name = "configs/stdc/stdc1_cityscapes_1024x512_60k.yml"
    command = ("-m", "paddleseg_ext.tools.print_config", "--config", name)
    assert "STDCSeg" in run(*command, cwd=tmp_path, PYTHONPATH=str(installed))


TOOLS = sorted(
    ".".join(path.relative_to(ROOT / "tools").with_suffix("").parts)
    for path in (ROOT / "tools").rglob("*.py")
    if path.stem != "__init__"
)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_starts_from_the_wheel(installed, tmp_path, tool):
    assert "usage" in run("-m", f"paddleseg_ext.tools.{tool}", "--help", cwd=tmp_path, PYTHONPATH=str(installed))


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def test_the_demo_runs_from_the_wheel_in_a_folder_far_away_and_writes_nothing_beside_the_code(installed, tmp_path):
    site = {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    before = snapshot(installed)
    for path in [installed, *installed.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)

    def tool(name, *arguments):
        return run("-m", f"paddleseg_ext.tools.{name}", *arguments, cwd=tmp_path, **site)

    try:
        size = "--size 64 64 --train 4 --val 2 --test 1".split()
        tool("data.make_demo", "--root", "data/demo_city", *size)
        small = "--opts lr_scheduler.warmup_iters=0 train_dataset.transforms.3.crop_size=[64,64]".split()
        tool("train", *"--do_eval --iters 1 --batch_size 2".split(), *small)
        assert "[EVAL] #Images: 2 mIoU: " in tool("val", "--json", "figures.json")
        assert "1 picture predicted" in tool("predict")
        assert "curves in " in tool("analyze_log")
        assert "val_dataset: 2 samples, 0 problems" in tool("data.check_data", "--config", "configs/demo/" + DEMO)
    finally:
        for path in [installed, *installed.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)
    assert snapshot(installed) == before
    assert {path.name for path in tmp_path.iterdir()} == {"data", "output", "figures.json"}


def test_the_editable_install_works_from_any_folder(tmp_path):
    code = "import parity, paddleseg_ext; print(parity.__file__)"
    assert run("-c", code, cwd=tmp_path).strip() == str(ROOT / "parity" / "__init__.py")
    name = "configs/stdc/stdc1_cityscapes_1024x512_60k.yml"
    assert "STDCSeg" in run(ROOT / "tools" / "print_config.py", "--config", name, cwd=tmp_path)
