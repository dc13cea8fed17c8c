"""Mistakes in what a model's code does between its layers, in its inputs and in its outputs."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import paddle

from parity.diagnosis.calls import Call, altered
from parity.faults.fault import Fault, Patient, change_side, kind, layer_point, set_attributes, wrap_forward

Made = tuple[Call, frozenset[bool]]  # a call, and the modes it is made in


def call_fault(name: str, made: Made, alter: Any, words: tuple[str, ...]) -> Fault:
    """`alter(function, arguments, keywords)` takes the place of a call between layers."""
    call, modes = made

    def plant(patient: Patient, stack: ExitStack) -> None:
        def wrong(function: Any, args: Any, kwargs: Any) -> Any:
            planted = patient.model.training in modes
            return alter(function, args, kwargs) if planted else function(*args, **kwargs)

        stack.enter_context(altered(patient.port, call.number, wrong))

    mode = "" if len(modes) > 1 else " in training" if True in modes else " in evaluation"
    site = f"{call.where or 'model'}: {call.name} {call.number}{mode}"
    return Fault(name, site, plant, stages=("forward", "forward_train"), words=words)


def with_keywords(**changes: Any) -> Callable[..., Any]:
    """Calls the function with other keywords."""

    def alter(function: Any, args: Any, kwargs: Any) -> Any:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.arguments.update(changes)
        return function(*bound.args, **bound.kwargs)

    return alter


def calls_of(patient: Patient, *kinds: str) -> Iterator[Made]:
    """Calls of functions of these kinds; see `calls.Call.kind`."""
    return (made for made in patient.function_calls() if made[0].kind in kinds)


def _resizes(patient: Patient, *modes: str) -> Iterator[Made]:
    return (made for made in calls_of(patient, "resize") if made[0].settings.get("mode") in modes)


@kind("resize-corners", "a resize has the other align_corners")
def resize_corners(patient: Patient) -> Iterator[Fault]:
    """Paddle's and torch's default is False, many originals say True."""
    for made in _resizes(patient, "bilinear", "bicubic"):
        own = bool(made[0].settings["align_corners"])
        words = ("resize", f"align_corners {not own}, reference {own}")
        yield call_fault("resize-corners", made, with_keywords(align_corners=not own), words)


@kind("resize-align-mode", "a resize has align_mode 1, an offset that torch does not know")
def resize_align_mode(patient: Patient) -> Iterator[Fault]:
    """Fluid's default."""
    for made in _resizes(patient, "bilinear"):
        if not made[0].settings["align_corners"]:
            yield call_fault(
                "resize-align-mode", made, with_keywords(align_mode=1), ("resize", "align_mode 1, reference 0")
            )


@kind("resize-nearest", "a resize is nearest instead of bilinear")
def resize_nearest(patient: Patient) -> Iterator[Fault]:
    """Paddle's default mode."""
    for made in _resizes(patient, "bilinear", "bicubic"):
        words = ("resize", rf"mode nearest, reference {made[0].settings['mode']}")
        yield call_fault("resize-nearest", made, with_keywords(mode="nearest", align_corners=False), words)


@kind("resize-bilinear", "a resize is bilinear instead of nearest")
def resize_bilinear(patient: Patient) -> Iterator[Fault]:
    """The other way round."""
    for made in _resizes(patient, "nearest"):
        words = ("resize", "mode bilinear, reference nearest")
        yield call_fault("resize-bilinear", made, with_keywords(mode="bilinear"), words)


@kind("concat-order", "a concatenation has its parts in another order")
def concat_order(patient: Patient) -> Iterator[Fault]:
    """The last part first."""
    for made in calls_of(patient, "concat"):
        if len(made[0].inputs) > 1:

            def alter(function: Any, args: Any, kwargs: Any) -> Any:
                parts, *rest = args
                return function([parts[-1], *parts[:-1]], *rest, **kwargs)

            yield call_fault("concat-order", made, alter, ("concat", "order"))


@kind("function-missing", "a function between layers is not called")
def function_missing(patient: Patient) -> Iterator[Fault]:
    """A ReLU, sigmoid or absolute value that the original applies."""
    for made in calls_of(patient, "relu", "sigmoid", "abs", "softmax"):
        alter = lambda function, args, kwargs: args[0] * 1.0  # noqa: E731
        words = (rf"the reference (computes|first puts through) {made[0].kind}\b",)
        yield call_fault("function-missing", made, alter, words)


