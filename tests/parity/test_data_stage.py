"""The data stage compares a port's transforms with upstream's recorded numbers, and notices when they differ."""

import dataclasses

import numpy as np
import pytest

from parity import cases
from parity.bench import Bench
from parity.chain import recorded_data
from parity.traces import Run, digest

pytestmark = pytest.mark.parity


def data_stage(break_it=None):
    """The stage's result with what the port's pipeline returns passed through `break_it`."""
    case = cases.get("stdc1")
    correct = case.port.data
    if break_it is not None:
        broken = dataclasses.replace(case.port, data=lambda seed: break_it(correct(seed)))
        case = dataclasses.replace(case, port=broken)
    bench = Bench.__new__(Bench)
    bench.case = case
    return bench._data()


def changed(name, change):
    return lambda points: {key: change(value) if key == name else value for key, value in points.items()}


def test_the_port_equals_upstream_bit_by_bit():
    result = data_stage()
    assert result.passed
    assert len(result.findings) == 2 * 2 * 5  # values and shapes of image and label, five draws
    case = cases.get("stdc1")
    recorded = recorded_data(case)
    points = case.port.data(recorded.seed)
    for name, (_, numbers) in recorded.points.items():
        (rms, largest, projection, *samples), own = numbers, digest(points[name])
        np.testing.assert_array_equal(own[[1, *range(3, len(own))]], [largest, *samples])
        np.testing.assert_allclose(own[[0, 2]], [rms, projection], rtol=1e-13)  # processors add in different orders


@pytest.mark.parametrize(
    ("break_it", "first"),
    [
        (changed("1/image", lambda image: image[::-1]), "data/1/image"),  # BGR for RGB
        (changed("2/label", lambda label: np.roll(label, 1, axis=1)), "data/2/label"),  # a crop one pixel off
        (changed("3/image", lambda image: image[..., ::-1]), "data/3/image"),  # not mirrored
        (changed("0/label", lambda label: np.where(label == 255, 0, label)), "data/0/label"),  # ignored became road
        (changed("4/image", lambda image: image + np.float32(1e-6)), "data/4/image"),
        (changed("4/image", lambda image: image[:, :-1]), "data/4/image"),
    ],
)
def test_a_fault_is_caught_and_named(break_it, first):
    result = data_stage(break_it)
    assert not result.passed
    assert result.first.point == first


def test_it_is_not_possible_without_a_recording(monkeypatch):
    monkeypatch.setattr("parity.bench.recorded_data", lambda case: None)
    result = data_stage()
    assert "nobody recorded" in result.reason and not result.passed


def test_a_recorded_run_of_other_points_fails(monkeypatch):
    monkeypatch.setattr("parity.bench.recorded_data", lambda case: Run((1, 1), 0, "float32"))
    assert not data_stage().passed
