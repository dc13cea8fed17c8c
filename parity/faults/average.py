"""Mistakes in the average of weights over the steps (EMA), which no case can express yet.

No stage compares averaged weights: the originals of the ports here keep none. What it would take is a stage that steps
both sides' averages along with their optimizers, and a case whose original has one.
"""

from __future__ import annotations

from collections.abc import Iterator

from parity.faults.fault import Fault, Patient, kind

NEEDED = "a stage that compares averaged weights, and an original that averages"


def _nowhere(patient: Patient) -> Iterator[Fault]:
    return iter(())


for _name, _text in (
    ("ema-decay", "the average of the weights has another decay"),
    ("ema-buffers", "running statistics are averaged too, or not"),
    ("ema-start", "the average starts at another iteration, or from zero"),
):
    kind(_name, _text, needs=NEEDED)(_nowhere)