@kind("mean-is-max", "a global average pool is a maximum")
def mean_is_max(patient: Patient) -> Iterator[Fault]:
    """The other pooling."""
    for made in calls_of(patient, "mean", "adaptive average pool"):
        call = made[0]
        if call.inputs and call.inputs[0].ndim == 4 and call.output.shape[2:] == (1, 1):
            alter = lambda function, args, kwargs: args[0].max(axis=[2, 3], keepdim=True)  # noqa: E731
            yield call_fault("mean-is-max", made, alter, ("mean|average|avg", "max"))


@kind("softmax-axis", "a softmax is over another axis")
def softmax_axis(patient: Patient) -> Iterator[Fault]:
    """Paddle's default is the last one."""
    for made in calls_of(patient, "softmax"):
        yield call_fault("softmax-axis", made, with_keywords(axis=-1), ("softmax", "axis"))


@kind("input-bgr", "the image arrives in OpenCV's channel order")
def input_bgr(patient: Patient) -> Iterator[Fault]:
    """Blue, green, red."""

    def plant(patient: Patient, stack: ExitStack) -> None:
        wrap_forward(stack, patient.model, lambda own, x, *rest, **kw: own(x.flip([1]), *rest, **kw))

    if patient.bench.batch()[0][0].ndim == 4:
        words = (r"channels.*reverse|reverse.*channels", "BGR|RGB")
        yield Fault("input-bgr", "model", plant, stages=("forward",), words=words)


@kind("input-scale", "the image arrives on another scale")
def input_scale(patient: Patient) -> Iterator[Fault]:
    """Not divided by 255, or divided twice."""

    def plant(patient: Patient, stack: ExitStack) -> None:
        wrap_forward(stack, patient.model, lambda own, x, *rest, **kw: own(x * 255.0, *rest, **kw))

    yield Fault("input-scale", "model", plant, stages=("forward",), words=(r"255 times",))


def _outputs(patient: Patient) -> dict[str, Any]:
    """Of either mode."""
    return {**patient.outputs(train=True), **patient.outputs(train=False)}


def _changed_outputs(kind_name: str, names: tuple[str, ...], change: Any, words: tuple[str, ...]) -> Fault:
    """`change(values)` returns the values of these outputs; where the model does not return them all, nothing is done.

    Without values it leaves an output out.
    """

    def plant(patient: Patient, stack: ExitStack) -> None:
        own = patient.case.port.outputs or _named

        def outputs(result: Any) -> dict[str, Any]:
            made = own(result)
            if not all(name in made for name in names):
                return made
            changed = dict(zip(names, change([made[name] for name in names])))
            return {name: changed.get(name, value) for name, value in made.items() if name not in names or changed}

        change_side(patient, stack, outputs=outputs)

    point = f"output/({'|'.join(re.escape(name) for name in names)})"
    stages = ("forward", "forward_train")
    return Fault(kind_name, ", ".join(names), plant, stages=stages, point=point, words=words)


def _named(result: Any) -> dict[str, Any]:
    """The result of a forward pass as a dict, as a case without `outputs` gets it."""
    if isinstance(result, Mapping):
        return dict(result)
    parts = result if isinstance(result, (tuple, list)) else [result]
    return {str(index): value for index, value in enumerate(parts)}


@kind("classes-exchanged", "two classes of an output are exchanged")
def classes_exchanged(patient: Patient) -> Iterator[Fault]:
    """The first and the last."""
    for name, value in _outputs(patient).items():
        if value.ndim == 4 and value.shape[1] > 1:
            order = [value.shape[1] - 1, *range(1, value.shape[1] - 1), 0]
            change = lambda made, order=order: [paddle.index_select(made[0], paddle.to_tensor(order), axis=1)]  # noqa: E731
            words = ("channels", "another order|reverse")
            yield _changed_outputs("classes-exchanged", (name,), change, words)


@kind("output-flipped", "an output is upside down")
def output_flipped(patient: Patient) -> Iterator[Fault]:
    """A flip at test time that is not undone."""
    for name, value in _outputs(patient).items():
        if value.ndim == 4:
            words = (r"upside down|flipped",)
            yield _changed_outputs("output-flipped", (name,), lambda made: [made[0].flip([2])], words)


