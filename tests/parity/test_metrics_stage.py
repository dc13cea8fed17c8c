"""The metrics stage: the port's figures on made-up predictions against those of the official evaluators, bit by bit."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest

from parity import Case, CaseError, inputs, official, run
from parity.cases import figures
from parity.upstream import record_metrics

pytestmark = pytest.mark.parity

ALL = {**figures.SEMANTIC, **figures.PANOPTIC, **figures.COCO_PANOPTIC}


def linear():
    from torch import nn

    return nn.Conv2d(3, 1, 1)


def port():
    from paddle import nn

    return nn.Conv2D(3, 1, 1)


CASE = Case(name="metrics", reference=linear, port=port, inputs={"image": inputs.image(1)}, size=(3, 5))


def stage(metrics):
    case = dataclasses.replace(CASE, port=dataclasses.replace(CASE.port, metrics=metrics))
    result = run(case, stages=["metrics"], float32=False, upstream=False)
    return result, result.stages[-1]


def changed(name, key, change):
    """The figures with one of them changed."""

    def compute():
        found = ALL[name]()
        return {**found, key: change(found[key])}

    return {name: compute}


@pytest.mark.parametrize("name", ALL)
def test_our_metrics_are_the_official_ones_to_the_last_bit(name):
    result, metrics = stage({name: ALL[name]})
    assert result.passed and metrics.worst == 0.0
    assert len(metrics.findings) == len(official.recorded(name)["figures"])


@pytest.mark.parametrize(
    ("name", "key", "change"),
    [
        ("cityscapes_semantic", "mean IoU", lambda value: value + 1e-15),
        ("cityscapes_semantic", "IoU", lambda values: [*values[:-1], np.nan]),
        ("cityscapes_panoptic", "FP", lambda values: [values[0] + 1, *values[1:]]),
        ("cityscapes_panoptic", "AP50", lambda values: values[::-1]),
        ("coco_panoptic", "PQ", lambda values: np.nan_to_num(values)),  # an absent class counts 0
        ("coco_panoptic", "PQ things", lambda values: [values[0] + 1e-15, *values[1:]]),
    ],
)
def test_a_figure_that_is_off_in_the_last_bit_is_found(name, key, change):
    result, metrics = stage(changed(name, key, change))
    assert result.exit_code == 1
    assert (metrics.first.point, metrics.first.verdict) == (f"metrics/{name}/{key}", "fail")


def test_a_figure_that_is_missing_is_found():
    result, metrics = stage({"coco_panoptic": lambda: {"PQ": ALL["coco_panoptic"]()["PQ"]}})
    assert result.exit_code == 1 and metrics.first.verdict == "missing"


def test_metrics_that_raise_are_a_crash_of_the_port():
    def fail():
        raise ValueError("no such class")

    result, metrics = stage({"coco_panoptic": fail})
    assert result.exit_code == 3 and "the port raised ValueError: no such class" in metrics.crash


def test_an_evaluation_that_nobody_recorded_is_an_error_of_the_case():
    with pytest.raises(CaseError, match="has no evaluation 'ade20k'; it has cityscapes_semantic"):
        stage({"ade20k": dict})


def test_without_metrics_the_stage_says_so():
    result = run(CASE, stages=["metrics"], float32=False, upstream=False)
    assert result.stages[-1].reason == "the case gives no `metrics`"


def test_the_recording_is_what_the_installed_tools_say_today(tmp_path):
    """Without panopticapi; its figures are those of cityscapesScripts' copy of it on the same pairs."""
    pytest.importorskip("cityscapesscripts")
    recorded = json.loads(official.RECORDING.read_text(encoding="utf-8"))["evaluations"]
    module = record_metrics.script("evalPanopticSemanticLabeling")
    (tmp_path / "coco").mkdir()
    found = record_metrics.panoptic(module, tmp_path / "coco", *record_metrics.coco_pairs())
    assert {k: record_metrics._plain(v) for k, v in found.items()} == recorded["coco_panoptic"]["figures"]
    for kind, function in (("pixels", record_metrics.pixel_level), ("instances", record_metrics.instance_level)):
        (tmp_path / kind).mkdir()
        for key, value in function(tmp_path / kind, official.cityscapes()).items():
            assert record_metrics._plain(value) == recorded["cityscapes_panoptic"]["figures"][key], key


def test_the_predictions_hold_what_evaluators_disagree_about():
    images = official.cityscapes()
    ids = np.unique([image.instance for image in images])
    assert set(official.THINGS) & set(ids) and any(29 <= i // 1000 <= 30 for i in ids)  # groups, caravans or trailers
    assert any((image.pred == 0).any() for image in images)
    scores = [s.score for image in images for s in image.segments]
    assert len(set(scores)) < len(scores)
    coco = official.coco()
    assert any(s.crowd for image in coco for s in image.label_segments) and any((i.label == 0).any() for i in coco)
    figures = official.recorded("coco_panoptic")["figures"]
    assert figures["PQ"].count(None) == 2  # classes that never occur
    assert np.array_equal(official.cityscapes()[0].pred, images[0].pred)


def test_the_core_and_the_predictions_need_neither_framework():
    assert "numpy" in sys.modules and official.recorded("cityscapes_semantic")["tool"].startswith("cityscapesScripts")
