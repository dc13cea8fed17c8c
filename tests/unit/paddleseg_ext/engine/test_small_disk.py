"""Checkpoints on a file system that is really full: a small one in memory, mounted for one process alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import paddleseg_ext

CODE_ROOT = str(Path(paddleseg_ext.__file__).parents[1])
MOUNT = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'
IS_POSSIBLE = (
    shutil.which("unshare")
    and not subprocess.run(
        ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
    ).returncode
)

CODE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
root = Path(sys.argv[2])
import numpy as np
from paddleseg_ext.engine.checkpoint import CheckpointWriteError, latest, prepare_root, save_checkpoint

def save(iteration, megabytes):
    save_checkpoint(root, iteration, {"model": {"w": np.full(int(megabytes * 2**18), iteration, "f4")}}, {})

def names():
    return sorted(entry.name for entry in root.iterdir())

prepare_root(root)
save(1, 0.3)
for attempt in range(2):
    try:
        save(2, 0.9)
    except CheckpointWriteError as error:
        print(error.exit_code, error)
    assert names() == ["iter_1", "last_checkpoint"], names()
    assert latest(root, warn=print).iteration == 1
(root / "ballast").write_bytes(bytes(2**19))
try:
    save(2, 0.3)
except CheckpointWriteError as error:
    print(error.exit_code, error)
(root / "ballast").unlink()
save(2, 0.3)
found = latest(root, warn=print)
assert found.iteration == 2 and (found.arrays["model"]["w"] == 2).all()
"""


@pytest.mark.skipif(not IS_POSSIBLE, reason="this system does not let a user mount")
def test_a_full_file_system_leaves_the_last_checkpoint_and_saving_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    command = ["unshare", "-Urm", "sh", "-c", MOUNT, "sh", str(tmp_path), sys.executable, "-c", CODE, CODE_ROOT]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, needed in zip(lines, (943717, 943717, 314572)):
        assert line.startswith("74 ") and "No space left on device; needs " in line
        assert abs(int(line.partition("needs ")[2].split()[0]) - needed) < 10 and "are free" in line
