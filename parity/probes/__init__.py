"""What torch and Paddle do differently, measured on the installed versions.

A probe is a small function that asks both frameworks the same question and returns both answers: a number, a list of
numbers, or a word ("raises", "float32"). What known versions answered is in `known_versions.json`, which
`python -m parity probe --record` writes; nothing in it is typed by hand. A later version that answers otherwise changes
what a port has to do, and is reported.
"""

from __future__ import annotations

import difflib
import importlib
import json
import pkgutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from parity.errors import CaseError

KNOWN = Path(__file__).parent / "known_versions.json"
SCHEMA = 1
RELATIVE = 1e-5  # of numbers that both frameworks compute in float32 or better


@dataclass(frozen=True)
class SemanticProbe:
    """One question.

    Attributes:
        name: short, unique.
        rule: what a port has to do about it, or that nothing needs to be done.
        measure: () -> (torch's answer, Paddle's answer).
        ledger: name of the entry of `known.LEDGER` by which the harness makes up for the difference, or "".
    """

    name: str
    rule: str
    measure: Callable[[], tuple[Any, Any]]
    ledger: str = ""


@dataclass(frozen=True)
class Reading:
    """What one probe measured, beside what is on record.

    Attributes:
        name: of the probe.
        rule: of the probe.
        ledger: of the probe.
        torch: torch's answer.
        paddle: Paddle's answer.
        expected: (torch's, Paddle's) on record, or None if this probe is not on record.
    """

    name: str
    rule: str
    ledger: str
    torch: Any
    paddle: Any
    expected: tuple[Any, Any] | None

    @property
    def alike(self) -> bool:
        """Whether the frameworks agree."""
        return same(self.torch, self.paddle)

    @property
    def status(self) -> str:
        """How the answers relate to the record: "as recorded", "changed" or "new"."""
        if self.expected is None:
            return "new"
        as_recorded = same(self.torch, self.expected[0]) and same(self.paddle, self.expected[1])
        return "as recorded" if as_recorded else "changed"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        expected = None if self.expected is None else {"torch": self.expected[0], "paddle": self.expected[1]}
        return {
            "name": self.name,
            "torch": self.torch,
            "paddle": self.paddle,
            "alike": self.alike,
            "expected": expected,
            "status": self.status,
            "rule": self.rule,
            "ledger": self.ledger,
        }


REGISTRY: dict[str, SemanticProbe] = {}


def probe(name: str, rule: str, *, ledger: str = "") -> Callable[[Callable[[], tuple[Any, Any]]], Any]:
    """Registers the decorated function as the probe called `name`."""

    def register(measure: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
        if name in REGISTRY:
            raise ValueError(f"two probes are named {name!r}")
        REGISTRY[name] = SemanticProbe(name, rule, measure, ledger)
        return measure

    return register


def load() -> dict[str, SemanticProbe]:
    """All probes by name; imports both frameworks."""
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
    return dict(REGISTRY)


def versions() -> str:
    """The installed versions, as `known_versions.json` names them."""
    from importlib.metadata import version

    return f"paddlepaddle {version('paddlepaddle')}, torch {version('torch').partition('+')[0]}"


def measure(known: Mapping[str, Mapping[str, Sequence[Any]]], names: Sequence[str] = ()) -> tuple[list[Reading], str]:
    """Asks both frameworks.

    Args:
        known: versions -> probe -> (torch's answer, Paddle's answer).
        names: of the probes, or parts of names; all by default.

    Returns:
        The readings, and the versions they are compared with ("" if there are none): the installed ones if these are
        on record, else those recorded last.

    Raises:
        CaseError: if a name matches no probe.
    """
    probes = load()
    for name in names:
        if not any(name in known_name for known_name in probes):
            close = difflib.get_close_matches(name, [word for known_name in probes for word in known_name.split()], n=3)
            hint = (
                f"; did you mean {' or '.join(sorted(set(close)))}?" if close else "; `python -m parity probe` has all"
            )
            raise CaseError(f"probe {name!r}: no probe's name has it; expected (a part of) a name{hint}")
    against = versions() if versions() in known else next(reversed(list(known)), "")
    expected = known.get(against, {})
    readings = []
    for entry in probes.values():
        if names and not any(name in entry.name for name in names):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a framework may announce a change; what counts is what it does
            torch_answer, paddle_answer = (plain(answer) for answer in entry.measure())
        on_record = expected.get(entry.name)
        pair = None if on_record is None else (on_record[0], on_record[1])
        readings.append(Reading(entry.name, entry.rule, entry.ledger, torch_answer, paddle_answer, pair))
    return readings, against


def read_known(path: Path = KNOWN) -> dict[str, Any]:
    """What known versions answered.

    Raises:
        CaseError: if the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}; expected {SCHEMA}")
        for answers in content["versions"].values():
            if not all(isinstance(pair, list) and len(pair) == 2 for pair in answers.values()):
                raise ValueError("expected a pair of answers for each probe")
        return content["versions"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaseError(f"{path}: not a record of probes: {error}; write it again with --record") from error


def record(readings: Sequence[Reading], path: Path = KNOWN) -> None:
    """Puts the readings on record for the installed versions; those of other versions stay."""
    known = read_known(path)
    known.pop(versions(), None)
    known[versions()] = {reading.name: [reading.torch, reading.paddle] for reading in readings}
    entries = []
    for name, answers in known.items():
        lines = ",\n".join(f"   {json.dumps(probe_name)}: {json.dumps(pair)}" for probe_name, pair in answers.items())
        entries.append(f"  {json.dumps(name)}: {{\n{lines}}}")
    text = f'{{\n "schema": {SCHEMA},\n "versions": {{\n' + ",\n".join(entries) + "}\n}\n"
    path.write_text(text, encoding="utf-8")


def same(one: Any, other: Any) -> bool:
    """Whether two answers are the same; numbers to `RELATIVE` of the larger."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return abs(one - other) <= RELATIVE * max(abs(one), abs(other))
    return type(one) is type(other) and one == other


def plain(answer: Any) -> Any:
    """An answer as JSON keeps it: words, and finite numbers; NaN and Inf are words."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, (list, tuple)):
        return [plain(item) for item in answer]
    array = np.asarray(answer.numpy() if hasattr(answer, "numpy") else answer)
    if array.size != 1:
        return [plain(item) for item in array.tolist()]
    value = array.item()
    if isinstance(value, float):
        return float(f"{value:.9g}") if np.isfinite(value) else str(value)
    return int(value)


def answer(question: Callable[[], Any]) -> Any:
    """What a question returns, or "raises" if the framework refuses it."""
    try:
        return question()
    except Exception:  # each framework has errors of its own
        return "raises"


def precision(found: Any, exact: Any) -> str:
    """How exact a result is: "float64" to the last bits, "float32" to float32's last bits, or "differs"."""
    found, exact = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    error = np.max(np.abs(found - exact)) / max(np.max(np.abs(exact)), 1e-300)
    return "float64" if error < 1e-12 else "float32" if error < 1e-4 else "differs"
