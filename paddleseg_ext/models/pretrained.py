"""Strict loading of weight files into layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.errors import WeightError


def load_pretrained(layer: nn.Layer, path: str | Path, *, allow: Sequence[str] = ()) -> None:
    """Loads a weight file into a layer; every tensor must be there, with its shape, and nothing else.

    Args:
        layer: receives the weights.
        path: `.pdparams`, `.safetensors` or `.npz`.
        allow: regular expressions (full match) of names that may be missing, unexpected or of another shape.

    Raises:
        WeightError: if the file cannot be read or does not fit.
    """
    from paddleseg_ext.weight_files import load_arrays

    assign(layer, load_arrays(path), where=str(path), allow=allow)


def assign(layer: nn.Layer, arrays: Mapping[str, np.ndarray], *, where: str, allow: Sequence[str] = ()) -> None:
    """Sets a layer's parameters and buffers; strict as `load_pretrained`.

    Args:
        layer: receives the values.
        arrays: name -> value.
        where: what they are from, for error messages.
        allow: as in `load_pretrained`.

    Raises:
        WeightError: with the first ten names of each kind of misfit; nothing is assigned then.
    """
    target = layer.state_dict()

    def allowed(name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in allow)

    missing = [name for name in target if name not in arrays and not allowed(name)]
    unexpected = [name for name in arrays if name not in target and not allowed(name)]
    common = [name for name in target if name in arrays]
    reshaped = [name for name in common if tuple(target[name].shape) != tuple(np.shape(arrays[name]))]
    bad_shapes = [
        f"{name} {tuple(np.shape(arrays[name]))} for {tuple(target[name].shape)}"
        for name in reshaped
        if not allowed(name)
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", bad_shapes))
        if names
    ]
    if problems:
        raise WeightError(
            f"{where}: does not fit {type(layer).__name__} ({len(common)} of {len(target)} names agree); "
            + "; ".join(problems)
            + "; use the weights of this model, or allow names by pattern"
        )
    for name in common:
        if name not in reshaped:
            value = paddle.to_tensor(np.asarray(arrays[name]), place=paddle.CPUPlace())
            target[name].set_value(value.astype(target[name].dtype))
