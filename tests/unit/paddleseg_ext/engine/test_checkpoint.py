"""Checkpoints: exact, verified, and one that can be read is there whatever happens."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import paddleseg_ext
from paddleseg_ext.engine import checkpoint
from paddleseg_ext.engine.checkpoint import (
    CheckpointWriteError,
    clean,
    latest,
    load_checkpoint,
    prepare_root,
    rng_state,
    save_best,
    save_checkpoint,
    set_rng_state,
)
from paddleseg_ext.errors import CheckpointError

FILES = ("model.safetensors", "optimizer.safetensors", "model.pdparams", "state.json", "manifest.json")
CODE_ROOT = str(Path(paddleseg_ext.__file__).parents[1])


def groups(iteration: int, size: int = 10) -> dict[str, dict[str, np.ndarray]]:
    value = np.full(size, iteration, "f4")
    return {"model": {"w": value, "b": np.array(iteration, "i8")}, "optimizer": {"w.velocity": -value}}


def save(root: Path, iteration: int, **options) -> Path:
    return save_checkpoint(root, iteration, groups(iteration), {"best": iteration / 3}, **options)


def assert_is(found: checkpoint.Checkpoint, iteration: int) -> None:
    assert found.iteration == iteration
    assert found.state == {"best": iteration / 3}
    expected = groups(iteration)
    assert sorted(found.arrays) == ["model", "optimizer"]
    for group, values in expected.items():
        assert list(found.arrays[group]) == list(values)
        for name, value in values.items():
            assert np.array_equal(found.arrays[group][name], value)


def names(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir())


def fail(message: str) -> None:
    raise AssertionError(f"no warning expected: {message}")


# --- what is saved comes back ----------------------------------------------------------------------------


def test_arrays_and_state_come_back_to_the_bit(tmp_path):
    arrays = {
        "model": {
            "nan": np.array([0x7FC00001, 0xFFC00002, 0x80000000, 1], "u4").view("f4"),
            "scalar": np.array(0.1),
            "half": np.array([1.5, -0.0], "f2"),
            "bfloat16": np.array([0x3F80], "u2"),
            "empty": np.zeros((0, 4), "f4"),
            "fortran": np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3)),
            "count": np.array(2**62, "i8"),
        },
        "optimizer": {},
        "ema": {"w": np.ones((1, 2, 3), "f4")},
    }
    state = {"lr": 0.1 + 0.2, "tiny": 5e-324, "best": float("-inf"), "big": 2**70, "text": "中文", "none": None}
    found = load_checkpoint(save_checkpoint(tmp_path / "new/run", 7, arrays, state))
    assert found.iteration == 7 and found.path == tmp_path / "new/run/iter_7"
    assert found.state == state
    assert sorted(found.arrays) == sorted(arrays)
    for group, values in arrays.items():
        assert list(found.arrays[group]) == list(values)
        for name, value in values.items():
            read = found.arrays[group][name]
            assert (read.dtype, read.shape, read.tobytes()) == (value.dtype, value.shape, value.tobytes()), name


def test_a_checkpoint_is_a_folder_of_standard_files(tmp_path):
    from safetensors.numpy import load_file

    folder = save(tmp_path, 3, pdparams=True)
    assert names(folder) == sorted(FILES)
    assert (tmp_path / "last_checkpoint").read_text() == "iter_3\n"
    assert load_file(folder / "model.safetensors")["w"].tolist() == [3.0] * 10
    assert json.loads((folder / "state.json").read_text()) == {"best": 1.0}
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["schema"] == 1 and manifest["iteration"] == 3


def test_random_states_come_back_through_json():
    before = rng_state()
    try:
        random.seed(1), np.random.seed(1)
        random.gauss(0, 1), np.random.standard_normal()  # leaves a cached second value in both
        state = json.loads(json.dumps(rng_state()))
        expected = [random.gauss(0, 1), random.random(), *np.random.standard_normal(3), np.random.randint(1000)]
        random.seed(2), np.random.seed(2)
        assert set_rng_state(state) == []
        found = [random.gauss(0, 1), random.random(), *np.random.standard_normal(3), np.random.randint(1000)]
        assert found == expected
        with pytest.raises(CheckpointError, match="random state"):
            set_rng_state({"python": [3, [1, 2], None], "numpy": state["numpy"]})
        with pytest.raises(CheckpointError, match="of 0 paddle devices; expected 1"):
            set_rng_state(state, [object()])
    finally:
        set_rng_state(before)


def test_paddle_reads_the_pdparams_and_its_random_state_comes_back_through_json(tmp_path):
    paddle = pytest.importorskip("paddle")
    folder = save(tmp_path, 3, pdparams=True)
    assert paddle.load(str(folder / "model.pdparams"))["w"].tolist() == [3.0] * 10
    paddle.seed(3)
    paddle.rand([7])
    state = json.loads(json.dumps(rng_state(paddle.get_rng_state())))
    expected = paddle.rand([5]).tolist(), paddle.randn([5]).tolist()
    paddle.seed(4)
    paddle.set_rng_state(set_rng_state(state, paddle.get_rng_state()))
    assert (paddle.rand([5]).tolist(), paddle.randn([5]).tolist()) == expected


# --- which one is newest, and which ones are kept --------------------------------------------------------


def test_nothing_saved_is_nothing_found(tmp_path):
    assert latest(tmp_path, warn=fail) is latest(tmp_path / "missing", warn=fail) is None


def test_old_ones_are_pruned_after_success_and_foreign_ones_never(tmp_path):
    for foreign in ("iter_1", "iter_x", "best_model", "weights"):
        (tmp_path / foreign).mkdir()
        (tmp_path / foreign / "model.pdparams").write_text("mine")
    (tmp_path / "iter_2").write_text("mine")
    shutil.copytree(save(tmp_path / "other", 5), tmp_path / "elsewhere")
    (tmp_path / "iter_5").symlink_to(tmp_path / "elsewhere")
    before = names(tmp_path)
    for iteration in (10, 20, 30, 40):
        save(tmp_path, iteration, keep=2)
    assert names(tmp_path) == sorted([*before, "iter_30", "iter_40", "last_checkpoint"])
    assert len(names(tmp_path / "elsewhere")) == 4


def test_keep_of_zero_or_less_keeps_all(tmp_path):
    for iteration in range(7):
        save(tmp_path, iteration, keep=-(iteration % 2))
    assert names(tmp_path) == [*(f"iter_{i}" for i in range(7)), "last_checkpoint"]


def test_the_best_model_is_replaced_and_not_pruned(tmp_path):
    save_best(tmp_path, 1, groups(1), {"best": 1 / 3})
    for iteration in (2, 3):
        save(tmp_path, iteration, keep=1)
    save_best(tmp_path, 3, groups(3), {"best": 1.0})
    assert names(tmp_path) == ["best_model", "iter_3", "last_checkpoint"]
    assert_is(load_checkpoint(tmp_path / "best_model"), 3)


def test_a_user_file_in_a_pruned_checkpoint_stays(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "iter_1/notes.txt").write_text("mine")
    save(tmp_path, 2, keep=1)
    assert [path.read_text() for path in tmp_path.rglob("notes.txt")] == ["mine"]
    assert not list(tmp_path.rglob("iter_1*/*.safetensors"))


def test_saving_an_iteration_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, 4, groups(9), {})
    save(tmp_path, 4)
    assert_is(latest(tmp_path, warn=fail), 4)
    assert names(tmp_path) == ["iter_4", "last_checkpoint"]


def test_after_resuming_an_earlier_one_the_pointer_decides_and_the_abandoned_go_first(tmp_path):
    for iteration in (10, 20, 30):
        save(tmp_path, iteration)
    save(tmp_path, 12, keep=3)
    assert_is(latest(tmp_path, warn=fail), 12)
    assert names(tmp_path) == ["iter_10", "iter_12", "iter_30", "last_checkpoint"]
    (tmp_path / "iter_12/state.json").unlink()
    assert_is(latest(tmp_path, warn=(warnings := []).append), 10)
    assert "iter_12" in warnings[0] and "state.json is missing" in warnings[0]


@pytest.mark.parametrize("content", [b"", b"iter_", b"../../etc", b"\xff\xfe", b"iter_99\n", None])
def test_a_damaged_pointer_still_finds_the_newest(tmp_path, content):
    for iteration in (9, 10):
        save(tmp_path, iteration)
    (tmp_path / "last_checkpoint").unlink()
    if content is not None:
        (tmp_path / "last_checkpoint").write_bytes(content)
    assert_is(latest(tmp_path, warn=(warnings := []).append), 10)
    assert len(warnings) == (content is not None)


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named_and_the_one_before_is_used(tmp_path, name, fraction):
    for iteration in (1, 2):
        save(tmp_path, iteration, pdparams=True)
    path = tmp_path / "iter_2" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "iter_2")
    assert name in str(caught.value) and "truncated" in str(caught.value)
    if name != "manifest.json":
        assert f"{int(len(content) * fraction)} bytes instead of {len(content)}" in str(caught.value)
    assert_is(latest(tmp_path, warn=(warnings := []).append), 1)
    assert len(warnings) == 1 and name in warnings[0]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_at_20_offsets_or_a_missing_file_is_named(tmp_path, name):
    folder = save(tmp_path, 2, pdparams=True)
    path = folder / name
    content = path.read_bytes()
    for offset in np.linspace(0, len(content) - 1, 20).astype(int):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << (offset % 8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            load_checkpoint(folder)
    path.write_bytes(content)
    assert_is(load_checkpoint(folder), 2)
    path.unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(folder)


def test_if_no_checkpoint_is_whole_training_does_not_start_anew(tmp_path):
    for iteration in (1, 2):
        (save(tmp_path, iteration) / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="none of iter_2, iter_1 can be read"):
        latest(tmp_path, warn=(warnings := []).append)
    assert len(warnings) == 2


def test_a_manifest_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    folder = save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="version 2; expected 1"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "model.pkl", "a/b.safetensors"])
def test_a_manifest_cannot_name_other_files(tmp_path, name):
    folder = save(tmp_path, 1)
    body = {"schema": 1, "iteration": 1, "groups": [], "files": {name: {"size": 0, "sha256": ""}}}
    (folder / "manifest.json").write_bytes(checkpoint._render(body))
    with pytest.raises(CheckpointError, match="no file of a checkpoint"):
        load_checkpoint(folder)


def test_what_is_no_checkpoint_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="expected a checkpoint's folder"):
            load_checkpoint(folder)


# --- failing writes --------------------------------------------------------------------------------------

STEPS = [(os, "fsync"), (os, "rename"), (os, "replace"), (os, "open"), (Path, "mkdir"), (checkpoint, "open")]


def count_steps(monkeypatch, at: int, action) -> list[int]:
    """Calls `action` instead of the step number `at` of those that touch the disk; returns the counter."""
    counter = [0]
    for owner, name in STEPS:
        real = getattr(owner, name, open)

        def step(*arguments, _real=real, **options):
            counter[0] += 1
            if counter[0] == at:
                action()
            return _real(*arguments, **options)

        monkeypatch.setattr(owner, name, step, raising=False)
    return counter


def raise_disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("iteration", [1, 2])
def test_a_full_disk_at_any_step_leaves_a_readable_checkpoint_and_nothing_aside(tmp_path, iteration):
    at, reached = 1, True
    while reached:
        root = tmp_path / str(at)
        save(root, 1)
        with pytest.MonkeyPatch.context() as patch:
            counter = count_steps(patch, at, raise_disk_full)
            try:
                save(root, iteration, keep=1)
            except CheckpointWriteError as error:
                assert error.exit_code == 74
                assert "No space left" in str(error) and "bytes, " in str(error) and "are free" in str(error)
            reached = counter[0] >= at
        found = latest(root, warn=fail)
        assert_is(found, found.iteration)
        assert not [name for name in names(root) if ".tmp-" in name]
        at += 1
    assert at > 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # os.fork beside threads that others started
@pytest.mark.parametrize("iteration", [1, 2])
def test_a_kill_at_any_step_leaves_a_readable_checkpoint_and_is_cleaned_up(tmp_path, iteration):
    at, is_killed = 1, True
    while is_killed:
        root = tmp_path / str(at)
        save(root, 1)
        pid = os.fork()
        if pid == 0:
            try:
                count_steps(pytest.MonkeyPatch(), at, lambda: os._exit(9))
                save(root, iteration, keep=1)
            finally:
                os._exit(0)
        is_killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        clean(root)
        found = latest(root, warn=fail)
        assert_is(found, found.iteration)
        assert not [name for name in names(root) if ".tmp-" in name]
        at += 1
    assert at > 10


PREAMBLE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
root = Path(sys.argv[2])
import numpy as np
from paddleseg_ext.engine.checkpoint import CheckpointWriteError, clean, latest, save_checkpoint
"""


