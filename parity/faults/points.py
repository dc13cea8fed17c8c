"""Mistakes in sampling a map at points, and in choosing the points, as PointRend does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import paddle.nn.functional as F

from parity.faults.between import call_fault, calls_of, with_keywords
from parity.faults.fault import Fault, Patient, kind, set_attributes, wrap_attribute

POINTS = "paddleseg_ext.models.layers.points"


def _sampled(name: str, text: str, alter: Callable[..., Any], words: tuple[str, ...]) -> None:
    """A kind that calls `grid_sample` otherwise."""

    def sites(patient: Patient) -> Iterator[Fault]:
        for made in calls_of(patient, "grid_sample"):
            yield call_fault(name, made, alter, ("grid_sample", *words))

    kind(name, text)(sites)


def _with_grid(change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda function, args, kwargs: function(args[0], change(args[1]), *args[2:], **kwargs)


_sampled(
    "points-corners",
    "a map is sampled with the other align_corners",
    with_keywords(align_corners=True),
    ("align_corners True, reference False",),
)
_sampled(
    "points-border",
    "beyond its border a map goes on instead of fading to 0",
    with_keywords(padding_mode="border"),
    ("padding_mode border, reference zeros",),
)
_sampled(
    "points-nearest",
    "a map is sampled at the nearest pixel",
    with_keywords(mode="nearest"),
    ("mode nearest, reference",),
)
_sampled("points-xy", "points are read as (y, x)", _with_grid(lambda grid: grid.flip([-1])), ("x and y",))
_sampled(
    "points-range",
    "points in [0, 1] are taken for points in [-1, 1]",
    _with_grid(lambda grid: (grid + 1.0) / 2.0),
    (r"0\.5 times the reference's \+ ?0\.5",),
)


def _refined(patient: Patient) -> Any:
    """The layer that refines logits at points, if the model is of this repository's PointRend."""
    return patient.model if hasattr(patient.model, "subdivision_num_points") else None


@kind("points-certain", "the most certain points are chosen, not the least")
def points_certain(patient: Patient) -> Iterator[Fault]:
    """The sign of the uncertainty."""
    module = sys.modules.get(POINTS)
    if module is None or _refined(patient) is None:
        return

    def plant(patient: Patient, stack: ExitStack) -> None:
        own = module.uncertainty
        set_attributes(stack, module, uncertainty=lambda logits: -own(logits))

    yield Fault("points-certain", "uncertainty", plant, words=("top ?k", "-1 times"))


@kind("points-of-uncertainty", "candidates get the pixels' uncertainty, sampled, instead of that of the sampled logits")
def points_of_uncertainty(patient: Patient) -> Iterator[Fault]:
    """Between two pixels that are certain of different classes it is largest, and no pixel's."""
    module = sys.modules.get(POINTS)
    if module is None or _refined(patient) is None:
        return

    def plant(patient: Patient, stack: ExitStack) -> None:
        own, uncertainty = module.sample_points, module.uncertainty
        sampled = lambda features, coords: own(uncertainty(features).unsqueeze(1), coords)  # noqa: E731
        swapped = lambda scores: scores.squeeze(1) if scores.shape[1] == 1 else uncertainty(scores)  # noqa: E731
        set_attributes(stack, module, sample_points=sampled, uncertainty=swapped)

    yield Fault(
        "points-of-uncertainty", "training_points", plant, stages=("forward_train",), words=("grid_sample|top ?k",)
    )


def _numbered(name: str, text: str, attribute: str, other: Callable[[int], int], stage: str) -> None:
    """A kind that sets a number of points."""

    def sites(patient: Patient) -> Iterator[Fault]:
        own = getattr(_refined(patient), attribute, None)
        if own is None:
            return
        value = other(own)

        def plant(patient: Patient, stack: ExitStack) -> None:
            set_attributes(stack, patient.model, **{attribute: value})

        yield Fault(name, attribute, plant, stages=(stage,), words=(f"k {value}, reference {own}",))

    kind(name, text)(sites)


_numbered(
    "points-number",
    "a subdivision refines another number of pixels",
    "subdivision_num_points",
    lambda own: own - 1,
    "forward",
)
_numbered(
    "points-important",
    "another share of the points are uncertain ones",
    "num_important",
    lambda own: own - 4,
    "forward_train",
)


@kind("subdivision-missing", "one subdivision less refines the logits")
def subdivision_missing(patient: Patient) -> Iterator[Fault]:
    """They are only enlarged."""
    model = _refined(patient)
    if model is None:
        return

    def plant(patient: Patient, stack: ExitStack) -> None:
        def wrong(own: Any, features: Any, coarse: Any, logits: Any) -> Any:
            if logits is coarse:
                return own(features, coarse, logits)
            return F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)

        wrap_attribute(stack, model, "_subdivide", wrong)

    yield Fault("subdivision-missing", "the second", plant, stages=("forward",), words=("runs 1 time", "reference's 2"))
