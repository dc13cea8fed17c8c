"""One side of a case as a file, so that the other side can meet it later, elsewhere.

Upstream code often needs an ancient environment. There, a side is run by the very code that checks it in place, and
everything it is asked and answers is kept: a `Recorder` stands before the side, a `Player` answers from the file. The
verdict on two recordings is therefore that of `check.py`, finding by finding.

A file is an uncompressed npz of plain arrays: `header`, JSON as bytes, and `a0`, `a1`, ... Nothing in it is ever
unpickled. This module works on Python 3.8 with numpy alone.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity import case as cases
from parity.errors import CaseError
from parity.traces import Trace
from parity.weights import PortTensor

SCHEMA = 1
_KINDS = "fiub"
_PARTS = (cases.Probe, cases.Schedule, cases.Rename, cases.Drop, cases.Transpose)  # of a case, which are data
_REPEATABLE = {"shapes", "versions", "module_types", "framework_only", "tensors", "schedule", "attributes", "load", "initial"}
_REPEATABLE |= {"leaf_inputs", "replay"}


class Store:
    """Arrays, each kept once."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._index: dict[str, int] = {}

    def add(self, array: np.ndarray) -> int:
        """The number under which the array is kept."""
        if array.dtype.kind not in _KINDS:
            raise CaseError(f"an array of dtype {array.dtype} cannot be recorded; expected numbers")
        key = digest(array)
        if key not in self._index:
            self._index[key] = len(self.arrays)
            self.arrays.append(np.array(array, order="C"))
        return self._index[key]


def digest(value: Any) -> str:
    """A hash of numbers, text and containers of them, the same on every machine."""
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()[:32]


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        sha.update(f"array {array.dtype.str} {np.shape(value)} ".encode())
        sha.update(array.tobytes())
    elif isinstance(value, Mapping):
        sha.update(b"{")
        for key in sorted(value, key=str):
            _feed(sha, str(key))
            _feed(sha, value[key])
        sha.update(b"}")
    elif isinstance(value, (list, tuple)):
        sha.update(b"[")
        for item in value:
            _feed(sha, item)
        sha.update(b"]")
    else:
        sha.update(repr(value).encode() + b";")


def encode(value: Any, store: Store) -> Any:
    """A value as JSON; arrays go to the store.

    Raises:
        CaseError: if it holds something other than numbers, text, containers, traces, probes and port tensors.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, np.ndarray):
        return {"array": store.add(value)}
    if isinstance(value, np.generic):
        return {"scalar": store.add(np.asarray(value))}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Mapping):
        return {"dict": [[encode(key, store), encode(item, store)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encode(item, store) for item in value]}
    if isinstance(value, list):
        return {"list": [encode(item, store) for item in value]}
    if isinstance(value, Trace):
        return {"trace": [encode(value.points, store), encode(value.meta, store)]}
    if isinstance(value, _PARTS):
        fields = {name: encode(item, store) for name, item in vars(value).items()}
        return {"part": [type(value).__name__, fields]}
    if isinstance(value, PortTensor):
        return {"tensor": [value.name, value.torch_name, list(value.shape), value.transposed]}
    raise CaseError(f"a {type(value).__name__} cannot be recorded; expected numbers, text, or containers of them")


def decode(value: Any, arrays: Any) -> Any:
    """What was encoded.

    Args:
        value: JSON.
        arrays: number -> array.
    """
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        return arrays(content)
    if kind == "scalar":
        return arrays(content)[()]
    if kind == "float":
        return float.fromhex(content)
    if kind == "dict":
        return {decode(key, arrays): decode(item, arrays) for key, item in content}
    if kind == "tuple":
        return tuple(decode(item, arrays) for item in content)
    if kind == "list":
        return [decode(item, arrays) for item in content]
    if kind == "trace":
        return Trace(*[decode(item, arrays) for item in content])
    if kind == "part":
        parts = {part.__name__: part for part in _PARTS}
        return parts[content[0]](**{name: decode(item, arrays) for name, item in content[1].items()})
    if kind == "tensor":
        name, torch_name, shape, transposed = content
        return PortTensor(name, torch_name, tuple(shape), transposed)
    raise CaseError(f"a recording holds a {kind!r}, which this version does not know; record it again")


class Log:
    """Calls and their answers, in order.

    Args:
        store: for the arrays.

    Attributes:
        calls: (method, what identifies its arguments, outcome); an outcome is `["value", JSON]` or
            `["raised", type, message]`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[list[Any]] = []

    def add(self, method: str, key: str, value: Any) -> None:
        """Keeps an answer."""
        self.calls.append([method, key, ["value", encode(value, self.store)]])

    def add_error(self, method: str, key: str, error: Exception) -> None:
        """Keeps an error in the place of an answer."""
        self.calls.append([method, key, ["raised", type(error).__name__, str(error)]])


