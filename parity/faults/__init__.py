"""Porting mistakes that are planted in correct ports, to see whether the harness finds them, where, and why.

`python parity/check.py --self-test` runs it; `self_test` is the same as a function.
"""

from parity.faults.fault import KINDS, Fault, Kind, Patient
from parity.faults.score import Outcome, Score
from parity.faults.selftest import self_test

__all__ = ["KINDS", "Fault", "Kind", "Outcome", "Patient", "Score", "self_test"]
