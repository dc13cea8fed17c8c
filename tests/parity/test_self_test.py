"""The self-test on STDC1: faults of several sorts are caught, localised and explained; nothing else is touched."""

from __future__ import annotations

import json
import re

import pytest

from parity.case import STAGES
from parity.faults import KINDS, command
from parity.faults.fault import Fault
from parity.faults.score import Outcome, Score
from parity.faults.selftest import smaller
from parity.faults.ward import Ward

pytestmark = pytest.mark.parity

CHEAP = (
    "bn-epsilon-slightly",
    "conv-same",
    "concat-order",
    "resize-corners",
    "dropout-on",
    "weight-transposed",
    "merged-outputs",
    "merged-inputs",
    "merged-split",
    "detached",
    "momentum",
    "ignore-index",
    "metric-by-image",
    "metric-dice",
    "metric-ignored",
    "gradient-scaled",
    "loss-detached",
    "data-bgr",
    "data-draw-ignored",
    "data-reduce-zero",
    "pred-argmin",
    "rate-multiplier-squared",
    "regularizer-own",
    "gradients-kept",
    "pool-padding",
)


@pytest.fixture(scope="module")
def ward(small_case):
    score = Score()
    ward = Ward(smaller(small_case, (64, 96)), 0, score)  # even: an odd size hides some mistakes
    assert ward.healthy, score.alarms
    yield ward
    ward.close()


@pytest.mark.parametrize("name", CHEAP)
def test_a_planted_fault_is_caught_localised_and_explained(name, ward):
    del ward.score.outcomes[:]
    assert ward.plant_kind(name, ward.places([name])[name], 1, lambda case, what: None) == 1
    for outcome in ward.score.outcomes:
        assert outcome.verdict == "equivalent" or (
            outcome.verdict == "caught",
            outcome.localised,
            outcome.explained,
        ) == (
            True,
            True,
            True,
        ), outcome


def test_most_kinds_fit_somewhere_and_those_that_do_not_are_noted(ward):
    places = ward.places(list(KINDS))
    fitting = [name for name, faults in places.items() if faults]
    assert len(fitting) > 60 and sorted([*fitting, *ward.score.impossible[ward.case.name]]) == sorted(KINDS)


def test_a_fault_of_the_loss_does_not_need_the_ports_own_pass(ward, monkeypatch):
    monkeypatch.setattr(ward.bench.port, "observe", lambda *args, **kwargs: pytest.fail("the port ran"))
    fault = ward.places(["loss-weight"])["loss-weight"][0]
    outcome = ward.plant(fault)
    assert (outcome.verdict, outcome.stage) == ("caught", "loss")


def test_only_stages_that_a_fault_can_reach_are_run(ward, monkeypatch):
    run = []
    own = ward.bench.run_stage
    monkeypatch.setattr(ward.bench, "run_stage", lambda stage: (run.append(stage), own(stage))[1])
    ward.plant(Fault("none", "nowhere", lambda patient, stack: None, begins="postprocess"))
    assert run == ["postprocess"]
    run.clear()
    ward.plant(Fault("none", "nowhere", lambda patient, stack: None, begins="forward"))
    assert run == ["forward", "forward_train", "gradients"]  # which changed nothing: nor can a step


def test_a_fault_is_undone(ward):
    fault = next(iter(KINDS["bn-epsilon"].sites(ward.patient)))
    layer = dict(ward.patient.model.named_sublayers())[fault.site]
    own = layer._epsilon
    ward.plant(fault)
    assert layer._epsilon == own
    untouched = Fault("none", "nowhere", lambda patient, stack: None, begins="forward")
    assert ward.plant(untouched).verdict == "equivalent"


def test_a_fault_that_cannot_be_planted_is_said_to(ward):
    def plant(patient, stack):
        raise KeyError("gone")

    outcome = ward.plant(Fault("none", "nowhere", plant))
    assert outcome.verdict == "not planted" and "gone" in outcome.cause


def test_there_are_forty_kinds_and_each_begins_at_a_stage(ward):
    assert len(KINDS) >= 40
    faults = [next(KINDS[name].sites(ward.patient), None) for name in ("bn-epsilon", "frozen", "conv-bias-added")]
    assert all(fault.begins in STAGES for fault in faults)


def outcome(kind, verdict, *, localised=True, explained=True):
    return Outcome("case", 0, kind, "site", verdict, localised, explained)


ELSEWHERE = ("data-bgr", "metric-dice", "decay-missing", "rate-multiplier", "loss-weight", "gradient-scaled")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_fault_with_a_place_expects_no_point_of_another_place(name, ward):
    fault = ward.places([name])[name][0]
    others = {
        "data-bgr": "0/label",
        "metric-dice": "cityscapes_semantic/accuracy",
        "decay-missing": "1/optimizer/nowhere.weight.velocity",
        "rate-multiplier": "1/learning_rate/nowhere.weight",
        "loss-weight": "d_semantic",
        "gradient-scaled": "nowhere.weight",
    }
    assert fault.point and not re.fullmatch(fault.point, others[name])


def test_a_fault_that_no_point_is_named_after_has_to_be_found_at_the_first_it_changes(ward):
    fault = ward.places(["momentum"])["momentum"][0]
    outcome = ward.plant(fault)
    first = "2/optimizer/cp.backbone.features.0.conv.weight.velocity"
    assert fault.point == "" and outcome.expected == re.escape(first)
    assert outcome.localised


def test_equivalent_faults_are_not_counted_and_unplanted_ones_are_reported():
    score = Score([outcome("bn-epsilon", "caught"), outcome("bn-epsilon", "equivalent", localised=False)], clean=3)
    assert score.rate("caught") == (1, 1) and score.passed
    score.outcomes.append(outcome("relu6", "missed", localised=False, explained=False))
    assert score.rate("localised") == (1, 2) and not score.passed
    score.outcomes.append(outcome("relu6", "not planted", localised=False))
    score.versions, score.sizes = {"torch": "2.0"}, {"case": (65, 129)}
    said = "\n".join(command.lines(score))
    assert "seed 0, 1 runs of each correct port" in said and "case 65 x 129" in said and "torch 2.0" in said
    assert "MISSED: case, relu6 at site" in said and "NOT PLANTED" in said
    assert said.endswith(
        "caught 1 of 2 (50 %), localised 1 of 2 (50 %), explained 1 of 2 (50 %), 1 equivalent, false"
        " alarms 0 of 3 correct runs"
    )


def test_a_false_alarm_fails_the_self_test():
    score = Score([outcome("bn-epsilon", "caught")], alarms=["case, seed 1: forward/x"], clean=1)
    assert not score.passed and json.loads(json.dumps(score.to_dict()))["false_alarms"] == 1


def test_the_score_counts_by_kind():
    score = Score([outcome("bn-epsilon", "caught"), outcome("bn-epsilon", "caught", explained=False)])
    assert score.to_dict()["kinds"] == {"bn-epsilon": {"caught": 2, "localised": 2, "explained": 1, "count": 2}}
