"""`parity init`: what follows becomes a rule, what does not is said to be open."""

from __future__ import annotations

import ast

import pytest

from parity.case import Rename
from parity.matching import Modules, propose, source, unmatched
from parity.weights import rename, rename_module


def model(**leaves):
    """Of leaf path (with __ for dots) -> (type, {tensor: shape})."""
    leaves = {path.replace("__", "."): leaf for path, leaf in leaves.items()}
    types = {path: kind for path, (kind, _) in leaves.items()}
    shapes = {f"{path}.{name}": shape for path, (_, tensors) in leaves.items() for name, shape in tensors.items()}
    return Modules(types, shapes)


def conv(out, into=3):
    return "Conv2d", {"weight": (out, into, 3, 3)}


def norm(channels):
    return "BatchNorm2D", {name: (channels,) for name in ("weight", "bias", "running_mean", "running_var")}


RELU = ("ReLU", {})


def test_equal_names_need_no_rule():
    both = model(conv1=conv(8), layer1__bn=norm(8), act=RELU)
    proposal = propose(both, both)
    assert proposal.rules == [] and proposal.open == [] and proposal.same == 8
    assert unmatched(proposal, both, both) == []


def test_a_layer_that_is_the_only_one_of_its_kind_is_renamed():
    theirs = model(conv1=conv(8), bn1=norm(8), act=RELU)
    own = model(stem__0=conv(8), stem__1=norm(8), relu=RELU)
    proposal = propose(theirs, own)
    assert set(proposal.rules) == {
        Rename(r"^conv1\.", "stem.0."),
        Rename(r"^bn1\.", "stem.1."),
        Rename(r"^act\.", "relu."),
    }
    assert unmatched(proposal, theirs, own) == []


def test_a_renamed_subtree_becomes_one_rule():
    theirs = model(backbone__a__conv=conv(8), backbone__a__bn=norm(8), backbone__b__conv=conv(16, 8), head=conv(5, 16))
    own = model(encoder__a__conv=conv(8), encoder__a__bn=norm(8), encoder__b__conv=conv(16, 8), head=conv(5, 16))
    proposal = propose(theirs, own)
    assert proposal.rules == [Rename(r"^backbone\.", "encoder.")] and proposal.open == []
    assert "3 layers with 6 tensors" in proposal.reasons[0]


def test_two_layers_alike_are_left_open_in_order_and_not_decided():
    theirs, own = model(first=conv(8), second=conv(8)), model(one=conv(8), two=conv(8))
    proposal = propose(theirs, own)
    assert proposal.rules == [] and proposal.open == [(["first", "second"], ["one", "two"])]
    assert unmatched(proposal, theirs, own) == ["first.weight", "second.weight"]
    text = source("mine", "models", proposal, ["first.weight", "second.weight"])
    assert '# Rename(r"^first\\.", "one."),' in text and '# Rename(r"^second\\.", "two."),' in text
    assert "2 tensors do not carry over yet" in text


def test_layers_alike_are_told_apart_by_the_module_that_both_sides_have():
    theirs = model(blocks__0__mlp__0=conv(8), blocks__1__mlp__0=conv(8), first=conv(4), second=conv(4))
    own = model(blocks__0__fc=conv(8), blocks__1__fc=conv(8), one=conv(4), two=conv(4))
    proposal = propose(theirs, own)
    assert set(proposal.rules) == {
        Rename(r"^blocks\.0\.mlp\.0\.", "blocks.0.fc."),
        Rename(r"^blocks\.1\.mlp\.0\.", "blocks.1.fc."),
    }
    assert sorted(proposal.reasons) == [f"the only conv2d of these shapes in blocks.{n}" for n in (0, 1)]
    assert proposal.open == [(["first", "second"], ["one", "two"])]


def test_layers_alike_within_one_module_stay_open():
    theirs = model(blocks__0__a=conv(8), blocks__0__b=conv(8), blocks__1__a=conv(8))
    own = model(blocks__0__c=conv(8), blocks__0__d=conv(8), blocks__1__c=conv(8))
    proposal = propose(theirs, own)
    assert proposal.rules == [Rename(r"^blocks\.1\.a\.", "blocks.1.c.")]
    assert proposal.open == [(["blocks.0.a", "blocks.0.b"], ["blocks.0.c", "blocks.0.d"])]


