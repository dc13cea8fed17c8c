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
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
_REPEATABLE = {
    "shapes",
    "versions",
    "module_types",
    "framework_only",
    "tensors",
    "schedule",
    "attributes",
    "load",
    "initial",
}
_REPEATABLE |= {"leaf_inputs", "replay"}
_ANSWERS = {  # types of what a side answers, so that no other goes any further
    **dict.fromkeys(("observe", "evaluate_losses", "postprocess"), Trace),
    **dict.fromkeys(("shapes", "versions", "module_types", "framework_only", "state", "buffers", "initial"), Mapping),
    "tensors": list,
    "train_step": tuple,
}
_OF_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError, EOFError, RuntimeError)
_OF_DAMAGE += (MemoryError, zipfile.BadZipFile)
_CHAIN = {"status": str, "upstream": str, "detail": str, "worst": (type(None), float, int), "points": int}
_FORM = {  # of the header; a type, a dict by name or of any names, a list of one form, or a tuple of possible forms
    "side": str,
    "settings": {"seed": int, "size": [int], "weights": str, "stages": [str], "float32": bool},
    "chain": (type(None), _CHAIN),
    "case": {
        "said": {str: object},
        "given": {"reference": [str], "port": [str]},
        "inputs": [str],
        "probes": bool,
        "metrics": [str],
    },
    "logs": {str: [list]},
}


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
        with sound(f"{self._where}: damaged: `{method}` of the {self.name}"):
            value = decode(outcome[1], self._arrays)
            if not isinstance(value, _ANSWERS.get(method, object)):
                raise TypeError(f"answered {value!r:.60}")
        return value


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


@contextmanager
def sound(what: str) -> Iterator[None]:
    """Turns all that reading a damaged recording, or working with it, raises into one message.

    Args:
        what: begins the message: the file, and what it is then called.

    Raises:
        CaseError: instead.
    """
    try:
        yield
    except _OF_DAMAGE as error:
        found = str(error) or type(error).__name__
        raise CaseError(f"{what}: {found}; expected what `python -m parity record` writes; record it again") from error


def _check(value: Any, form: Any, name: str) -> None:
    """Raises ValueError where a value does not have a form of `_FORM`."""
    if isinstance(form, tuple):
        for one in form[:-1]:
            try:
                return _check(value, one, name)
            except ValueError:
                pass
        return _check(value, form[-1], name)
    kind = form if isinstance(form, type) else type(form)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise ValueError(f"{name} is {value!r:.60}; expected {kind.__name__}")
    if isinstance(form, list):
        for item in value:
            _check(item, form[0], name)
    if isinstance(form, dict):
        for key, item in value.items() if str in form else form.items():
            if key not in value:
                raise ValueError(f"{name} has no {key!r}")
            _check(value[key], form[str] if str in form else item, f"{name}.{key}")


def _check_header(header: Any) -> None:
    """Raises ValueError for a header that `save` did not write."""
    _check(header, _FORM, "header")
    settings, side = header["settings"], header["side"]
    if side not in ("reference", "port"):
        raise ValueError(f"header.side is {side!r}; expected reference or port")
    if side == "reference":
        _check(header["chain"], _CHAIN, "header.chain")
    else:
        _check(header, {"causes": {str: str}}, "header")
    if len(settings["size"]) != 2 or min(settings["size"]) < 1:
        raise ValueError(f"header.settings.size is {settings['size']}; expected height and width")
    if not settings["stages"] or not set(settings["stages"]) <= set(cases.STAGES):
        raise ValueError(f"header.settings.stages is {settings['stages']}; expected of {', '.join(cases.STAGES)}")
    for name in ("case", "float64"):
        _check(header["logs"].get(name), list, f"header.logs.{name}")
    for calls in header["logs"].values():
        for method, key, outcome in calls:
            _check([method, key, outcome[0]], [str], "header.logs")
            if not (outcome[0] == "value" and len(outcome) == 2):
                _check(outcome, [str], "header.logs")
                if outcome[0] != "raised" or len(outcome) != 3:
                    raise ValueError(f"header.logs: the outcome of {method} is {outcome!r:.60}")


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
        with sound(f"{path}: not a recording"):
            self._archive = zipfile.ZipFile(self.path)
            self._members = {member.filename: member for member in self._archive.infolist()}
            if any(member.compress_type != zipfile.ZIP_STORED for member in self._members.values()):
                raise CaseError(f"{path}: compressed; expected a file as `python -m parity record` writes it")
            self.header = json.loads(self._read("header").tobytes().decode("utf-8"))
            _check(self.header, {"schema": int}, "header")
            if self.header["schema"] != SCHEMA:
                raise CaseError(f"{path}: schema {self.header['schema']}; expected {SCHEMA}; record it again")
            _check_header(self.header)

    def array(self, number: int) -> np.ndarray:
        """The array with this number."""
        with sound(f"{self.path}: damaged"):
            return self._read(f"a{int(number)}")

    def _read(self, name: str) -> np.ndarray:
        """An array of the archive; nothing is allocated for numbers that are not there."""
        member = self._members.get(f"{name}.npy")
        if member is None:
            raise ValueError(f"it has no array {name!r}")
        with self._archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise ValueError(f"{name} is of version {version}")
            shape, by_column, dtype = readers[version](file)
            if dtype.kind not in _KINDS or any(side < 0 for side in shape):
                raise ValueError(f"{name} holds {dtype}, shape {shape}; expected numbers")
            content = bytearray(file.read())
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has {len(content)} bytes; expected {shape} of {dtype}")
        return np.ndarray(shape, dtype, content, order="F" if by_column else "C")

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
