"""Cases in worker processes, several at a time; a worker that dies is a result too.

Workers are forked, since a case holds functions, which cannot be sent; so neither framework may be imported here yet.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Callable

from parity.errors import ParityError

Progress = Callable[[str, str], None]
Work = Callable[[int, Progress], Any]


def number(wanted: int | None, count: int) -> int:
    """How many workers to use.

    Args:
        wanted: by the user; by default as many as there are cores.
        count: number of cases; there are never more workers.
    """
    if not hasattr(os, "fork"):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted or cores, count))


class Worker:
    """A process that does one piece of work after the other.

    Attributes:
        task: number of the piece that it is at, or None.
        stage: what it last said that it is doing.
        connection: its messages: ("stage", (case, stage)), ("result", what the work returned), ("error", exception).
    """

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("fork")
        self.task: int | None = None
        self.stage = ""
        self.connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, there))
        self._process.start()
        there.close()

    def start(self, task: int) -> None:
        """Hands it a piece of work."""
        self.task, self.stage = task, ""
        with suppress(OSError):  # it has died: its connection says so
            self.connection.send(task)

    def exit_code(self) -> int | None:
        """Of a process that has ended; negative for a signal."""
        self._process.join(timeout=5)
        return self._process.exitcode

    def end(self) -> None:
        """Stops it, whatever it does."""
        if self.task is None:
            with suppress(OSError):
                self.connection.send(None)
            self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()  # terminated, paddle would print a report of its own
            self._process.join(timeout=5)
        self.connection.close()


class Pool:
    """Some workers, to be used in a `with` statement.

    Args:
        work: called in a worker with the number of the piece and a function for progress; its result is sent here.
        jobs: number of workers.
    """

    def __init__(self, work: Work, jobs: int) -> None:
        self._work = work
        self._workers = [Worker(work) for _ in range(jobs)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self._workers:
            worker.end()

    def run(
        self,
        names: Sequence[str],
        *,
        progress: Progress,
        died: Callable[[int, str, str], Any],
        needs: Sequence[float] | None = None,
        times: Sequence[float] | None = None,
        memory: float = float("inf"),
        finished: Callable[[Any], None] | None = None,
    ) -> list[Any]:
        """Results of all pieces, in their order.

        Args:
            names: of the pieces.
            needs: about how many bytes of memory each takes; pieces that together need more than there is wait for
                each other.
            times: about how long each takes; by default as long as it is large. The longest go first.
            memory: bytes that there are.
            progress: called with (name, stage), and with (name, "") at the end of each.
            died: (number, stage, message) -> what stands for the result of a piece whose worker died.
            finished: called with each result as soon as it is there.

        Raises:
            ParityError: that a piece raised; the others are given up.
        """
        results: dict[int, Any] = {}
        needs = needs or [0.0] * len(names)
        times = times or needs
        order = sorted(range(len(names)), key=lambda index: -times[index])
        waiting = _Waiting(order, needs, memory)
        for worker in self._workers:
            waiting.start(worker)
        while len(results) < len(names):
            for connection in wait([worker.connection for worker in self._workers if worker.task is not None]):
                worker = next(worker for worker in self._workers if worker.connection is connection)
                if self._take(worker, results, progress, died):
                    progress(names[worker.task], "")
                    if finished is not None:
                        finished(results[worker.task])
                    waiting.end(worker)
                    if waiting.tasks:
                        self._alive(worker)
                    for idle in [other for other in self._workers if other.task is None]:
                        waiting.start(idle)
        return [results[index] for index in range(len(names))]

    def _take(self, worker: Worker, results: dict[int, Any], progress: Progress, died: Callable[..., Any]) -> bool:
        """Handles one message; whether the piece is done."""
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            message = f"the process of the case ended with exit code {worker.exit_code()}"
            results[worker.task] = died(worker.task, worker.stage, message)
            return True
        if kind == "error":
            raise value
        if kind == "stage":
            worker.stage = value[1]
            progress(*value)
            return False
        results[worker.task] = value if kind == "result" else died(worker.task, worker.stage, value)
        return True

    def _alive(self, worker: Worker) -> Worker:
        """The worker, or one in its place if it has died."""
        if worker._process.is_alive():
            return worker
        index = self._workers.index(worker)
        self._workers[index] = Worker(self._work)
        return self._workers[index]


class _Waiting:
    """What has not begun, and what the rest leaves of the memory."""

    def __init__(self, tasks: list[int], needs: Sequence[float], memory: float) -> None:
        self.tasks, self._needs, self._free = tasks, needs, memory
        self._running = 0

    def start(self, worker: Worker) -> None:
        """Hands it the first piece that fits; any, if nothing else runs."""
        fitting = (task for task in self.tasks if self._needs[task] <= self._free or not self._running)
        task = next(fitting, None)
        if task is not None:
            self.tasks.remove(task)
            self._free -= self._needs[task]
            self._running += 1
            worker.start(task)

    def end(self, worker: Worker) -> None:
        """Its piece is done."""
        self._free += self._needs[worker.task]
        self._running -= 1
        worker.task = None


def physical_memory() -> float:
    """Bytes of memory of this machine; infinite where it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def _serve(work: Work, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one

    def progress(case: str, stage: str) -> None:
        connection.send(("stage", (case, stage)))

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        if task is None:
            return
        try:
            message = ("result", work(task, progress))
        except ParityError as error:
            message = ("error", error)
        except Exception as error:
            message = ("crash", f"{type(error).__name__}: {error}")
        connection.send(message)
