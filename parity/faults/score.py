"""What a self-test found: one outcome for each planted fault, and what follows from all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.compare import StageResult

WHATS = ("caught", "localised", "explained")
GOALS = {"caught": 1.0, "localised": 0.95, "explained": 0.9}
"""The shares of the faults that change a number at which a self-test passes."""


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
        undetermined: likewise, of those that failed where the reference's own last bits move its numbers by more than
            the verdict allows, and passed at a larger size.
        clean: number of correct ports checked.
        impossible: case -> kinds that it has no place for.
        elsewhere: case -> kinds that it has a place for, and that were planted in another case of its family only.
        seed: of the weights, the inputs, and the choice of sites.
        seeds: runs of each correct port.
        sites: faults counted per kind and case.
        sizes: case -> (H, W) at which faults were planted.
        versions: of the packages that the numbers depend on.
        crashes: "case: what became of the process that worked on it".
    """

    outcomes: list[Outcome] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    undetermined: list[str] = field(default_factory=list)
    clean: int = 0
    impossible: dict[str, list[str]] = field(default_factory=dict)
    elsewhere: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0
    seeds: int = 1
    sites: int = 1
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Score:
        """One score of several, each of other cases, by the same settings."""
        first = next((score for score in scores if not score.crashes), scores[0])
        whole = cls(seed=first.seed, seeds=first.seeds, sites=first.sites)
        for score in scores:
            whole.clean += score.clean
            for name in ("outcomes", "alarms", "undetermined", "crashes"):
                getattr(whole, name).extend(getattr(score, name))
            for name in ("impossible", "elsewhere", "sizes", "versions"):
                getattr(whole, name).update(getattr(score, name))
        return whole

    def rate(self, what: str, outcomes: Sequence[Outcome] | None = None) -> tuple[int, int]:
        """(how many, of how many) faults that change a number were "caught", "localised" or "explained"."""
        counted = [o for o in (self.outcomes if outcomes is None else outcomes) if o.verdict in ("caught", "missed")]
        good = sum(o.verdict == "caught" if what == "caught" else getattr(o, what) for o in counted)
        return good, len(counted)

    @property
    def passed(self) -> bool:
        """Whether nothing is in `problems`."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """Why the self-test fails, a line each: goals that are not met, alarms, and faults that were not planted."""
        found = []
        for what, goal in GOALS.items():
            good, counted = self.rate(what)
            if counted and good < goal * counted:
                found.append(f"{what} {good} of {counted}, the goal is {100 * goal:.0f} %")
        if not self.rate("caught")[1]:
            found.append("no fault that changes a number was planted")
        unplanted = sum(outcome.verdict == "not planted" for outcome in self.outcomes)
        if unplanted:
            found.append(f"{unplanted} faults could not be planted")
        if self.alarms:
            found.append(f"{len(self.alarms)} false alarms")
        return [*found, *self.crashes]

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
        for name in dict.fromkeys(outcome.kind for outcome in self.outcomes):
            outcomes = [outcome for outcome in self.outcomes if outcome.kind == name]
            count = self.rate("caught", outcomes)[1]
            if count:
                kinds[name] = {**{what: self.rate(what, outcomes)[0] for what in WHATS}, "count": count}
        return {
            "passed": self.passed,
            "problems": self.problems,
            "goals": GOALS,
            "seed": self.seed,
            "seeds": self.seeds,
            "sites": self.sites,
            "sizes": {name: list(size) for name, size in self.sizes.items()},
            "versions": self.versions,
            "totals": {what: list(self.rate(what)) for what in WHATS},
            "kinds": kinds,
            "false_alarms": len(self.alarms),
            "alarms": self.alarms,
            "undetermined": self.undetermined,
            "clean_runs": self.clean,
            "cases": self.by_case(),
            "impossible": self.impossible,
            "elsewhere": self.elsewhere,
            "faults": [dataclasses.asdict(outcome) for outcome in self.outcomes],
        }


def said(result: StageResult) -> str:
    """What a stage that fails says."""
    return result.crash or f"{result.first.point}: {result.first.text}"
