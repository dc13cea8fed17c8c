"""Training checkpoints that survive a crash, a full disk and a flipped bit.

    save_dir/
      iter_1000/
        model.safetensors optimizer.safetensors ...   one file per group of arrays
        state.json                                     everything that is no array
        model.pdparams                                 on demand, for PaddleSeg
        manifest.json                                  size and SHA-256 of each file, and of itself
      best_model/                                      the same; never pruned
      last_checkpoint                                  the name of the newest one

A checkpoint is written aside as `iter_1000.tmp-<process id>`, forced to disk, and then renamed; `last_checkpoint`
is replaced after that, and only then are old ones deleted. So at every moment the one that `last_checkpoint` names
is whole. Only names and files of this form are ever deleted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from paddleseg_ext import weight_files
from paddleseg_ext.errors import CheckpointError, WeightError

SCHEMA = 1
POINTER = "last_checkpoint"
BEST = "best_model"
_ITER = re.compile(r"iter_(\d{1,18})")
_ASIDE = re.compile(rf"(iter_\d{{1,18}}|(?:ema_)?{BEST}|{POINTER}|writable)\.tmp-(\d{{1,18}})(-old)?")
_GROUP = re.compile(r"[a-z][a-z0-9_]{0,63}")
_OWN_FILE = re.compile(rf"{_GROUP.pattern}\.safetensors|model\.pdparams|state\.json|manifest\.json")
_MAX_MANIFEST_BYTES = 1 << 20


class CheckpointWriteError(CheckpointError):
    """A checkpoint that cannot be written: a full disk, missing permissions.

    Attributes:
        exit_code: for the command line; EX_IOERR of sysexits.h.
    """

    exit_code = 74


class CheckpointVersionError(CheckpointError):
    """A checkpoint that a newer release has written."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: its folder.
        iteration: optimizer steps done.
        arrays: group ("model", "optimizer", "ema") -> name -> value.
        state: everything that is no array.
    """

    path: Path
    iteration: int
    arrays: dict[str, dict[str, np.ndarray]]
    state: dict[str, Any]


def prepare_root(root: str | Path) -> None:
    """Makes the folder for checkpoints and tries to write to it; to be called before training.

    Raises:
        CheckpointWriteError: if it is a file, cannot be written to, or holds another program's checkpoints under
            the names that are needed; nothing is deleted.
    """
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise CheckpointWriteError(f"{root}: a file; expected a folder; move it away or choose another --save_dir")
    for target in [root / BEST, root / f"ema_{BEST}", *(folder for _, folder in _folders(root))]:
        _refuse_foreign(target)
    probe = root / f"writable.tmp-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        try:
            _write_file(probe, lambda file: file.write(b"x"))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointWriteError(f"{root}: cannot be written to: {weight_files.explain(error, root, 1)}") from error


def clean(root: str | Path) -> list[str]:
    """Removes what a killed run has left half-written; to be called before training, by one process.

    An older checkpoint that was being replaced is put back. What belongs to a process that is running on this
    machine, and any file that is not of this module's making, stays.

    Returns:
        The names that were removed or put back.
    """
    root, done = Path(root), []
    try:
        for entry in sorted(root.iterdir()) if root.is_dir() else []:
            match = _ASIDE.fullmatch(entry.name)
            if not match or entry.is_symlink() or _is_running(int(match[2])):
                continue
            if match[3] and entry.is_dir() and not (root / match[1]).exists():
                os.rename(entry, root / match[1])
            elif entry.is_dir():
                _discard(entry)
            elif match[1] in (POINTER, "writable"):
                entry.unlink()
            if not entry.exists():
                done.append(entry.name)
    except OSError as error:
        raise CheckpointWriteError(f"{root}: cannot be cleaned: {weight_files.explain(error, root, 0)}") from error
    return done


def save_checkpoint(
    root: str | Path,
    iteration: int,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    state: Mapping[str, Any],
    *,
    keep: int = 5,
    pdparams: bool = False,
) -> Path:
    """Writes `iter_<iteration>`, points `last_checkpoint` to it and then prunes.

    Args:
        root: the folder for checkpoints.
        iteration: optimizer steps done.
        arrays: group -> name -> value; types, shapes and bits are kept. Groups are lower-case identifiers.
        state: JSON with text as keys; floats come back exactly, tuples as lists.
        keep: how many to keep; 0 or less keeps all. Those of a later iteration are from a run that was abandoned
            by resuming an earlier one, and go first.
        pdparams: also write the group "model" as `model.pdparams`.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointWriteError: if it cannot be written; the older ones are as they were, nothing is left aside.
        CheckpointError: if an array is of a type that its file cannot hold.
    """
    root = Path(root)
    folder = _commit(root, f"iter_{iteration}", iteration, arrays, state, pdparams)
    pointer = root / f"{POINTER}.tmp-{os.getpid()}"
    with _reporting(root / POINTER, 0):
        try:
            _write_file(pointer, lambda file: file.write(f"{folder.name}\n".encode()))
            os.replace(pointer, root / POINTER)
            _sync_folder(root)
        finally:
            pointer.unlink(missing_ok=True)
    if keep > 0:
        _prune(root, iteration, keep)
    return folder


def save_best(
    root: str | Path,
    iteration: int,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    state: Mapping[str, Any],
    *,
    name: str = BEST,
    pdparams: bool = True,
) -> Path:
    """Writes `best_model`, or `ema_best_model`, in the place of an older one; the rest as in `save_checkpoint`."""
    return _commit(Path(root), name, iteration, arrays, state, pdparams)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint after all its sizes and SHA-256 sums have been verified.

    Args:
        path: of its folder.

    Raises:
        CheckpointError: if something is missing, truncated, altered or from a newer version.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    try:
        for name, entry in manifest["files"].items():
            _verify(folder, name, entry)
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = {group: folder / f"{group}.safetensors" for group in manifest["groups"]}
        arrays = {
            group: weight_files.load_arrays(file) if file.name in manifest["files"] else {}
            for group, file in files.items()
        }
    except (OSError, WeightError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}; expected a checkpoint; use another one") from error
    return Checkpoint(folder, manifest["iteration"], arrays, state)


def latest(root: str | Path, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None if there is none at all.

    Args:
        root: the folder for checkpoints.
        warn: is told about each one that had to be passed over, and why.

    Raises:
        CheckpointError: if there are checkpoints, but none is whole: starting anew is the user's decision; or if a
            newer release has written one.
    """
    root, passed_over = Path(root), []
    for folder in _newest_first(root, warn):
        try:
            return load_checkpoint(folder)
        except CheckpointVersionError:
            raise  # it is not damaged, and going on from an older one would abandon it
        except CheckpointError as error:
            passed_over.append(folder.name)
            warn(f"{error}; trying the one before it")
    if passed_over:
        raise CheckpointError(
            f"{root}: none of {', '.join(passed_over)} can be read; expected one whole checkpoint; "
            "resume from another folder, or start anew in an empty one"
        )
    return None


