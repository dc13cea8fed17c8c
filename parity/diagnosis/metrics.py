"""Why a figure of an evaluation is not the official evaluator's: what it would have to be called, or made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def explain(name: str, own: Arrays, official: Arrays) -> str:
    """The cause of the first figure that differs, in one sentence; "" if none is found.

    Args:
        name: of the figure.
        own: all figures of the port's evaluation.
        official: those of the official evaluator.
    """
    if name not in own or name not in official:
        return f"only one side has the figure {name}"
    return _of_classes(name, own, official) or _itself(name, own, official) or _counts(own, official)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-12, atol=0)


def _itself(name: str, own: Arrays, official: Arrays) -> str:
    actual, expected = own[name], official[name]
    other = next((o for o, value in official.items() if o != name and _same(actual, value)), "")
    if other:
        return f"{name} is the official {other}"
    if expected.size == 1 and expected.size == actual.size and expected.ravel()[0]:
        return f"{name} is {float(actual.ravel()[0]) / float(expected.ravel()[0]):.6g} times the official one"
    if actual.shape == (3,) and _same(actual[:1], actual[1:2] * actual[2:]):
        return f"{name} is the product of the means of SQ and RQ, the official one is the mean of the classes' PQ"
    return ""


def _of_classes(name: str, own: Arrays, official: Arrays) -> str:
    """What the figures of the single classes say, of which `name` is one or the mean."""
    kind = name.rpartition("mean ")[2]
    if kind not in own or kind not in official:
        return ""
    actual, expected = (np.asarray(side[kind], np.float64) for side in (own, official))
    occurs = expected >= 0
    if _same(actual, expected):
        return f"the classes' {kind} agree, so {name} is not the mean of the classes: that of the images, or others"
    if kind == "IoU" and _same(actual[occurs], (2 * expected / (1 + expected))[occurs]):
        return "IoU is the official one's Dice, 2 IoU / (1 + IoU)"
    if kind == "PQ" and all(_same(own[count], official[count]) for count in ("TP", "FP", "FN")):
        right, wrong, missed = (np.asarray(own[count], np.float64) for count in ("TP", "FP", "FN"))
        with np.errstate(all="ignore"):
            whole = expected * (right + (wrong + missed) / 2) / (right + wrong + missed)
        if _same(actual[occurs], whole[occurs]):
            return "PQ counts false positives and misses in full, the official one by half"
    lower = int((actual < expected)[occurs].sum())
    if kind == "IoU" and lower and (actual <= expected)[occurs].all():
        return f"no class's IoU is above the official one, {lower} are below: pixels may count that are to be ignored"
    return ""


def _counts(own: Arrays, official: Arrays) -> str:
    """Whether segments are matched otherwise."""
    if any(count not in own or count not in official for count in ("TP", "FP", "FN")):
        return ""
    moved = {c: int(np.sum(own[c]) - np.sum(official[c])) for c in ("TP", "FP", "FN") if not _same(own[c], official[c])}
    if not moved:
        return ""
    said = ", ".join(f"{change:+d} {count}" for count, change in moved.items())
    return f"segments are matched otherwise ({said}): the IoU that a match needs, void, or crowds"
