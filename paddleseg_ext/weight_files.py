"""Weight files, read as if their author were hostile and written so that a crash leaves the old one.

| suffix               | read and written as                                                         |
|----------------------|-----------------------------------------------------------------------------|
| `.pdparams` `.pdopt` | PaddlePaddle's pickles (`paddle.load` reads what is written here)           |
| `.pkl`               | detectron2's pickles; only read                                             |
| `.safetensors`       | the safetensors library; the order of names is kept in the metadata `order` |
| `.npz` `.npy`        | numpy's formats without pickled objects; `.npy` is only read                |

numpy in, numpy out. A pickle is a program, so it is not run but interpreted (array_pickles.py). No size that a
file declares is believed before it is compared with the bytes that the file holds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from paddleseg_ext.array_pickles import NUMERIC_TYPES, Bounded, UnsuitableError, assemble, read_pickle
from paddleseg_ext.errors import WeightError

_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt")
_TORCH_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "network", "net")
_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Contents:
    """What a weight file holds.

    Attributes:
        arrays: name -> value, in the order of the file.
        rest: everything else beside them and around them: epoch, learning-rate scheduler, author.
        prefix: "module." if every name begins with it (torch's DataParallel), else "". Names keep it.
    """

    arrays: dict[str, np.ndarray]
    rest: dict[Any, Any]
    prefix: str


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> value, in the order of the file; see `load_contents`."""
    return load_contents(path).arrays


def load_contents(path: str | Path) -> Contents:
    """Reads `.pdparams`, `.pdopt`, `.pkl`, `.safetensors`, `.npz` or `.npy`; runs no code from the file.

    Raises:
        WeightError: if the file is missing, damaged, asks for anything but arrays in plain containers, or holds
            a type that numpy does not have (bfloat16).
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if path.is_dir():
        raise WeightError(f"{path}: a folder; expected a weight file; name the file in it, such as model.pdparams")
    if reader is None:
        raise WeightError(f"{path}: suffix {path.suffix!r}; expected one of {', '.join(_READERS)}; {_advice(path)}")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            _check_start(path, file.read(16), size)
            file.seek(0)
            content = reader(path, file, size)
    except FileNotFoundError as error:
        raise WeightError(f"{path}: there is no such file; expected a weight file; check the path") from error
    except OSError as error:
        raise WeightError(f"{path}: {error.strerror or error}; expected a readable file; check it") from error
    except UnsuitableError as error:
        raise WeightError(f"{path}: holds {error}; expected arrays of numbers; save only the state dict") from error
    except WeightError:
        raise
    except Exception as error:  # a damaged file makes numpy and safetensors raise nearly anything
        found = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightError(f"{path}: damaged: {found}; expected a complete {path.suffix} file; {_AGAIN}") from error
    contents = unwrap(content, path)
    for name, value in contents.arrays.items():
        if value.dtype == np.uint16 and reader is _read_pickle and path.suffix.lower() != ".pkl":
            # Paddle has no uint16: it stores bfloat16 under that type.
            raise WeightError(f"{path}: {name} is bfloat16; expected a type of numpy; save it as float32")
    return contents


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `.pdparams`, `.pdopt`, `.safetensors` or `.npz`; a failure leaves an older file as it was.

    Args:
        path: of the file; missing folders are made.
        arrays: name -> value; type, shape and bits are kept, the byte order becomes the machine's.

    Raises:
        WeightError: if the format cannot hold a type, or the file cannot be written.
    """
    path = Path(path)
    write_atomically(path, lambda file: write_arrays(file, path, arrays), count_bytes(arrays))


def write_arrays(file: BinaryIO, path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to an open file, as `save_arrays` does.

    Args:
        file: open for writing.
        path: its name; the suffix decides the format.
        arrays: name -> value.

    Raises:
        WeightError: if the format cannot hold a type.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise WeightError(f"{path}: suffix {path.suffix!r}; expected one of {', '.join(_WRITERS)}; {_advice(path)}")
    native = {}
    for name, value in arrays.items():
        value = np.asarray(value, order="C")
        if value.dtype.kind + str(value.dtype.itemsize) not in NUMERIC_TYPES:
            raise WeightError(f"{path}: {name} is {value.dtype}; expected a numeric type of numpy; convert it first")
        native[str(name)] = value.astype(value.dtype.newbyteorder("="), copy=False)
    writer(path, file, native)


def count_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes of all values together."""
    return sum(np.asarray(value).nbytes for value in arrays.values())


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, write: Callable[[BinaryIO], None], num_bytes: int = 0) -> None:
    """Writes a file aside, forces it to disk and then puts it in place of an older one.

    Args:
        path: of the file; missing folders are made, a symbolic link is followed.
        write: writes the bytes.
        num_bytes: about how many there will be, for the error message of a full disk.

    Raises:
        WeightError: if that fails; the older file is as it was, nothing is left aside.
    """
    target = Path(os.path.realpath(path))
    aside = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise WeightError(f"{path}: cannot be written: {explain(error, target.parent, num_bytes)}") from error


def explain(error: OSError, folder: Path, num_bytes: int) -> str:
    """What a failed write found, and what to do; for a full disk with the bytes needed and free.

    Args:
        error: from the write.
        folder: where it was.
        num_bytes: what was to be written.
    """
    what = error.strerror or str(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{what}; expected a writable folder; choose another one or change its permissions"
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return f"{what}; needs {num_bytes} bytes, {free} are free; delete something or choose another folder"


def unwrap(obj: Any, path: str | Path) -> Contents:
    """The state dict in what a file holds: arrays by name, or those under "state_dict", "model" and the like.

    Args:
        obj: nested containers of numpy arrays and plain values.
        path: of the file, for error messages.

    Raises:
        WeightError: if there are no arrays, or more than one candidate.
    """
    rest: dict[Any, Any] = {}
    for _ in range(3):
        if not isinstance(obj, Mapping):
            raise WeightError(f"{path}: a {type(obj).__name__}; expected names with arrays; choose another file")
        arrays = {name: value for name, value in obj.items() if isinstance(value, np.ndarray)}
        if arrays:
            rest.update((name, value) for name, value in obj.items() if name not in arrays)
            if not all(isinstance(name, str) for name in arrays):
                raise WeightError(f"{path}: names that are not text; expected a state dict; choose another file")
            return Contents(arrays, rest, "module." if all(n.startswith("module.") for n in arrays) else "")
        inner = [name for name in _WRAPPERS if isinstance(obj.get(name), Mapping) and obj[name]]
        if len(inner) != 1:
            found = ", ".join(f"{str(name)[:40]!r}: {type(value).__name__}" for name, value in list(obj.items())[:10])
            raise WeightError(
                f"{path}: {'several state dicts in' if inner else 'no arrays, but'} {{{found}}}; "
                f"expected arrays by name, also under one of {', '.join(_WRAPPERS)}; save only the state dict"
            )
        rest.update((name, value) for name, value in obj.items() if name != inner[0])
        obj = obj[inner[0]]
    raise WeightError(f"{path}: state dicts in state dicts; expected arrays by name; save only the state dict")


def _advice(path: Path) -> str:
    if path.suffix.lower() in _TORCH_SUFFIXES:
        return "a torch checkpoint is converted by tools/convert_weights.py"
    return "convert it, or correct its name"


def _check_start(path: Path, start: bytes, size: int) -> None:
    is_zip = start.startswith(b"PK\x03\x04")
    if size == 0:
        raise WeightError(f"{path}: truncated: 0 bytes; expected a {path.suffix} file; {_AGAIN}")
    if is_zip and path.suffix.lower() != ".npz":
        raise WeightError(
            f"{path}: a zip archive, probably a torch checkpoint; expected a {path.suffix} file; "
            "name it .pth and convert it with tools/convert_weights.py"
        )
    if start.lstrip()[:1] == b"<":
        raise WeightError(f"{path}: a web page; expected a {path.suffix} file; download it again, from another link")


# --- pickles ---------------------------------------------------------------------------------------------


def _read_pickle(path: Path, file: BinaryIO, size: int) -> Any:
    value = read_pickle(file, size, str(path))
    if isinstance(value, int) and value == _TORCH_LEGACY_MAGIC:
        raise WeightError(f"{path}: a torch checkpoint; expected Paddle's; name it .pth, use tools/convert_weights.py")
    if file.tell() != size:
        raise ValueError(f"its data ends at byte {file.tell()} of {size}")
    if isinstance(value, dict):
        if "UnpackBigParamInfor@@" in value:
            raise WeightError(f"{path}: arrays in slices (protocol 2 or 3); expected whole ones; save with protocol 4")
        value.pop("StructuredToParameterName@@", None)
    return value


def _write_pickle(path: Path, file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    for name, value in arrays.items():
        if value.dtype == np.uint16:
            raise WeightError(f"{path}: {name} is uint16, which Paddle reads as bfloat16; expected another type; cast")
    pickle.dump(dict(arrays), file, protocol=4)


# --- other formats ---------------------------------------------------------------------------------------


def _read_safetensors(path: Path, file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as opened:
        names = list(opened.keys())
        for name in names:
            found = opened.get_slice(name).get_dtype()
            if found not in _SAFETENSORS_TYPES:
                raise WeightError(f"{path}: {name} is {found}; expected a type of numpy; save it as float32")
        order = json.loads((opened.metadata() or {}).get("order", "[]"))
        arrays = {name: np.array(opened.get_tensor(name), order="C") for name in names}  # no view of the file
    if isinstance(order, list) and sorted(map(str, order)) == sorted(names):
        arrays = {name: arrays[name] for name in order}
    return arrays


_SAFETENSORS_TYPES = frozenset("BOOL I8 I16 I32 I64 U8 U16 U32 U64 F16 F32 F64 C64".split())


def _write_safetensors(path: Path, file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    for name, value in arrays.items():
        if value.dtype == np.complex128:
            raise WeightError(f"{path}: {name} is complex128; expected a type of safetensors; save it as complex64")
    file.write(save(dict(arrays), metadata={"order": json.dumps(list(arrays))}))


def _read_npz(path: Path, file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        total = sum(member.file_size for member in archive.infolist())
        if total > max(20 * size, 1 << 26):
            raise WeightError(f"{path}: {size} bytes unfold to {total}; expected weights; save them uncompressed")
        for member in archive.infolist():
            name = member.filename[: -len(".npy")]
            if not member.filename.endswith(".npy") or name in arrays:
                raise ValueError(f"member {member.filename!r:.80} is no array, or there twice")
            with archive.open(member) as stream:
                arrays[name] = _read_npy_stream(stream, member.file_size)
    return arrays


def _write_npz(path: Path, file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)


def _read_npy(path: Path, file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    return {path.stem: _read_npy_stream(file, size)}


def _read_npy_stream(file: Any, size: int) -> np.ndarray:
    stream = Bounded(file, size)
    major = np.lib.format.read_magic(stream)[0]
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    if major not in readers:
        raise UnsuitableError(f"version {major} of the .npy format")
    shape, is_fortran, dtype = readers[major](stream)
    if dtype.kind + str(dtype.itemsize) not in NUMERIC_TYPES:
        raise UnsuitableError(f"an array of type {str(dtype)[:20]!r}")
    raw = stream.read(math.prod(shape) * dtype.itemsize)
    if stream.tell() != size:
        raise ValueError(f"its data ends at byte {stream.tell()} of {size}")
    return assemble(tuple(shape), dtype, "F" if is_fortran else "C", raw)


_READERS = {".pdparams": _read_pickle, ".pdopt": _read_pickle, ".pkl": _read_pickle,
            ".safetensors": _read_safetensors, ".npz": _read_npz, ".npy": _read_npy}  # fmt: skip
_WRITERS = {".pdparams": _write_pickle, ".pdopt": _write_pickle,
            ".safetensors": _write_safetensors, ".npz": _write_npz}  # fmt: skip
