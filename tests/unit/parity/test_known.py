"""The prediction of Paddle's running variance against a computation by hand."""

from __future__ import annotations

import numpy as np
import pytest

from parity.known import LEDGER, RunningVariance


def call(count, before, momentum=0.25):
    return {"count": count, "momentum": momentum, "before": np.array([before])}


def test_one_call():
    # r = 2, batch variance 3 (biased), n = 4: torch 0.75 * 2 + 0.25 * 3 * 4/3 = 2.5, Paddle 0.75 * 2 + 0.25 * 3 = 2.25
    predicted = RunningVariance({"bn.running_var": np.array([2.0])})
    expected = predicted.advance({"bn.running_var": np.array([2.5])}, {"bn": [call(4, 2.0)]})
    assert expected["bn.running_var"] == pytest.approx([2.25], rel=1e-15)


def test_the_next_step_starts_from_what_paddle_has():
    # again with batch variance 3: torch 0.75 * 2.5 + 1 = 2.875, Paddle 0.75 * 2.25 + 0.75 = 2.4375
    predicted = RunningVariance({"bn.running_var": np.array([2.0])})
    predicted.advance({"bn.running_var": np.array([2.5])}, {"bn": [call(4, 2.0)]})
    expected = predicted.advance({"bn.running_var": np.array([2.875])}, {"bn": [call(4, 2.5)]})
    assert expected["bn.running_var"] == pytest.approx([2.4375], rel=1e-15)


def test_two_calls_in_one_step():
    predicted = RunningVariance({"bn.running_var": np.array([2.0])})
    expected = predicted.advance({"bn.running_var": np.array([2.875])}, {"bn": [call(4, 2.0), call(4, 2.5)]})
    assert expected["bn.running_var"] == pytest.approx([2.4375], rel=1e-15)


def test_a_norm_that_was_not_called_keeps_its_value():
    predicted = RunningVariance({"bn.running_var": np.array([2.0])})
    assert predicted.advance({"bn.running_var": np.array([2.0])}, {})["bn.running_var"] == [2.0]


def test_means_and_other_buffers_are_the_references():
    predicted = RunningVariance({"bn.running_mean": np.zeros(2), "table": np.zeros(2)})
    buffers = {"bn.running_mean": np.array([1.0, 2.0]), "table": np.array([3.0, 4.0])}
    expected = predicted.advance(buffers, {"bn": [call(4, 0.0)]})
    assert all(np.array_equal(expected[name], value) for name, value in buffers.items())


def test_a_norm_at_the_root_has_no_path():
    predicted = RunningVariance({"running_var": np.array([2.0])})
    assert predicted.advance({"running_var": np.array([2.5])}, {"": [call(4, 2.0)]})["running_var"] == pytest.approx(
        2.25
    )


def test_entries_of_the_ledger_have_names_of_their_own():
    names = [entry.name for entry in LEDGER]
    assert len(names) == len(set(names)) >= 4
