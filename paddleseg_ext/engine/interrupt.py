"""Ctrl-C and SIGTERM: the step under way is finished and a checkpoint written; a second signal ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether somebody wants the run to end.

    Attributes:
        signal: number of the first signal received; None if there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM; else 0."""
        return 0 if self.signal is None else 128 + self.signal

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)  # checkpoints are put in place whole, so none is damaged
        self.signal = number


@contextlib.contextmanager
def catch_signals() -> Iterator[Interruption]:
    """Within the block, signals are noted instead of ending the process."""
    interruption = Interruption()
    earlier = {}
    for number in _SIGNALS:
        with contextlib.suppress(ValueError):  # not the main thread, which alone may set handlers
            earlier[number] = signal.signal(number, interruption._receive)
    try:
        yield interruption
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
