"""A side in a process of its own, stood for by an object of numpy."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest

from parity import SideError
from parity.isolation import RemoteSide, apart

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


class Calculator:
    def __init__(self):
        self.total = np.zeros(3)

    def add(self, values, *, factor=1.0):
        self.total = self.total + factor * values
        return self.total

    def process(self):
        return os.getpid()

    def fail(self):
        raise ValueError("no such layer")

    def die(self):
        os._exit(7)


@pytest.fixture
def remote():
    side = RemoteSide(Calculator, "port")
    yield side
    side.close()


def test_arrays_go_there_and_come_back_and_its_state_lasts(remote):
    assert np.array_equal(remote.add(np.arange(3.0)), [0, 1, 2])
    assert np.array_equal(remote.add(np.ones(3), factor=2.0), [2, 3, 4])


def test_it_runs_in_another_process(remote):
    assert remote.process() != os.getpid()


def test_what_it_raises_arrives_as_a_side_error_and_it_goes_on(remote):
    with pytest.raises(SideError, match="ValueError: no such layer"):
        remote.fail()
    assert np.array_equal(remote.add(np.ones(3)), [1, 1, 1])


def test_a_side_that_cannot_be_built_says_why():
    def build():
        raise ImportError("no module named paddle")

    with pytest.raises(SideError, match=r"^ImportError: no module named paddle"):
        RemoteSide(build, "port")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(0), "^SystemExit: 0"),
        (SideError("the port cannot be built"), "^the port cannot be built"),
    ],
)
def test_what_ends_the_program_is_an_error_of_the_side(error, said):
    def build():
        raise error

    with pytest.raises(SideError, match=said):
        RemoteSide(build, "port")


def test_a_process_that_ends_is_reported_with_its_exit_code(remote):
    with pytest.raises(SideError, match="the process of the port ended with 7"):
        remote.die()


def test_closing_one_of_several_does_not_wait_for_the_others():
    sides = [RemoteSide(Calculator, name) for name in ("reference", "port")]
    for side in sides:
        side.process()
    started = time.perf_counter()
    for side in sides:
        side.close()
    assert time.perf_counter() - started < 3  # and not the patience with a process that does not end
    assert [side._process.exitcode for side in sides] == [0, 0]


def test_closing_twice_or_after_its_end_is_no_error(remote):
    with pytest.raises(SideError):
        remote.die()
    remote.close()


def test_a_function_can_be_run_apart():
    assert apart(lambda a, b: (a + b, os.getpid() != os.getpid()), 2, 3) == (5, False)
    assert apart(os.getpid) != os.getpid()
