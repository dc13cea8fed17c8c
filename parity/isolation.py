"""One process per side, so that neither framework's threads or memory meet the other's.

A side's methods take and return numpy, so a proxy in this process can stand for a side in another.
"""

from __future__ import annotations

import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Callable

from parity.errors import ParityError, SideError


class RemoteSide:
    """Stands for a side that was built in a process of its own.

    Args:
        build: () -> the side; called in the other process.
        name: "reference" or "port".

    Raises:
        ParityError: that building it raised, or if the process ended.
    """

    def __init__(self, build: Callable[[], Any], name: str) -> None:
        context = multiprocessing.get_context("fork")  # a case holds functions, which cannot be sent
        self.name = name
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(build, there), daemon=True)
        self._process.start()
        there.close()
        try:
            self._answer()  # once it is built
        except ParityError:
            self.close()
            raise

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            with suppress(BrokenPipeError):  # it has ended, as there is no answer
                self._here.send((method, args, kwargs))
            return self._answer()

        return call

    def _answer(self) -> Any:
        try:
            succeeded, value = self._here.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join(timeout=5)
            raise SideError(f"the process of the {self.name} ended with {self._process.exitcode}") from error
        if not succeeded:
            raise value
        return value

    def close(self) -> None:
        """Ends the process."""
        with suppress(OSError):  # it has ended, or is closed
            self._here.send(None)  # closing is not enough: a side that was forked later holds this end open too
        self._here.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function, computed in a process of its own."""
    proxy = RemoteSide(lambda: _Caller(function, args), function.__name__)
    try:
        return proxy.run()
    finally:
        proxy.close()


class _Caller:
    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function, self.args = function, args

    def run(self) -> Any:
        return self.function(*self.args)


def _serve(build: Callable[[], Any], connection: Connection) -> None:
    side: Any = None

    def answer(method: str, args: Any, kwargs: Any) -> Any:
        nonlocal side
        if side is None:
            side = build()
            return None
        return getattr(side, method)(*args, **kwargs)

    call: Any = ("build", (), {})
    while call is not None:
        try:
            connection.send((True, answer(*call)))
        except ParityError as error:
            connection.send((False, error))
        except (Exception, SystemExit) as error:
            connection.send((False, SideError(f"{type(error).__name__}: {error}")))
        try:
            call = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
