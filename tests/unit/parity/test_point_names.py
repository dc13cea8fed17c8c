"""Names of points, from the reference's spelling to the port's."""

from __future__ import annotations

import pytest

from parity import Rename
from parity.weights import translate

RULES = (Rename(r"^backbone\.", "body."), Rename(r"\.norm\.weight$", ".bn.scale"), Rename(r"\.norm\.", ".bn."))


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("backbone.conv", "body.conv"),
        ("backbone.norm", "body.bn"),  # a module, by the rule for its tensors
        ("backbone.norm@2", "body.bn@2"),
        ("backbone.head.output", "body.head.output"),
        ("buffer/backbone.norm.running_mean", "buffer/body.bn.running_mean"),
        ("dropout/backbone.norm", "dropout/body.bn"),
        ("head", "head"),
        ("input.conv", "input.conv"),
    ],
)
def test_points_of_a_forward_pass_are_renamed(point, expected):
    assert translate(point, RULES, modules=True) == expected


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("backbone.norm.output", "body.bn.output"),
        ("backbone.norm.output@3", "body.bn.output@3"),
        ("backbone.norm.bias", "body.bn.bias"),
        ("backbone.norm.weight", "body.bn.scale"),
        ("2/update/backbone.norm.weight", "2/update/body.bn.scale"),
        ("2/optimizer/backbone.norm.weight.velocity", "2/optimizer/body.bn.scale.velocity"),
        ("2/learning_rate/backbone.conv.weight", "2/learning_rate/body.conv.weight"),
        ("2/buffer/backbone.norm.running_var", "2/buffer/body.bn.running_var"),
    ],
)
def test_gradients_and_what_training_does_are_renamed_as_tensors(point, expected):
    assert translate(point, RULES, modules=False) == expected


@pytest.mark.parametrize("modules", [True, False])
@pytest.mark.parametrize(
    "point",
    ["output/x", "loss/x", "2/loss/x", "schedule/7", "input.0", "input.12", "2/update/losses.kernel"],
)
def test_points_that_are_named_by_the_case_keep_their_names(point, modules):
    assert translate(point, (Rename("^", "model."), Rename("x", "y")), modules=modules) == point


def test_a_module_that_is_called_input_is_renamed_all_the_same():
    assert translate("input.conv", (Rename(r"^input\.", "stem."),), modules=True) == "stem.conv"


def test_a_rule_can_be_for_one_module_alone():
    assert translate("act", (Rename("^act$", "relu"),), modules=True) == "relu"


def test_without_rules_nothing_is_renamed():
    assert translate("backbone.norm@2", (), modules=True) == "backbone.norm@2"
