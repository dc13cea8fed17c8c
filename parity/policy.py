"""How close is equal. A point belongs to a class; a case never writes a number.

| class    | limit on the largest difference              | why                                                 |
|----------|----------------------------------------------|-----------------------------------------------------|
| float64  | 1e-9 * rms(reference)                        | correct ports reach 1e-11; a BN epsilon of 1.1e-5   |
|          |                                              | instead of 1e-5 shows as 1e-6                       |
| sum      | 1e-9 * rms(reference) + 2**-50 * scale       | a sum cannot be finer than the last bits of what it |
|          |                                              | adds up; see below                                  |
| discrete | equal                                        | ids, counts, carried-over weights                   |

Sums are of two kinds. An update is added to a parameter: the scale is the parameter's largest magnitude. The gradient
of a bias adds up the gradients at the layer's output: the scale is the sum of their magnitudes times the square root of
their number, with which rounding grows. Under a batch norm that gradient is 0 but for rounding, on both sides, so that
nothing else can be asked of it; elsewhere it is so much larger that the first term decides. Accumulators and updates
that are made of such a gradient inherit its scale, as do the parameter and the running mean of the norm behind it.

Adam divides by the gradient's own magnitude. Where an element's gradient is next to nothing beside the others', what
it may differ by (1e-9 of their rms) is next to all of it, and the quotient may be anything. So the scale of an adaptive
update has, element by element, the error that the gradient may have times the gain lr / (sqrt(v) + eps): nothing for an
ordinary element, whose update has to agree to 3e-9; the gradient itself is held to 1e-9 as ever, by its first moment.
The second moment adds up squares: where a gradient g may be off by d, its square may be off by 2 |g| d.

The numerics leg (float32) reports and never fails: the port's error against the float64 reference is compared with
the reference's own float32 error, and a ratio above 3 is a finding about the framework's arithmetic.
"""

from __future__ import annotations

import numpy as np

RELATIVE = 1e-9
SUM_ULPS = 2.0**-50
NUMERICS_RATIO = 3.0
NUMERICS_FLOOR = 2.0**-24


def limit(kind: str, *, rms: float, scale: float | np.ndarray = 0.0) -> float | np.ndarray:
    """The largest absolute difference that a point of this class may show.

    Args:
        kind: "float64", "sum" or "discrete".
        rms: of the reference.
        scale: of what a "sum" adds up; an array if each element has its own, as then has the result.
    """
    if kind == "discrete":
        return 0.0
    if kind == "sum":
        return RELATIVE * rms + SUM_ULPS * scale
    return RELATIVE * rms
