"""Weights carry over one to one or not at all, and the message says what would help."""

from __future__ import annotations

import re

import numpy as np
import pytest

from parity import CaseError, Drop, Rename, Transpose, WeightsError
from parity.weights import Move, PortTensor, plan, rename

RANDOM = np.random.RandomState(0)


def port(**shapes):
    """Port tensors that are called what the reference calls them."""
    return [PortTensor(name.replace("__", "."), name.replace("__", "."), shape) for name, shape in shapes.items()]


def complaint(reference, tensors, rules=(), **options):
    """The message with which a plan is refused."""
    with pytest.raises(WeightsError) as caught:
        plan(reference, tensors, rules, **options)
    return str(caught.value)


# --- what carries over ----------------------------------------------------------------------------------------------


def test_equal_names_and_shapes_need_no_rule():
    made = plan({"conv.weight": (8, 3, 3, 3), "conv.bias": (8,)}, port(conv__bias=(8,), conv__weight=(8, 3, 3, 3)))
    assert [move.reference for move in made.moves] == ["conv.weight", "conv.bias"]  # the reference's order
    assert all(move.reference == move.port and not move.transposed for move in made.moves)


def test_normalisation_buffers_follow_the_names_that_the_port_reports():
    tensors = [PortTensor("bn._mean", "bn.running_mean", (4,)), PortTensor("bn._variance", "bn.running_var", (4,))]
    state = {"bn.running_var": np.arange(4.0), "bn.running_mean": -np.arange(4.0)}
    carried = plan({name: value.shape for name, value in state.items()}, tensors).forward(state)
    assert np.array_equal(carried["bn._mean"], -np.arange(4.0))
    assert np.array_equal(carried["bn._variance"], np.arange(4.0))


def test_what_only_the_framework_has_is_dropped_with_its_reason():
    made = plan(
        {"bn.weight": (4,), "bn.num_batches_tracked": ()},
        port(bn__weight=(4,)),
        framework_only={"bn.num_batches_tracked": "Paddle does not count batches"},
    )
    assert [move.reference for move in made.moves] == ["bn.weight"]
    assert made.dropped == {"bn.num_batches_tracked": "Paddle does not count batches"}


@pytest.mark.parametrize("shape", [(5, 3), (4, 4)])
def test_linear_weights_are_transposed_by_type_square_or_not(shape):
    weight = RANDOM.standard_normal(shape)
    made = plan({"fc.weight": shape}, [PortTensor("fc.weight", "fc.weight", shape, transposed=True)])
    carried = made.forward({"fc.weight": weight})["fc.weight"]
    assert np.array_equal(carried, weight.T) and carried.flags["C_CONTIGUOUS"]


def test_a_square_matrix_that_is_no_linear_weight_is_left_as_it_is():
    weight = RANDOM.standard_normal((4, 4))
    made = plan({"table": (4, 4)}, port(table=(4, 4)))
    assert np.array_equal(made.forward({"table": weight})["table"], weight)


def test_transpose_rule_adds_to_what_the_type_asks_for():
    weight = RANDOM.standard_normal((4, 4))
    parameter = plan({"w": (4, 4)}, port(w=(4, 4)), [Transpose("^w$")])
    assert np.array_equal(parameter.forward({"w": weight})["w"], weight.T)
    linear = plan({"w": (4, 4)}, [PortTensor("w", "w", (4, 4), transposed=True)], [Transpose("^w$")])
    assert np.array_equal(linear.forward({"w": weight})["w"], weight)


def test_transpose_rule_fits_the_shape_of_the_target():
    made = plan({"proj": (3, 5)}, port(proj=(5, 3)), [Transpose("^proj$")])
    assert made.moves == (Move("proj", "proj", True),)
    message = complaint({"proj": (3, 5)}, port(proj=(3, 5)), [Transpose("^proj$")])
    assert "takes (5, 3); without the Transpose rule it does" in message


def test_rename_rules_apply_in_order():
    rules = [Rename(r"^backbone\.", "body."), Rename(r"^body\.stem\.", "body.conv1.")]
    made = plan({"backbone.stem.weight": (2, 2)}, port(body__conv1__weight=(2, 2)), rules)
    assert made.moves == (Move("backbone.stem.weight", "body.conv1.weight", False),)
    assert rename("backbone.stem.weight", rules) == "body.conv1.weight"


def test_rename_refers_to_groups():
    assert rename("layer2.0.conv", [Rename(r"^layer(\d)\.(\d)", r"stage\1.block\2")]) == "stage2.block0.conv"


