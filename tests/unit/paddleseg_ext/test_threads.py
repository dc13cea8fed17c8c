"""The environment that paddle is imported with."""

from __future__ import annotations

import os
import sys

import pytest

from paddleseg_ext import threads


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "MKL_DEBUG_CPU_TYPE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "paddle", raising=False)


def test_all_cores_are_used_and_waiting_threads_do_not_spin_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 7)
    monkeypatch.setattr(threads, "_is_amd", lambda: False)
    assert threads.configure() == "7 threads"
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("7", "PASSIVE")
    assert os.environ["KMP_BLOCKTIME"] == "20"
    assert "MKL_DEBUG_CPU_TYPE" not in os.environ


def test_on_amd_the_matrix_library_is_told_what_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_is_amd", lambda: True)
    assert threads.configure(1) == "1 thread, MKL_DEBUG_CPU_TYPE=5 (AMD)"
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "5"


def test_what_the_user_has_set_stays_unless_a_number_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("KMP_BLOCKTIME", "0")
    threads.configure()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("3", "ACTIVE")
    assert os.environ["KMP_BLOCKTIME"] == "0"
    threads.configure(2)
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_after_paddle_is_imported_another_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddle", sys)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads.configure()
    with pytest.raises(RuntimeError, match="call configure\\(\\) before importing paddle"):
        threads.configure(3)
