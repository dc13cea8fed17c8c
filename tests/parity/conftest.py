"""STDC1 at a small size, and the check that a mistake planted in its port is found."""

from __future__ import annotations

import dataclasses

import pytest

from parity import cases, fill, run
from parity.case import STAGES


@pytest.fixture(scope="session")
def small_case():
    """STDC1 at 33x65, with short training stages."""
    case = cases.get("stdc1")
    step = dataclasses.replace(case.step, steps=2)
    return dataclasses.replace(case, size=(33, 65), step=step, trajectory=dataclasses.replace(case.trajectory, steps=5))


@pytest.fixture(scope="session")
def small_weights(small_case):
    """The generated weights that all its runs start from."""
    from parity.torch_side import TorchSide

    return fill.state(TorchSide(small_case.reference).shapes(), 0)


@pytest.fixture
def assert_found(small_case, small_weights):
    """(changed case, "stage/point", ...) -> None, if the first divergence is that point.

    All stages that the mistake could reach before the expected one run, and have to pass.
    """

    def check(case, point, *, verdict="fail", cause="", text=""):
        stage = point.partition("/")[0]
        until = STAGES[: STAGES.index(stage) + 1]
        alone = {name: [name] for name in ("step", "trajectory", "data")}
        alone["postprocess"] = ["forward", "postprocess"]
        result = run(case, stages=alone.get(stage, until), weights=small_weights, float32=False, upstream=False)
        assert not result.passed and result.exit_code == 1
        assert result.first is not None, "the mistake was not found"
        found, finding = result.first
        assert (found.stage, finding.point, finding.verdict) == (stage, point, verdict)
        assert cause in found.cause and text in finding.text
        assert [earlier.stage for earlier in result.stages if not earlier.passed] == [stage]

    return check