def test_dropped_tensors_are_listed_with_their_reason():
    made = plan(
        {"conv.weight": (2, 2), "aux.weight": (2, 2)},
        port(conv__weight=(2, 2)),
        [Drop(r"^aux\.", reason="training only")],
    )
    assert made.dropped == {"aux.weight": "training only"} and len(made.moves) == 1


def test_drop_matches_the_references_name_before_any_rename():
    rules = [Rename(r"^aux\.", "extra."), Drop(r"^aux\.", reason="training only")]
    assert plan({"c": (1,), "aux.w": (1,)}, port(c=(1,)), rules).dropped == {"aux.w": "training only"}


def test_backward_undoes_forward():
    shapes = {"stem.fc.weight": (5, 3), "stem.fc.bias": (5,), "stem.kernel": (2, 2), "aux.w": (1,)}
    tensors = [
        PortTensor("fc.weight", "fc.weight", (5, 3), transposed=True),
        PortTensor("fc.bias", "fc.bias", (5,)),
        PortTensor("kernel", "kernel", (2, 2)),
    ]
    made = plan(shapes, tensors, [Rename(r"^stem\.", ""), Transpose("kernel"), Drop("^aux", reason="unused")])
    state = {name: RANDOM.standard_normal(shape) for name, shape in shapes.items()}
    there = made.forward(state)
    assert {name: value.shape for name, value in there.items()} == {
        "fc.weight": (3, 5),
        "fc.bias": (5,),
        "kernel": (2, 2),
    }
    back = made.backward(there)
    assert set(back) == set(shapes) - {"aux.w"}
    assert all(np.array_equal(back[name], state[name]) for name in back)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_reference_tensor_without_target_names_the_nearest_and_the_rule_that_would_help():
    message = complaint(
        {"cp.backbone.conv.weight": (8, 3, 3, 3)}, port(backbone__conv__weight=(8, 3, 3, 3)), where="mine"
    )
    assert message.startswith("mine: the weights do not carry over one to one, 2 problems:")  # one of each side
    assert "cp.backbone.conv.weight (8, 3, 3, 3) has no target" in message
    assert "nearest: backbone.conv.weight" in message
    assert "the port's backbone.conv.weight (8, 3, 3, 3) gets no weight" in message


def test_the_suggested_rename_works_when_it_is_followed():
    reference = {"cp.backbone.conv.weight": (8, 3, 3, 3), "cp.backbone.bn.bias": (8,)}
    tensors = port(backbone__conv__weight=(8, 3, 3, 3), backbone__bn__bias=(8,))
    message = complaint(reference, tensors)
    suggestion = message.partition("add Rename(")[2].partition(")")[0]
    pattern, replacement = (part.strip().removeprefix("r").strip('"') for part in suggestion.split(","))
    assert len(plan(reference, tensors, [Rename(pattern, replacement)]).moves) == 2


def test_a_suggested_rule_is_for_one_layer_and_for_one_tensor():
    reference = {"conv1.weight": (4, 4), "conv10.weight": (4, 4)}
    message = complaint(reference, port(stem1__weight=(4, 4), stem10__weight=(4, 4)))
    rules = [Rename(*re.findall(r'"(.*?)"', text)) for text in re.findall(r"add Rename\((.*?)\)\n", message)]
    assert [rule.pattern for rule in rules] == [r"^conv1\.", r"^conv10\."]
    assert {rule.replacement for rule in rules} == {"stem1.", "stem10."}


def test_the_nearest_name_has_the_same_shape_if_any_has():
    tensors = port(conv_a__weight=(8, 3, 3, 3), convolution_b__weight=(4, 3, 1, 1))
    message = complaint({"conv_b.weight": (4, 3, 1, 1), "conv_a.weight": (8, 3, 3, 3)}, tensors)
    assert "nearest: convolution_b.weight" in message


def test_a_port_tensor_without_source_is_refused():
    assert "the port's bn.bias (4,) gets no weight" in complaint(
        {"bn.weight": (4,)}, port(bn__weight=(4,), bn__bias=(4,))
    )


def test_an_empty_reference_is_refused():
    assert "gets no weight" in complaint({}, port(bn__weight=(4,)))


def test_another_shape_is_refused_and_both_are_shown():
    message = complaint({"conv.weight": (8, 3, 3, 3)}, port(conv__weight=(8, 3, 1, 1)))
    assert "conv.weight (8, 3, 3, 3) does not fit" in message and "(8, 3, 1, 1)" in message
    assert "Transpose" not in message