def rng_state(paddle_states: Sequence[Any] = ()) -> dict[str, Any]:
    """The state of every random generator of this process, as JSON.

    Args:
        paddle_states: what `paddle.get_rng_state()` returns.
    """
    version, keys, gauss = random.getstate()
    name, numpy_keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(keys), gauss],
        "numpy": [name, numpy_keys.tolist(), int(position), int(has_gauss), float(cached)],
        "paddle": [list(state.__getstate__()) for state in paddle_states],
    }


def set_rng_state(state: Mapping[str, Any], paddle_states: Sequence[Any] = ()) -> list[Any]:
    """Sets the generators of `random` and numpy to what `rng_state` returned.

    Args:
        state: from `rng_state`, also by way of JSON.
        paddle_states: what `paddle.get_rng_state()` returns now; one per device.

    Returns:
        What to pass to `paddle.set_rng_state`.

    Raises:
        CheckpointError: if the state is of another number of devices, or not a state.
    """
    if len(state.get("paddle", ())) != len(paddle_states):
        raise CheckpointError(
            f"random state: of {len(state.get('paddle', ()))} paddle devices; expected {len(paddle_states)}; "
            "resume on the device that the checkpoint is from"
        )
    try:
        version, keys, gauss = state["python"]
        name, numpy_keys, position, has_gauss, cached = state["numpy"]
        restored = [type(current).__new__(type(current)) for current in paddle_states]
        for new, values in zip(restored, state.get("paddle", ())):
            new.__setstate__(tuple(values))
        random.setstate((version, tuple(keys), gauss))
        np.random.set_state((name, np.array(numpy_keys, np.uint32), position, has_gauss, cached))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"random state: {error}; expected that of rng_state(); use another one") from error
    return restored


