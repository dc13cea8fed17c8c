"""What a case may say, and what it is told when it says something else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity import Case, CaseError, Schedule, Side, cases, inputs, run
from parity.case import STAGES


def build():
    raise AssertionError("no model is needed for this test")


def function(*arguments):
    raise AssertionError("nothing is computed in this test")


FULL = Side(
    build,
    losses=function,
    optimizer=function,
    rate=function,
    postprocess=function,
    data=function,
    initial=True,
    metrics={"cityscapes": function},
)
IMAGE = {"image": inputs.image(1)}


def case(reference=build, port=build, **fields):
    return Case(**{"name": "mine", "reference": reference, "port": port, "inputs": IMAGE, **fields})


# --- what a case is -------------------------------------------------------------------------------------------------


def test_a_function_is_short_for_a_side():
    made = case()
    assert isinstance(made.reference, Side) and made.reference.model is build
    assert isinstance(made.port, Side) and made.port.losses is None
    assert case(reference=FULL).reference is FULL


def test_a_case_can_be_changed_by_replacing_fields():
    made = dataclasses.replace(case(FULL, FULL), size=(33, 65))
    assert made.size == (33, 65) and made.port is FULL


def test_inputs_are_made_at_the_cases_size_or_another():
    made = case(inputs={"image": inputs.image(2), "label": inputs.labels(2)}, size=(33, 65))
    assert {name: value.shape for name, value in made.make_inputs().items()} == {
        "image": (2, 3, 33, 65),
        "label": (2, 33, 65),
    }
    assert made.make_inputs(size=(5, 7))["image"].shape == (2, 3, 5, 7)
    assert np.array_equal(made.make_inputs(3)["image"], made.make_inputs(3)["image"])
    assert not np.array_equal(made.make_inputs(3)["image"], made.make_inputs(4)["image"])


def test_an_input_that_is_no_specification_is_refused():
    with pytest.raises(CaseError, match="'image' is a ndarray; expected a specification"):
        case(inputs={"image": np.zeros((1, 3, 8, 8))})


def test_ignored_points_are_pairs():
    with pytest.raises(CaseError, match="expected pairs"):
        case(ignored=("attn", "why"))


def test_an_input_that_cannot_be_made_is_named():
    class Broken:
        def make(self, name, size, seed=0):
            raise ValueError("no file")

    with pytest.raises(CaseError, match=r"input 'image' cannot be made: .* raised ValueError: no file"):
        case(inputs={"image": Broken()}).make_inputs()


@pytest.mark.parametrize("size", [(17, None), (0, 9), (9,), (9.0, 9), 32])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(CaseError, match=r"expected \(height, width\), two positive"):
        case(size=size)
    with pytest.raises(CaseError, match="two positive whole numbers"):
        case(extra_sizes=(size,))


def test_feeding_an_unknown_input_is_refused_and_the_known_are_named():
    with pytest.raises(CaseError, match="feed names 'picture'; inputs are image"):
        case(feed=("picture",))


def test_an_unknown_stage_that_is_not_applicable_is_refused():
    with pytest.raises(CaseError, match="not_applicable names 'backward'; stages are weights, forward"):
        case(not_applicable={"backward": "no reason"})


def test_only_the_port_can_have_a_training_step_of_its_own():
    assert case(port=Side(build, train_step=function)).port.train_step is function
    with pytest.raises(CaseError, match="the reference gives `train_step`"):
        case(reference=Side(build, train_step=function))


def test_a_batch_is_split_into_what_is_fed_in_its_order_and_the_targets():
    made = case(inputs={"label": inputs.labels(2), "draws": inputs.image(2, 1), **IMAGE}, feed=("image", "draws"))
    arrays = made.batch(3, 2, (5, 7))
    fed, targets = made.split(arrays)
    assert [value.shape for value in fed] == [(1, 3, 5, 7), (2, 1, 5, 7)] and list(targets) == ["label"]
    assert np.array_equal(fed[0], made.make_inputs(3002, (5, 7))["image"])


# --- which stages it can have ---------------------------------------------------------------------------------------


def test_a_full_case_has_all_stages():
    assert [case(FULL, FULL).why_not(stage) for stage in STAGES] == [None] * len(STAGES)


def test_a_minimal_case_has_forward_passes_and_says_what_the_others_need():
    reasons = {stage: case().why_not(stage) for stage in STAGES}
    assert reasons == {
        "weights": None,
        "forward": None,
        "forward_train": None,
        "loss": "the case gives no `losses`",
        "gradients": "the case gives no `losses`",
        "step": "the case gives no `losses`",
        "trajectory": "the case gives no `losses`",
        "initial": "the case gives no `initial`",
        "data": "the case gives no `data`",
        "postprocess": "the case gives no `postprocess`",
        "metrics": "the case gives no `metrics`",
    }


def test_losses_without_optimizer_give_gradients_but_no_steps():
    side = Side(build, losses=function)
    assert case(side, side).why_not("gradients") is None
    assert case(side, side).why_not("step") == "the case gives no `optimizer`"


def test_an_optimizer_without_losses_takes_no_steps():
    side = Side(build, optimizer=function)
    assert case(side, side).why_not("step") == "the case gives no `losses`"


def test_declared_reasons_come_first():
    made = case(FULL, FULL, not_applicable={"trajectory": "too long"})
    assert made.why_not("trajectory") == "too long" and made.why_not("step") is None


@pytest.mark.parametrize("attribute", ["losses", "optimizer", "postprocess"])
@pytest.mark.parametrize("given", ["reference", "port"])
def test_what_only_one_side_gives_is_refused(attribute, given):
    half = dataclasses.replace(FULL, **{attribute: None})
    made = case(**{given: FULL, ({"reference", "port"} - {given}).pop(): half})
    with pytest.raises(CaseError, match=f"only the {given} gives `{attribute}`; give it on both sides"):
        run(made)  # before a model is built


def test_a_one_sided_loss_is_accepted_where_all_its_stages_are_declared_impossible():
    stages = ("loss", "gradients", "step", "trajectory")
    made = case(dataclasses.replace(FULL, losses=None), FULL, not_applicable=dict.fromkeys(stages, "trained elsewhere"))
    assert {made.why_not(stage) for stage in stages} == {"trained elsewhere"}


def test_running_an_unknown_stage_is_refused_before_a_model_is_built():
    with pytest.raises(CaseError, match="unknown stage 'backward'; stages are weights, forward, forward_train"):
        run(case(), stages=["forward", "backward"])


# --- where the schedule is sampled ----------------------------------------------------------------------------------


def test_the_schedule_is_sampled_at_its_ends_and_around_the_end_of_the_warmup():
    made = case(step=Schedule(steps=3, start=0, iters=1600, warmup_iters=100))
    iterations = made.schedule_iterations()
    assert {0, 1, 50, 99, 100, 101, 1599} <= set(iterations)
    assert iterations == sorted(set(iterations)) and iterations[-1] < 1600 and len(iterations) >= 20


@pytest.mark.parametrize(
    "schedule", [Schedule(iters=1), Schedule(iters=3, warmup_iters=0), Schedule(iters=5, warmup_iters=4)]
)
def test_the_schedule_is_never_sampled_outside_of_the_run(schedule):
    iterations = case(step=schedule).schedule_iterations()
    assert iterations and all(0 <= iteration < schedule.iters for iteration in iterations)


# --- the cases of this repository -----------------------------------------------------------------------------------


def test_all_cases_are_listed_under_their_names():
    loaded = cases.load()
    assert {"stdc1", "stdc2"} <= set(loaded)
    for name, made in loaded.items():
        assert isinstance(made, Case) and made.name == name
        assert cases.get(name).name == name


def test_every_case_names_its_upstream_at_a_commit_and_three_sizes_not_all_square():
    for made in cases.load().values():
        repository, _, commit = made.upstream.partition("@")
        assert repository.count("/") == 1 and len(commit) >= 7
        sizes = [made.size, *made.extra_sizes]
        assert len(set(sizes)) >= 3 and any(h != w for h, w in sizes)


def test_an_unknown_case_is_answered_with_the_closest_and_all():
    with pytest.raises(CaseError, match=r"no case 'stcd1'\. Did you mean 'stdc1'\?.*stdc2"):
        cases.get("stcd1")
