"""Mistakes in losses: in their settings, which are found as attributes, and around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Callable

import paddle
import paddle.nn.functional as F
from paddle import nn

from parity.faults.fault import Fault, Patient, change_side, kind

Change = Callable[[Any, Mapping[str, Any]], Any]


def _fault(name: str, site: str, change: Change, words: tuple[str, ...], term: str = "") -> Fault:
    """A fault of one term (a regular expression), of the outputs or of a probe; or of whatever it changes first."""

    def plant(patient: Patient, stack: ExitStack) -> None:
        own = patient.case.port.losses
        change_side(patient, stack, losses=lambda targets: change(own(targets), targets))

    return Fault(name, site, plant, begins="loss", point=rf"(.*/)?{term}" if term else "", words=words)


def _built(patient: Patient) -> Any:
    return patient.case.port.losses(patient.targets) if patient.reaches("loss") else None


def _settings(patient: Patient, *names: str) -> Iterator[tuple[str, str, Any]]:
    """(path of the loss, attribute, value) of losses that have one of these attributes set."""
    losses = _built(patient)
    if not isinstance(losses, nn.Layer):
        return
    for path, layer in losses.named_sublayers(include_self=True):
        for name in names:
            value = getattr(layer, name, None)
            if value is not None and not callable(value):
                yield path, name, value


def _setting(kind_name: str, path: str, attribute: str, value: Any) -> Fault:
    def change(losses: Any, targets: Any) -> Any:
        layer = dict(losses.named_sublayers(include_self=True))[path]
        setattr(layer, attribute, value)
        return losses

    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    words = (re.escape(attribute), rf"{re.escape(attribute)} {re.escape(shown)}")
    return _fault(
        kind_name, f"{path}.{attribute}", change, words, term=rf"{re.escape(path.partition('.')[0])}\w*" if path else ""
    )


def _attribute_kind(name: str, text: str, attributes: tuple[str, ...], other: Callable[[Any], Any]) -> None:
    def sites(patient: Patient) -> Iterator[Fault]:
        for path, attribute, value in _settings(patient, *attributes):
            yield _setting(name, path, attribute, other(value))

    kind(name, text)(sites)


_attribute_kind("ignore-index", "another label is ignored", ("ignore_index", "ignore_label"), lambda value: 0)
_attribute_kind("ohem-threshold", "the threshold of hard pixels is another", ("threshold",), lambda value: 1.02 * value)
_attribute_kind(
    "hard-ratio", "another share of hard pixels is kept", ("top_k", "top_k_percent"), lambda value: 0.8 * value
)
_attribute_kind("class-weight-dropped", "class weights are forgotten", ("class_weight",), lambda value: None)
_attribute_kind(
    "smooth-constant", "the constant of a Dice loss is another", ("smooth",), lambda value: 0.5 * value + 0.1
)


@kind("ohem-kept", "one hard pixel more is kept")
def ohem_kept(patient: Patient) -> Iterator[Fault]:
    """As an inclusive bound does."""
    for path, attribute, value in _settings(patient, "min_kept", "n_min"):
        yield _setting("ohem-kept", path, attribute, value + 1)


def _edited(name: str, term: str, edit: Callable[[Any, Mapping[str, Any]], Any], words: tuple[str, ...]) -> Fault:
    """`edit(value of the term, targets)` instead of a term."""

    def change(losses: Any, targets: Any) -> Any:
        return _Around(losses, lambda own, o, t: {k: edit(v, t) if k == term else v for k, v in own(o, t).items()})

    return _fault(name, term, change, words, term=re.escape(term))


class _Around(nn.Layer):
    """Losses whose call goes through a function; their parameters keep their names."""

    def __init__(self, inner: Any, through: Callable[..., Any]) -> None:
        super().__init__()
        self.through = through
        self.call = inner
        if isinstance(inner, nn.Layer):
            for name, layer in inner.named_children():
                self.add_sublayer(name, layer)
            self._sub_layers.pop("call", None)
            self.__dict__["call"] = inner

    def forward(self, outputs: Any, targets: Any) -> Any:
        return self.through(self.call, outputs, targets)


@kind("loss-weight", "a loss term has another weight")
def loss_weight(patient: Patient) -> Iterator[Fault]:
    """0.4, as other recipes weigh auxiliary heads."""
    for term in patient.terms():
        yield _edited("loss-weight", term, lambda value, _: 0.4 * value, (r"0\.4 times",))


@kind("loss-sum", "a loss is summed instead of averaged")
def loss_sum(patient: Patient) -> Iterator[Fault]:
    """Over the pixels of the batch."""
    for term in patient.terms():
        count = float(next(iter(patient.targets.values())).size)
        words = (r"sum|number of pixels|pixels of the batch", f"{count:.6g} times")
        yield _edited("loss-sum", term, lambda value, _, count=count: value * count, words)


@kind("loss-per-batch", "a loss is summed over the images and averaged within each")
def loss_per_batch(patient: Patient) -> Iterator[Fault]:
    """`batchmean` the wrong way round."""
    for term in patient.terms():
        count = float(next(iter(patient.targets.values())).shape[0])
        words = (r"number of images", f"{count:.6g} times")
        yield _edited("loss-per-batch", term, lambda value, _, count=count: value * count, words)


@kind("loss-missing", "a loss term is forgotten")
def loss_missing(patient: Patient) -> Iterator[Fault]:
    """Such as an auxiliary head's."""
    terms = patient.terms()
    for term in terms[1:]:

        def change(losses: Any, targets: Any, term: str = term) -> Any:
            return _Around(losses, lambda own, o, t: {k: v for k, v in own(o, t).items() if k != term})

        yield _fault("loss-missing", term, change, (r"has no such|lacks|no term", re.escape(term)), re.escape(term))


