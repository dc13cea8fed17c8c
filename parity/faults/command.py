"""`check.py --self-test`: the score of the harness itself, as a table and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.case import Case
from parity.faults.fault import KINDS
from parity.faults.score import WHATS, Outcome, Score
from parity.faults.selftest import self_test
from parity.report import progress


def run(
    cases: Sequence[Case],
    *,
    seed: int,
    size: tuple[int, int] | None,
    json_path: str | None,
    kinds: Sequence[str] | None = None,
    seeds: int = 3,
    spread: bool = False,
) -> int:
    """Plants faults in the ports of some cases and prints the score.

    Args:
        cases: as `self_test` takes them.
        seed: likewise.
        size: likewise.
        json_path: where the score goes as JSON too, after each case anew; "-" for standard output, and no table.
        kinds: likewise.
        seeds: likewise.
        spread: likewise.

    Returns:
        The exit code: 0 if the goals are met, every fault was planted and no correct port failed, else 1.
    """

    def write(score: Score) -> None:
        if json_path and json_path != "-":
            Path(json_path).write_text(json.dumps(score.to_dict(), indent=1) + "\n", encoding="utf-8")

    with progress(quiet=json_path == "-") as say:
        score = self_test(
            cases, kinds=kinds, seed=seed, seeds=seeds, size=size, spread=spread, progress=say, so_far=write
        )
    if json_path == "-":
        sys.stdout.write(json.dumps(score.to_dict(), indent=1) + "\n")
    if json_path != "-":
        print_score(score)
    return 0 if score.passed else 1


def print_score(score: Score) -> None:
    """The table of kinds, what was not found, and the totals, on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    table = Table(title="planted faults that change a number: caught, localised, explained")
    for column in ("kind", "what is done wrong", "planted", "caught", "localised", "explained", "equivalent"):
        table.add_column(column, justify="left" if column in ("kind", "what is done wrong") else "right")
    for name, kind in KINDS.items():
        outcomes = [outcome for outcome in score.outcomes if outcome.kind == name]
        if outcomes:
            counts = [score.rate(what, outcomes) for what in WHATS]
            equivalent = sum(outcome.verdict == "equivalent" for outcome in outcomes)
            cells = [str(good) for good, _ in counts]
            table.add_row(name, kind.text, str(counts[0][1]), *cells, str(equivalent or ""))
    console.print(table)
    if len(score.by_case()) > 1:
        console.print(_cases(score))
    for line in lines(score):
        console.print(line, markup=False, soft_wrap=True)


def _cases(score: Score) -> Any:
    from rich.table import Table

    table = Table(title="the same by case")
    numbers = ("count", *WHATS, "equivalent", "not planted", "impossible", "alarms", "seconds")
    table.add_column("case")
    for column in numbers:
        table.add_column({"count": "planted", "impossible": "no place"}.get(column, column), justify="right")
    for name, row in score.by_case().items():
        table.add_row(name, *[f"{row[column]:.0f}" for column in numbers])
    return table


def lines(score: Score) -> list[str]:
    """What a reader has to know beyond the table, a line each; the totals come last."""
    found = []
    for outcome in score.outcomes:
        problem = problem_of(outcome)
        if problem:
            found.append(f"{problem}: {outcome.case}, {outcome.kind} at {outcome.site}")
            if outcome.verdict == "caught":
                found.append(f"     {outcome.stage}/{outcome.point}: {outcome.cause.splitlines()[0]}")
    found += [f"FALSE ALARM {alarm}" for alarm in score.alarms]
    for name, kind in KINDS.items():
        if kind.needs and any(name in kinds for kinds in score.impossible.values()):
            found.append(f"no case can express {name} ({kind.text}): that takes {kind.needs}")
    for case, impossible in score.impossible.items():
        kinds = [name for name in impossible if not KINDS[name].needs]
        found.append(f"{case}: no place for {len(kinds)} of {len(KINDS)} kinds: {', '.join(kinds)}")
    for case, kinds in score.elsewhere.items():
        found.append(f"{case}: {len(kinds)} kinds were planted in another case of its family only")
    return [*found, *settings(score), *(f"FAILED: {problem}" for problem in score.problems), totals(score)]


def settings(score: Score) -> list[str]:
    """What the numbers depend on, so that anybody can have them again."""
    sizes = ", ".join(f"{case} {height} x {width}" for case, (height, width) in score.sizes.items())
    versions = ", ".join(f"{name} {version}" for name, version in score.versions.items())
    what = f"seed {score.seed}, {score.seeds} runs of each correct port, {score.sites} fault(s) of each kind and case"
    return [line for line in (what, sizes and f"sizes: {sizes}", versions and f"versions: {versions}") if line]


def totals(score: Score) -> str:
    """What was caught, localised and explained of how many, and the alarms, in one line."""
    parts = []
    for what in WHATS:
        good, counted = score.rate(what)
        parts.append(f"{what} {good} of {counted}" + (f" ({100 * good / counted:.0f} %)" if counted else ""))
    equivalent = sum(outcome.verdict == "equivalent" for outcome in score.outcomes)
    parts += [f"{equivalent} equivalent", f"false alarms {len(score.alarms)} of {score.clean} correct runs"]
    return ", ".join(parts)


def problem_of(outcome: Outcome) -> str:
    """What the harness failed to do with a fault, in capitals; "" if nothing."""
    if outcome.verdict in ("missed", "not planted"):
        return outcome.verdict.upper()
    if outcome.verdict == "equivalent":
        return ""
    return "NOT LOCALISED" if not outcome.localised else "" if outcome.explained else "NOT EXPLAINED"