class Recorder:
    """Stands before a side and keeps all it is asked and answers.

    Args:
        side: a TorchSide or a PaddleSide.
        log: where to.
    """

    def __init__(self, side: Any, log: Log) -> None:
        self.side = side
        self.name = side.name
        self._log = log

    def end_training(self) -> None:
        """As the side; nothing comes of it that could be compared."""
        self.side.end_training()

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__") or method == "side":
            raise AttributeError(method)
        target = getattr(self.side, method)
        if method.startswith("_") or not inspect.ismethod(target):
            return target  # an experiment on a side that is here

        def call(*arguments: Any, **options: Any) -> Any:
            key = key_of(self.name, method, arguments, options)
            try:
                value = target(*arguments, **options)
            except Exception as error:
                self._log.add_error(method, key, error)
                raise
            self._log.add(method, key, value)
            return value

        return call


class Player:
    """Answers like a side that was recorded.

    Args:
        name: "reference" or "port".
        calls: of a log.
        arrays: number -> array.
        where: the file, for messages.
        pure: whether every answer depends on the arguments alone, so that it can be given again.
    """

    def __init__(self, name: str, calls: Any, arrays: Any, where: str, *, pure: bool = False) -> None:
        self.name, self._pure = name, pure
        self._answers: dict[tuple[str, str], list[Any]] = {}
        for method, key, outcome in calls:
            self._answers.setdefault((method, key), []).append(outcome)
        self._asked: dict[tuple[str, str], int] = {}
        self._arrays, self._where = arrays, where

    def end_training(self) -> None:
        """A recording holds no optimizer."""

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_") or method == "model":
            raise AttributeError(f"a recording has no {method}")

        def call(*arguments: Any, **options: Any) -> Any:
            return self.answer(method, key_of(self.name, method, arguments, options))

        return call

    def answer(self, method: str, key: str) -> Any:
        """The next answer of a method to these arguments.

        Raises:
            CaseError: if there is none.
        """
        outcomes = self._answers.get((method, key), [])
        number = self._asked.get((method, key), 0)
        if outcomes and (self._pure or method in _REPEATABLE):
            number = min(number, len(outcomes) - 1)
        if number >= len(outcomes):
            known = any(name == method for name, _ in self._answers)
            what = "with other weights or inputs, or against another reference" if known else "without it"
            raise CaseError(
                f"{self._where}: `{method}` of the {self.name} was recorded {what}; "
                "expected both files from the same case, seed and size; record both again"
            )
        self._asked[method, key] = number + 1
        outcome = outcomes[number]
        if outcome[0] == "raised":
            raise type(str(outcome[1]), (Exception,), {})(outcome[2])
        return decode(outcome[1], self._arrays)


def key_of(side: str, method: str, arguments: Any, options: Mapping[str, Any]) -> str:
    """What identifies the arguments of a call; the weights of the reference are its own, whatever they are."""
    if side == "reference" and method == "load":
        return ""
    return digest([list(arguments), dict(options)]) if arguments or options else ""


def save(path: Path, header: Mapping[str, Any], store: Store) -> None:
    """Writes a recording; a failure leaves an older file as it was."""
    path = Path(path)
    text = json.dumps({"schema": SCHEMA, **header}, allow_nan=False)
    arrays = {f"a{index}": array for index, array in enumerate(store.arrays)}
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, header=np.frombuffer(text.encode("utf-8"), np.uint8), **arrays)
        os.replace(partial, path)
    finally:
        if partial.exists():
            partial.unlink()


class Recorded:
    """A recording that was opened.

    Attributes:
        path: of the file.
        header: everything but the arrays.

    Args:
        path: of the file.

    Raises:
        CaseError: if it is missing, damaged, or no recording.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise CaseError(f"{path}: there is no such file; write it with `python -m parity record`")
        try:
            with zipfile.ZipFile(self.path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise CaseError(f"{path}: compressed; expected a file as `python -m parity record` writes it")
            self._archive = np.load(self.path, allow_pickle=False)
            self.header = json.loads(bytes(self._archive["header"]).decode("utf-8"))
            schema = self.header["schema"]
        except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
            raise CaseError(f"{path}: not a recording: {error}; write it with `python -m parity record`") from error
        if schema != SCHEMA:
            raise CaseError(f"{path}: schema {schema}; expected {SCHEMA}; record it again")

    def array(self, number: int) -> np.ndarray:
        """The array with this number."""
        try:
            return self._archive[f"a{int(number)}"]
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise CaseError(f"{self.path}: damaged: {error}; record it again") from error

    def case_player(self) -> Player:
        """What the case's own functions returned: inputs, probes, data, metrics."""
        return Player("case", self.header["logs"]["case"], self.array, str(self.path), pure=True)

    def player(self, dtype: str) -> Player:
        """The recorded side in a precision."""
        if dtype not in self.header["logs"]:
            raise CaseError(f"{self.path}: nothing was recorded in {dtype}; record it again")
        return Player(self.header["side"], self.header["logs"][dtype], self.array, str(self.path))

    def decoded(self, key: str) -> Any:
        """A part of the header with its arrays."""
        return decode(self.header[key], self.array)
