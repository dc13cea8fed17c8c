"""What layers are set to, in words that both frameworks' layers share: one table for each, by the name of the class.

Only what can be compared is here: of two ways to say the same (a size or a factor) there is what the layer was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Union

import numpy as np

Read = Union[str, Callable[[Any], Any]]  # an attribute, or a function of the layer


def pair(value: Any) -> Any:
    """(height, width) of one number for both."""
    if value is None or isinstance(value, (int, float, str)):
        return (value, value)
    return tuple(value) * 2 if len(tuple(value)) == 1 else tuple(value)


def _pair_of(name: str) -> Callable[[Any], Any]:
    return lambda layer: pair(getattr(layer, name))


def _given_pair(name: str, kind: type) -> Callable[[Any], Any]:
    def read(layer: Any) -> Any:
        value = getattr(layer, name)
        return None if value is None else tuple(kind(number) for number in pair(value))

    return read


def _single(name: str) -> Callable[[Any], float]:
    return lambda layer: float(np.float32(getattr(layer, name)))


def _corners(layer: Any) -> bool | None:
    return None if layer.mode == "nearest" else bool(layer.align_corners)


def _align_mode(layer: Any) -> int | None:
    linear = layer.mode == "bilinear" and not layer.align_corners
    return getattr(layer, "align_mode", 0) if linear else None  # torch has Paddle's 0 only


_RESIZED = {"size": _given_pair("size", int), "scale_factor": _given_pair("scale_factor", float)}
_UPSAMPLE = {**_RESIZED, "mode": "mode", "align_corners": _corners}
_RESPONSE = {"size": "size", "alpha": "alpha", "beta": "beta", "k": "k"}

TORCH: Mapping[str, Mapping[str, Read]] = {
    "Upsample": {**_UPSAMPLE, "align_mode": _align_mode},
    "GELU": {"approximate": lambda layer: layer.approximate == "tanh"},
    "_InstanceNorm": {"epsilon": _single("eps")},
    "_AdaptiveAvgPoolNd": {"output_size": _pair_of("output_size")},
    "_AdaptiveMaxPoolNd": {"output_size": _pair_of("output_size")},
    "ELU": {"alpha": "alpha"},
    "CELU": {"alpha": "alpha"},
    "LeakyReLU": {"negative_slope": "negative_slope"},
    "Hardtanh": {"min": "min_val", "max": "max_val"},
    "Softplus": {"beta": "beta", "threshold": "threshold"},
    "Softmax": {"axis": "dim"},
    "LogSoftmax": {"axis": "dim"},
    "LocalResponseNorm": _RESPONSE,
    "PixelShuffle": {"upscale_factor": "upscale_factor"},
    "Flatten": {"start_axis": "start_dim", "stop_axis": "end_dim"},
}
PADDLE: Mapping[str, Mapping[str, Read]] = {
    "Upsample": {**_UPSAMPLE, "align_mode": _align_mode},
    "UpsamplingBilinear2D": {**_RESIZED, "mode": lambda layer: "bilinear", "align_corners": lambda layer: True},
    "UpsamplingNearest2D": {**_RESIZED, "mode": lambda layer: "nearest"},
    "GELU": {"approximate": lambda layer: bool(layer._approximate)},
    "_InstanceNormBase": {"epsilon": _single("_epsilon")},
    "AdaptiveAvgPool2D": {"output_size": _pair_of("_output_size")},
    "AdaptiveMaxPool2D": {"output_size": _pair_of("_output_size")},
    "ELU": {"alpha": "_alpha"},
    "CELU": {"alpha": "_alpha"},
    "LeakyReLU": {"negative_slope": "_negative_slope"},
    "Hardtanh": {"min": "_min", "max": "_max"},
    "Softplus": {"beta": "_beta", "threshold": "_threshold"},
    "Softmax": {"axis": "_axis"},
    "LogSoftmax": {"axis": "_axis"},
    "LocalResponseNorm": _RESPONSE,
    "PixelShuffle": {"upscale_factor": "_upscale_factor"},
    "Flatten": {"start_axis": "start_axis", "stop_axis": "stop_axis"},
}


def read(layer: Any, table: Mapping[str, Mapping[str, Read]]) -> dict[str, Any]:
    """The settings of a layer by a table; {} for a class that is not in it. What the layer leaves open is left out."""
    kind = next((kind.__name__ for kind in type(layer).__mro__ if kind.__name__ in table), "")
    values = {
        word: getattr(layer, how, None) if isinstance(how, str) else how(layer)
        for word, how in table.get(kind, {}).items()
    }
    return {word: value for word, value in values.items() if value is not None}