# --- writing ---------------------------------------------------------------------------------------------


def _commit(root: Path, name: str, iteration: int, arrays: Any, state: Mapping[str, Any], pdparams: bool) -> Path:
    target, aside = root / name, root / f"{name}.tmp-{os.getpid()}"
    _refuse_foreign(target)
    writers = _writers(arrays, json.dumps(state).encode(), pdparams)
    num_bytes = sum(map(weight_files.count_bytes, [*arrays.values(), arrays["model"] if pdparams else {}]))
    with _reporting(target, num_bytes):
        try:
            _discard(aside)
            aside.mkdir(parents=True)
            files = {file: _write_file(aside / file, write) for file, write in writers.items()}
            body = {"schema": SCHEMA, "iteration": iteration, "groups": sorted(arrays), "files": files}
            _write_file(aside / "manifest.json", lambda file: file.write(_render(body)))
            _sync_folder(aside)
            _put_in_place(aside, target)
        finally:
            with contextlib.suppress(OSError):
                _discard(aside)
    return target


def _writers(arrays: Any, state: bytes, pdparams: bool) -> dict[str, Callable[[BinaryIO], Any]]:
    writers: dict[str, Callable[[BinaryIO], Any]] = {}
    for group, values in arrays.items():
        if not _GROUP.fullmatch(group):
            raise ValueError(f"group {group!r} is no lower-case identifier")
        if values:  # an optimizer without momentum has none
            name = f"{group}.safetensors"
            writers[name] = lambda file, name=name, values=values: weight_files.write_arrays(file, name, values)
    if pdparams:
        writers["model.pdparams"] = lambda file: weight_files.write_arrays(file, "model.pdparams", arrays["model"])
    writers["state.json"] = lambda file: file.write(state)
    return writers


class _Hashing:
    """A file that sums up what is written to it, before the disk can alter it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        return self._file.write(data)


def _write_file(path: Path, write: Callable[[Any], Any]) -> dict[str, Any]:
    with open(path, "wb") as file:
        hashing = _Hashing(file)
        write(hashing)
        file.flush()
        os.fsync(file.fileno())
    return {"size": hashing.size, "sha256": hashing.digest.hexdigest()}


def _put_in_place(aside: Path, target: Path) -> None:
    old = aside.with_name(f"{aside.name}-old")
    is_replaced = target.exists()
    if is_replaced:
        _discard(old)
        os.rename(target, old)
    try:
        os.rename(aside, target)
    except OSError:
        if is_replaced:
            os.rename(old, target)
        raise
    try:
        _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            _discard(old)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _reporting(target: Path, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = weight_files.explain(error, target.parent, num_bytes)
        raise CheckpointWriteError(f"{target}: cannot be written: {found}; older checkpoints are untouched") from error
    except WeightError as error:
        raise CheckpointError(f"{target}: {error}") from error


def _prune(root: Path, iteration: int, keep: int) -> None:
    """Deletes all but `keep`; what cannot be deleted stays."""
    found = [(number <= iteration, number, folder) for number, folder in _folders(root) if _is_own(folder)]
    for _, number, folder in sorted(found, reverse=True)[keep:]:
        aside = root / f"iter_{number}.tmp-{os.getpid()}"  # so that a half-deleted one does not look damaged
        with contextlib.suppress(OSError):
            os.rename(folder, aside)
            _discard(aside)


def _discard(folder: Path) -> None:
    """Deletes our files in a folder, and the folder if nothing else is in it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    entries = list(folder.iterdir())
    own = [entry for entry in entries if _OWN_FILE.fullmatch(entry.name) and not entry.is_dir()]
    for entry in own:
        entry.unlink()
    if len(own) == len(entries):
        folder.rmdir()


