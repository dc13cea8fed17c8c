"""Every case of this repository: the port equals its reference, and the reference what upstream computed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from parity import CaseError, cases, chain, policy, run
from parity.case import STAGES
from parity.chain import RECORDINGS, ChainResult, replay, verify
from parity.torch_side import TorchSide
from parity.traces import Recording

pytestmark = pytest.mark.parity

CASES = cases.load()
ELSEWHERE = [(1, 0), (2, 1), (1, 2)]  # (seed, which of the case's sizes); the first test runs (0, 0)
QUICK = ("stdc1", "stdc2", "semantic_fpn_r50")
SMALL = (
    *QUICK,
    "pointrend_r50",
    "deeplabv3p_xception65_gn",
    "panoptic_deeplab_r52_dsconv",
)  # `make check` runs them all


def marked(chosen):
    """All cases; those that are not chosen only run with `-m slow`."""
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


COMPUTED = ["weights", "forward", "forward_train", "loss", "gradients"]


@pytest.mark.parametrize("name", marked(SMALL))
def test_every_stage_agrees_and_upstream_is_verified(name):
    case = CASES[name]
    result = run(case, float32=False)
    assert result.passed, result
    assert result.exit_code == 0 and result.chain.status == "verified"
    for stage in result.stages:
        assert stage.passed or stage.reason, stage.stage
        assert stage.worst <= policy.RELATIVE == 1e-9
    assert [stage.stage for stage in result.stages if stage.passed] == [s for s in STAGES if case.why_not(s) is None]


@pytest.mark.parametrize(("seed", "size"), ELSEWHERE)
@pytest.mark.parametrize("name", marked(QUICK))
def test_a_correct_port_raises_no_alarm_at_other_seeds_and_sizes(name, seed, size):
    case = CASES[name]
    sizes = [case.size, *case.extra_sizes]
    result = run(case, stages=COMPUTED, seed=seed, size=sizes[size], float32=False, upstream=False)
    assert result.passed, result


# --- the chain to upstream ------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(tmp_path):
    """A copy of the recording of STDC1, to be tampered with; and what to check it with."""
    for suffix in (".json", ".npz"):
        shutil.copy(RECORDINGS / f"stdc1{suffix}", tmp_path)
    return tmp_path


def rewrite(folder, change):
    """Changes the recording as somebody would who also corrects the checksum."""
    recording = Recording.load(folder / "stdc1")
    for name in list(recording.runs):
        if name != "65x129/float64":  # one run is enough
            del recording.runs[name]
    change(recording, recording.runs["65x129/float64"])
    recording.save(folder / "stdc1")


@pytest.fixture(scope="module")
def replayed():
    """What the reference of STDC1 computes in the run that is kept."""
    case = CASES["stdc1"]
    side = TorchSide(case.reference)
    return replay(side, case, Recording.load(RECORDINGS / "stdc1").runs["65x129/float64"], stand_in=chain.digested)


@pytest.fixture
def check(replayed, monkeypatch):
    """(folder) -> what is said of its recording; the reference computed once for all tests."""
    monkeypatch.setattr(chain, "replay", lambda side, case, run, **_: replayed)
    return lambda folder: verify(CASES["stdc1"], recordings=folder)


def test_the_untouched_recording_is_verified(recordings):
    rewrite(recordings, lambda recording, run: None)
    result = verify(CASES["stdc1"], recordings=recordings)
    assert result.status == "verified" and result.points > 1000 and result.worst < policy.RELATIVE


@pytest.mark.parametrize(
    "point",
    ["forward/output/semantic", "train/term/loss_seg", "train/gradient/ffm.conv1.weight", "step/schedule/1001"],
)
def test_one_changed_number_breaks_the_chain_and_is_named(recordings, point, check):
    def change(recording, run):
        shape, numbers = run.points[point]
        numbers = numbers.copy()
        numbers[-1] += 1e-7 * max(1.0, abs(numbers[-1]))
        run.points[point] = (shape, numbers)

    rewrite(recordings, change)
    result = check(recordings)
    assert result.status == "broken" and f"{point} differs" in result.detail


def test_a_changed_number_without_its_checksum_is_refused(recordings, check):
    with np.load(recordings / "stdc1.npz") as archive:
        values = archive["values"].copy()
    values[1000] *= 1.5
    np.savez_compressed(recordings / "stdc1.npz", values=values)
    with pytest.raises(CaseError, match="sha256"):
        check(recordings)


def test_a_recording_of_something_else_under_this_name_is_refused(recordings, check):
    for suffix in (".json", ".npz"):
        shutil.copy(RECORDINGS / f"stdc2{suffix}", recordings / f"stdc1{suffix}")
    result = check(recordings)
    assert result.status == "broken" and "state dict" in result.detail


def without_key(recording, run):
    del recording.state_dict["ffm.conv1.weight"]


def with_another_key(recording, run):
    recording.state_dict["ffm.conv3.weight"] = (1, 1, 1, 1)


def with_keys_in_another_order(recording, run):
    recording.state_dict = dict(reversed(recording.state_dict.items()))


def with_another_shape(recording, run):
    recording.state_dict["ffm.conv1.weight"] = (64, 256, 3, 3)


def without_point(recording, run):
    del run.points["train/gradient/ffm.conv1.weight"]


def with_another_point(recording, run):
    run.points["forward/output/aux64"] = run.points["forward/output/aux32"]


def at_another_commit(recording, run):
    recording.upstream = "MichaelFan01/STDC-Seg@0000000"


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (without_key, "upstream lacks ['ffm.conv1.weight']"),
        (with_another_key, "the reference lacks ['ffm.conv3.weight']"),
        (with_keys_in_another_order, "the order of its keys"),
        (with_another_shape, "ffm.conv1.weight is not upstream's"),
        (without_point, "upstream has no point train/gradient/ffm.conv1.weight"),
        (with_another_point, "the reference has no point forward/output/aux64"),
        (at_another_commit, "the recording is of MichaelFan01/STDC-Seg@0000000"),
    ],
)
def test_a_recording_of_another_model_breaks_the_chain(recordings, change, detail, check):
    rewrite(recordings, change)
    result = check(recordings)
    assert result.status == "broken" and detail in result.detail


def test_a_reference_that_is_not_upstreams_breaks_the_chain(recordings):
    case = CASES["stdc1"]

    def model():
        built = case.reference.model()
        built.cp.arm16.conv.bn.eps = 1.1e-5
        return built

    rewrite(recordings, lambda recording, run: None)
    wrong = dataclasses.replace(case, reference=dataclasses.replace(case.reference, model=model))
    result = verify(wrong, recordings=recordings)
    assert result.status == "broken" and "forward/cp.arm16.conv.bn differs" in result.detail


def test_a_reference_that_raises_breaks_the_chain_and_its_stages():
    case = CASES["stdc1"]

    def fail(*inputs):
        raise ValueError("out of order")

    def model():
        built = case.reference.model()
        built.cp.backbone.features[0].forward = fail
        return built

    wrong = dataclasses.replace(case, reference=dataclasses.replace(case.reference, model=model), size=(33, 65))
    result = run(wrong, stages=["forward"], float32=False)
    assert result.exit_code == 3 and result.chain.status == "broken"
    assert "ValueError: out of order" in result.chain.detail and "ValueError: out of order" in result.stages[1].crash


def test_a_broken_chain_fails_the_case_although_every_stage_passes(small_case, small_weights):
    result = run(small_case, stages=["weights"], weights=small_weights, float32=False, upstream=False)
    assert result.passed
    result.chain = ChainResult("broken", "owner/repository@commit", "forward/conv differs")
    assert not result.passed and result.exit_code == 1 and "forward/conv differs" in str(result)


def test_without_a_recording_the_reference_is_unverified(tmp_path, check):
    assert check(tmp_path).status == "unverified"
    unnamed = dataclasses.replace(CASES["stdc1"], upstream=None)
    assert verify(unnamed).status == "unverified"


def test_recordings_are_small_and_hold_numbers_only():
    for case in CASES.values():
        path = RECORDINGS / case.name
        header = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert header["sha256"] == hashlib.sha256(path.with_suffix(".npz").read_bytes()).hexdigest()
        assert all(path.with_suffix(suffix).stat().st_size < 2**22 for suffix in (".json", ".npz"))
        sizes = [tuple(run["size"]) for name, run in header["runs"].items() if name != chain.DATA_RUN]
        assert len(set(sizes)) == 2, case.name
