"""What a self-test found: one outcome for each planted fault, and what follows from all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.compare import StageResult
from parity.faults.fault import KINDS

WHATS = ("caught", "localised", "explained")


@dataclass
class Outcome:
    """What the harness said of one fault.

    Attributes:
        case: name of the case.
        seed: of its weights and inputs.
        kind: of the fault.
        site: where it was planted.
        verdict: "caught", "missed", "equivalent" (it changes no number) or "not planted" (planting it raised).
        localised: whether stage and point are right.
        explained: whether the cause is right.
        stage: of the first divergence.
        point: likewise.
        expected: the point that was expected.
        cause: as stated.
        seconds: all took.
    """

    case: str
    seed: int
    kind: str
    site: str
    verdict: str = ""
    localised: bool = False
    explained: bool = False
    stage: str = ""
    point: str = ""
    expected: str = ""
    cause: str = ""
    seconds: float = 0.0


@dataclass
class Score:
    """What a self-test found.

    Attributes:
        outcomes: of each planted fault.
        alarms: "case, seed: first divergence" of every correct port that failed.
        clean: number of correct ports checked.
        impossible: case -> kinds that it has no place for.
        elsewhere: case -> kinds that it has a place for, and that were planted in another case of its family only.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    clean: int = 0
    impossible: dict[str, list[str]] = field(default_factory=dict)
    elsewhere: dict[str, list[str]] = field(default_factory=dict)

    def rate(self, what: str, outcomes: Sequence[Outcome] | None = None) -> tuple[int, int]:
        """(how many, of how many) faults that change a number were "caught", "localised" or "explained"."""
        counted = [o for o in (self.outcomes if outcomes is None else outcomes) if o.verdict in ("caught", "missed")]
        good = sum(o.verdict == "caught" if what == "caught" else getattr(o, what) for o in counted)
        return good, len(counted)

    @property
    def passed(self) -> bool:
        """Every fault that changes a number was caught, at least one was, and no correct port failed."""
        caught, counted = self.rate("caught")
        return counted > 0 and caught == counted and not self.alarms

    def by_case(self) -> dict[str, dict[str, float]]:
        """Case -> what was caught, localised and explained of how many, and what else was seen, in numbers."""
        found: dict[str, dict[str, float]] = {}
        for name in [*dict.fromkeys(outcome.case for outcome in self.outcomes)]:
            outcomes = [outcome for outcome in self.outcomes if outcome.case == name]
            row: dict[str, float] = {what: self.rate(what, outcomes)[0] for what in WHATS}
            row["count"] = self.rate("caught", outcomes)[1]
            for verdict in ("equivalent", "not planted"):
                row[verdict] = sum(outcome.verdict == verdict for outcome in outcomes)
            row["alarms"] = sum(alarm.startswith(f"{name}, ") for alarm in self.alarms)
            row["impossible"] = len(self.impossible.get(name, ()))
            row["seconds"] = round(sum(outcome.seconds for outcome in outcomes), 1)
            found[name] = row
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        kinds: dict[str, dict[str, int]] = {}
        for name in KINDS:
            outcomes = [outcome for outcome in self.outcomes if outcome.kind == name]
            count = self.rate("caught", outcomes)[1]
            if count:
                kinds[name] = {**{what: self.rate(what, outcomes)[0] for what in WHATS}, "count": count}
        return {
            "passed": self.passed,
            "totals": {what: list(self.rate(what)) for what in WHATS},
            "kinds": kinds,
            "false_alarms": len(self.alarms),
            "alarms": self.alarms,
            "clean_runs": self.clean,
            "cases": self.by_case(),
            "impossible": self.impossible,
            "elsewhere": self.elsewhere,
            "faults": [dataclasses.asdict(outcome) for outcome in self.outcomes],
        }


def said(result: StageResult) -> str:
    """What a stage that fails says."""
    return result.crash or f"{result.first.point}: {result.first.text}"
