"""Deterministic weights: each tensor from its name and shape alone.

No checkpoint is needed to prove a port, and none is stored: the reference, the upstream repository and any
later run regenerate the same numbers. `numpy.random.RandomState` is used because its streams are frozen; values
are rounded to a grid before scaling, so that a last-bit difference in a libm does not reach them, and to
float32, so that the float32 and float64 legs start from identical weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_GRID = 4096


def seed_of(name: str, shape: Sequence[int], seed: int = 0) -> int:
    """A 32-bit seed that depends on the name, the shape and `seed`."""
    text = f"{seed}/{name}/{','.join(map(str, shape))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def tensor(name: str, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """The value of one parameter or buffer, float32.

    Next to nothing is 0 or 1 and signs are mixed, so that a missing bias, a lost |gamma| or a swapped running statistic
    always changes a number. Scales keep activations O(1) through deep stacks, and shifts are mostly positive: a deep
    stack of batch norms and ReLUs around zero amplifies any rounding in its gradients a thousandfold.

    Args:
        name: torch-style name; its last component decides the distribution.
        shape: of the tensor.
        seed: another seed gives other weights.
    """
    random = np.random.RandomState(seed_of(name, shape, seed))
    kind = name.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        return _grid(random.uniform(0.5, 1.5, shape))
    if kind == "running_mean":
        return _grid(0.2 * random.standard_normal(shape))
    if len(shape) >= 2:
        fan_in = int(np.prod(shape[1:]))
        return (_grid(random.standard_normal(shape)) * np.sqrt(0.5 / fan_in)).astype(np.float32)
    if kind == "weight":  # the scale of a normalisation
        sign = np.where(random.uniform(size=shape) < 0.25, -1.0, 1.0)
        return _grid(sign * random.uniform(0.5, 1.5, shape))
    magnitude = random.uniform(0.3, 1.5, shape)
    return _grid(np.where(random.uniform(size=shape) < 0.2, -magnitude, magnitude))


def state(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """Values for a whole state dict, in its order. The last ones are remembered: making them takes a while.

    Args:
        shapes: name -> shape.
        seed: passed on to `tensor`.
    """
    global _last
    key = (seed, tuple((name, tuple(shape)) for name, shape in shapes.items()))
    if _last[0] != key:
        _last = ((), {})  # not two at a time
        _last = (key, {name: tensor(name, shape, seed) for name, shape in shapes.items()})
    return {name: value.copy() for name, value in _last[1].items()}


_last: tuple[tuple[Any, ...], dict[str, np.ndarray]] = ((), {})


def _grid(values: np.ndarray) -> np.ndarray:
    scaled = np.asarray(values, np.float64) * _GRID
    return np.divide(np.rint(scaled, out=scaled), _GRID, out=scaled).astype(np.float32)
