"""Why weights do not carry over, in one sentence with the rules to paste."""

from __future__ import annotations

import numpy as np
import pytest

from parity.case import Drop, Rename, Transpose
from parity.compare import Finding
from parity.diagnosis.carried import explain, explain_plan
from parity.errors import WeightsError
from parity.weights import PortTensor, plan


class Side:
    """A side that is nothing but names: "path": (type, {tensor: shape})."""

    def __init__(self, **leaves):
        self.leaves = {path.replace("__", "."): leaf for path, leaf in leaves.items()}

    def shapes(self):
        return {f"{path}.{name}": shape for path, (_, held) in self.leaves.items() for name, shape in held.items()}

    def tensors(self):
        return [PortTensor(name, name, shape) for name, shape in self.shapes().items()]

    def module_types(self):
        return {path: kind for path, (kind, _) in self.leaves.items()}

    def framework_only(self):
        return {}


def conv(out, into=3, bias=True):
    return "Conv2d", {"weight": (out, into, 3, 3), **({"bias": (out,)} if bias else {})}


def said(theirs, own, *rules):
    """The cause of a plan that is refused."""
    with pytest.raises(WeightsError) as caught:
        plan(theirs.shapes(), own.tensors(), rules)
    return explain_plan(str(caught.value), theirs, own, rules)


def test_rules_that_follow_are_there_to_paste():
    theirs, own = Side(conv1=conv(8), conv10=conv(16, 8)), Side(stem=conv(8), head=conv(16, 8))
    cause = said(theirs, own)
    assert r'Rename(r"^conv1\.", "stem.")' in cause and r'Rename(r"^conv10\.", "head.")' in cause
    assert plan(theirs.shapes(), own.tensors(), [Rename(r"^conv1\.", "stem."), Rename(r"^conv10\.", "head.")])


def test_rules_of_the_case_come_first_and_the_missing_one_after_them():
    theirs, own = Side(a__conv1=conv(8), a__conv2=conv(16, 8)), Side(stem=conv(8), b__conv2=conv(16, 8))
    assert said(theirs, own, Rename(r"^a\.", "b.")) == r'add at the end of the rules: Rename(r"^b\.conv1\.", "stem.")'


def test_what_could_be_either_is_asked():
    cause = said(Side(p=conv(8), q=conv(8)), Side(x=conv(8), y=conv(8)))
    assert cause == "p, q could each be any of x, y in the port: add the Renames that are right"


def test_what_one_side_has_only_is_to_be_dropped_or_found():
    cause = said(Side(a=conv(8), aux=conv(4)), Side(a=conv(8), extra=conv(5)))
    assert r'only the reference has aux.weight, aux.bias: if the port does without, Drop(r"^aux\.weight$"' in cause
    assert cause.endswith("only the port has extra.weight, extra.bias")


def test_a_bias_too_many_is_seen_through_the_rules():
    rule = Rename(r"^up\.0\.", "decoder.")
    theirs, own = Side(up__0=conv(8, bias=False)), Side(decoder=conv(8))
    assert said(theirs, own, rule) == "the port's decoder has a bias, the reference's has none (bias_attr=False)"


@pytest.mark.parametrize(
    ("theirs", "own", "rules", "cause"),
    [
        (conv(5), conv(4), (), "a.weight is (4, 3, 3, 3), reference (5, 3, 3, 3): the layer has another size"),
        (conv(5), conv(5), (Rename("^b", "c"),), "a rule matches nothing"),
        (("Linear", {"weight": (5, 3)}), ("Linear", {"weight": (5, 3)}), (Transpose("a"),), "without the Transpose"),
        (conv(5), conv(5), (Drop(r"bias$", reason="none"),), "the port's a has a bias"),
    ],
)
def test_what_is_wrong_with_one_layer_or_rule(theirs, own, rules, cause):
    assert cause in said(Side(a=theirs), Side(a=own), *rules)


def test_a_rule_that_sends_two_tensors_to_one_name_is_named():
    assert "rename two tensors to c.weight" in said(Side(a=conv(8), b=conv(8)), Side(c=conv(8)), Rename("^[ab]", "c"))


@pytest.mark.parametrize(("changed", "again"), [("weight", True), ("bias", False), ("", False)])
def test_weights_that_all_differ_while_nothing_else_does_look_initialised_again(changed, again):
    random = np.random.RandomState(0)
    side = Side(a=conv(8), b=conv(8, 8), c=conv(4, 8))
    expected = {name: random.standard_normal(shape) for name, shape in side.shapes().items()}
    wrong = [name for name in expected if name.endswith(("weight", changed or "a.bias"))]
    actual = {name: random.standard_normal(value.shape) if name in wrong else value for name, value in expected.items()}
    finding = Finding("weights/a.weight", "fail")
    text = explain(finding, plan(side.shapes(), side.tensors()), expected, actual)
    assert ("look initialised after they were loaded" in text) == again
