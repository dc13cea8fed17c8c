"""Which kinds of faults are planted in which case: all in all, or each once in each family of cases.

The cases of one file of `parity/cases` are a family: their ports share most of their code, and nearly all kinds fit
nearly all of them. `spread` deals each kind to one case of each family, drawn by the seed among those that have a
place for it, so that every kind meets every family and every case gets its share; another seed deals them otherwise.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence

from parity.case import Case

CASES = "parity.cases"


class Deal:
    """The order in which cases are visited, and what is planted at each visit.

    Args:
        cases: in order.
        kinds: names of all that are to be planted.
        seed: that chooses.
        spread: see the module's docstring; else every kind goes to every case.
    """

    def __init__(self, cases: Sequence[Case], kinds: Sequence[str], seed: int, *, spread: bool) -> None:
        self.cases, self.kinds, self.spread = list(cases), list(kinds), spread
        self._possible: dict[str, set[str]] = {}
        self._done: set[tuple[str, str]] = set()  # (family, kind)
        self._planted: dict[str, set[str]] = {}
        families: dict[str, list[str]] = {}
        for case in cases:
            families.setdefault(family_of(case), []).append(case.name)
        self._preferred: dict[tuple[str, str], list[str]] = {}
        for family, members in families.items():
            for kind in kinds:
                order = list(members)
                random.Random(f"{seed}/{family}/{kind}").shuffle(order)
                self._preferred[family, kind] = order

    def __iter__(self) -> Iterator[tuple[Case, bool]]:
        """(case, whether it is its first visit); a case comes again for kinds that found no place after it."""
        for case in self.cases:
            yield case, True
        while self.spread:
            waiting = [self._candidates(*key)[0] for key in self._preferred if self._waits(*key)]
            case = next((case for case in self.cases if case.name in waiting), None)
            if case is None:
                return
            yield case, False

    def given(self, case: Case, possible: Sequence[str]) -> list[str]:
        """The kinds to plant now.

        Args:
            case: that is visited.
            possible: kinds that it has a place for.
        """
        again = case.name in self._possible
        self._possible[case.name] = set(possible)
        family = family_of(case)
        chosen = [kind for kind in possible if not self.spread or self._is_here(family, kind, case.name, again)]
        self._planted.setdefault(case.name, set()).update(chosen)
        return chosen

    def _is_here(self, family: str, kind: str, case: str, again: bool) -> bool:
        if (family, kind) in self._done:
            return False
        chosen = self._candidates(family, kind)[0]
        return chosen == case or (chosen in self._possible and not again)

    def counted(self, case: Case, kind: str, number: int) -> None:
        """Says how many faults of a kind changed a number in a case; where none did, another case gets the kind."""
        if number:
            self._done.add((family_of(case), kind))
        else:
            self._possible[case.name].discard(kind)

    def give_up(self, case: Case) -> None:
        """Says that nothing can be planted in a case."""
        self._possible[case.name] = set()

    def elsewhere(self) -> dict[str, list[str]]:
        """Case -> kinds that it has a place for, and that were planted in another case of its family."""
        found = {}
        for case in self.cases:
            planted = self._planted.get(case.name, set())
            left = [kind for kind in self.kinds if kind in self._possible.get(case.name, ()) and kind not in planted]
            if left:
                found[case.name] = left
        return found

    def _candidates(self, family: str, kind: str) -> list[str]:
        """Cases of a family that may have a place for a kind, the preferred one first."""
        order = self._preferred[family, kind]
        return [name for name in order if name not in self._possible or kind in self._possible[name]]

    def _waits(self, family: str, kind: str) -> bool:
        return (family, kind) not in self._done and bool(self._candidates(family, kind))


def family_of(case: Case) -> str:
    """The name of the file of `parity/cases` that a case is from; of a case from elsewhere, its own."""
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{CASES}.") and case.name in {other.name for other in getattr(module, "CASES", ())}:
            return name[len(CASES) + 1 :]
    return case.name