def start(code: str, root: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", PREAMBLE + code, CODE_ROOT, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_file_size_limit_leaves_the_old_checkpoint_and_says_what_is_needed(tmp_path):
    save(tmp_path, 1)
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    save_checkpoint(root, 2, {"model": {"w": np.ones(1 << 20, "f4")}}, {})
except CheckpointWriteError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    process = start(code, tmp_path)
    output, errors = process.communicate()
    assert process.returncode == 74, errors
    assert "File too large; needs 4194304 bytes, " in output
    assert names(tmp_path) == ["iter_1", "last_checkpoint"]
    assert_is(latest(tmp_path, warn=fail), 1)


SAVE_FOREVER = """
clean(root)
iteration = getattr(latest(root, warn=print), "iteration", 0)
while True:
    iteration += 1
    arrays = {group: {"w": np.full(200_000, iteration, "f4")} for group in ("model", "optimizer")}
    save_checkpoint(root, iteration, arrays, {"half": iteration / 2}, keep=2, pdparams=True)
    print(iteration, flush=True)
"""


def test_killed_at_random_moments_the_last_checkpoint_can_always_be_read(tmp_path):
    rng = random.Random(0)
    reported = 0
    for _ in range(10):
        process = start(SAVE_FOREVER, tmp_path)
        first = process.stdout.readline()
        assert int(first) > reported
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        reported = int([first, *process.communicate()[0].splitlines()][-1])
        pointed = load_checkpoint(tmp_path / (tmp_path / "last_checkpoint").read_text().strip())
        assert pointed.iteration in (reported, reported + 1)
        assert pointed.state == {"half": pointed.iteration / 2}
        assert all(np.all(values["w"] == pointed.iteration) for values in pointed.arrays.values())
        assert latest(tmp_path, warn=fail).iteration == pointed.iteration
    clean(tmp_path)
    assert not [name for name in names(tmp_path) if ".tmp-" in name]


def test_only_what_is_left_by_dead_processes_is_cleaned(tmp_path):
    dead = start("", tmp_path)
    dead.communicate()
    folder = save(tmp_path, 1)
    for name in (f"iter_2.tmp-{dead.pid}", f"iter_3.tmp-{os.getppid()}", "iter_4.tmp-x", "mine.tmp-1", "iter_5.tmp-"):
        shutil.copytree(folder, tmp_path / name)
    shutil.copytree(folder, tmp_path / f"iter_6.tmp-{dead.pid}")
    (tmp_path / f"iter_6.tmp-{dead.pid}/notes.txt").write_text("mine")
    (tmp_path / f"iter_7.tmp-{dead.pid}").symlink_to(folder)
    (tmp_path / f"last_checkpoint.tmp-{dead.pid}").write_text("iter_2\n")
    (tmp_path / f"iter_8.tmp-{dead.pid}").write_text("mine")
    os.rename(save(tmp_path, 9), tmp_path / f"iter_9.tmp-{dead.pid}-old")
    gone = [f"iter_2.tmp-{dead.pid}", f"last_checkpoint.tmp-{dead.pid}"]
    kept = [name for name in names(tmp_path) if name not in [*gone, f"iter_9.tmp-{dead.pid}-old"]]
    assert clean(tmp_path) == sorted([*gone, f"iter_9.tmp-{dead.pid}-old"])
    assert names(tmp_path) == sorted([*kept, "iter_9"])
    assert names(tmp_path / f"iter_6.tmp-{dead.pid}") == ["notes.txt"]
    assert_is(load_checkpoint(tmp_path / "iter_9"), 9)


# --- the folder ------------------------------------------------------------------------------------------


def test_a_folder_is_made_and_left_empty(tmp_path):
    for _ in range(2):
        prepare_root(tmp_path / "a/b")
    assert names(tmp_path / "a/b") == []


@pytest.mark.parametrize("inner", ["", "run", "run/deep"])
def test_a_file_in_the_place_of_the_folder_is_refused_and_stays(tmp_path, inner):
    (tmp_path / "output").write_text("mine")
    with pytest.raises(CheckpointWriteError, match=r"a file|cannot be written"):
        prepare_root(tmp_path / "output" / inner)
    with pytest.raises(CheckpointWriteError, match="cannot be written"):
        save(tmp_path / "output" / inner, 1)
    assert (tmp_path / "output").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_read_only_folder_is_refused_before_training_and_nothing_is_deleted():
    outer = Path(tempfile.mkdtemp())
    try:
        outer.chmod(0o755)
        save(outer / "run", 1)
        (outer / "run").chmod(0o555)
        before = names(outer / "run")
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may write anywhere, so it becomes somebody else for a while
        try:
            for root in (outer / "run", outer / "run/new"):
                with pytest.raises(CheckpointWriteError, match="Permission denied; expected a writable folder"):
                    prepare_root(root)
            with pytest.raises(CheckpointWriteError, match="Permission denied"):
                save(outer / "run", 2)
            assert_is(latest(outer / "run", warn=fail), 1)
        finally:
            os.seteuid(user)
        assert names(outer / "run") == before
    finally:
        (outer / "run").chmod(0o755)
        shutil.rmtree(outer)


@pytest.mark.parametrize("name", ["iter_1000", "best_model", "ema_best_model"])
def test_checkpoints_of_another_program_are_refused_before_training_and_stay(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "model.pdparams").write_text("PaddleSeg's")
    with pytest.raises(CheckpointWriteError, match="not a checkpoint of ours"):
        prepare_root(tmp_path)
    with pytest.raises(CheckpointWriteError, match="not a checkpoint of ours"):
        save(tmp_path, 1000) if name == "iter_1000" else save_best(tmp_path, 1000, groups(1), {}, name=name)
    assert (tmp_path / name / "model.pdparams").read_text() == "PaddleSeg's"


def test_mistakes_of_the_caller_leave_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 1, groups(1), {"x": object()})
    with pytest.raises(ValueError, match="no lower-case identifier"):
        save_checkpoint(tmp_path, 1, {"../model": groups(1)["model"]}, {})
    with pytest.raises(CheckpointError, match="expected a numeric type"):
        save_checkpoint(tmp_path, 1, {"model": {"w": np.array(["text"])}}, {})
    assert names(tmp_path) == []
