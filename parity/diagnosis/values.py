"""Recognising one tensor in another: the same, or what has been done to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

import numpy as np

CLOSE = 1e-9  # of the rms, as in `policy`


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tensors agree as the verdict asks."""
    if one.shape != other.shape or not one.size:
        return False
    return error(one, other) <= CLOSE


def error(expected: np.ndarray, actual: np.ndarray) -> float:
    """Largest difference over rms(expected); inf where it cannot be computed."""
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if expected.shape != actual.shape or not expected.size:
        return np.inf
    with np.errstate(all="ignore"):
        difference = float(np.max(np.abs(actual - expected)))
        rms = float(np.sqrt(np.mean(expected * expected)))
    if not np.isfinite(difference) or not np.isfinite(rms):
        return np.inf
    return difference / rms if rms > 0 else (0.0 if difference == 0 else np.inf)


def falls(before: float, after: float) -> str:
    """As "the difference falls from 2e-01 to 3e-16"."""
    if not np.isfinite(before):  # another shape
        return f"it agrees to {after:.0e}" if after <= CLOSE else f"the difference is {after:.0e}"
    return f"the difference falls from {before:.0e} to {after:.0e}"


def _softmax(x: np.ndarray) -> np.ndarray:
    exponential = np.exp(x - x.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "leaky relu 0.01": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky relu 0.1": lambda x: np.where(x > 0, x, 0.1 * x),
    "sigmoid": _sigmoid,
    "hard sigmoid": lambda x: np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "hard swish": lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "softmax over channels": lambda x: _softmax(x) if x.ndim > 1 else x,
    "softplus": lambda x: np.logaddexp(0.0, x),
    "absolute value": np.abs,
    "negation": np.negative,
}


def function_between(x: np.ndarray, y: np.ndarray) -> str:
    """The name of the elementwise function that makes `y` of `x`; "" if none of the known ones does."""
    with np.errstate(all="ignore"):
        return next((name for name, function in FUNCTIONS.items() if same(y, function(x))), "")


def relation(expected: np.ndarray, actual: np.ndarray) -> str:
    """What has been done to `expected` to make `actual`, as a clause about `actual`; "" if nothing known."""
    if expected.shape != actual.shape:
        if expected.ndim == actual.ndim and same(np.swapaxes(expected, -1, -2), actual):
            return "is transposed (height and width exchanged)"
        return ""
    if not np.isfinite(actual).all():
        return ""
    for text, change in _moves(expected.ndim):
        if same(change(expected), actual):
            return text
    order = channel_order(expected, actual)
    if order:
        return order
    factor = ratio(expected, actual)
    if factor is not None:
        return f"is {factor:.6g} times the reference's"
    name = function_between(expected, actual)
    if name and name != "the identity":
        return f"is {name} of the reference's, as if that function were applied once more"
    return _shift(expected, actual) or dropped(expected, actual) or few(expected, actual)


def dropped(expected: np.ndarray, actual: np.ndarray) -> str:
    """A clause if some elements of `actual` are 0 and the others those of `expected`, enlarged to make up for them."""
    lost = (actual == 0) & (expected != 0)
    if expected.shape != actual.shape or not lost.any() or lost.all():
        return ""
    factor = ratio(expected[~lost], actual[~lost])
    if factor is None or factor < 1.0:
        return ""
    return (
        f"is 0 in {100 * lost.mean():.3g} % of its elements and {factor:.6g} times the reference's elsewhere: a dropout"
        f" of {1.0 - 1.0 / factor:.3g} that is on"
    )


