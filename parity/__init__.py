"""Proves a PaddlePaddle port equal to its PyTorch original, stage by stage, in float64.

from parity import Case, inputs, run
result = run(Case(name="mine", reference=build_torch, port=build_paddle, inputs={"image": inputs.image()}))
assert result.passed, result
"""

import parity.old_python  # noqa: F401  first: it lets Python 3.8 import the rest
from parity import inputs
from parity.case import Case, Drop, Probe, Rename, Schedule, Side, Transpose
from parity.errors import CaseError, ParityError, SideError, WeightsError
from parity.stages import run

__all__ = [
    "Case",
    "CaseError",
    "Drop",
    "ParityError",
    "Probe",
    "Rename",
    "Schedule",
    "Side",
    "SideError",
    "Transpose",
    "WeightsError",
    "inputs",
    "run",
]
