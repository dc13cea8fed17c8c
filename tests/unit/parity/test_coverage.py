"""What a run is said not to have exercised."""

from __future__ import annotations

import numpy as np

from parity.coverage import measure
from parity.traces import Trace

LEAVES = {"conv": "Conv2d", "relu": "ReLU", "relu2": "ReLU", "relu3": "ReLU", "unused": "Linear"}
FORWARD = Trace(
    {
        "conv": np.array([-1.0, 1.0]),
        "relu": np.array([0.0, 1.0]),
        "relu2": np.array([2.0, 1.0]),
        "relu3": np.array([0.0, 0.0]),
        "output/0": np.zeros(2),
    },
    {"leaves": LEAVES},
)


def test_layers_that_never_ran_are_named():
    report = measure({("reference", "forward"): FORWARD}, {"w": (1,)}, ["forward"])
    assert report["leaves"] == 5 and report["leaves_never_run"] == ["unused"] and report["tensors"] == 1


def test_relus_that_saw_one_sign_are_named():
    report = measure({("reference", "forward"): FORWARD}, {}, ["forward"])
    assert report["relus"] == 3 and report["relus_one_sided"] == ["relu2", "relu3"]


def test_a_layer_that_ran_twice_has_run():
    trace = Trace({"relu": np.array([0.0, 1.0]), "relu@2": np.ones(2)}, {"leaves": {"relu": "ReLU"}})
    report = measure({("reference", "forward"): trace}, {}, ["forward"])
    assert report["leaves_never_run"] == [] and report["relus_one_sided"] == []


def test_training_stands_in_where_evaluation_did_not_run():
    report = measure({("reference", "forward_train"): FORWARD}, {}, ["forward_train"])
    assert report["leaves_never_run"] == ["unused"]


def test_parameters_without_gradient_are_named_but_inputs_are_not():
    gradients = Trace({"conv.weight": np.ones(2), "unused.weight": np.zeros(0), "input.0": np.zeros(0)})
    report = measure({("reference", "gradients"): gradients}, {}, ["gradients"])
    assert report["parameters_without_gradient"] == ["unused.weight"]


def test_nothing_is_claimed_about_stages_that_did_not_run():
    assert measure({}, {"w": (1,)}, ["weights"]) == {"tensors": 1}
