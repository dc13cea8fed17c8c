from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paddleseg_ext.engine.checkpoint import save_best, save_checkpoint
from paddleseg_ext.engine.weights import read_weights
from paddleseg_ext.errors import CheckpointError, WeightError
from paddleseg_ext.weight_files import save_arrays

ARRAYS = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


def same(found: dict[str, np.ndarray]) -> bool:
    return list(found) == list(ARRAYS) and found["conv.weight"].tobytes() == ARRAYS["conv.weight"].tobytes()


@pytest.mark.parametrize("name", ["w.pdparams", "w.safetensors", "w.npz"])
def test_a_file_is_read(tmp_path: Path, name: str) -> None:
    save_arrays(tmp_path / name, ARRAYS)
    assert same(read_weights(tmp_path / name))


@pytest.mark.parametrize("spelling", ["", "model.pdparams", "model.safetensors"])
def test_a_checkpoint_is_read_by_its_folder_or_either_of_its_files(tmp_path: Path, spelling: str) -> None:
    save_checkpoint(tmp_path, 5, {"model": ARRAYS, "optimizer": {}}, {})
    assert same(read_weights(tmp_path / "iter_5" / spelling))
    save_best(tmp_path, 5, {"model": ARRAYS}, {})
    assert same(read_weights(tmp_path / "best_model" / spelling))


def test_a_damaged_checkpoint_is_refused_even_if_its_file_is_named(tmp_path: Path) -> None:
    save_best(tmp_path, 5, {"model": ARRAYS}, {})
    file = tmp_path / "best_model/model.pdparams"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    for path in (file, tmp_path / "best_model"):
        with pytest.raises(CheckpointError, match="SHA-256"):
            read_weights(path)


def test_a_folder_of_another_tool_gives_its_weight_file(tmp_path: Path) -> None:
    save_arrays(tmp_path / "model.pdparams", ARRAYS)
    assert same(read_weights(tmp_path))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=r"no model\.pdparams or model\.safetensors in it"):
        read_weights(tmp_path)