def _moves(ndim: int) -> Iterable[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    if ndim >= 2:
        yield "is mirrored (left and right exchanged)", lambda x: x[..., ::-1]
        yield "is upside down (flipped)", lambda x: x[..., ::-1, :]
        yield "has its last two axes transposed", lambda x: np.swapaxes(x, -1, -2)
    if ndim >= 3:
        yield "is turned by half (mirrored and upside down)", lambda x: x[..., ::-1, ::-1]


def channel_order(expected: np.ndarray, actual: np.ndarray) -> str:
    """A clause if the channels of `actual` (axis 1 of 4, 0 or 1 of 3) are those of `expected` in another order."""
    for axis in {4: (1,), 3: (0, 1)}.get(expected.ndim, ()):
        order = _order(np.moveaxis(expected, axis, 0), np.moveaxis(actual, axis, 0))
        if len(order) < 2 or order == sorted(order):
            continue
        if order == [2, 1, 0]:
            return "has its channels reversed (BGR for RGB)"
        if order == sorted(order, reverse=True):
            return "has its channels reversed"
        moved = next(index for index, source in enumerate(order) if index != source)
        return f"has its channels in another order (channel {moved} is the original's {order[moved]})"
    return ""


def _order(ones: np.ndarray, others: np.ndarray) -> list[int]:
    """Of which of `ones` each of `others` is a copy; [] if one is of none."""
    order: list[int] = []
    for other in others:
        match = next((i for i, one in enumerate(ones) if i not in order and same(one, other)), None)
        if match is None:
            return []
        order.append(match)
    return order


def ratio(expected: np.ndarray, actual: np.ndarray) -> float | None:
    """The constant that `actual` is of `expected`, if there is one that is not 1."""
    square = float(np.sum(expected * expected))
    if not square:
        return None
    factor = float(np.sum(expected * actual) / square)
    return factor if abs(factor - 1.0) > CLOSE and same(factor * expected, actual) else None


def line(expected: np.ndarray, actual: np.ndarray) -> str:
    """A clause if `actual` is a multiple of `expected` and a constant."""
    mean = expected.mean()
    square = float(np.sum((expected - mean) ** 2))
    if expected.shape != actual.shape or not square:
        return ""
    slope = float(np.sum((expected - mean) * (actual - actual.mean())) / square)
    shift = float(actual.mean() - slope * mean)
    return f"is {slope:.6g} times the reference's {shift:+.6g}" if same(slope * expected + shift, actual) else ""


def ordinal(index: int) -> str:
    """0 -> "first"."""
    return ("first", "second", "third")[index] if index < 3 else f"{index + 1}th"


def _shift(expected: np.ndarray, actual: np.ndarray) -> str:
    for axis, name in ((-1, "columns"), (-2, "rows")):
        for step in (1, -1):
            if expected.ndim >= 2 and expected.shape[axis] > 2:
                inner = [slice(None)] * expected.ndim
                inner[axis] = slice(1, -1)
                if same(np.roll(expected, step, axis)[tuple(inner)], actual[tuple(inner)]):
                    return f"is shifted by {step} {name}"
    return ""


def few(expected: np.ndarray, actual: np.ndarray) -> str:
    """A clause if only few elements differ."""
    rms = float(np.sqrt(np.mean(np.square(expected))))
    different = np.abs(actual - expected) > CLOSE * rms
    count = int(different.sum())
    if not 0 < count <= max(1, expected.size // 100):
        return ""
    index = [int(i) for i in np.unravel_index(int(np.argmax(different)), different.shape)]
    return f"differs in {count} of {expected.size} elements only, first at {index}"


class Known:
    """Tensors that a side computed, found again by value.

    Args:
        named: (name, tensor), in order; the first name of a value is the one that is told.
    """

    def __init__(self, named: Iterable[tuple[str, np.ndarray]]) -> None:
        self._by_shape: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = {}
        for name, value in named:
            self._by_shape.setdefault(tuple(value.shape), []).append((name, value))

    def name(self, value: np.ndarray) -> str:
        """The name of an equal tensor, or ""."""
        for name, other in self._by_shape.get(tuple(value.shape), ()):
            if abs(float(value.ravel()[-1]) - float(other.ravel()[-1])) <= 1e-6 * (1 + abs(float(other.ravel()[-1]))):
                if same(other, value):
                    return name
        return ""

    def related(self, value: np.ndarray) -> tuple[str, str]:
        """(name, what has been done to it) of a tensor that the value is made of; ("", "") if none is found."""
        for name, other in self._by_shape.get(tuple(value.shape), ()):
            text = relation(np.asarray(other, np.float64), np.asarray(value, np.float64))
            if text:
                return name, text
        return "", ""


def short(value: Any) -> str:
    """A setting as it is printed."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
