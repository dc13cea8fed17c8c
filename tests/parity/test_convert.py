"""Conversion of weight files, on the key layout that was recorded from upstream's own classes."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch

from paddleseg_ext import weight_files
from paddleseg_ext.errors import WeightError
from parity import cases, chain, convert, fill
from parity.traces import Recording

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def upstream_state():
    """A state dict as upstream's `BiSeNet` saves it: its keys in its order, both names of a tensor alike."""
    layout = Recording.load(chain.RECORDINGS / "stdc1").state_dict
    state = OrderedDict()
    for name, value in fill.state(layout).items():
        twin = name.replace(name.split(".")[2] + ".0.", "features.") if name.startswith("cp.backbone.x") else name
        state[name] = state[twin].clone() if twin in state else torch.from_numpy(np.array(value))
        if name.endswith("num_batches_tracked"):
            state[name].fill_(60000)
    return state


@pytest.fixture
def upstream_file(upstream_state, tmp_path):
    path = tmp_path / "upstream.pth"
    torch.save(upstream_state, path)
    return path


def test_there_and_back_gives_an_equal_file(upstream_state, upstream_file, tmp_path):
    ported, back = tmp_path / "stdc1.pdparams", tmp_path / "back.pth"
    there = convert.convert(cases.get("stdc1"), upstream_file, ported)
    assert there.worst <= 1e-9
    assert convert.revert(cases.get("stdc1"), ported, back).worst <= 1e-9
    again = torch.load(back, weights_only=True)
    assert list(again) == list(upstream_state)
    for name, value in upstream_state.items():
        assert again[name].dtype == value.dtype and torch.equal(again[name], value), name


def test_the_record_lists_every_tensor(upstream_state, upstream_file, tmp_path):
    target = tmp_path / "stdc1.safetensors"
    result = convert.convert(cases.get("stdc1"), upstream_file, target, check=False)
    record = json.loads((tmp_path / "stdc1.safetensors.json").read_text())
    assert result.record.endswith("stdc1.safetensors.json")
    assert {entry["from"] for entry in record["tensors"]} | set(record["dropped"]) == set(upstream_state)
    assert set(record["counters"].values()) == {60000}
    linear = next(entry for entry in record["tensors"] if entry["from"] == "cp.backbone.fc.weight")
    assert linear["transposed"]
    written = weight_files.load_arrays(target)["cp.backbone.fc.weight"]
    np.testing.assert_array_equal(written, upstream_state["cp.backbone.fc.weight"].numpy().T)


def test_two_names_of_one_tensor_must_agree(upstream_state, tmp_path):
    state = OrderedDict(upstream_state)
    state["cp.backbone.features.0.conv.weight"] = state["cp.backbone.features.0.conv.weight"] + 1
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightError, match=r"1 tensors differ .*cp\.backbone\.features\.0\.conv\.weight"):
        convert.convert(cases.get("stdc1"), tmp_path / "odd.pth", tmp_path / "odd.pdparams")
    assert not (tmp_path / "odd.pdparams").exists()


def test_a_missing_and_an_unexpected_tensor_are_named(upstream_state, tmp_path):
    state = OrderedDict(upstream_state)
    state["head.weight"] = state.pop("conv_out.conv_out.weight")
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightError, match=r"conv_out\.conv_out\.weight.*head\.weight"):
        convert.convert(cases.get("stdc1"), tmp_path / "odd.pth", tmp_path / "odd.pdparams")


def test_the_data_parallel_prefix_is_removed_and_reported(upstream_state, tmp_path):
    wrapped = {"epoch": 3, "state_dict": OrderedDict((f"module.{name}", v) for name, v in upstream_state.items())}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    result = convert.convert(cases.get("stdc1"), tmp_path / "wrapped.pth", tmp_path / "out.npz", check=False)
    assert any("module." in note for note in result.notes)
    assert any("epoch" in note for note in result.notes)
    assert len(result.tensors) == 385


def test_a_part_converts_alone(upstream_state, tmp_path):
    """The ImageNet checkpoint of the backbone has the backbone's own names."""
    prefix = "cp.backbone."
    part = OrderedDict((n[len(prefix) :], v) for n, v in upstream_state.items() if n.startswith(prefix))
    torch.save({"state_dict": part}, tmp_path / "backbone.tar")
    target = tmp_path / "backbone.pdparams"
    result = convert.convert(cases.get("stdc1"), tmp_path / "backbone.tar", target, part="cp.backbone")
    assert result.worst <= 1e-9
    from paddleseg_ext.models.backbones import STDC1
    from paddleseg_ext.models.pretrained import load_pretrained

    backbone = STDC1(classifier=True, alias_stages=True)
    load_pretrained(backbone, target)
    np.testing.assert_array_equal(backbone.features[1].conv.weight.numpy(), part["features.1.conv.weight"].numpy())


def test_counters_are_zero_without_a_record(upstream_file, tmp_path):
    ported = tmp_path / "stdc1.pdparams"
    convert.convert(cases.get("stdc1"), upstream_file, ported, check=False)
    (tmp_path / "stdc1.pdparams.json").unlink()
    result = convert.revert(cases.get("stdc1"), ported, tmp_path / "back.pth", check=False)
    assert any("written as 0" in note for note in result.notes)
    again = torch.load(tmp_path / "back.pth", weights_only=True)
    assert int(again["cp.backbone.features.0.bn.num_batches_tracked"]) == 0