def test_tensors_of_a_container_that_have_one_name_on_both_sides_are_not_said_to_be_missing():
    tensors = {"cls_token": (1, 1, 8), "block.scale": (8,), "pos_embed": (1, 5, 8)}
    theirs = Modules({"block.fc1": "Linear"}, {**tensors, "block.fc1.weight": (4, 8), "block.fc1.gain": ()})
    own = Modules({"block.fc": "Linear"}, {**tensors, "block.fc.weight": (4, 8), "block.fc.gain": ()})
    own.shapes["pos_embed"] = (1, 6, 8)
    proposal = propose(theirs, own)
    assert proposal.rules == [Rename(r"^block\.fc1\.", "block.fc.")]
    assert proposal.reference_only == ["pos_embed (1, 5, 8)"] and proposal.port_only == ["pos_embed (1, 6, 8)"]
    assert unmatched(proposal, theirs, own) == ["pos_embed"]


def test_a_model_that_is_one_layer_has_tensors_without_a_module():
    both = Modules({}, {"weight": (8, 3, 3, 3), "bias": (8,)})
    assert propose(both, both).still_open == 0


def test_transposed_convolutions_are_spelled_differently():
    tensors = {"weight": (3, 8, 2, 2), "bias": (8,)}
    proposal = propose(model(up=("ConvTranspose2d", tensors)), model(deconv=("Conv2DTranspose", tensors)))
    assert proposal.rules == [Rename(r"^up\.", "deconv.")]


def test_another_type_with_the_same_name_and_tensors_is_a_question_of_its_own():
    proposal = propose(model(bn=("FrozenBatchNorm2d", norm(8)[1])), model(bn=norm(8)))
    assert proposal.other_type == [("bn", "FrozenBatchNorm2d", "BatchNorm2D")] and proposal.still_open == 1
    text = source("mine", "models", proposal, [])
    assert "# CHECK: bn is a FrozenBatchNorm2d; in the port, with the same tensors, a BatchNorm2D" in text


def test_another_number_of_layers_alike_is_said():
    text = source("mine", "models", propose(model(a=conv(8)), model(b=conv(8), c=conv(8))), ["a.weight"])
    assert "# CHECK: 1 of the reference, 2 of the port; which is which?" in text


def test_another_shape_or_type_is_never_matched():
    for theirs, own in ((conv(8), conv(9)), (norm(8), ("LayerNorm", norm(8)[1])), (conv(8), norm(8))):
        proposal = propose(model(a=theirs), model(b=own))
        assert proposal.rules == [] and proposal.open == []
        assert proposal.reference_only and proposal.port_only


def test_what_only_one_side_has_is_listed():
    proposal = propose(model(a=conv(8), aux=conv(4)), model(a=conv(8), extra=norm(8)))
    assert proposal.reference_only == ["aux (Conv2d: weight)"]
    assert proposal.port_only == ["extra (BatchNorm2D: weight, bias, running_mean, running_var)"]
    text = source("mine", "models", proposal, ["aux.weight"])
    assert '# Drop(r"^aux", reason="why"),' in text and "# CHECK: only the port has extra (BatchNorm2D: weight" in text


def test_swapped_names_do_not_run_into_one_another():
    theirs, own = model(a=conv(8), b=norm(8)), model(b=conv(8), a=norm(8))
    proposal = propose(theirs, own)
    done = {path: rename_module(path, proposal.rules) for path in ("a", "b")}
    open_ = {path for left, _ in proposal.open for path in left}
    assert all(done[path] == target or path in open_ for path, target in {"a": "b", "b": "a"}.items())
    assert proposal.open, "one of them cannot be a rule"


def test_a_chain_of_names_is_put_in_an_order_that_works():
    theirs, own = model(a=conv(8), b=norm(8)), model(b=conv(8), c=norm(8))
    proposal = propose(theirs, own)
    assert rename("a.weight", proposal.rules) == "b.weight" and rename("b.bias", proposal.rules) == "c.bias"


@pytest.mark.parametrize("left", [[], ["x"]])
def test_the_written_case_is_python_and_one_import_away(left):
    proposal = propose(model(a__b=conv(8), z=conv(2)), model(c=conv(8)))
    tree = ast.parse(source("mine", "models", proposal, left))
    assert [node.module for node in tree.body if isinstance(node, ast.ImportFrom)] == ["models", "parity"]
    assert any(isinstance(node, ast.Assign) and node.targets[0].id == "CASE" for node in tree.body)
