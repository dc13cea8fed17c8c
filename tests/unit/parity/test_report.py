"""What the report says of float32: of a stage that agrees in float64 it is rounding, of one that does not, nothing."""

from __future__ import annotations

import pytest

from parity import page, policy, report
from parity.compare import Finding, StageResult

NUMERICS = {"ratio": 2 * policy.NUMERICS_RATIO, "point": "bn", "worst": 1e-5, "reference_worst": 1e-6}
GOOD = Finding("forward/conv", "pass", 2e-15, 1e-9)
BAD = Finding("forward/bn", "fail", 2.8e-3, 1e-9, "max rel 2.8e-03 > 1e-09 at [0]: reference 4.476, port 4.473")


def case(*findings, **fields):
    stage = StageResult("forward", list(findings), numerics=dict(NUMERICS), **fields).to_dict()
    chain = {"status": "verified", "upstream": "owner/name@0123456", "detail": "", "worst": 3e-12, "points": 12}
    coverage = {"leaves_never_run": [], "relus_one_sided": [], "parameters_without_gradient": []}
    names = {"case": "one", "passed": stage["passed"], "chain": chain, "coverage": coverage, "picture": ""}
    return {**names, "stages": [stage]}


def test_a_float32_error_of_a_stage_that_agrees_is_rounding():
    lines = report.findings(case(GOOD))
    assert any("float32 forward" in line and "rounding, not logic" in line for line in lines)
    assert "f32 6.0x" in report.cell(case(GOOD)["stages"][0])


@pytest.mark.parametrize("failure", [{"cause": "epsilon 0.001, reference 1e-05"}, {"crash": "the port raised"}])
def test_a_float32_error_of_a_stage_that_fails_is_not_called_rounding(failure):
    broken = case(GOOD, BAD, **failure)
    assert not [line for line in report.findings(broken) if "rounding" in line or "float32" in line]
    assert "f32" not in report.cell(broken["stages"][0])
    assert "f32" not in page._cell(broken["stages"][0])[2]
    assert "rounding" not in report.markdown({"cases": [broken]})
