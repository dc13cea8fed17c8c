"""The cases of this repository, one file per model family with `CASES`; a file without is what they share."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from parity.case import Case
from parity.errors import CaseError


def load() -> dict[str, Case]:
    """All cases by name, without building a model."""
    cases: dict[str, Case] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        for case in getattr(importlib.import_module(f"{__name__}.{module}"), "CASES", ()):
            if case.name in cases:
                raise CaseError(f"two cases are named {case.name!r}")
            cases[case.name] = case
    return cases


def get(name: str) -> Case:
    """The case called `name`.

    Raises:
        CaseError: if there is none; names the closest one and lists all.
    """
    cases = load()
    if name not in cases:
        close = difflib.get_close_matches(name, cases, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise CaseError(f"there is no case {name!r}.{hint} Cases: {', '.join(cases)}; a path to a file must end in .py")
    return cases[name]
