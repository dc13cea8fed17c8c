"""At which size faults are planted: the smallest that a case names and at which its numbers are determined.

Where batch norms average over a dozen values, the last bit of the input moves the gradients by more than the verdict
allows, on either side: such a size proves nothing. It is found on the reference alone, before the port is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from parity import fill, policy
from parity.case import CALIBRATION, Case
from parity.diagnosis import conditioning, values
from parity.traces import Trace

Size = tuple[int, int]


def smallest(case: Case, seed: int) -> Size:
    """The size to plant at.

    Args:
        case: with its sizes.
        seed: of weights and inputs.
    """
    sizes = sorted({case.size, *case.extra_sizes}, key=lambda size: (size[0] * size[1], size != case.size, size))
    if len(sizes) == 1 or case.why_not("gradients") is not None:
        return sizes[0]
    try:
        from parity.torch_side import TorchSide

        side = TorchSide(case.reference)
        state = fill.state(side.shapes(), seed)
        return next((size for size in sizes[:-1] if moved(case, side, state, size, seed) < policy.RELATIVE), sizes[-1])
    except Exception:  # the stages will say what is wrong with the reference
        return sizes[0]


def moved(case: Case, side: Any, state: Any, size: Size, seed: int) -> float:
    """How far the last bit of the inputs moves the gradients, over their rms; the worst point.

    Gradients that are sums of rounding alone (see `policy`) are left out.
    """
    inputs, targets = case.split(case.batch(seed, 0, size))
    side.load(state)
    if case.calibrate:
        side.calibrate(case.split(case.batch(seed, CALIBRATION, size))[0])
    initial = side.state()
    one, other = (_gradients(side, initial, batch, targets) for batch in (inputs, conditioning.nudged(inputs)))
    sums = one.meta.get("sums", {})
    pairs = [
        (value, other.points.get(name)) for name, value in one.points.items() if name.partition("/")[2] not in sums
    ]
    return max((values.error(a, b) for a, b in pairs if b is not None and np.any(a)), default=0.0)


def _gradients(side: Any, state: Any, inputs: Sequence[np.ndarray], targets: Any) -> Trace:
    side.load(state)
    trace = side.observe(inputs, targets, train=True, backward=True)
    return Trace({name: v for name, v in trace.points.items() if name.startswith("gradient/")}, trace.meta)
