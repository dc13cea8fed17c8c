"""Weights from wherever a user points to: a file, or a checkpoint's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from paddle import nn

from paddleseg_ext.engine.checkpoint import load_checkpoint
from paddleseg_ext.errors import WeightError
from paddleseg_ext.models.pretrained import assign
from paddleseg_ext.weight_files import load_arrays

MANIFEST = "manifest.json"
_MODEL_FILES = ("model.pdparams", "model.safetensors")


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name -> value.

    Args:
        path: a weight file, a checkpoint's folder, or its `model.pdparams` or `model.safetensors`, whichever of the
            two is there; a checkpoint is verified.

    Raises:
        WeightError: if there are no weights, or they are damaged.
        CheckpointError: if a checkpoint is damaged.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST).is_file() and (path == folder or path.name in _MODEL_FILES):
        return load_checkpoint(folder).arrays["model"]
    if path.is_dir():
        files = [path / name for name in _MODEL_FILES if (path / name).is_file()]
        if not files:
            raise WeightError(
                f"{path}: no {' or '.join(_MODEL_FILES)} in it; expected a checkpoint's folder or a weight file"
            )
        path = files[0]
    return load_arrays(path)


def load_weights(model: nn.Layer, path: str | os.PathLike[str], *, allow: Sequence[str] = ()) -> None:
    """Loads weights into a model; each must be there with its shape, and nothing else.

    Args:
        model: receives them.
        path: as in `read_weights`.
        allow: regular expressions (full match) of names that may differ.

    Raises:
        WeightError: lists what does not fit.
    """
    assign(model, read_weights(path), where=str(path), allow=allow)
