"""`check.py --self-test`: the score of the harness itself, as a table, as Markdown and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from parity import guard, stages, workers
from parity.case import Case
from parity.faults.score import WHATS, Outcome, Score
from parity.markup import md
from parity.report import between, progress

_NUMBERS = {
    "count": "planted",
    **{what: what for what in WHATS},
    "equivalent": "equivalent",
    "not planted": "not planted",
    "impossible": "no place",
    "alarms": "alarms",
    "seconds": "seconds",
}
"""Columns of the table by case: of `Score.by_case`, and their titles."""
TITLE = """# The harness's own score

Mistakes are planted in ports that are correct, one at a time. *caught*: a stage of `parity/check.py` fails;
*localised*: its first divergence is where the mistake is; *explained*: the stated cause names it. *equivalent* mistakes
change no number where they were planted, and are not counted. `make self-test` writes this page; how it scores is in
[parity/README.md](../parity/README.md).
"""
Plant = Callable[..., Score]
"""`self_test` with all that it takes but the cases and what it is told to call."""


def run(cases: Sequence[Case], plant: Plant, *, jobs: int, json_path: str | None, md_path: Path | None) -> int:
    """Plants faults in the ports of some cases and prints the score.

    Args:
        cases: whose ports are correct.
        plant: does it, given cases, `progress` and `so_far`.
        jobs: cases at the same time, each in a process of its own; neither framework may be imported here yet, but
            for one job.
        json_path: where the score goes as JSON too, after each case anew; "-" for standard output, and no table.
        md_path: where its table goes as Markdown; into a file with markers `self-test`, between them.

    Returns:
        The exit code: 0 if the goals are met, every fault was planted and no correct port failed, else 1.
    """

    def write(score: Score) -> None:
        if json_path and json_path != "-":
            guard.write(json_path, json.dumps(score.to_dict(), indent=1) + "\n")

    with progress(quiet=json_path == "-") as say:
        if jobs > 1:
            score = _side_by_side(cases, plant, jobs, say, write)
        else:
            score = plant(cases, progress=say, so_far=write)
    write(score)
    if md_path:
        old = md_path.read_text(encoding="utf-8") if md_path.exists() else ""
        table = markdown(score)
        guard.write(md_path, between(old, "self-test", table) or f"{TITLE}\n{table}\n")
    if json_path == "-":
        sys.stdout.write(json.dumps(score.to_dict(), indent=1) + "\n")
    else:
        print_score(score)
    return 0 if score.passed else 1


def _side_by_side(
    cases: Sequence[Case], plant: Plant, jobs: int, say: Callable[[str, str], None], write: Callable[[Score], None]
) -> Score:
    """The score of all cases, some at a time, as far as the memory holds them."""
    done: list[Score] = []

    def work(index: int, progress: Callable[[str, str], None]) -> Score:
        return plant([cases[index]], progress=progress)

    def died(index: int, stage: str, message: str) -> Score:
        at = f", at {stage}" if stage else ""
        return Score(crashes=[f"{cases[index].name}: {message}{at}"])

    def finished(score: Score) -> None:
        done.append(score)
        write(Score.of(done))

    with workers.Pool(work, jobs) as pool:
        scores = pool.run(
            [case.name for case in cases],
            progress=say,
            died=died,
            needs=[1.25 * stages.memory_needed(case) for case in cases],
            times=[stages.time_expected(case) for case in cases],
            memory=0.9 * workers.physical_memory(),
            finished=finished,
        )
    return Score.of(scores)


def markdown(score: Score) -> str:
    """The score by case and by kind, and all that the command says beside it."""
    rows = [[name, *(f"{row[column]:.0f}" for column in _NUMBERS)] for name, row in score.by_case().items()]
    by_case = _markdown_table(["case", *_NUMBERS.values()], rows)
    rows = [[name, text, *map(str, cells)] for name, text, cells in _by_kind(score)]
    by_kind = _markdown_table(["kind", "what is done wrong", "planted", *WHATS, "equivalent"], rows)
    said = "\n".join(f"- {md(line)}" for line in lines(score))
    return f"**{totals(score)}**\n\n{by_case}\n\n{by_kind}\n\n{said}"


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = ("| " + " | ".join(map(md, row)) + " |" for row in (head, *rows))
    return "\n".join([first, "|" + "---|" * len(head), *others])


def print_score(score: Score) -> None:
    """The table of kinds, what was not found, and the totals, on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    table = Table(title="planted faults that change a number: caught, localised, explained")
    for column in ("kind", "what is done wrong", "planted", "caught", "localised", "explained", "equivalent"):
        table.add_column(column, justify="left" if column in ("kind", "what is done wrong") else "right")
    for name, text, cells in _by_kind(score):
        table.add_row(name, text, *map(str, cells))
    console.print(table)
    if len(score.by_case()) > 1:
        console.print(_cases(score))
    for line in lines(score):
        console.print(line, markup=False, soft_wrap=True)


def _by_kind(score: Score) -> list[tuple[str, str, list[Any]]]:
    """(kind, what is done wrong, [planted, caught, localised, explained, equivalent]) of each that was planted."""
    from parity.faults import KINDS

    rows = []
    for name, kind in KINDS.items():
        outcomes = [outcome for outcome in score.outcomes if outcome.kind == name]
        if outcomes:
            counts = [score.rate(what, outcomes) for what in WHATS]
            equivalent = sum(outcome.verdict == "equivalent" for outcome in outcomes)
            rows.append((name, kind.text, [counts[0][1], *(good for good, _ in counts), equivalent or ""]))
    return rows


def _cases(score: Score) -> Any:
    from rich.table import Table

    table = Table(title="the same by case")
    table.add_column("case")
    for title in _NUMBERS.values():
        table.add_column(title, justify="right")
    for name, row in score.by_case().items():
        table.add_row(name, *[f"{row[column]:.0f}" for column in _NUMBERS])
    return table


def lines(score: Score) -> list[str]:
    """What a reader has to know beyond the table, a line each; the totals come last."""
    from parity.faults import KINDS

    found = []
    for outcome in score.outcomes:
        problem = problem_of(outcome)
        if problem:
            found.append(f"{problem}: {outcome.case}, {outcome.kind} at {outcome.site}")
            if outcome.verdict == "caught":
                found.append(f"     {outcome.stage}/{outcome.point}: {outcome.cause.splitlines()[0]}")
    found += [f"FALSE ALARM {alarm}" for alarm in score.alarms]
    found += [f"run again at a larger size: {run}" for run in score.undetermined]
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
        parts.append(f"{what} {good} of {counted}" + (f" ({100 * good // counted} %)" if counted else ""))
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