@kind("losses-exchanged", "two heads get each other's output")
def losses_exchanged(patient: Patient) -> Iterator[Fault]:
    """Outputs of the same shape."""
    if not patient.reaches("loss"):
        return
    values = patient.outputs(train=True)
    names = list(values)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if values[one].shape == values[other].shape:

                def change(losses: Any, targets: Any, one: str = one, other: str = other) -> Any:
                    swap = lambda o: {**o, one: o[other], other: o[one]}  # noqa: E731
                    return _Around(losses, lambda own, o, t: own(swap(o), t))

                words = ("exchange", re.escape(one), re.escape(other))
                yield _fault("losses-exchanged", f"{one}, {other}", change, words)


def _logits(patient: Patient) -> list[str]:
    """Outputs with a channel per class."""
    values = patient.outputs(train=True) if patient.reaches("loss") else {}
    return [name for name, value in values.items() if value.ndim == 4 and value.shape[1] > 2]


@kind("softmax-doubled", "the loss gets probabilities instead of logits")
def softmax_doubled(patient: Patient) -> Iterator[Fault]:
    """The softmax runs twice."""
    for name in _logits(patient):

        def change(losses: Any, targets: Any, name: str = name) -> Any:
            return _Around(losses, lambda own, o, t: own({**o, name: F.softmax(o[name], axis=1)}, t))

        yield _fault("softmax-doubled", name, change, ("softmax", re.escape(name)))


@kind("label-smoothing", "labels are smoothed")
def label_smoothing(patient: Patient) -> Iterator[Fault]:
    """By a tenth, on the valid pixels."""
    terms = patient.terms()
    for name, term in zip(_logits(patient), terms):

        def change(losses: Any, targets: Any, name: str = name, term: str = term) -> Any:
            def through(own: Any, o: Any, t: Any) -> Any:
                uniform = -F.log_softmax(o[name], axis=1).mean()
                values = own(o, t)
                return {**values, term: 0.9 * values[term] + 0.1 * uniform}

            return _Around(losses, through)

        yield _fault("label-smoothing", term, change, ("smooth",), re.escape(term))


@kind("ignored-counted", "ignored pixels count as the first class")
def ignored_counted(patient: Patient) -> Iterator[Fault]:
    """255 cast or clipped to 0."""
    for name, value in patient.targets.items():
        if value.dtype.kind in "iu" and (value == 255).any():

            def change(losses: Any, targets: Any, name: str = name) -> Any:
                def cleared(t: Any) -> Any:
                    return {**t, name: paddle.where(t[name] == 255, paddle.zeros_like(t[name]), t[name])}

                return _Around(losses, lambda own, o, t: own(o, cleared(t)))

            yield _fault("ignored-counted", name, change, ("ignored", r"class 0|as 0\b"))


@kind("loss-detached", "a loss does not reach its output")
def loss_detached(patient: Patient) -> Iterator[Fault]:
    """The output is detached."""
    for name in _logits(patient):

        def change(losses: Any, targets: Any, name: str = name) -> Any:
            return _Around(losses, lambda own, o, t: own({**o, name: o[name].detach()}, t))

        yield _fault(
            "loss-detached", name, change, ("no gradient|cut from the graph", re.escape(name)), f"d_{re.escape(name)}"
        )
