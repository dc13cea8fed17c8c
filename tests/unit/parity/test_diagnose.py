"""What is said about a divergence, with sides that are made up of numpy."""

from __future__ import annotations

import numpy as np
import pytest

from parity import Rename
from parity.compare import Finding
from parity.diagnose import attribute_differences, explain
from parity.diagnosis.training import known


class Side:
    """A model of two layers, `conv` and then `act`; the second one is `function`."""

    def __init__(self, function=np.tanh, *, names=("conv", "act"), **attributes):
        self.function, self.names, self.settings = function, names, attributes

    def module_types(self):
        return dict.fromkeys(self.names, "Layer")

    def attributes(self, path):
        return self.settings

    def leaf_inputs(self, path, inputs, *, train):
        return [2.0 * inputs[0]]

    def replay(self, path, inputs, *, train):
        return self.function(inputs[0])


INPUTS = [np.linspace(-1, 1, 7)]


def say(point, reference, port, rules=()):
    return explain(Finding(point, "fail"), reference, port, INPUTS, rules, train=False)


def test_settings_that_differ_are_the_cause():
    text = say("forward/act", Side(epsilon=1e-5, padding=(1, 1)), Side(epsilon=1e-3, padding=(1, 1)))
    assert text == "act is set differently: epsilon 0.001, reference 1e-05"


def test_a_layer_that_differs_on_the_references_input_is_wrong_itself():
    assert "act differs on the reference's own input" in say("forward/act", Side(np.tanh), Side(np.sin))


def test_a_layer_that_agrees_on_the_references_input_inherits_its_error():
    assert "act itself agrees on the reference's input" in say("forward/act", Side(), Side())


def test_the_code_between_layers_is_named_where_no_layer_is():
    assert "the code that computes output/semantic" in say("forward/output/semantic", Side(), Side())


def test_a_second_run_of_a_layer_is_that_layer():
    assert "act differs" in say("forward/act@2", Side(np.tanh), Side(np.sin))


def test_a_layer_is_found_under_its_name_on_each_side():
    reference, port = Side(np.tanh, names=("conv", "relu")), Side(np.sin, names=("conv", "act"))
    assert "act differs" in say("forward/act", reference, port, [Rename(r"^relu\.", "act.")])


@pytest.mark.parametrize("point", ["forward_train/buffer/act.running_mean", "forward_train/dropout/act"])
def test_a_buffer_is_explained_by_the_settings_of_its_layer(point):
    assert "momentum 0.9, reference 0.1" in say(point, Side(momentum=0.1), Side(momentum=0.9))
    assert say("forward_train/buffer/act.running_mean", Side(), Side()) == "the settings of act agree"


def test_a_layer_that_raises_on_the_references_input_is_said_to():
    def fail(x):
        raise ValueError("\nwrong shape\nand more")

    assert "raises ValueError: wrong shape" in say("forward/act", Side(), Side(fail))


def test_float_settings_may_differ_by_their_float32_rounding():
    assert attribute_differences({"epsilon": 1e-5}, {"epsilon": float(np.float32(1e-5))}) == ""
    assert attribute_differences({"epsilon": 1e-5}, {"epsilon": 1.1e-5}) == "epsilon 1.1e-05, reference 1e-05"


def test_settings_that_one_side_does_not_know_are_not_compared():
    assert attribute_differences({"bias": True, "groups": 1}, {"groups": 2}) == "groups 2, reference 1"


@pytest.mark.parametrize(
    ("point", "word"),
    [
        ("step/1/learning_rate/conv.weight", "schedule"),
        ("step/2/optimizer/loss.weight.velocity", "weight decay"),
        ("step/1/update/conv.weight", "update rule"),
        ("step/3/buffer/bn.running_mean", "running statistics"),
        ("step/schedule/1001", "other iterations"),
    ],
)
def test_a_divergence_in_training_is_explained_by_what_agrees_before_it(point, word):
    assert word in known(Finding(point, "fail"))
