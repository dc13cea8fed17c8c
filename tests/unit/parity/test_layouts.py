"""Names of detectron2's checkpoints, on the key lists that were recorded from its own classes."""

from __future__ import annotations

import numpy as np
import pytest

from parity import chain, layouts
from parity.traces import Recording

BLOCKS = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
KINDS = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}


def resnet_keys(case: str, prefix: str) -> dict[str, tuple[int, ...]]:
    """Upstream's names and shapes of a case's backbone alone."""
    layout = Recording.load(chain.RECORDINGS / case).state_dict
    return {name[len(prefix) :]: shape for name, shape in layout.items() if name.startswith(f"{prefix}res")} | {
        name[len(prefix) :]: shape for name, shape in layout.items() if name.startswith(f"{prefix}stem")
    }


def caffe2_name(name: str) -> str:
    """The other way round: detectron2's name of a tensor in MSRA's file."""
    parts = name.split(".", 3)
    if parts[0] == "stem":
        kind = name.removeprefix("stem.conv1.")
        return "conv1_w" if kind == "weight" else f"res_conv1_{KINDS[kind]}"
    stage, block, conv, kind = parts
    return f"{stage}_{block}_{BLOCKS[conv]}_{KINDS[kind]}"


@pytest.fixture(scope="module", params=["semantic_fpn_r50", "pointrend_r101"])
def keys(request):
    return resnet_keys(request.param, "backbone.bottom_up.")


def test_msras_names_become_those_of_upstreams_resnet(keys):
    learnt = {name: shape for name, shape in keys.items() if not name.rpartition(".")[2].startswith("running")}
    values = {name: np.full(shape[:1], index, np.float32) for index, (name, shape) in enumerate(learnt.items())}
    state = {caffe2_name(name): value for name, value in values.items()}
    assert len(state) == len(values)
    surplus = {"conv1_b": 64, "fc1000_w": 1000, "fc1000_b": 1000, "conv1_w_momentum": 64}
    state.update({name: np.zeros(size, np.float32) for name, size in surplus.items()})
    notes: list[str] = []
    found = layouts.to_detectron2(state, notes)
    assert set(found) == set(keys)
    assert all((found[name] == value).all() for name, value in values.items())
    assert [note.split()[0] for note in notes[:-1]] == list(surplus)
    assert "running statistics" in notes[-1]


def test_folded_norms_get_statistics_that_change_nothing():
    state = {"res2_0_branch2a_w": np.ones((2, 2, 1, 1), np.float32), "res2_0_branch2a_bn_s": np.ones(2, np.float32)}
    found = layouts.to_detectron2(state, [])
    variance = found["res2.0.conv1.norm.running_var"]
    assert variance.dtype == np.float32 and (variance + np.float32(1e-5) == 1).all()
    assert not found["res2.0.conv1.norm.running_mean"].any()


def test_deeplabs_names_stay_and_its_classifier_goes():
    keys = resnet_keys("panoptic_deeplab_r52", "backbone.")
    file = {name: np.zeros(1) for name in keys if not name.endswith("num_batches_tracked")}
    notes: list[str] = []
    assert layouts.to_detectron2({**file, "linear.weight": np.zeros(1), "stem.fc.bias": np.zeros(1)}, notes) == file
    assert [note.split()[0] for note in notes] == ["linear.weight", "stem.fc.bias"]


def test_settings_of_older_whole_models_are_left_out_with_a_note():
    state = {"backbone.bottom_up.res2.0.conv1.norm.weight": np.ones(1), "pixel_mean": np.ones(3)}
    notes: list[str] = []
    assert list(layouts.to_detectron2(state, notes)) == ["backbone.bottom_up.res2.0.conv1.norm.weight"]
    assert notes == ["pixel_mean is left out: mean and deviation of the pixels, which the data pipeline has"]


def test_unknown_names_stay_to_be_refused_later():
    state = {"res2_0_branch2a_bn_s": np.ones(1), "res9_x": np.ones(1)}
    assert "res9_x" in layouts.to_detectron2(state, [])


def test_files_of_other_repositories_are_as_they_were():
    state = {"cp.backbone.x": np.ones(1), "fc.weight": np.ones(1), "pixel_mean": np.ones(1)}
    notes: list[str] = []
    assert layouts.to_detectron2(state, notes) == state and not notes
