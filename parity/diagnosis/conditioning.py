"""Whether a small difference is more than rounding: how far the reference itself moves with last bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from parity.compare import Finding
from parity.diagnosis import values

SMALL = 1e-6  # larger differences are mistakes
SHARE = 0.1  # of the difference that rounding alone has to explain
LAST_BIT = 2.0**-52
MOVES = "the reference's own number moves by"  # how the explanation begins


def nudged(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The inputs in float64, each number moved by its last bit, up or down."""
    random = np.random.RandomState(0)
    return [_nudged(value, random) for value in inputs]


def nudged_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Likewise a state dict."""
    random = np.random.RandomState(0)
    return {name: _nudged(np.asarray(value), random) for name, value in state.items()}


def _nudged(value: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    if value.dtype.kind != "f":
        return value
    value = np.asarray(value, np.float64)
    return value * (1.0 + LAST_BIT * random.choice([-1.0, 1.0], value.shape))


def explain(finding: Finding, expected: np.ndarray | None, moved: Iterable[np.ndarray | None]) -> str:
    """What rounding alone does to the point; "" if it does not explain the difference.

    Args:
        finding: the first divergence.
        expected: the reference's value of the point.
        moved: its values when the last bits of what the reference computes with are others; taken one by one.
    """
    if finding.verdict != "fail" or not finding.error < SMALL or expected is None:
        return ""
    for found in moved:
        own = values.error(expected, found) if found is not None and found.shape == expected.shape else 0.0
        if own >= SHARE * finding.error:
            return (
                f"{MOVES} {own:.0e} when each number of its input, or of its weights, moves by its last bit: at this"
                " size and batch it is not determined better, by either side (a norm over few values, or of almost"
                " constant ones); a larger size or batch tells whether anything else differs"
            )
    return ""
