"""A side that computes everything once: what it did after the same calls before, it answers from memory.

The reference never changes while faults are planted in the port, so that its stages need to run once. What a side
computes follows from the calls since its weights were loaded; those are the key. What is large is kept on disk.
"""

from __future__ import annotations

import hashlib
import mmap
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np

from parity.diagnosis import calls
from parity.traces import Trace

CHANGING = ("observe", "train_step", "start_training", "evaluate_losses", "replay")
STATELESS = ("side", "dropout", "dtype", "optimizer_settings")  # what no call changes
ON_DISK = 2**18  # bytes of arrays from which on an answer goes to disk
ALIGNED = 64


class Spool:
    """Answers with large arrays: the arrays are on disk, and mapped for as long as somebody holds an answer.

    What is around the arrays (names, numbers) stays in memory. What `get` returns may be changed: it is a copy, of
    which only changed pages take memory. The file has no name, so that nothing is left of it however the process ends.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="parity_self_test_")

    def put(self, value: Any) -> Callable[[], Any]:
        """Stores a value; returns what gets it back, as often as it is called."""
        buffers: list[pickle.PickleBuffer] = []
        frame = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        if sum(view.nbytes for view in views) < ON_DISK:
            whole = pickle.dumps(value, protocol=5)
            return lambda: pickle.loads(whole)
        begin = self._pad(mmap.ALLOCATIONGRANULARITY)  # where a mapping may begin
        places = []
        for view in views:
            places.append((self._pad(ALIGNED) - begin, view.nbytes))
            self._file.write(view)
        self._file.flush()
        size = self._file.tell() - begin
        return lambda: self._mapped(begin, size, frame, places)

    def _pad(self, multiple: int) -> int:
        """Goes on at a multiple of this; returns where."""
        self._file.write(b"\0" * (-self._file.tell() % multiple))
        return self._file.tell()

    def _mapped(self, begin: int, size: int, frame: bytes, places: list[tuple[int, int]]) -> Any:
        whole = memoryview(mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_COPY, offset=begin))
        return pickle.loads(frame, buffers=[whole[start : start + count] for start, count in places])

    def close(self) -> None:
        """Lets go of the file; answers that are held stay."""
        self._file.close()


class RememberedSide:
    """Stands for a side; a call that was made before in the same state is answered from memory.

    Args:
        side: the side, which is only asked for what is new.

    Attributes:
        name: of the side.
        spool: where answers are kept.
    """

    def __init__(self, side: Any) -> None:
        self._real = side
        self.name = side.name
        self.spool = Spool()
        self._past: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._key = b""
        self._done = 0  # how many calls of the past the side itself has made
        self._memory: dict[tuple[bytes, bytes], Callable[[], Any]] = {}
        self._loaded: tuple[Any, bytes] = (None, b"")

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Starts a new past; the side itself loads only when it is asked for something new."""
        if state is not self._loaded[0]:
            self._loaded = (state, _digest(state))
        self._past, self._key, self._done = [("load", (state,), {})], self._loaded[1], 0

    def end_training(self) -> None:
        """Lets the side go of its optimizer; `load` comes next."""
        self._real.end_training()

    def close(self) -> None:
        """Forgets everything."""
        self._memory.clear()
        self.spool.close()

    def __getattr__(self, name: str) -> Any:
        if name in STATELESS:
            return getattr(self._real, name)
        if name.startswith("_") or not callable(getattr(type(self._real), name, None)):
            return getattr(self.current(), name)  # an attribute; a model can be called too, but is none of the methods

        def call(*args: Any, **kwargs: Any) -> Any:
            made = _digest((name, args, kwargs))
            key = (self._key, made)
            known, answer = self._memory.get(key), None
            if known is None:
                answer = getattr(self.current(), name)(*args, **kwargs)
                self._memory[key] = self.spool.put(answer)
            if name in CHANGING:
                self._past.append((name, args, kwargs))
                self._key = hashlib.sha1(self._key + made).digest()
                if known is None:
                    self._done = len(self._past)
            return answer if known is None else known()

        return call

    def leaf_inputs(self, path: str, inputs: Sequence[np.ndarray], *, train: bool) -> list[np.ndarray]:
        """As `TorchSide.leaf_inputs`, of all modules from one pass."""
        return calls.of_reference(self, inputs, train=train).inputs.get(path, [])

    def recall(self, name: str, arguments: Any, compute: Callable[[Any], Any]) -> Any:
        """What `compute(the side itself)` returned before in this state; what it does to the state is undone.

        Args:
            name: of what is computed.
            arguments: that it depends on, beside the state.
            compute: is called if it is new.
        """
        key = (self._key, _digest((name, arguments)))
        if key not in self._memory:
            answer = compute(self.current())
            self._done = 0
            self._memory[key] = self.spool.put(answer)
            return answer
        return self._memory[key]()

    def current(self) -> Any:
        """The side itself, after all calls so far."""
        for name, args, kwargs in self._past[self._done :]:
            getattr(self._real, name)(*args, **kwargs)
        self._done = len(self._past)
        return self._real


def _digest(value: Any) -> bytes:
    state = hashlib.sha1()
    _feed(state, value)
    return state.digest()


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        state.update(f"{value.dtype}{value.shape}".encode())
        state.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Trace):  # that a call before this one has returned: the past says what is in it
        _feed(state, list(value.points))
    elif isinstance(value, Mapping):
        for key in value:
            _feed(state, key)
            _feed(state, value[key])
    elif isinstance(value, (list, tuple)):
        state.update(f"[{len(value)}".encode())
        for item in value:
            _feed(state, item)
    else:
        state.update(repr(value).encode())
