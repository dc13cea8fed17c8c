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
from pathlib import Path
from typing import Any, Callable

import numpy as np

from parity.diagnosis import calls
from parity.traces import Trace

CHANGING = ("observe", "train_step", "start_training", "evaluate_losses", "replay")
STATELESS = ("side", "dropout", "dtype")  # attributes that no call changes
ON_DISK = 2**18  # bytes of arrays from which on an answer goes to disk
ALIGNED = 64


class Spool:
    """Answers with large arrays: the arrays are in files, which are mapped for as long as somebody holds an answer.

    What is around the arrays (names, numbers) stays in memory. What `get` returns may be changed: it is a copy, of
    which only changed pages take memory.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="parity_self_test_")
        self._count = 0

    def put(self, value: Any) -> Callable[[], Any]:
        """Stores a value; returns what gets it back, as often as it is called."""
        buffers: list[pickle.PickleBuffer] = []
        frame = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        if sum(view.nbytes for view in views) < ON_DISK:
            whole = pickle.dumps(value, protocol=5)
            return lambda: pickle.loads(whole)
        self._count += 1
        path = Path(self._folder.name) / f"{self._count}.arrays"
        places = []
        with path.open("wb") as file:
            for view in views:
                file.write(b"\0" * (-file.tell() % ALIGNED))
                places.append((file.tell(), view.nbytes))
                file.write(view)
        return lambda: _mapped(path, frame, places)

    def close(self) -> None:
        """Removes the files."""
        self._folder.cleanup()


def _mapped(path: Path, frame: bytes, places: list[tuple[int, int]]) -> Any:
    with path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return pickle.loads(frame, buffers=[whole[start : start + size] for start, size in places])


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
