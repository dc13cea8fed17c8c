"""One process per side, so that neither framework's threads or memory meet the other's.

A side's methods take and return numpy, so a proxy in this process can stand for a side in another.
"""

from __future__ import annotations

import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Callable

from parity.errors import SideError


class RemoteSide:
    """Stands for a side that was built in a process of its own.

    Args:
        build: () -> the side; called in the other process.
        name: "reference" or "port".
    """

    def __init__(self, build: Callable[[], Any], name: str) -> None:
        context = multiprocessing.get_context("fork")  # a case holds functions, which cannot be sent
        self.name = name
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(build, there), daemon=True)
        self._process.start()
        there.close()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                self._here.send((method, args, kwargs))
                succeeded, value = self._here.recv()
            except (EOFError, BrokenPipeError, ConnectionResetError) as error:
                self._process.join(timeout=5)
                raise SideError(f"the process of the {self.name} ended with {self._process.exitcode}") from error
            if not succeeded:
                raise value
            return value

        return call

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
    while True:
        try:
            call = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        if call is None:
            return
        method, args, kwargs = call
        try:
            side = side if side is not None else build()
            connection.send((True, getattr(side, method)(*args, **kwargs)))
        except Exception as error:
            connection.send((False, SideError(f"{type(error).__name__}: {error}")))
