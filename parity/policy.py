"""How close is equal. A point belongs to a class; a case never writes a number.

| class    | limit on the largest difference              | why                                                 |
|----------|----------------------------------------------|-----------------------------------------------------|
| float64  | 1e-9 * rms(reference)                        | correct ports reach 1e-11; a BN epsilon of 1.1e-5   |
|          |                                              | instead of 1e-5 shows as 1e-6                       |
| update   | 1e-9 * rms(update) + 2**-50 * max|parameter| | a parameter near 1 cannot hold an update finer than |
|          |                                              | its own last bits                                   |
| discrete | equal                                        | ids, counts, carried-over weights                   |

The numerics leg (float32) reports and never fails: the port's error against the float64 reference is compared with
the reference's own float32 error, and a ratio above 3 is a finding about the framework's arithmetic.
"""

from __future__ import annotations

RELATIVE = 1e-9
UPDATE_ULPS = 2.0**-50
NUMERICS_RATIO = 3.0
NUMERICS_FLOOR = 2.0**-24


def limit(kind: str, *, rms: float, scale: float = 0.0) -> float:
    """The largest absolute difference that a point of this class may show.

    Args:
        kind: "float64", "update" or "discrete".
        rms: of the reference.
        scale: largest magnitude of the parameter, for "update".
    """
    if kind == "discrete":
        return 0.0
    if kind == "update":
        return RELATIVE * rms + UPDATE_ULPS * scale
    return RELATIVE * rms
