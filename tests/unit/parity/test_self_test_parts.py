"""What the self-test is made of: answers kept on disk, the dealing of kinds to cases, the score."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parity import Case, inputs
from parity.diagnose import NOTHING
from parity.errors import CaseError
from parity.faults import KINDS, command, self_test
from parity.faults.dealing import Deal, family_of
from parity.faults.judging import GENERIC, explains
from parity.faults.memory import ON_DISK, RememberedSide, Spool
from parity.faults.score import Outcome, Score
from parity.traces import Trace

ROOT = Path(__file__).resolve().parents[3]
LARGE = np.arange(ON_DISK // 8 + 1, dtype=np.float64).reshape(-1, 3)


class Side:
    """A side whose observations depend on how often it was asked since its weights were loaded."""

    name = "reference"

    def __init__(self):
        self.state, self.made, self.dropout = 0, [], {"d": 0.5}

    def load(self, state):
        self.state = float(state["w"][0])

    def end_training(self):
        pass

    def observe(self, inputs, targets):
        self.made.append("observe")
        self.state += 1
        return Trace({"x": LARGE + self.state, "small": np.zeros(2)}, {"leaves": {"x": "Conv"}})

    def parameters(self):
        self.made.append("parameters")
        return {"w": np.full(3, self.state)}


def loaded(value=0.0):
    side = Side()
    remembered = RememberedSide(side)
    state = {"w": np.array([value])}
    remembered.load(state)
    return side, remembered, state


# --- answers on disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [LARGE, LARGE.T, LARGE[::2], LARGE.astype(np.int32), np.zeros((0, 3))])
def test_arrays_come_back_from_disk_as_they_were(array):
    spool = Spool()
    got = spool.put({"value": array, "large": LARGE})()
    assert got["value"].dtype == array.dtype and np.array_equal(got["value"], array)
    assert np.array_equal(got["large"], LARGE)
    spool.close()


def test_what_is_done_to_an_answer_does_not_change_the_next():
    spool = Spool()
    get = spool.put({"large": LARGE})
    first = get()
    first["large"][:] = 0
    first.pop("large")
    assert np.array_equal(get()["large"], LARGE)
    spool.close()


def test_several_answers_are_told_apart_and_stay_when_the_spool_is_closed():
    spool = Spool()
    gets = [spool.put({"large": LARGE + index, "odd": np.arange(5.0) + index}) for index in range(3)]
    answers = [get() for get in gets]
    spool.close()
    for index, answer in enumerate(answers):
        assert np.array_equal(answer["large"], LARGE + index) and answer["odd"].tolist() == [*np.arange(5.0) + index]


def test_nothing_is_left_on_disk_by_a_process_that_is_killed(tmp_path):
    script = (
        "import os, signal, numpy\nfrom parity.faults.memory import Spool\n"
        "spool = Spool()\nspool.put([numpy.zeros(2**20)])\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) == []


# --- a side that remembers ------------------------------------------------------------------------------------------


def test_what_was_asked_before_in_the_same_state_is_not_computed_again():
    side, remembered, state = loaded()
    first = [remembered.observe([LARGE], {}).points["x"] for _ in range(2)]
    remembered.load(state)
    again = [remembered.observe([LARGE], {}).points["x"] for _ in range(2)]
    assert side.made == ["observe", "observe"]
    assert all(np.array_equal(one, other) for one, other in zip(first, again))
    assert not np.array_equal(first[0], first[1])


def test_something_new_is_asked_after_all_that_was_asked_before():
    side, remembered, state = loaded()
    remembered.observe([], {})
    remembered.load(state)
    remembered.observe([], {})  # from memory
    assert remembered.parameters()["w"].tolist() == [1.0, 1.0, 1.0]
    assert side.made == ["observe", "observe", "parameters"]


def test_who_takes_an_answer_apart_spoils_it_for_nobody():
    side, remembered, _ = loaded()
    remembered.parameters().pop("w")
    assert list(remembered.parameters()) == ["w"] and side.made == ["parameters"]


def test_other_weights_are_another_state():
    _, remembered, _ = loaded()
    remembered.parameters()
    remembered.load({"w": np.array([5.0])})
    assert remembered.parameters()["w"][0] == 5.0


def test_a_recalled_experiment_leaves_no_trace_in_the_side():
    _, remembered, _ = loaded()

    def spoil(real):
        real.state = 100.0
        return real.state

    assert [remembered.recall("spoil", [], spoil) for _ in range(2)] == [100.0, 100.0]
    assert remembered.parameters()["w"][0] == 0.0


def test_settings_that_no_call_changes_are_read_without_replaying():
    side, remembered, state = loaded()
    remembered.observe([], {})
    remembered.load(state)
    remembered.observe([], {})
    assert remembered.dropout == {"d": 0.5} and side.made == ["observe"]


# --- which kind goes where ------------------------------------------------------------------------------------------


def case(name):
    return Case(name=name, reference=lambda: None, port=lambda: None, inputs={"image": inputs.image(1)})


def dealt(cases, kinds, possible, *, spread, seed=0, useless=()):
    """(case, kinds planted) of each visit; `useless` are (case, kind) where nothing changes a number."""
    deal = Deal(cases, kinds, seed, spread=spread)
    visits = []
    for visited, _ in deal:
        given = deal.given(visited, [kind for kind in kinds if kind in possible[visited.name]])
        visits.append((visited.name, given))
        for kind in given:
            deal.counted(visited, kind, int((visited.name, kind) not in useless))
    return visits, deal


FAMILY = [case("one"), case("two"), case("three")]
MANY = [f"kind{i}" for i in range(40)]


@pytest.fixture
def one_family(monkeypatch):
    monkeypatch.setattr("parity.faults.dealing.family_of", lambda case: "family")


def test_every_case_gets_every_kind_by_default():
    visits, deal = dealt(FAMILY, ["a", "b"], {c.name: ["a", "b"] for c in FAMILY}, spread=False)
    assert visits == [("one", ["a", "b"]), ("two", ["a", "b"]), ("three", ["a", "b"])]
    assert deal.elsewhere() == {}


def test_spread_plants_each_kind_once_in_a_family_and_every_case_gets_some(one_family):
    visits, deal = dealt(FAMILY, MANY, {c.name: MANY for c in FAMILY}, spread=True)
    planted = [kind for _, kinds in visits for kind in kinds]
    assert sorted(planted) == sorted(MANY) and all(len(kinds) > 3 for _, kinds in visits)
    assert sum(len(kinds) for kinds in deal.elsewhere().values()) == 2 * len(MANY)


def test_another_seed_spreads_otherwise(one_family):
    one, other = (dealt(FAMILY, MANY, {c.name: MANY for c in FAMILY}, spread=True, seed=s)[0] for s in (0, 1))
    assert one != other


def test_spread_finds_the_only_case_that_has_a_place(one_family):
    for only in ("one", "two", "three"):
        possible = {c.name: MANY if c.name == only else [] for c in FAMILY}
        visits, _ = dealt(FAMILY, MANY, possible, spread=True)
        assert sorted(kind for name, kinds in visits for kind in kinds if name == only) == sorted(MANY)
        assert all(not kinds for name, kinds in visits if name != only)


def test_a_kind_that_changes_nothing_in_one_case_goes_to_another(one_family):
    useless = {("one", kind) for kind in MANY} | {("two", kind) for kind in MANY}
    visits, _ = dealt(FAMILY, MANY, {c.name: MANY for c in FAMILY}, spread=True, useless=useless)
    assert sorted(kind for name, kinds in visits for kind in kinds if name == "three") == sorted(MANY)


def test_spread_ends_where_a_case_cannot_be_used(one_family):
    deal = Deal(FAMILY, MANY, 0, spread=True)
    for visited, _ in deal:
        deal.give_up(visited)
    assert deal.elsewhere() == {}


def test_a_family_is_the_file_that_a_case_is_from():
    from parity import cases

    families = {name: family_of(found) for name, found in cases.load().items()}
    assert families["stdc1"] == families["stdc2"] == "stdc"
    assert families["pointrend_r50"] == families["semantic_fpn_r50"] != families["stdc1"]
    assert family_of(case("of my own")) == "of my own"


# --- the score ------------------------------------------------------------------------------------------------------


def test_the_score_of_each_case_is_counted_apart():
    outcomes = [
        Outcome("one", 0, "relu6", "x", "caught", True, True, seconds=2.0),
        Outcome("one", 0, "relu6", "y", "missed"),
        Outcome("two", 0, "relu6", "x", "equivalent"),
    ]
    rows = Score(outcomes, alarms=["two, seed 0: x"], impossible={"one": ["frozen"]}).by_case()
    assert rows["one"] == {
        "caught": 1,
        "localised": 1,
        "explained": 1,
        "count": 2,
        "equivalent": 0,
        "not planted": 0,
        "alarms": 0,
        "impossible": 1,
        "seconds": 2.0,
    }
    assert rows["two"]["count"] == 0 and rows["two"]["alarms"] == 1


def test_a_kind_that_no_case_can_express_says_what_it_would_take():
    score = Score(impossible={"one": ["ema-decay", "relu6"]})
    said = command.lines(score)
    assert any(line.startswith("no case can express ema-decay") and KINDS["ema-decay"].needs in line for line in said)
    assert any(line.endswith("no place for 1 of " + f"{len(KINDS)} kinds: relu6") for line in said)


def test_kinds_planted_elsewhere_are_listed():
    assert any(
        "one: 2 kinds were planted in another case" in line
        for line in command.lines(Score(elsewhere={"one": ["a", "b"]}))
    )


def outcomes(**counts):
    """That many outcomes of each sort."""
    sorts = {
        "found": Outcome("one", 0, "relu6", "x", "caught", True, True),
        "unexplained": Outcome("one", 0, "relu6", "x", "caught", True, False),
        "unlocalised": Outcome("one", 0, "relu6", "x", "caught", False, True),
        "missed": Outcome("one", 0, "relu6", "x", "missed", True, True),
        "not_planted": Outcome("one", 0, "relu6", "x", "not planted"),
        "equivalent": Outcome("one", 0, "relu6", "x", "equivalent"),
    }
    return [sorts[name] for name, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize(
    ("counts", "passed"),
    [
        ({"found": 100}, True),
        ({"found": 90, "unexplained": 10}, True),
        ({"found": 89, "unexplained": 11}, False),
        ({"found": 95, "unlocalised": 5}, True),
        ({"found": 94, "unlocalised": 6}, False),
        ({"found": 99, "missed": 1}, False),
        ({"found": 99, "not_planted": 1}, False),
        ({"found": 1, "equivalent": 99}, True),
        ({"equivalent": 1}, False),
        ({}, False),
    ],
)
def test_a_self_test_passes_if_its_goals_are_met_and_everything_was_planted(counts, passed):
    score = Score(outcomes(**counts))
    assert score.passed is passed and score.to_dict()["passed"] is passed
    assert bool(score.problems) is not passed


def test_a_false_alarm_fails_a_score_that_meets_its_goals():
    assert Score(outcomes(found=3), alarms=["one, seed 0: x"]).problems == ["1 false alarms"]


def test_a_score_says_what_its_numbers_depend_on():
    score = Score(outcomes(found=1), seed=4, seeds=2, sites=3, sizes={"one": (65, 129)}, versions={"torch": "2.0"})
    data = score.to_dict()
    assert (data["seed"], data["seeds"], data["sites"]) == (4, 2, 3)
    assert (data["sizes"], data["versions"]) == ({"one": [65, 129]}, {"torch": "2.0"})
    said = command.lines(score)
    assert "seed 4, 2 runs of each correct port, 3 fault(s) of each kind and case" in said
    assert "sizes: one 65 x 129" in said and "versions: torch 2.0" in said


@pytest.mark.parametrize("name", ["seeds", "sites"])
@pytest.mark.parametrize("count", [0, -3])
def test_fewer_than_one_run_or_place_is_refused(name, count):
    with pytest.raises(CaseError, match=rf"--{name} {count}: expected a positive number"):
        self_test([], **{name: count})


# --- what counts as an explanation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "words", "explained"),
    [
        ("conv is set differently: stride 2, reference 1", ("stride 2, reference 1",), True),
        ("conv is set differently: stride 2, reference 1", ("padding",), False),
        (f"the input of conv.bias differs; {NOTHING}", ("bias",), False),
        (
            "losses and rates agree, so weight decay, clipping, momentum, or the group they apply to differs",
            ("clip",),
            False,
        ),
        (
            "momentum 0.95, reference 0.9 (both sides got the reference's outputs and the same targets)",
            ("targets",),
            False,
        ),
        (
            "the losses of the first 2 steps agree and those of step 3 do not, so step 2 updated differently: an"
            " accumulator or other state of the optimizer was lost",
            ("accumulator",),
            False,
        ),
        ("its stride; the diagnosis raised KeyError: 'x'", ("stride",), False),
        ("", (), False),
    ],
)
def test_a_cause_explains_a_fault_only_if_it_names_it(cause, words, explained):
    assert explains(cause, words) is explained


def test_the_generic_sentences_of_the_diagnosis_are_known():
    assert len(GENERIC) > 6


def test_every_kind_has_places_or_says_what_a_case_would_need():
    absent = [kind for kind in KINDS.values() if kind.needs]
    assert len(absent) > 15 and len(KINDS) - len(absent) > 140
    assert all(kind.text and not list(kind.sites(None)) for kind in absent)


# The mistakes that porting guides, issues of both frameworks and other checkers' tests name, and their kinds here.
KNOWN_MISTAKES = {
    "a square linear weight that is not transposed": "weight-transposed",
    "a linear layer stored as a 1x1 convolution": "linear-as-conv",
    "q, k and v split in another order": "attention-parts merged-outputs merged-inputs merged-split",
    "running statistics that are not loaded": "statistics-not-loaded",
    "tensors exchanged": "statistics-exchanged weights-exchanged weights-loaded-by-order",
    "initialisation after loading": "init-after-loading",
    "epsilon of a batch norm": "bn-epsilon bn-epsilon-slightly frozen-epsilon",
    "momentum of a batch norm copied": "bn-momentum",
    "running variance biased or not": "bn-variance",
    "frozen batch norms": "bn-not-frozen bn-frozen frozen-updated frozen-trainable",
    "InstanceNorm that learns": "instance-norm-affine",
    "epsilon of other norms, groups": "gn-epsilon gn-groups",
    "GELU by tanh": "gelu-tanh",
    "activations": "relu-missing relu6 leaky-relu relu-doubled sigmoid-doubled function-missing",
    "slope of hardsigmoid": "hardsigmoid-slope",
    "average pooling counts its padding": "pool-exclusive",
    "asymmetric padding": "pool-padding conv-padding conv-same conv-no-padding",
    "ceil_mode": "pool-ceil",
    "dilation and stride": "conv-dilation conv-stride",
    "align_corners and align_mode": "resize-corners resize-align-mode resize-nearest resize-bilinear",
    "size as (width, height)": "resize-size",
    "grid_sample": "points-corners points-border points-nearest points-xy points-range",
    "scatter and indexing": "scatter-rows index-axis",
    "topk": "topk-smallest topk-ties points-certain points-number",
    "dropout": "dropout-on dropout-rate dropout-mode dropout-channels drop-path",
    "outputs": "classes-exchanged output-flipped outputs-exchanged output-missing output-offset-order",
    "axis of cross_entropy": "loss-axis softmax-axis softmax-doubled",
    "ignored pixels": "ignore-index ignored-counted loss-mean-all loss-all-ignored smoothing-ignored label-smoothing",
    "class weights": "class-weights-mean class-weight-dropped",
    "hard pixels": "ohem-kept ohem-threshold loss-per-image hard-ratio",
    "weights of losses": "loss-weight loss-sum loss-per-batch loss-missing losses-exchanged",
    "smooth L1": "smooth-l1-delta",
    "labels at points": "points-label",
    "gradients cut, scaled or not": "detached detach-missing gradient-scaled loss-detached",
    "frozen parameters": "frozen not-frozen untrained",
    "decay of norms and biases, groups": "decay-on-norms decay-missing decay-doubled regularizer-own",
    "multipliers of the rate": "rate-multiplier rate-multiplier-squared",
    "momentum": "sgd-plain momentum nesterov accumulators-forgotten gradients-kept",
    "Adam": "adam-decoupled adam-beta1 adam-beta2 adam-epsilon",
    "clipping": "clip-added clip-missing clip-per-tensor clip-before-unscale",
    "schedules": "schedule-power schedule-end schedule-per-epoch schedule-ahead schedule-base",
    "warm-up": "warmup-start warmup-missing warmup-kind",
    "gradient accumulation": "accumulation-sum",
    "pixels": "data-bgr data-scale data-statistics-half data-statistics-order data-std-missing data-resize-cv2",
    "labels": "data-reduce-zero data-label-shift data-ignore-0 data-label-interpolated",
    "IoU by image": "metric-by-image metric-ignored metric-dice",
    "windows, flips and last batches": "evaluation-windows",
    "initial values": "initial-default initial-fan initial-bias initial-scale",
    "several processes": "sync-bn",
    "averages of weights": "ema-decay ema-buffers ema-start",
    "right ports that are written otherwise": "rewritten",
}


@pytest.mark.parametrize("mistake", KNOWN_MISTAKES)
def test_every_known_mistake_is_planted_or_named_as_missing(mistake):
    assert not set(KNOWN_MISTAKES[mistake].split()) - set(KINDS)
