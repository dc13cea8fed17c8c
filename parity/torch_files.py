"""Torch checkpoints as numpy arrays, and back; the only module that opens them.

A checkpoint is read with `weights_only=True`, as if its author were hostile. torch is imported inside the
functions, so that this module can be imported without it.
"""

from __future__ import annotations

import importlib
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_ext import array_pickles, weight_files
from paddleseg_ext.errors import WeightError
from paddleseg_ext.weight_files import Contents

SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt")
_MAX_DEPTH = 32
# Checkpoints often hold a metric as a numpy scalar; these make one without numpy's own unpickling functions.
_STAND_INS = [
    (array_pickles.NumericType, "numpy.dtype"),
    (array_pickles.scalar, "numpy.core.multiarray.scalar"),
    (array_pickles.scalar, "numpy._core.multiarray.scalar"),
]


def load_any(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> value from a torch checkpoint or any file that `paddleseg_ext.weight_files` reads.

    Raises:
        WeightError: if it cannot be read.
    """
    return load_arrays(path) if Path(path).suffix.lower() in SUFFIXES else weight_files.load_arrays(path)


def load_arrays(path: str | Path) -> OrderedDict[str, np.ndarray]:
    """Name -> value from a torch checkpoint; see `load_contents`."""
    return OrderedDict(load_contents(path).arrays)


def load_contents(path: str | Path) -> Contents:
    """Reads a torch checkpoint: a state dict, also under "state_dict", "model" and the like.

    Returns:
        The arrays in the order of the file, what lies beside them, and the prefix "module." if all names have it.

    Raises:
        WeightError: if it is missing, damaged, asks for code to be run or holds a type that numpy does not have.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise WeightError(f"{path}: suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}; correct its name")
    if not path.is_file():
        raise WeightError(f"{path}: there is no such file; expected a torch checkpoint; check the path")
    size = path.stat().st_size
    _check_archive(path, size)
    converted = _Conversion(path, size).convert(_load(path), 0)
    return weight_files.unwrap(converted, path)


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], *, wrap: str | None = None) -> None:
    """Writes a torch checkpoint; a failure leaves an older file as it was.

    Args:
        path: `.pth` and the like.
        arrays: name -> value; types, shapes and bits are kept.
        wrap: key to put the state dict under, such as "state_dict"; None for a plain state dict.

    Raises:
        WeightError: if torch does not have a type, or the file cannot be written.
    """
    torch = importlib.import_module("torch")
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise WeightError(f"{path}: suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}; correct its name")
    tensors = OrderedDict()
    for name, value in arrays.items():
        native = np.array(value, value.dtype.newbyteorder("="), order="C")
        try:
            tensors[name] = torch.from_numpy(native)
        except TypeError as error:
            raise WeightError(f"{path}: {name} is {value.dtype}; expected a type of torch; convert it first") from error
    content = tensors if wrap is None else {wrap: tensors}
    weight_files.write_atomically(path, lambda file: torch.save(content, file), weight_files.count_bytes(arrays))


def _load(path: Path) -> Any:
    torch = importlib.import_module("torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the storages of old checkpoints
            with torch.serialization.safe_globals(_STAND_INS):
                return torch.load(str(path), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise WeightError(f"{path}: {_refusal(str(error))}") from error
    except Exception as error:  # a damaged file makes torch raise nearly anything
        found = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightError(
            f"{path}: damaged: {found}; expected a torch checkpoint; copy or download it again"
        ) from error


def _refusal(message: str) -> str:
    message = message.rpartition("WeightsUnpickler error:")[2]  # torch's advice before it is to drop the safety
    message = message.partition("Check the documentation")[0]
    asked = re.search(r"(?:GLOBAL|global|function|class) ([\w.]*\w)", message)
    if asked:
        return (
            f"asks for {asked[1][:120]} to be run; expected tensors in plain containers; do not use it; take the "
            "weights from their official source, or save only the state dict"
        )
    found = " ".join(message.split())[:200]
    return f"damaged: {found}; expected a torch checkpoint; copy or download it again"


def _check_archive(path: Path, size: int) -> None:
    with open(path, "rb") as file:
        start = file.read(16)
    if size == 0:
        raise WeightError(f"{path}: truncated: 0 bytes; expected a torch checkpoint; copy or download it again")
    if start.lstrip()[:1] == b"<":
        raise WeightError(f"{path}: a web page; expected a torch checkpoint; download it again, from another link")
    if not start.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
            is_program = any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise WeightError(
            f"{path}: truncated or damaged: {error}; expected a torch checkpoint; copy or download it again"
        ) from error
    if is_program:
        raise WeightError(
            f"{path}: a TorchScript program; expected a state dict; save its state_dict() with torch.save"
        )
    if total > size:
        raise WeightError(f"{path}: {size} bytes unfold to {total}; expected torch's uncompressed form; do not use it")


class _Conversion:
    """Torch tensors in nested containers -> numpy arrays, without making more of them than the file holds."""

    def __init__(self, path: Path, size: int) -> None:
        self._torch = importlib.import_module("torch")
        self._path, self._budget = path, 4 * size

    def convert(self, value: Any, depth: int, name: str = "") -> Any:
        if depth > _MAX_DEPTH:
            raise WeightError(
                f"{self._path}: nested deeper than {_MAX_DEPTH} levels; expected a state dict; do not use it"
            )
        if isinstance(value, self._torch.Tensor):
            return self._array(value, name)
        if isinstance(value, (Mapping, list, tuple)):
            self._charge(len(value), name)
        if isinstance(value, Mapping):
            named = ((key, item, key if isinstance(key, str) else name) for key, item in value.items())
            return {key: self.convert(item, depth + 1, item_name) for key, item, item_name in named}
        if isinstance(value, (list, tuple)):
            return type(value)([self.convert(item, depth + 1, name) for item in value])
        return value

    def _array(self, tensor: Any, name: str) -> np.ndarray:
        if tensor.dtype == self._torch.bfloat16 or tensor.layout != self._torch.strided or tensor.is_quantized:
            kind = str(tensor.dtype) if tensor.layout == self._torch.strided else str(tensor.layout)
            raise WeightError(f"{self._path}: {name[:80]} is {kind}; expected a type of numpy; save it as float32")
        self._charge(tensor.numel() * tensor.element_size(), name)
        try:
            return np.array(tensor.detach().resolve_conj().resolve_neg().numpy(), order="C")
        except TypeError as error:
            raise WeightError(
                f"{self._path}: {name[:80]} is {tensor.dtype}; expected a type of numpy; save it as float32"
            ) from error

    def _charge(self, amount: int, name: str) -> None:
        self._budget -= amount
        if self._budget < 0:
            raise WeightError(
                f"{self._path}: {name[:80]}: unfolds to more than the file holds; expected a state dict; do not use it"
            )
