"""`python -m parity probe`: what it measures is right, is on record, and a change is reported."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from parity import probes
from parity.errors import CaseError
from parity.known import LEDGER

pytestmark = pytest.mark.parity

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def readings():
    found, against = probes.measure(probes.read_known())
    assert against == probes.versions()
    return {reading.name: reading for reading in found}


# worked out by hand: (torch's answer, Paddle's)
BY_HAND = {
    # 0.5 * 1 + 0.5 * var(1, 2, 3), which is 1 unbiased and 2/3 biased
    "batch norm: momentum=0.5, running variance after 1, 2, 3": (1.0, 0.5 + 0.5 * 2 / 3),
    # torch replaces 0.1 of the mean 0 by 10, Paddle keeps 0.1 of it
    "batch norm: momentum=0.1, running mean after a batch of 10s": (1.0, 9.0),
    "cross_entropy, half of the pixels ignored, ignore_index=255": (math.log(2), math.log(2)),
    "cross_entropy, half of the pixels ignored, ignore_index=-1": (math.log(2), math.log(2) / 2),
    "cross_entropy, every pixel ignored": ("nan", 0.0),
    # (1 * log(1 + e^-2) + 3 * log 2) / 4
    "cross_entropy, class weights 1 and 3": ((math.log(1 + math.exp(-2)) + 3 * math.log(2)) / 4,) * 2,
    "avg_pool2d(ones, 3, 1, padding=1): the corner": (4 / 9, 1.0),
    "interpolate(4x4 ramp, size 1x1, bilinear)": ((5 + 6 + 9 + 10) / 4, 0.0),
    "affine_grid: default of align_corners, first x of 2": (-0.5, -1.0),
    "grid_sample: default of align_corners, at (-1, -1)": (0.25, 1.0),
    "smooth_l1_loss of a distance of 1, beta=2 and delta=2": (0.5 / 2, 0.5),
    "median of 1 2 3 4": (2.0, 2.5),
    "a group's learning rate of 0.01 under a base of 0.1: the step": (0.01, 0.1 * 0.01),
    "clip to a norm of 0.001, gradient 0.002": (0.002 * 0.001 / (0.002 + 1e-6), 0.001),
    # 1 - 0.1 / (0.1 + sqrt(0.01)) and 1 - 0.1 / sqrt(0.01 + 0.1)
    "RMSProp: one step": (0.5, 1 - 0.1 / math.sqrt(0.11)),
    "gelu(1)": (0.5 * (1 + math.erf(1 / math.sqrt(2))),) * 2,
    "relu of NaN": ("nan", 0.0),
    "round of 0.5 1.5 2.5": ([0.0, 2.0, 2.0],) * 2,
    # the derivative of log(1 + e^x) at 0 is 1/2
    "binary_cross_entropy_with_logits: gradient at logit 0, target 0": (0.5, -0.5),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_an_answer_is_what_a_computation_by_hand_gives(readings, name):
    assert probes.same(readings[name].torch, BY_HAND[name][0])
    assert probes.same(readings[name].paddle, BY_HAND[name][1])


def test_the_record_of_the_installed_versions_still_holds(readings):
    changed = [reading.to_dict() for reading in readings.values() if reading.status != "as recorded"]
    assert changed == []


def test_every_known_difference_has_a_probe_that_shows_it(readings):
    names = {entry.name for entry in LEDGER if entry.name in {r.ledger for r in readings.values() if not r.alike}}
    measured = {"running variance", "float32 attributes of normalisations", "float32 attributes of optimizers"}
    assert names >= measured | {"float32 inside float64 operators"}
    assert {reading.ledger for reading in readings.values()} - {""} <= {entry.name for entry in LEDGER}


def test_every_difference_has_a_rule_that_says_what_to_do(readings):
    idle = [r.name for r in readings.values() if not r.alike and r.rule == "nothing"]
    assert idle == []


def known_with(**answers):
    known = {name: list(pair) for name, pair in probes.read_known()[probes.versions()].items()}
    known.update(answers)
    return known


def test_a_changed_answer_is_reported_and_fails(tmp_path):
    path = tmp_path / "known.json"
    pair = {"median of 1 2 3 4": [2.0, 2.0], "relu of NaN": ["nan", "nan"]}
    path.write_text(json.dumps({"schema": 1, "versions": {probes.versions(): known_with(**pair)}}))
    command = [sys.executable, "-W", "ignore", "-m", "parity", "probe", "median", "NaN", "gelu", "--known", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "CHANGED median of 1 2 3 4: torch 2, Paddle 2.5; on record torch 2, Paddle 2" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("2 changed, 0 new")


def test_unknown_versions_are_compared_with_the_last_that_are_known():
    known = {"paddlepaddle 9.0, torch 9.0": {"gelu(1)": [0.5, 0.5]}, "paddlepaddle 8.0, torch 8.0": known_with()}
    found, against = probes.measure(known, ["gelu"])
    assert against == "paddlepaddle 8.0, torch 8.0" and found[0].status == "as recorded"
    found, against = probes.measure({}, ["gelu"])
    assert against == "" and found[0].status == "new"


def test_a_name_that_no_probe_has_is_refused_with_a_hint():
    with pytest.raises(CaseError, match=r"did you mean .*gelu"):
        probes.measure({}, ["geluu"])


def test_what_is_put_on_record_is_read_again(tmp_path):
    found, _ = probes.measure({}, ["gelu", "NaN", "argsort"])
    path = tmp_path / "known.json"
    path.write_text(json.dumps({"schema": 1, "versions": {"older": {"gelu(1)": [1, 1]}}}))
    probes.record(found, path)
    again, against = probes.measure(probes.read_known(path), ["gelu", "NaN", "argsort"])
    assert against == probes.versions() and {reading.status for reading in again} == {"as recorded"}
    assert probes.read_known(path)["older"] == {"gelu(1)": [1, 1]}
    path.write_text("[]")
    with pytest.raises(CaseError, match="not a record of probes"):
        probes.read_known(path)
