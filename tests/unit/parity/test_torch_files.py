"""Torch checkpoints become numpy arrays to the bit, and no file can do harm."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from paddleseg_ext.errors import WeightError
from paddleseg_ext.weight_files import save_arrays as save_other
from parity import torch_files

torch = pytest.importorskip("torch")


@pytest.fixture
def state():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        value = value.numpy() if isinstance(value, torch.Tensor) else value
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert found[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("suffix", torch_files.SUFFIXES)
@pytest.mark.parametrize("is_zip", [True, False])
def test_state_dicts_saved_by_torch_are_read(tmp_path, state, suffix, is_zip):
    torch.save(state, tmp_path / f"w{suffix}", _use_new_zipfile_serialization=is_zip)
    assert_same(torch_files.load_any(tmp_path / f"w{suffix}"), state)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_wrapped_checkpoints_are_unwrapped_and_the_rest_is_kept(tmp_path, state, key):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    rest = {"epoch": 3, "best": np.float64(0.5), "optimizer": optimizer.state_dict()}
    torch.save({key: OrderedDict((f"module.{n}", v) for n, v in state.items()), **rest}, tmp_path / "w.pth")
    contents = torch_files.load_contents(tmp_path / "w.pth")
    assert_same(contents.arrays, {f"module.{name}": value for name, value in state.items()})
    assert contents.prefix == "module."
    assert contents.rest == rest


@pytest.mark.parametrize("wrap", [None, "state_dict"])
def test_torch_reads_what_is_written(tmp_path, wrap):
    arrays = {
        "w": np.random.default_rng(0).standard_normal((2, 3)).astype("f4"),
        "count": np.array(7, "i8"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "nan": np.array([0x7FC00001, 0x80000000], "u4").view("f4"),
        "empty": np.zeros((0, 3), "f2"),
    }
    torch_files.save_arrays(tmp_path / "new/w.pth", arrays, wrap=wrap)
    found = torch.load(tmp_path / "new/w.pth", weights_only=True)
    assert_same({name: value.numpy() for name, value in (found[wrap] if wrap else found).items()}, arrays)
    assert_same(torch_files.load_arrays(tmp_path / "new/w.pth"), arrays)


def test_other_formats_go_to_their_own_reader(tmp_path):
    save_other(tmp_path / "w.pdparams", {"a": np.arange(3)})
    assert torch_files.load_any(tmp_path / "w.pdparams")["a"].tolist() == [0, 1, 2]


class _Call:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("is_zip", [True, False])
def test_hostile_checkpoints_are_refused_by_name_and_not_run(tmp_path, state, is_zip):
    canary = tmp_path / "canary"
    path = tmp_path / "w.pth"
    system, evaluate = _Call(os.system, f"touch {canary}"), _Call(eval, f"__import__('os').mkdir({str(canary)!r})")
    for call, name in ((system, "posix.system"), (evaluate, "eval")):
        torch.save({"model": state, "x": [call]}, path, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(WeightError, match=name) as caught:
            torch_files.load_any(path)
        assert str(caught.value).startswith(str(path)) and "weights_only" not in str(caught.value)
        assert not canary.exists()
        torch.load(path, weights_only=False)  # the payload is live
        assert canary.exists()
        canary.unlink() if canary.is_file() else canary.rmdir()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_under_a_torch_name_are_not_run(tmp_path, protocol):
    canary = tmp_path / "canary"
    (tmp_path / "w.pth").write_bytes(pickle.dumps(_Call(os.system, f"touch {canary}"), protocol))
    with pytest.raises(WeightError):
        torch_files.load_any(tmp_path / "w.pth")
    assert not canary.exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.5, 0.99])
def test_truncated_checkpoints_are_one_clear_error(tmp_path, state, is_zip, fraction):
    path = tmp_path / "w.pth"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(WeightError, match=r"truncated|damaged") as caught:
        torch_files.load_any(path)
    assert str(caught.value).startswith(str(path))


def test_views_larger_than_the_file_are_refused(tmp_path):
    torch.save({"w": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "w.pth")
    with pytest.raises(WeightError, match="unfolds to more"):
        torch_files.load_any(tmp_path / "w.pth")


def test_compressed_archives_are_refused(tmp_path):
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(WeightError, match="unfold to"):
        torch_files.load_any(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"head.w": torch.ones(2, dtype=torch.bfloat16)}, r"head\.w is torch\.bfloat16"),
        ({"w": torch.ones(2, 2).to_sparse()}, r"w is torch\.sparse_coo"),
        ({"epoch": 3}, "no arrays"),
        ({"model": {"w": torch.ones(1)}, "state_dict": {"w": torch.ones(1)}}, "several state dicts"),
        (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_what_is_no_state_dict_of_numbers_is_refused(tmp_path, content, found):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightError, match=found):
        torch_files.load_any(tmp_path / "w.pth")


def test_missing_files_and_wrong_names_are_named(tmp_path):
    with pytest.raises(WeightError, match="no such file"):
        torch_files.load_any(tmp_path / "w.pth")
    with pytest.raises(WeightError, match="suffix"):
        torch_files.save_arrays(tmp_path / "w.npz", {})


def test_torch_is_not_imported_with_the_module():
    source = Path(torch_files.__file__).read_text(encoding="utf-8")
    assert "import torch\n" not in source and "from torch" not in source
