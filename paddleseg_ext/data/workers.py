"""Work in other processes, results in order.

The processes are started afresh (spawn), import numpy, OpenCV and Pillow but never paddle or torch, and talk over
pipes, so that no /dev/shm is needed. A process that dies is noticed at once; its work is then done here. As always
with spawn, a script that gets here needs `if __name__ == "__main__":`, and should not import paddle outside of it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, TypeVar

import cv2

from paddleseg_ext.errors import TrainingError

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT_SECONDS = 300.0

_log = logging.getLogger(__name__)
_work: tuple[Callable[[Any, Any], Any], Any] | None = None  # in a worker: the function and its state


def ordered_map(
    function: Callable[[Any, Item], Result],
    items: Iterable[Item],
    *,
    state: Any = None,
    num_workers: int = 0,
    ahead: int | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Iterator[Result]:
    """Yields `function(state, item)` for each item, in the order of the items.

    Closing the iterator ends the processes. If one of them dies (killed, out of memory), a warning is logged and
    everything from the first missing result on is computed in this process.

    Args:
        function: a module-level function.
        items: may be endless; it is read at most `ahead` items ahead of the results.
        state: sent to each process once.
        num_workers: processes; 0 computes here, on demand.
        ahead: how many items may be under way; None means 3 per process.
        timeout_seconds: longest wait for one result.

    Raises:
        TrainingError: if a result does not come in time, or the work cannot be sent to another process.
    """
    items = iter(items)
    pending: deque[tuple[Item, Future]] = deque()
    pool = _start(function, state, num_workers) if num_workers else None
    try:
        while pool and _fill(pool, pending, items, ahead or 3 * num_workers):
            item, future = pending[0]
            result = _wait(pool, future, item, timeout_seconds)
            pending.popleft()
            yield result
    except BrokenProcessPool as e:
        _log.warning(
            "a data worker died (%s): killed, or out of memory? Going on in the main process (num_workers=0); "
            "the data stay the same, loading gets slower.",
            e,
        )
    finally:
        if pool:
            pool.shutdown(wait=False, cancel_futures=True)
    for item, _ in pending:
        yield function(state, item)
    yield from (function(state, item) for item in items)


def _start(function: Callable[[Any, Item], Result], state: Any, num_workers: int) -> ProcessPoolExecutor | None:
    """The processes, or None where the system cannot have any (no semaphores, no /dev/shm at all)."""
    try:
        payload = pickle.dumps((function, state))
    except Exception as e:
        raise TrainingError(
            f"num_workers={num_workers}: the data set or a transform cannot be sent to another process ({e}); "
            "define it in a module that can be imported, or set num_workers to 0"
        ) from e
    context = multiprocessing.get_context("spawn")
    try:
        return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_initialize, initargs=(payload,))
    except (OSError, ImportError, NotImplementedError) as e:
        _log.warning(
            "num_workers=%d: this system cannot start workers (%s); loading in the main process", num_workers, e
        )
        return None


def _fill(pool: ProcessPoolExecutor, pending: deque, items: Iterator, ahead: int) -> bool:
    """Submits items until enough are under way; returns whether any are."""
    while len(pending) < ahead:
        try:
            item = next(items)
        except StopIteration:
            break
        future: Future = Future()
        pending.append((item, future))  # before submitting: an item must not get lost when the pool is broken
        pending[-1] = (item, pool.submit(_run, item))
    return bool(pending)


def _wait(pool: ProcessPoolExecutor, future: Future, item: Any, timeout_seconds: float) -> Any:
    try:
        return future.result(timeout=timeout_seconds)
    except FutureTimeoutError as e:
        for process in list((pool._processes or {}).values()):  # kill_workers() exists from Python 3.14 on
            process.kill()
        raise TrainingError(
            f"data worker: no result for item {item} within {timeout_seconds:g} s; expected well under a second; "
            "is the disk or network drive with the data hanging?"
        ) from e


def _initialize(payload: bytes) -> None:
    """Runs once in each new process."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then closes the pool
    cv2.setNumThreads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _work = pickle.loads(payload)


def _exit_with_parent() -> None:
    """Ends this process when the main process is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(item: Any) -> Any:
    function, state = _work
    return function(state, item)
