"""Why what feeds a layer differs, when the layers before it agree: the functions that are called between layers.

Both sides' calls are recorded on the same inputs. The first call of the port that gets what the reference has, and
makes something that the reference has not, is where they part; the reference's call on the same inputs says what it
should be.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.compare import Finding
from parity.diagnosis import calls, values
from parity.diagnosis.calls import Call, Pass
from parity.diagnosis.values import Known

_PAIRED = ("grid_sample", "topk")  # of which a network makes few, in a fixed order


@dataclass
class Glue:
    """Both sides' passes over the same inputs.

    Attributes:
        reference: the torch side's pass, layer paths in the port's spelling.
        port: the Paddle side's.
        outputs: the reference's outputs, by name.
        own_outputs: the port's.
    """

    reference: Pass
    port: Pass
    outputs: dict[str, np.ndarray]
    own_outputs: dict[str, np.ndarray]

    def known(self, seen: Pass, inputs: Sequence[np.ndarray], outputs: dict[str, np.ndarray]) -> Known:
        """Everything that a side computed, by value."""
        named = [(f"input {index}", value) for index, value in enumerate(inputs)]
        named += [(f"output {name}", value) for name, value in outputs.items()]
        named += [(f"the output of {path}", value) for path, value in seen.outputs.items()]
        named += [(f"the output of {call}", call.output) for call in seen.calls]
        return Known([(name, np.asarray(value, np.float64)) for name, value in named])


def explain(finding: Finding, glue: Glue, inputs: Sequence[np.ndarray], port: Any, rerun: Any) -> str:
    """The cause of a divergence whose layer agrees, in one sentence; "" if none is found.

    Args:
        finding: the first divergence.
        glue: both passes.
        inputs: of the model.
        port: the Paddle side.
        rerun: () -> the error of the finding's point, in a fresh pass of the port.
    """
    name = finding.point.partition("/")[2]
    known = glue.known(glue.reference, inputs, glue.outputs)
    parted = _parted(glue, known)
    if parted is not None:
        fed = _fed(glue) if parted.kind in _PAIRED and _partner(parted, glue.reference) is None else ""
        return fed or _of_call(parted, glue, known, port, finding, rerun)
    return _fed(glue) or _of_value(name, glue, known)


def misshapen(glue: Glue, inputs: Sequence[np.ndarray]) -> str:
    """The first call of the port that gets what the reference's gets and returns another shape; "" if none does."""
    known = glue.known(glue.reference, inputs, glue.outputs)
    for own in glue.port.calls:
        partner = _partner(own, glue.reference) if all(known.name(value) for value in own.inputs) else None
        if partner is not None and partner.output.shape != own.output.shape:
            return _of_output(own, partner)
    return ""


def _fed(glue: Glue) -> str:
    """The first call that both sides make at the same place, and that gets something else in the port.

    Of no use where what differs is what layers compute, which is found before; here, the layers agree.
    """
    made: dict[tuple[str, str], list[Call]] = {}
    for call in glue.reference.calls:
        made.setdefault(_place(call, glue), []).append(call)
    for own in glue.port.calls:
        waiting = made.get(_place(own, glue))
        if own.kind not in _PAIRED or not waiting:
            continue
        partner = waiting.pop(0)
        for index, (theirs, ours) in enumerate(zip(partner.inputs, own.inputs)):
            if not values.same(theirs, ours):
                return _told_input(own, index, np.asarray(theirs, np.float64), np.asarray(ours, np.float64))
    return ""


def _place(call: Call, glue: Glue) -> tuple[str, str]:
    """(where, kind) of a call; where is of no matter if both sides make as many of this kind."""
    numbers = [sum(other.kind == call.kind for other in side.calls) for side in (glue.reference, glue.port)]
    return ("" if numbers[0] == numbers[1] else call.where, call.kind)


def _told_input(own: Call, index: int, theirs: np.ndarray, ours: np.ndarray) -> str:
    what = f"every layer before it agrees, but what the {own} gets ({values.ordinal(index)} tensor)"
    if theirs.shape != ours.shape:
        return f"{what} has shape {ours.shape}, reference {theirs.shape}"
    if own.kind == "grid_sample" and index == 1 and values.same(theirs[..., ::-1], ours):
        return f"{what} has x and y exchanged"
    relation = values.relation(theirs, ours) or values.line(theirs, ours)
    return f"{what} {relation}" if relation else ""


def _parted(glue: Glue, known: Known) -> Call | None:
    """The first call of the port that gets what the reference has and makes something it has not."""
    for call in glue.port.calls:
        if call.inputs and all(known.name(value) for value in call.inputs) and not known.name(call.output):
            return call
    return None


def _of_call(own: Call, glue: Glue, known: Known, port: Any, finding: Finding, rerun: Any) -> str:
    partner = _partner(own, glue.reference)
    sources = [known.name(value) for value in own.inputs]
    if partner is None:
        theirs = [c for c in glue.reference.calls if c.inputs and values.same(c.inputs[0], own.inputs[0])]
        said = f"; the reference computes {theirs[0].kind} of it" if theirs else ""
        return f"the port computes {own.kind} of {sources[0]} ({own}), which the reference does not{said}"
    if own.kind == "concat" and not all(values.same(a, b) for a, b in zip(partner.inputs, own.inputs)):
        theirs = [known.name(value) for value in partner.inputs]
        return f"the {own} has its parts in another order: {', '.join(sources)}; the reference: {', '.join(theirs)}"
    settings = {
        key: (own.settings[key], value)
        for key, value in partner.settings.items()
        if key in own.settings and own.settings[key] != value
    }
    if not settings:
        return _of_output(own, partner)
    pairs = "; ".join("{} {}, reference {}".format(key, *_told_apart(a, b)) for key, (a, b) in settings.items())
    return f"the {own} is set differently: {pairs}{_what_if(own, settings, port, finding, rerun)}"