@kind("outputs-exchanged", "two outputs are returned under each other's names")
def outputs_exchanged(patient: Patient) -> Iterator[Fault]:
    """Of the same shape, so that nothing complains."""
    for train in (False, True):
        for one, other in itertools.combinations(patient.outputs(train=train).items(), 2):
            if one[1].shape == other[1].shape:
                words = (f"is output ({re.escape(one[0])}|{re.escape(other[0])})",)
                yield _changed_outputs("outputs-exchanged", (one[0], other[0]), lambda made: made[::-1], words)


@kind("output-missing", "an output is not returned")
def output_missing(patient: Patient) -> Iterator[Fault]:
    """Such as an auxiliary one."""
    for name in list(_outputs(patient))[1:]:
        words = (r"returns no|has no such point|does not return",)
        yield _changed_outputs("output-missing", (name,), lambda made: [], words)


@kind("output-offset-order", "the two channels of an offset are exchanged")
def output_offset_order(patient: Patient) -> Iterator[Fault]:
    """(x, y) for (y, x)."""
    for name, value in _outputs(patient).items():
        if value.ndim == 4 and value.shape[1] == 2:
            words = ("channels", "another order|reverse")
            yield _changed_outputs("output-offset-order", (name,), lambda made: [made[0].flip([1])], words)


@kind("detached", "a layer's input is cut from the graph")
def detached(patient: Patient) -> Iterator[Fault]:
    """A `detach`, or `no_grad`, that the original does not have."""
    seen = patient.inputs
    for path, layer in patient.layers(paddle.nn.Conv2D, paddle.nn.Linear, leaf=False):
        if seen.get(path) and not path.startswith(_first(patient)):

            def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
                stack.callback(layer.register_forward_pre_hook(lambda _, arguments: arguments[0].detach()).remove)

            words = (re.escape(path), "cut from the graph|detach")
            yield Fault("detached", path, plant, begins="gradients", words=words)


def _first(patient: Patient) -> str:
    return next(iter(patient.inputs))


@kind("gradient-scaled", "a gradient is scaled on its way back")
def gradient_scaled(patient: Patient) -> Iterator[Fault]:
    """As a gradient multiplier or a sum over devices does."""
    for path, layer in patient.layers(paddle.nn.Conv2D, paddle.nn.Linear, leaf=False):
        if layer.weight.stop_gradient:  # nothing of its own shows the gradient
            continue

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            def wrong(own: Any, x: Any) -> Any:
                out = own(x)
                half = 0.5 * out
                return half + half.detach()

            wrap_forward(stack, layer, wrong)

        words = (r"0\.5 times", re.escape(path))
        yield Fault("gradient-scaled", path, plant, begins="gradients", point=layer_point(path), words=words)


@kind("frozen", "a parameter is frozen")
def frozen(patient: Patient) -> Iterator[Fault]:
    """`stop_gradient`, or `trainable=False`."""
    for name, parameter in patient.parameters().items():
        if not parameter.stop_gradient:

            def plant(patient: Patient, stack: ExitStack, parameter: Any = parameter) -> None:
                set_attributes(stack, parameter, stop_gradient=True)

            words = ("frozen|stop_gradient", re.escape(name))
            point = layer_point(
                name.rpartition(".")[0]
            )  # Paddle gives a norm's scale no gradient if its shift has none
            yield Fault("frozen", name, plant, begins="gradients", point=point, words=words)


@kind("not-frozen", "a parameter that is frozen gets a gradient")
def not_frozen(patient: Patient) -> Iterator[Fault]:
    """Such as the first stages of a backbone."""
    for name, parameter in patient.parameters().items():
        if parameter.stop_gradient and name.rpartition(".")[2] in ("weight", "bias"):

            def plant(patient: Patient, stack: ExitStack, parameter: Any = parameter) -> None:
                set_attributes(stack, parameter, stop_gradient=False)
                stack.callback(setattr, parameter, "grad", None)  # clearing it would leave zeros

            words = ("frozen|stop_gradient", re.escape(name))
            yield Fault("not-frozen", name, plant, begins="gradients", point=re.escape(name), words=words)