def _is_own(folder: Path) -> bool:
    is_ours = (folder / "manifest.json").is_file() or (folder / "state.json").is_file()  # one may be lost
    return is_ours and not folder.is_symlink()


def _refuse_foreign(target: Path) -> None:
    if os.path.lexists(target) and not _is_own(target):
        raise CheckpointWriteError(
            f"{target}: not a checkpoint of ours; expected a free name; move it away or choose another --save_dir"
        )


def _is_running(pid: int) -> bool:
    if pid == os.getpid() or os.name == "nt":
        return False
    try:
        os.kill(pid, 0)  # asks, sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


# --- reading ---------------------------------------------------------------------------------------------


def _folders(root: Path) -> list[tuple[int, Path]]:
    matches = [(_ITER.fullmatch(entry.name), entry) for entry in root.iterdir()] if root.is_dir() else []
    return sorted((int(match[1]), entry) for match, entry in matches if match and entry.is_dir())


def _newest_first(root: Path, warn: Callable[[str], None]) -> list[Path]:
    """The one that `last_checkpoint` names, then those before it, then those after it (an abandoned run's)."""
    folders = _folders(root)
    newest = folders[-1][0] if folders else 0
    pointer = root / POINTER
    if pointer.is_file():
        with open(pointer, "rb") as file:
            match = _ITER.fullmatch(file.read(64).decode("utf-8", "replace").strip())
        if match:
            newest = int(match[1])
            if newest not in [number for number, _ in folders]:
                warn(f"{pointer}: names iter_{newest}, which is not there; taking the one before it")
        else:
            warn(f"{pointer}: damaged; expected a name such as iter_1000; taking the highest number")
    return [folder for *_, folder in sorted(((n <= newest, n, folder) for n, folder in folders), reverse=True)]


def _render(body: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, sort_keys=True, indent=1).encode() + b"\n"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_MANIFEST_BYTES)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: {error.strerror or error} for manifest.json; expected a checkpoint's folder, such as "
            "output/iter_1000; check the path"
        ) from error
    try:
        body = json.loads(content)
        schema = body["schema"]
        del body["sha256"]
        is_whole = _render(body) == content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: truncated or damaged; expected a manifest; use another checkpoint") from error
    if not is_whole:
        raise CheckpointError(f"{path}: its SHA-256 differs; expected what was written; use another checkpoint")
    if schema != SCHEMA:
        raise CheckpointVersionError(f"{path}: version {schema}; expected {SCHEMA}; use the release that wrote it")
    return body


def _verify(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    path = folder / name
    if not _OWN_FILE.fullmatch(name):
        raise ValueError(f"{name!r:.80} in the manifest is no file of a checkpoint")
    if not path.is_file():
        raise ValueError(f"{name} is missing")
    size = path.stat().st_size
    if size != entry["size"]:
        kind = "truncated" if size < entry["size"] else "altered"
        raise ValueError(f"{name} is {kind}: {size} bytes instead of {entry['size']}")
    if weight_files.sha256(path) != entry["sha256"]:
        raise ValueError(f"{name} is damaged: its SHA-256 differs from the manifest's")