def _told_apart(one: Any, other: Any) -> tuple[str, str]:
    """Two values as they are printed, with more digits if they would look alike."""
    shown = values.short(one), values.short(other)
    return (repr(one), repr(other)) if shown[0] == shown[1] else shown


def _of_output(own: Call, partner: Call) -> str:
    if own.kind == "dropout":
        return f"the {own} draws at random on both sides: as it is no layer, it is not switched off; set its rate to 0"
    if own.output.shape != partner.output.shape:
        shapes = f"has shape {own.output.shape}, reference {partner.output.shape}"
        return f"the {own} gets the reference's input, and what it returns {shapes}: its size or factor is another"
    ours = values.function_between(own.inputs[0], own.output)
    theirs = values.function_between(partner.inputs[0], partner.output)
    if ours and ours != theirs:
        return f"the {own} computes {ours} of its input, the reference's computes {theirs or partner.kind}"
    relation = (
        values.relation(partner.output, own.output) or f"differs by {values.error(partner.output, own.output):.1e}"
    )
    return f"the {own} gets the reference's input, and what it returns {relation}"


def _partner(own: Call, reference: Pass) -> Call | None:
    """The reference's call of the same kind on the same tensors, in whatever order."""
    for call in reference.calls:
        if call.kind == own.kind and len(call.inputs) == len(own.inputs):
            if all(any(values.same(theirs, ours) for ours in own.inputs) for theirs in call.inputs):
                return call
    return None


def _what_if(own: Call, settings: dict[str, tuple[Any, Any]], port: Any, finding: Finding, rerun: Any) -> str:
    theirs = {key: value for key, (_, value) in settings.items()}
    if "counts_padding" in theirs:
        theirs["exclusive"] = not theirs.pop("counts_padding")

    def alter(function: Any, args: Any, kwargs: Any) -> Any:
        signature = inspect.signature(function)
        bound = signature.bind(*args, **kwargs)
        bound.arguments.update({key: value for key, value in theirs.items() if key in signature.parameters})
        return function(*bound.args, **bound.kwargs)

    with calls.altered(port, own.number, alter):
        after = rerun()
    if after >= finding.error and np.isfinite(after):
        return "; but with the reference's, the difference stays"
    said = " and ".join(f"{key}={values.short(value)}" for key, value in theirs.items())
    return f"; with {said}, {values.falls(finding.error, after)}" if np.isfinite(after) else ""


def _of_value(name: str, glue: Glue, known: Known) -> str:
    """The layer or output got something that no call of the port explains: what is it, of what the reference has?"""
    if name.startswith("output/"):
        key = name.partition("/")[2]
        return _of_tensor(f"output {key}", glue.outputs.get(key), glue.own_outputs.get(key), glue, known)
    path = name.partition("@")[0]
    expected, actual = glue.reference.outputs.get(path), glue.port.outputs.get(path)
    fed = list(zip(glue.reference.inputs.get(path, ()), glue.port.inputs.get(path, ())))
    if expected is not None and actual is not None and fed and all(values.same(*pair) for pair in fed):
        said = _of_tensor(f"what {path} returns", expected, actual, glue, known)
        if said:
            return said
    parts = path.split(".")
    for end in range(len(parts), 0, -1):  # a layer that has this one inside may get what is not the reference's
        path = ".".join(parts[:end])
        expected, actual = glue.reference.inputs.get(path), glue.port.inputs.get(path)
        if not expected or not actual or values.same(expected[0], actual[0]):
            continue
        said = _of_tensor(f"the input of {path}", expected[0], actual[0], glue, known)
        if said:
            return said
    return ""


def _of_tensor(what: str, expected: Any, actual: Any, glue: Glue, known: Known) -> str:
    if actual is None:
        return f"the port returns no {what}"
    if expected is None:
        return f"the reference has no {what}"
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    reduced = _reduced(expected, actual, glue, known)
    if reduced:
        return f"every layer before it agrees, but {what} is {reduced}"
    skipped = _skipped(expected, glue, known, actual)
    relation = values.relation(expected, actual)
    if relation and not skipped:
        return f"every layer before it agrees, but {what} {relation}"
    source = known.name(actual)
    if source:
        made = f", which the reference first puts through {skipped}" if skipped else ""
        return f"every layer before it agrees, but {what} is {source}{made}"
    if relation:
        return f"every layer before it agrees, but {what} {relation}: {skipped} is left out or done twice"
    name, text = known.related(actual)
    if name:
        return f"every layer before it agrees, but {what} is {name}, which {text}"
    return ""


def _reduced(expected: np.ndarray, actual: np.ndarray, glue: Glue, known: Known) -> str:
    """Another mean, maximum or sum over the map than the reference's, as a clause; or ""."""
    for call in glue.reference.calls:
        if not call.inputs or call.inputs[0].ndim != 4 or not values.same(call.output, expected):
            continue
        for name, reduce in (("mean", np.mean), ("max", np.max), ("sum", np.sum)):
            if values.same(reduce(call.inputs[0], axis=(2, 3), keepdims=True), actual):
                return f"the {name} over {known.name(call.inputs[0])}, the reference's {call.kind} is another"
    return ""


def _skipped(expected: np.ndarray, glue: Glue, known: Known, actual: np.ndarray) -> str:
    """The call of the reference that made `expected` of `actual` and perhaps other tensors, or ""."""
    for call in glue.reference.calls:
        if values.same(call.output, expected) and any(values.same(value, actual) for value in call.inputs):
            others = [known.name(value) for value in call.inputs if not values.same(value, actual)]
            return f"{call.kind}" + (f" with {others[0]}" if others and others[0] else "")
    return ""
