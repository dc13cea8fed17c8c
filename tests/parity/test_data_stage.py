"""The data stage compares a port's transforms with upstream's recorded numbers, and notices when they differ."""

import dataclasses

import numpy as np
import pytest

from parity import CaseError, cases
from parity.bench import Bench
from parity.cases import pipelines
from parity.cases.deeplabv3p import R103_RECIPE
from parity.chain import recorded_data
from parity.traces import Run, digest

pytestmark = pytest.mark.parity

CASES = {
    "stdc1": 5,
    "deeplabv3p_xception65_gn": 4,
    "deeplabv3p_xception65_bn": 5,
    "deeplabv3p_r103": 4,
    "semantic_fpn_r50": 4,
    "pointrend_r50": 4,
    "pointrend_r101": 4,
}  # and the number of draws


def data_stage(break_it=None, name="stdc1"):
    """The stage's result with what the port's pipeline returns passed through `break_it`."""
    case = cases.get(name)
    correct = case.port.data
    if break_it is not None:
        broken = dataclasses.replace(case.port, data=lambda seed: break_it(correct(seed)))
        case = dataclasses.replace(case, port=broken)
    bench = Bench.__new__(Bench)
    bench.case = case
    return bench._data()


def changed(name, change):
    return lambda points: {key: change(value) if key == name else value for key, value in points.items()}


def test_every_case_compares_its_data():
    assert [case.name for case in cases.load().values() if case.port.data is None or recorded_data(case) is None] == []


@pytest.mark.parametrize("name", CASES)
def test_the_port_equals_upstream_bit_by_bit(name):
    result = data_stage(name=name)
    assert result.passed
    assert len(result.findings) == 2 * 2 * CASES[name]  # values and shapes of image and label
    case = cases.get(name)
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


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("NormalizePixels, mean: [123.675, 116.28, 103.53]", "NormalizePixels, mean: [103.53, 116.28, 123.675]"),
        (
            "NormalizePixels, mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375]",
            "Normalize, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]",  # the same but for rounding
        ),
        ("cat_max_ratio: 1.0", "cat_max_ratio: 0.75, attempts: 9"),
    ],
)
def test_it_is_the_configuration_that_is_compared(tmp_path, monkeypatch, own, other):
    from paddleseg_ext.config import find_config

    recipe, path = find_config(R103_RECIPE).resolve(), tmp_path / "recipe.yml"
    text = recipe.read_text(encoding="utf-8")
    assert own in text
    bases = f"- {recipe.parents[1] / '_base_'}/"
    path.write_text(text.replace("- ../_base_/", bases).replace(own, other), encoding="utf-8")
    monkeypatch.setattr("parity.cases.deeplabv3p.R103_RECIPE", str(path))
    assert not data_stage(name="deeplabv3p_r103").passed


def test_a_size_for_a_transform_that_the_configuration_lacks_is_refused():
    with pytest.raises(CaseError, match="no RandomScale among its transforms"):
        pipelines.transforms(R103_RECIPE, {"RandomScale": {"scales": [1.0]}})
