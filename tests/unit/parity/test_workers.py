"""Pieces of work in worker processes: results in order, whatever happens to the processes."""

from __future__ import annotations

import os
import sys
import time

import pytest

from parity import CaseError
from parity.workers import Pool, number

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")

NAMES = ["a", "b", "c", "d", "e"]


def run(work, *, jobs=2, names=NAMES):
    said = []
    with Pool(work, jobs) as pool:
        results = pool.run(names, progress=lambda *what: said.append(what), died=lambda *what: ("died", *what))
    return results, said


def test_results_come_in_the_order_of_the_work_and_not_of_its_end():
    def work(task, progress):
        time.sleep(0.1 * (task == 0))
        return task * 10

    assert run(work)[0] == [0, 10, 20, 30, 40]


def test_every_worker_is_used_and_each_is_another_process():
    def work(task, progress):
        time.sleep(0.1)
        return os.getpid()

    found, _ = run(work, jobs=3)
    assert len(set(found)) == 3 and os.getpid() not in found


def test_pieces_that_need_too_much_memory_together_run_one_after_the_other():
    def work(task, progress):
        began = time.monotonic()
        time.sleep(0.15)
        return began, time.monotonic()

    with Pool(work, 2) as pool:
        spans = pool.run(NAMES, progress=lambda *what: None, died=lambda *what: None, needs=[6, 6, 1, 20, 6], memory=10)
    large = sorted(spans[task] for task in (0, 1, 3, 4))
    assert all(end <= begin for (_, end), (begin, _) in zip(large, large[1:]))
    assert spans[2][0] < spans[0][1]  # a small one fits beside


def test_progress_arrives_and_an_empty_stage_ends_it():
    def work(task, progress):
        progress(NAMES[task], "forward")
        progress(NAMES[task], "loss")

    said = run(work)[1]
    for name in NAMES:
        assert [stage for case, stage in said if case == name] == ["forward", "loss", ""]


def test_a_worker_that_dies_is_reported_with_its_stage_and_another_goes_on():
    def work(task, progress):
        progress(NAMES[task], "step")
        if task in (1, 2):
            os._exit(7)
        return task

    found, _ = run(work)
    assert found[0] == 0 and found[3:] == [3, 4]
    for task in (1, 2):
        assert found[task] == ("died", task, "step", "the process of the case ended with exit code 7")


def test_what_a_piece_raises_is_reported_and_its_worker_goes_on():
    def work(task, progress):
        if task == 0:
            raise ZeroDivisionError("nothing to divide")
        return os.getpid()

    found, _ = run(work, jobs=1)
    assert found[0] == ("died", 0, "", "ZeroDivisionError: nothing to divide")
    assert len(set(found[1:])) == 1


def test_an_error_of_the_user_is_raised_and_the_rest_given_up():
    def work(task, progress):
        if task == 0:
            raise CaseError("no such size")
        time.sleep(60)

    started = time.perf_counter()
    with pytest.raises(CaseError, match="no such size"):
        run(work)
    assert time.perf_counter() - started < 20


def test_a_worker_can_start_processes_of_its_own():
    def work(task, progress):
        from parity.isolation import apart

        return apart(os.getpid) != os.getpid()

    assert run(work, names=["a"], jobs=1)[0] == [True]


def test_there_are_never_more_workers_than_cases_or_less_than_one():
    assert number(8, 3) == 3 and number(1, 9) == 1 and number(2, 9) == 2
    assert 1 <= number(None, 1000) <= os.cpu_count() and number(4, 0) == 1
