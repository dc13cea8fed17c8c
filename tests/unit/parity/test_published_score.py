"""The score that `make self-test` wrote is that of these cases and kinds, and reaches its goals."""

from __future__ import annotations

import re
from pathlib import Path

from parity import cases
from parity.faults import KINDS
from parity.faults.score import GOALS

TEXT = (Path(__file__).resolve().parents[3] / "benchmarks" / "self_test.md").read_text(encoding="utf-8")


def rows(head):
    """First cell -> the others, of the table whose head begins so."""
    table = TEXT.partition(f"| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("| ").split("|")] for line in table)}


def test_every_case_is_scored_over_twenty_seeds():
    by_case = rows("case")
    assert set(by_case) == set(cases.load())
    count = len(by_case)
    assert f"false alarms 0 of {20 * count} correct runs" in TEXT and "20 runs of each correct port" in TEXT


def test_the_goals_are_reached():
    for what, goal in GOALS.items():
        good, counted = map(int, re.search(rf"{what} (\d+) of (\d+)", TEXT).groups())
        assert counted > 40 * len(cases.load()) and good >= goal * counted
    assert "FAILED:" not in TEXT and "NOT PLANTED" not in TEXT and "MISSED" not in TEXT


def test_every_kind_is_planted_or_named_as_one_that_has_no_place():
    planted = set(rows("kind"))
    assert planted <= set(KINDS) and len(planted) > 100
    assert [name for name in KINDS if name not in TEXT] == []
