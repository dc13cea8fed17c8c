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
    assert proposal.reference_only == ["aux (Conv2d)"] and proposal.port_only == ["extra (BatchNorm2D)"]
    text = source("mine", "models", proposal, ["aux.weight"])
    assert '# Drop(r"^aux", reason="why"),' in text and "# CHECK: only the port has extra (BatchNorm2D)" in text


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