def test_a_matrix_that_would_fit_transposed_is_refused_but_the_rule_is_named():
    message = complaint({"head.w": (8, 3)}, port(head__w=(3, 8)))
    assert r'declare Transpose(r"^head\.w$")' in message
    assert len(plan({"head.w": (8, 3)}, port(head__w=(3, 8)), [Transpose(r"^head\.w$")]).moves) == 1


@pytest.mark.parametrize(("reference", "target"), [((1, 4), (4,)), ((4,), (1, 4)), ((2, 2), (4,)), ((), (1,))])
def test_shapes_that_numpy_would_reconcile_are_refused(reference, target):
    assert "does not fit" in complaint({"w": reference}, port(w=target))


def test_two_sources_of_one_target_are_refused():
    message = complaint({"a.w": (1,), "b.w": (1,)}, port(c__w=(1,)), [Rename(r"^[ab]\.", "c.")])
    assert "b.w and a.w both go to c.w" in message


@pytest.mark.parametrize("rule", [Rename("^nothing", "x"), Drop("^nothing", reason="gone"), Transpose("^nothing")])
def test_a_rule_that_matches_nothing_is_refused(rule):
    message = complaint({"w": (1,)}, port(w=(1,)), [rule])
    assert "matches nothing" in message and "^nothing" in message


def test_a_rule_that_an_earlier_one_makes_useless_is_refused():
    rules = [Rename(r"^a\.", "b."), Rename(r"^a\.", "c.")]
    assert "matches nothing" in complaint({"a.w": (1,)}, port(b__w=(1,)), rules)


def test_a_rule_may_be_meant_for_a_module_without_tensors():
    rules = [Rename(r"^stem\.", "body."), Rename(r"^body\.act\.", "body.relu.")]
    reference, tensors = {"stem.conv.weight": (1,)}, port(body__conv__weight=(1,))
    assert "matches nothing" in complaint(reference, tensors, rules)
    assert len(plan(reference, tensors, rules, also=["stem.conv.", "stem.act."]).moves) == 1


def test_all_problems_are_counted_and_a_dozen_are_shown():
    message = complaint({f"layer{i}.w": (1,) for i in range(20)}, [])
    assert "20 problems" in message and "... and 8 more" in message


def test_a_tensor_that_has_its_weight_is_never_suggested():
    reference = {"head.weight": (5, 3), "head.bias": (5,), "aux.weight": (5, 3), "aux.bias": (5,)}
    message = complaint(reference, port(head__weight=(5, 3), head__bias=(5,), aux__weight=(5, 3)))
    assert "1 problem:" in message and message.endswith("aux.bias (5,) has no target in the port")


def test_a_name_alike_of_another_shape_is_named_with_its_shape_and_without_a_rule():
    message = complaint({"classifier.weight": (19, 8)}, port(class_head__weight=(21, 8)))
    assert "nearest: class_head.weight (21, 8), of another shape" in message and "Rename" not in message
    assert "nearest" not in complaint({"head.weight": (19, 8)}, port(head_weight=(19,)))


def test_a_rename_that_is_not_needed_is_to_be_removed():
    message = complaint({"in.weight": (8,)}, port(in__weight=(8,)), [Rename(r"^in\.weight", "in.scale")])
    assert "which calls it in.weight as well; remove the rule that renames it" in message


def test_a_tensor_that_the_port_holds_in_parts_is_recognised():
    parts = port(attn__q_proj__weight=(4, 4), attn__k_proj__weight=(4, 4), attn__v_proj__weight=(4, 4))
    message = complaint({"attn.in_proj_weight": (12, 4)}, parts)
    assert "attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight have its shape together" in message
    assert "Rename" not in message


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ((Rename(r"^a\.(", "b."),), "unterminated subpattern"),
        ((Rename(r"^a\.", r"\1.b."),), "invalid group reference"),
        ((Drop(r"^[", reason="unused"),), "unterminated character set"),
        (("a -> b",), "expected a Rename, Drop or Transpose"),
        (((r"^a\.", "b."),), "expected a Rename, Drop or Transpose"),
        (Rename(r"^a\.", "b."), "a comma makes one"),
    ],
)
def test_rules_that_are_none_are_the_cases_mistake(rules, found):
    with pytest.raises(CaseError, match=found):
        plan({"a.w": (1,)}, port(b__w=(1,)), rules, where="mine")
