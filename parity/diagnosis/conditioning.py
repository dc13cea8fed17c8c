"""Whether a small difference is more than rounding: how far the reference itself moves with its input's last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    moved = []
    for value in inputs:
        if value.dtype.kind == "f":
            value = np.asarray(value, np.float64)
            value = value * (1.0 + LAST_BIT * random.choice([-1.0, 1.0], value.shape))
        moved.append(value)
    return moved


def explain(
    finding: Finding,
    expected: np.ndarray | None,
    observe: Callable[[Sequence[np.ndarray]], np.ndarray | None],
    inputs: Sequence[np.ndarray],
) -> str:
    """What rounding alone does to the point; "" if it does not explain the difference.

    Args:
        finding: the first divergence.
        expected: the reference's value of the point.
        observe: inputs -> the reference's value of the point.
        inputs: of the model.
    """
    if finding.verdict != "fail" or not finding.error < SMALL or expected is None:
        return ""
    found = observe(nudged(inputs))
    if found is None or found.shape != expected.shape:
        return ""
    own = values.error(expected, found)
    if own < SHARE * finding.error:
        return ""
    return (
        f"{MOVES} {own:.0e} when each number of its input moves by its last bit: at this"
        " size and batch it is not determined better, by either side (a norm over few values, or of almost constant"
        " ones); a larger size or batch tells whether anything else differs"
    )
