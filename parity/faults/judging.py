"""What counts as finding a planted fault: the first point that it changes, and a cause that names the mistake."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.compare import StageResult
from parity.diagnose import NOTHING
from parity.diagnosis.training import _KNOWN
from parity.traces import Trace

GENERIC = (
    *(re.escape(sentence) for sentence in _KNOWN.values()),
    r"gradients are compared in reverse order of execution: what follows this point agrees",
    r"both sides got the reference's outputs and the same targets(, so the loss itself differs)?",
    r"the losses of the first \d+ steps agree and those of step \d+ do not, so step \d+ updated differently.*",
)
"""What is said whatever the mistake is: of a stage, not of a cause. Nothing in it explains a fault."""


def explains(cause: str, words: Sequence[str]) -> bool:
    """Whether a cause names the mistake.

    Args:
        cause: as the harness states it, without the numbers of the finding.
        words: regular expressions, all of which what is left of the cause without `GENERIC` has to contain.
    """
    if NOTHING in cause or "the diagnosis raised" in cause:
        return False
    said = re.sub("|".join(GENERIC), "", cause)
    return bool(said.strip(" ;:,()")) and all(re.search(word, said, re.IGNORECASE) for word in words)


class Changes:
    """The first point, in the reference's order, that a planted fault changes a number of.

    It listens to the comparisons of a bench: while the correct port is checked it keeps a hash of each point of the
    port; later it looks, in each first comparison of a stage that fails, for the first point with another.

    Args:
        bench: whose comparisons are listened to from now on.

    Attributes:
        first: stage -> name of the point, without the stage; of the fault that is planted now.
    """

    def __init__(self, bench: Any) -> None:
        self.first: dict[str, str] = {}
        self._clean: dict[str, bytes] = {}  # "<stage>/<point>" -> hash
        self._planted = False
        own = bench._compare

        def compare(stage: str, reference: Trace, port: Trace, **keywords: Any) -> StageResult:
            result = own(stage, reference, port, **keywords)
            self._heard(result, port)
            return result

        bench._compare = compare

    def begin(self) -> None:
        """Another fault is planted: what was found before is forgotten."""
        self._planted = True
        self.first.clear()

    def _heard(self, result: StageResult, port: Trace) -> None:
        names = [finding.point.partition("/")[2] for finding in result.findings]
        if not self._planted:
            self._clean.update({f"{result.stage}/{n}": _hash(port.points[n]) for n in names if n in port.points})
        elif result.first is not None and result.stage not in self.first:
            changed = (n for n in names if self._clean.get(f"{result.stage}/{n}") != _hash(port.points.get(n)))
            self.first[result.stage] = next(changed, "")


def _hash(value: np.ndarray | None) -> bytes | None:
    if value is None:
        return None
    array = np.ascontiguousarray(value)
    return hashlib.blake2b(array.tobytes() + str((array.dtype, value.shape)).encode(), digest_size=16).digest()
