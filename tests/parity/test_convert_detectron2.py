"""Checkpoints of detectron2, in the key lists recorded from its own classes, become the port's weights."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from paddleseg_ext import weight_files
from paddleseg_ext.errors import WeightError
from parity import cases, chain, convert, fill
from parity.traces import Recording

pytestmark = pytest.mark.parity
CASE = "semantic_fpn_r50"
PART = "backbone.bottom_up"


@pytest.fixture(scope="module")
def upstream_state():
    return fill.state(Recording.load(chain.RECORDINGS / CASE).state_dict)


CAFFE2 = (
    ("stem.conv1.norm", "res_conv1_bn"), ("shortcut", "branch1"), ("conv1", "branch2a"), ("conv2", "branch2b"),
    ("conv3", "branch2c"), ("res_branch2a_bn", "res_conv1_bn"), (".norm", ".bn"), ("bn.weight", "bn.s"),
    ("bn.bias", "bn.b"), ("weight", "w"), (".", "_"),
)  # fmt: skip


def caffe2_name(name):
    """MSRA's name of a tensor of detectron2's ResNet."""
    if name == "stem.conv1.weight":
        return "conv1_w"
    for own, theirs in CAFFE2:
        name = name.replace(own, theirs)
    return name


def dump(path, content):
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=2)
    return path


def test_a_final_model_loads_strictly_and_passes_the_forward_check(upstream_state, tmp_path):
    content = {"model": {**upstream_state, "pixel_mean": np.zeros((3, 1, 1), np.float32)}, "__author__": "someone"}
    file = dump(tmp_path / "model_final.pkl", content)
    result = convert.convert(cases.get(CASE), file, tmp_path / "out.pdparams")
    assert result.worst <= 1e-9
    assert len(result.tensors) == len(upstream_state) and not result.dropped
    assert any(note.startswith("pixel_mean is left out") for note in result.notes)
    ported = weight_files.load_arrays(tmp_path / "out.pdparams")
    name = "backbone.bottom_up.res4.5.conv2.norm."
    np.testing.assert_array_equal(ported[f"{name}_variance"], upstream_state[f"{name}running_var"])


def test_a_final_model_saved_by_torch_loads_too(upstream_state, tmp_path):
    torch = pytest.importorskip("torch")
    content = {"model": {n: torch.from_numpy(v) for n, v in upstream_state.items()}, "iteration": 64999}
    torch.save(content, tmp_path / "model_final.pth")
    result = convert.convert(cases.get(CASE), tmp_path / "model_final.pth", tmp_path / "out.npz", check=False)
    assert len(result.tensors) == len(upstream_state)


def test_msras_weights_fit_the_ports_backbone(upstream_state, tmp_path):
    from paddleseg_ext.models.backbones import ResNet50

    own = {n[len(PART) + 1 :]: v for n, v in upstream_state.items() if n.startswith(PART)}
    learnt = {name: value for name, value in own.items() if ".running_" not in name}
    file = {caffe2_name(name): value for name, value in learnt.items()} | {"fc1000_b": np.zeros(1000, np.float32)}
    source, target = dump(tmp_path / "R-50.pkl", file), tmp_path / "r50.pdparams"
    assert convert.convert(cases.get(CASE), source, target, part=PART).worst <= 1e-9
    for norm in ("FrozenBN", "BN"):
        net = ResNet50(norm=norm, pretrained=str(target))
        np.testing.assert_array_equal(net.res5[2].conv3.norm.bias.numpy(), own["res5.2.conv3.norm.bias"])
        np.testing.assert_array_equal(net.stem.conv1.weight.numpy(), own["stem.conv1.weight"])


def test_another_depth_is_refused_by_name(upstream_state, tmp_path):
    state = {n: v for n, v in upstream_state.items() if not n.startswith(f"{PART}.res4.5.")}
    with pytest.raises(WeightError, match=r"15 tensors are missing \(backbone\.bottom_up\.res4\.5\.conv1\.weight"):
        convert.convert(cases.get(CASE), dump(tmp_path / "w.pkl", {"model": state}), tmp_path / "out.npz")
