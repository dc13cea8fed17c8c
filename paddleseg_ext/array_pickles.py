"""Pickles of numpy arrays in plain containers, interpreted instead of run.

A pickle is a program that may call anything. This module carries out the few instructions that `paddle.save`,
numpy and detectron2 produce, with its own objects in the place of numpy's functions, and refuses all others by
name. Nothing is imported or looked up, and no declared size is believed before it is compared with the bytes
that are there.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np

from paddleseg_ext.errors import WeightError

NUMERIC_TYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split())
"""The numpy types that weights have, as kind and size in bytes."""
_MAX_DEPTH = 32


class UnsuitableError(ValueError):
    """A file that is whole, but holds what weights do not have."""


class Bounded:
    """A file that does not begin to read more than it holds.

    Args:
        file: anything with `read`, `readline` and `tell`.
        size: of all of it, in bytes.
    """

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, num_bytes: int) -> bytes:
        """Exactly `num_bytes` bytes.

        Raises:
            ValueError: if there are fewer, before memory is taken.
        """
        if not 0 <= num_bytes <= self._size - self._file.tell():
            raise ValueError(f"truncated: needs {num_bytes} bytes at {self._file.tell()}, holds {self._size} in all")
        return self._file.read(num_bytes)


def read_pickle(file: BinaryIO, size: int, where: str) -> Any:
    """The value that a pickle describes; `file` is left behind its end.

    Args:
        file: at the beginning of the pickle.
        size: of the file, in bytes.
        where: its name, for error messages.

    Raises:
        WeightError: if it asks for anything but numpy arrays in plain containers.
        ValueError: if it is damaged; LookupError, TypeError, OverflowError and RecursionError are possible too.
    """
    return _Pickle(file, size, where).value()


def assemble(shape: Any, dtype: np.dtype, order: str, raw: bytes | bytearray) -> np.ndarray:
    """A writable array in C order and the machine's byte order; a copy.

    Args:
        shape: as declared; anything.
        dtype: of the numbers in `raw`.
        order: "C" or "F", of the numbers in `raw`.
        raw: its bytes; their number decides, not `shape`.

    Raises:
        ValueError: if shape and bytes do not fit.
    """
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise ValueError("an array whose shape is not a short tuple of counts")
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes != len(raw):
        raise ValueError(f"an array {shape} of {dtype} needs {num_bytes} bytes, {len(raw)} are there (truncated?)")
    native = dtype.newbyteorder("=")
    flat = np.frombuffer(raw, dtype) if num_bytes else np.empty(0, dtype)
    return np.array(flat.reshape(shape, order=order), native, order="C")


class NumericType:
    """Stands in for numpy.dtype in a pickle.

    Args:
        code: kind and size in bytes, such as "f4"; anything else is refused.
        _: flags of numpy's, without meaning here.

    Raises:
        UnsuitableError: if it is not a type of numbers.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if _require(code, str) not in NUMERIC_TYPES:
            raise UnsuitableError(f"an array of type {code[:20]!r}")
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order from what numpy stores beside the code."""
        if not (isinstance(state, tuple) and len(state) >= 5 and state[2:5] == (None, None, None)):
            raise UnsuitableError("an array of a structured type")
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("a numpy type of unknown byte order")
        self.value = self.value.newbyteorder(state[1])


def scalar(dtype: Any, raw: Any) -> Any:
    """Stands in for the function that makes numpy's scalars in a pickle.

    Args:
        dtype: of the scalar, a `NumericType`.
        raw: its bytes.

    Raises:
        ValueError: if they do not fit.
    """
    raw = raw.encode("latin1") if isinstance(raw, str) else _require(raw, (bytes, bytearray))  # str: Python 2
    return assemble((), _require(dtype, NumericType).value, "C", raw)[()]


class _Array:
    """An array while its description is being read; `value` is None before that."""

    value: np.ndarray | None = None


class _Global:
    """A name that a pickle may use, with what is done when it is called with arguments."""

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self.call = call


class _Pickle:
    """Interprets a pickle that consists of numpy arrays in plain containers, and nothing else.

    Nothing is imported or looked up by name. What can make memory grow faster than the file (repeated copies of
    what the memo holds) is charged to a budget of three times the file's size. Keys are plain values, since
    hashing a deep tuple overflows the C stack.
    """

    def __init__(self, file: BinaryIO, size: int, where: str) -> None:
        self._where, self._file = where, Bounded(file, size)
        self._limit = self._budget = 3 * size
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._ndarray = _Global()
        self._globals = self._allowed()

    def value(self) -> Any:
        """What the pickle describes."""
        for opcode, argument, _ in pickletools.genops(self._file):
            if opcode.name in _PLAIN:
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name])
            elif opcode.name == "STOP":
                (value,) = self._stack
                self._memo.clear()
                return self._finish(value, {}, 0)[0]
            else:
                self._step(opcode.name, argument)
        raise ValueError("truncated: it does not end")

    def _allowed(self) -> dict[str, _Global]:
        core = {"multiarray._reconstruct": self._reconstruct, "multiarray.scalar": scalar,
                "numeric._frombuffer": self._frombuffer}  # fmt: skip
        plain = {"tuple": tuple, "list": list, "set": _plain_set, "frozenset": _plain_set, "dict": _plain_dict}
        table = {f"numpy.{spelling}.{name}": call for name, call in core.items() for spelling in ("core", "_core")}
        table.update({"numpy.dtype": NumericType, "_codecs.encode": self._encode})
        for module in ("builtins", "__builtin__"):
            table.update({f"{module}.{name}": self._copying(make) for name, make in plain.items()})
            table.update({f"{module}.bytes": _empty_bytes, f"{module}.complex": _plain_complex})
        table["collections.OrderedDict"] = self._copying(_plain_dict)
        return {"numpy.ndarray": self._ndarray, **{name: _Global(call) for name, call in table.items()}}

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name == "PROTO":
            if argument > 5:
                raise ValueError(f"pickle protocol {argument}, which does not exist")
        elif name == "MARK":
            self._marks.append(stack)
            self._stack = []
        elif name in ("GLOBAL", "INST"):
            stack.append(self._find(".".join(argument.split(" ", 1))))
        elif name == "STACK_GLOBAL":
            attribute, module = _require(stack.pop(), str), _require(stack.pop(), str)
            stack.append(self._find(f"{module}.{attribute}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Global) or function.call is None or not isinstance(arguments, tuple):
                raise ValueError("a call of something that is no function")
            stack.append(function.call(*arguments))
        elif name == "BUILD":
            state = stack.pop()
            self._build(stack[-1], state)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        else:
            self._contain(name, stack)

    def _contain(self, name: str, stack: list[Any]) -> None:
        if name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name in ("TUPLE", "LIST", "DICT", "FROZENSET"):
            items = self._pop_mark()
            make = {"TUPLE": tuple, "LIST": list, "DICT": _paired, "FROZENSET": _plain_set}[name]
            self._stack.append(make(items))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _require(stack[-1], dict).update(_paired([key, value]))
        elif name == "APPEND":
            value = stack.pop()
            _require(stack[-1], list).append(value)
        elif name in ("SETITEMS", "APPENDS", "ADDITEMS"):
            items = self._pop_mark()
            kind = {"SETITEMS": dict, "APPENDS": list, "ADDITEMS": set}[name]
            added = {"SETITEMS": _paired, "APPENDS": list, "ADDITEMS": _plain_set}[name](items)
            target = _require(self._stack[-1], kind)
            target.extend(added) if kind is list else target.update(added)
        elif name == "POP":
            stack.pop() if stack else self._pop_mark()
        elif name == "POP_MARK":
            self._pop_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name != "FRAME":
            self._refuse(f"instruction {name}")

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _find(self, name: str) -> _Global:
        return self._globals.get(name) or self._refuse(name)

    def _refuse(self, name: str) -> Any:
        name = re.sub(r"[^\w.+-]", "?", name)[:120]
        if "bfloat16" in name:
            raise WeightError(f"{self._where}: holds bfloat16; expected a type of numpy; save it as float32")
        todo = "do not use it; take the weights from their official source, or as .safetensors"
        if name.startswith("torch."):
            todo = "if it is a torch checkpoint, name it .pth and convert it with tools/convert_weights.py"
        raise WeightError(f"{self._where}: asks for {name} to be run; expected arrays in plain containers; {todo}")

    def _charge(self, amount: int) -> None:
        self._budget -= amount
        if self._budget < 0:
            raise ValueError("it unfolds to more than the file holds")

    def _copying(self, make: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(items: Any = ()) -> Any:
            self._charge(len(_require(items, (tuple, list, set, dict))))
            return make(items)

        return call

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1", "iso-8859-1"):
            raise ValueError("bytes in another encoding than numpy's")
        self._charge(len(_require(text, str)))
        return text.encode("latin1")

    def _new(self, shape: Any, dtype: Any, order: str, raw: Any) -> np.ndarray:
        raw = raw.encode("latin1") if isinstance(raw, str) else _require(raw, (bytes, bytearray))  # str: Python 2
        self._charge(len(raw))
        return assemble(shape, _require(dtype, NumericType).value, order, raw)

    def _reconstruct(self, kind: Any, shape: Any = None, code: Any = None) -> _Array:
        if kind is not self._ndarray:
            raise ValueError("an array of a class that is not numpy.ndarray")
        return _Array()

    def _frombuffer(self, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
        if order not in ("C", "F") or axes is not None:
            raise ValueError("an array in another order than C or F")
        return self._new(shape, dtype, order, raw)

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, NumericType):
            target.__setstate__(state)
        elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) in (4, 5):
            shape, dtype, is_fortran, raw = state[-4:]
            target.value = self._new(shape, dtype, "F" if _require(is_fortran, int) else "C", raw)
        else:
            raise ValueError("attributes for something that has none")

    def _finish(self, value: Any, done: dict[int, tuple[Any, int]], depth: int) -> tuple[Any, int]:
        """The value with finished arrays, and how many values it unfolds to when each mention is counted.

        Paddle's (name, array) of a nested tensor becomes the array.
        """
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
        if isinstance(value, (_Array, NumericType, _Global)):
            if getattr(value, "value", None) is None:
                raise ValueError("an array without data")
            return value.value, 1
        if not isinstance(value, (dict, list, tuple)):
            return value, 1
        if id(value) not in done:
            inner = value.values() if isinstance(value, dict) else value
            items = [self._finish(item, done, depth + 1) for item in inner]
            finished, count = [item for item, _ in items], 1 + sum(count for _, count in items)
            if count > self._limit:  # a caller that prints or walks it would not come to an end
                raise ValueError("it unfolds to more than the file holds")
            result: Any = dict(zip(value, finished)) if isinstance(value, dict) else type(value)(finished)
            if isinstance(result, tuple) and [type(item) for item in result] == [str, np.ndarray]:
                result = result[1]
            done[id(value)] = result, count
        return done[id(value)]


_PLAIN = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}


def _require(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} in the wrong place")
    return value


def _plain_keys(keys: Iterable[Any]) -> Iterable[Any]:
    return [_require(key, (str, int, float, bytes, type(None))) for key in keys]


def _paired(items: Sequence[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return dict(zip(_plain_keys(items[::2]), items[1::2]))


def _plain_dict(items: Any) -> dict[Any, Any]:
    pairs = items.items() if isinstance(items, dict) else [_require(pair, (tuple, list)) for pair in items]
    return {_plain_keys([key])[0]: value for key, value in pairs}


def _plain_set(items: Iterable[Any]) -> set[Any]:
    return set(_plain_keys(items))


def _plain_complex(real: Any, imag: Any) -> complex:
    return complex(_require(real, float), _require(imag, float))


def _empty_bytes() -> bytes:
    return b""  # pickle protocols 0 to 2 spell it as a call
