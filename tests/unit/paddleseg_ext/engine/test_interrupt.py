"""The first signal is noted, the second ends the process; each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import paddleseg_ext
from paddleseg_ext.engine.interrupt import catch_signals

CODE_ROOT = str(Path(paddleseg_ext.__file__).parents[1])
TWO_SIGNALS = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from paddleseg_ext.engine.interrupt import catch_signals
with catch_signals() as interruption:
    signal.raise_signal(int(sys.argv[2]))
    print("after the first:", interruption.exit_code, flush=True)
    signal.raise_signal(int(sys.argv[3]))
    print("after the second", flush=True)
"""


@pytest.mark.parametrize(
    ("first", "second", "codes"),
    [
        (signal.SIGINT, signal.SIGINT, (130, 130)),
        (signal.SIGTERM, signal.SIGTERM, (143, 143)),
        (signal.SIGTERM, signal.SIGINT, (143, 130)),
    ],
)
def test_the_first_signal_is_noted_and_the_second_ends_the_process(
    first: int, second: int, codes: tuple[int, int]
) -> None:
    command = [sys.executable, "-c", TWO_SIGNALS, CODE_ROOT, str(int(first)), str(int(second))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == f"after the first: {codes[0]}\n", done.stderr
    assert done.returncode == codes[1]


def test_without_a_signal_the_exit_code_is_0_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with catch_signals() as interruption:
        assert signal.getsignal(signal.SIGTERM) != before
    assert (interruption.signal, interruption.exit_code) == (None, 0)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_thread_that_may_not_set_handlers_runs_without_them() -> None:
    found = []

    def work() -> None:
        with catch_signals() as interruption:
            found.append(interruption.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]
