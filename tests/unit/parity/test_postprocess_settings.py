"""Which setting of a function that post-processing calls is another, by trying each on all arrays."""

from __future__ import annotations

import types

import numpy as np

from parity.diagnosis import data
from parity.traces import Trace


def segment(values, *, floor=2, step=1):
    return np.maximum(values, floor) * step


OWNER = types.SimpleNamespace(segment=segment)
OUTPUTS = {"high": np.array([3.0, 8.0]), "low": np.array([1.0, 4.0])}


class Port:
    """Calls the function with one keyword of its own."""

    def __init__(self, **own):
        self.own = own

    def postprocess(self, outputs):
        return Trace({name: OWNER.segment(value, **self.own) for name, value in outputs.items()})


def explain(point, **own):
    expected = {name: segment(value) for name, value in OUTPUTS.items()}
    return data.keywords(Port(**own), OUTPUTS, expected, point, segment, [OWNER])


def test_the_setting_with_which_most_arrays_agree_is_named():
    assert explain("high", step=2) == "with step=1 high agrees: this setting is another"
    assert explain("low", floor=3) == "with floor=2 low agrees: this setting is another"


def test_a_setting_that_happens_to_make_the_first_array_agree_is_not():
    """A floor of 0 makes the high array right, one of 2 both."""
    assert explain("high", floor=4) == "with floor=2 high agrees: this setting is another"


def test_nothing_is_said_if_no_setting_makes_it_agree():
    assert explain("high", floor=4, step=3) == ""
    assert OWNER.segment is segment
