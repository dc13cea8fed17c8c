"""Mistakes in the settings of layers, found by their type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from parity.faults.fault import Fault, Patient, kind, layer_point, replace_layer, set_attributes, wrap_forward
from parity.paddle_side import _pair

BATCH_NORMS = nn.layer.norm._BatchNormBase


def _setting(name: str, path: str, layer: Any, words: tuple[str, ...], stages: tuple[str, ...] = (), **values: Any):
    def plant(patient: Patient, stack: ExitStack) -> None:
        set_attributes(stack, layer, **values)

    return Fault(name, path, plant, stages=stages, point=layer_point(path), words=words)


def _differ(setting: str, own: Any, reference: Any) -> str:
    def shown(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return rf"{setting} {re.escape(shown(own))}, reference {re.escape(shown(reference))}"


def _trained_norms(patient: Patient) -> Iterator[tuple[str, Any]]:
    return ((path, layer) for path, layer in patient.layers(BATCH_NORMS) if not layer._use_global_stats)


@kind("bn-epsilon", "a batch norm has TensorFlow's epsilon, or an older library's")
def bn_epsilon(patient: Patient) -> Iterator[Fault]:
    """1e-3 for 1e-5, and the other way round."""
    for path, layer in patient.layers(BATCH_NORMS):
        other = 1e-5 if layer._epsilon > 1e-4 else 1e-3
        yield _setting("bn-epsilon", path, layer, (_differ("epsilon", other, layer._epsilon),), _epsilon=other)


@kind("bn-epsilon-slightly", "the epsilon of a batch norm is off by a tenth")
def bn_epsilon_slightly(patient: Patient) -> Iterator[Fault]:
    """1.1e-5 for 1e-5, which float32 would hide."""
    for path, layer in patient.layers(BATCH_NORMS):
        other = layer._epsilon * 1.1
        words = (_differ("epsilon", other, layer._epsilon),)
        yield _setting("bn-epsilon-slightly", path, layer, words, _epsilon=other)


@kind("bn-momentum", "the momentum of a batch norm is copied; Paddle's is 1 - torch's")
def bn_momentum(patient: Patient) -> Iterator[Fault]:
    """0.1 for 0.9."""
    for path, layer in _trained_norms(patient):
        other = 1.0 - layer._momentum
        words = (_differ("momentum", layer._momentum, other),)
        yield _setting("bn-momentum", path, layer, words, ("forward_train",), _momentum=other)


@kind("bn-frozen", "a batch norm uses its running statistics in training")
def bn_frozen(patient: Patient) -> Iterator[Fault]:
    """`use_global_stats` of a norm that is trained."""
    for path, layer in _trained_norms(patient):
        words = ("running statistics", "batch")
        yield _setting("bn-frozen", path, layer, words, ("forward_train",), _use_global_stats=True)


@kind("gn-groups", "a group norm has half its groups")
def gn_groups(patient: Patient) -> Iterator[Fault]:
    """16 for 32."""
    for path, layer in patient.layers(nn.GroupNorm):
        if layer._num_groups % 2 == 0:
            other = layer._num_groups // 2
            yield _setting("gn-groups", path, layer, (_differ("groups", other, layer._num_groups),), _num_groups=other)


@kind("gn-epsilon", "the epsilon of a group or layer norm is another")
def gn_epsilon(patient: Patient) -> Iterator[Fault]:
    """1e-6 for 1e-5."""
    for path, layer in patient.layers(nn.GroupNorm, nn.LayerNorm):
        other = layer._epsilon * 0.1
        yield _setting("gn-epsilon", path, layer, (_differ("epsilon", other, layer._epsilon),), _epsilon=other)


def _convolution(name: str, path: str, layer: Any, words: tuple[str, ...], **values: Any) -> Fault:
    if "_padding" in values:  # Paddle's layer computes with a copy of what it was given
        same = isinstance(values["_padding"], str)
        values["_updated_padding"] = [0, 0] if same else values["_padding"]
        values["_padding_algorithm"] = values["_padding"] if same else "EXPLICIT"
    return _setting(name, path, layer, words, **values)


@kind("conv-stride", "a convolution has the wrong stride")
def conv_stride(patient: Patient) -> Iterator[Fault]:
    """1 for 2, and the other way round."""
    for path, layer in patient.layers(nn.Conv2D, leaf=False):
        own = _pair(layer._stride)
        other = (1, 1) if own != (1, 1) else (2, 2)
        yield _convolution("conv-stride", path, layer, (_differ("stride", other, own),), _stride=list(other))


@kind("conv-padding", "a convolution is padded on one side only, as `[0, 1, 0, 1]` or 'same' of other libraries does")
def conv_padding(patient: Patient) -> Iterator[Fault]:
    """All the padding at the bottom and on the right."""
    for path, layer in patient.layers(nn.Conv2D, leaf=False):
        own = _pair(layer._padding)
        if len(own) == 2 and all(isinstance(size, int) and size > 0 for size in own):
            other = [0, 2 * own[0], 0, 2 * own[1]]
            words = (_differ("padding", tuple(other), own),)
            yield _convolution("conv-padding", path, layer, words, _padding=other)


@kind("conv-no-padding", "the padding of a convolution is forgotten")
def conv_no_padding(patient: Patient) -> Iterator[Fault]:
    """0 for 1."""
    for path, layer in patient.layers(nn.Conv2D, leaf=False):
        own = _pair(layer._padding)
        if any(own) and not isinstance(own[0], str):
            words = (_differ("padding", (0, 0), own),)
            yield _convolution("conv-no-padding", path, layer, words, _padding=[0, 0])


@kind("conv-same", "padding='same' with a stride, which pads by the size of the input")
def conv_same(patient: Patient) -> Iterator[Fault]:
    """Of an odd input it is the same as padding 1; of an even one it is not."""
    for path, layer in patient.layers(nn.Conv2D, leaf=False):
        own = _pair(layer._padding)
        if _pair(layer._stride) != (1, 1) and any(own):
            yield _convolution("conv-same", path, layer, (r"padding \('SAME', 'SAME'\)",), _padding="SAME")


@kind("conv-dilation", "a convolution is dilated, with the padding to match")
def conv_dilation(patient: Patient) -> Iterator[Fault]:
    """2 for 1 (an output stride of 16 for 32), and 1 for more."""
    for path, layer in patient.layers(nn.Conv2D, leaf=False):
        own, padding = _pair(layer._dilation), _pair(layer._padding)
        if layer._kernel_size[0] == 3 and padding == own:
            other = (2, 2) if own == (1, 1) else (1, 1)
            words = (_differ("dilation", other, own),)
            yield _convolution("conv-dilation", path, layer, words, _dilation=list(other), _padding=list(other))


def _one_sided(path: str) -> tuple[str, ...]:
    """A cause that names the bias of a layer, and says that one side has no such tensor."""
    return (
        rf"{re.escape(path)}\.bias|{re.escape(path)} has (a|no) bias",
        "has none|has no|no such|only the (port|reference) has",
    )


@kind("conv-bias-added", "a convolution before a norm has a bias")
def conv_bias_added(patient: Patient) -> Iterator[Fault]:
    """Paddle's default where the original says `bias=False`."""
    for path, layer in patient.layers(nn.Conv2D, leaf=False):
        if layer.bias is not None:
            continue

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            layer.bias = layer.create_parameter([layer.weight.shape[0]], dtype=layer.weight.dtype, is_bias=True)
            stack.callback(setattr, layer, "bias", None)

        words = _one_sided(path)
        yield Fault("conv-bias-added", path, plant, begins="weights", point="plan", words=words)


@kind("conv-bias-dropped", "a convolution has no bias")
def conv_bias_dropped(patient: Patient) -> Iterator[Fault]:
    """`bias_attr=False` where the original has one."""
    for path, layer in patient.layers(nn.Conv2D, nn.Linear, leaf=False):
        if layer.bias is None:
            continue

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            stack.callback(setattr, layer, "bias", layer.bias)
            layer.bias = None

        yield Fault("conv-bias-dropped", path, plant, begins="weights", point="plan", words=_one_sided(path))


@kind("conv-depthwise", "a depthwise convolution is dense")
def conv_depthwise(patient: Patient) -> Iterator[Fault]:
    """`groups` forgotten: its weight has another shape."""
    for path, layer in patient.layers(nn.Conv2D):
        if layer._groups == 1:
            continue

        def plant(patient: Patient, stack: ExitStack, path: str = path, layer: Any = layer) -> None:
            shape = layer.weight.shape
            dense = nn.Conv2D(shape[1] * layer._groups, shape[0], shape[2:], bias_attr=False)
            replace_layer(stack, patient.model, path, dense)

        words = (re.escape(path), "groups")
        yield Fault("conv-depthwise", path, plant, begins="weights", point="plan", words=words)


@kind("pool-exclusive", "average pooling does not count the padding; Paddle's default")
def pool_exclusive(patient: Patient) -> Iterator[Fault]:
    """`exclusive` left at True."""
    for path, layer in patient.layers(nn.AvgPool2D):
        if any(_pair(layer.padding)):
            words = (_differ("counts_padding", layer.exclusive, not layer.exclusive),)
            yield _setting("pool-exclusive", path, layer, words, exclusive=not layer.exclusive)


@kind("pool-ceil", "pooling rounds the size of its output up")
def pool_ceil(patient: Patient) -> Iterator[Fault]:
    """`ceil_mode`; only some sizes show it."""
    for path, layer in patient.layers(nn.AvgPool2D, nn.MaxPool2D):
        words = (_differ("ceil_mode", not layer.ceil_mode, layer.ceil_mode),)
        if _rounds(layer, patient.inputs[path][0].shape[2:]):
            yield _setting("pool-ceil", path, layer, words, ceil_mode=not layer.ceil_mode)


def _rounds(layer: Any, size: tuple[int, int]) -> bool:
    """Whether windows do not fill the input, so that rounding up adds one."""
    kernel = layer.ksize if hasattr(layer, "ksize") else layer.kernel_size
    axes = zip(size, _pair(kernel), _pair(kernel if layer.stride is None else layer.stride), _pair(layer.padding))
    return any((length + 2 * padding - window) % stride for length, window, stride, padding in axes)


def _activation(name: str, other: Any, words: tuple[str, ...]) -> Any:
    def sites(patient: Patient) -> Iterator[Fault]:
        for path, _ in patient.layers(nn.ReLU):

            def plant(patient: Patient, stack: ExitStack, path: str = path) -> None:
                replace_layer(stack, patient.model, path, other())

            yield Fault(name, path, plant, point=layer_point(path), words=words)

    return sites


kind("relu-missing", "a ReLU is missing")(
    _activation("relu-missing", nn.Identity, (r"port .*identity", r"reference .*relu"))
)
kind("relu6", "a ReLU is a ReLU6")(_activation("relu6", nn.ReLU6, (r"relu6",)))
kind("leaky-relu", "a ReLU is leaky")(_activation("leaky-relu", lambda: nn.LeakyReLU(0.01), (r"leaky", r"0\.01")))


@kind("relu-doubled", "a norm or convolution has a ReLU of its own")
def relu_doubled(patient: Patient) -> Iterator[Fault]:
    """Where the original has none, such as before a sum."""
    for path, layer in patient.layers(BATCH_NORMS, nn.GroupNorm, nn.Conv2D):

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            wrap_forward(stack, layer, lambda own, *x: F.relu(own(*x)))

        yield Fault("relu-doubled", path, plant, point=layer_point(path), words=(r"returns is relu of the reference",))


@kind("sigmoid-doubled", "a sigmoid is applied twice")
def sigmoid_doubled(patient: Patient) -> Iterator[Fault]:
    """In the model and again after it."""
    for path, layer in patient.layers(nn.Sigmoid):

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            wrap_forward(stack, layer, lambda own, *x: F.sigmoid(own(*x)))

        yield Fault(
            "sigmoid-doubled", path, plant, point=layer_point(path), words=(r"returns is sigmoid of the reference",)
        )


@kind("dropout-rate", "a dropout has another rate")
def dropout_rate(patient: Patient) -> Iterator[Fault]:
    """Compared as a setting: what it drops is random."""
    for path, settings in patient.port.dropout.items():
        other = [settings[0] / 2 or 0.1, *settings[1:]]

        def plant(patient: Patient, stack: ExitStack, path: str = path, other: Any = other) -> None:
            stack.callback(patient.port.dropout.__setitem__, path, patient.port.dropout[path])
            patient.port.dropout[path] = other

        words = (f"rate {other[0]:.6g}, reference {settings[0]:.6g}",)
        yield Fault("dropout-rate", path, plant, stages=("forward_train",), point=layer_point(path), words=words)


@kind("dropout-mode", "a dropout scales in evaluation")
def dropout_mode(patient: Patient) -> Iterator[Fault]:
    """`downscale_in_infer`, or the default of Fluid."""
    for path, settings in patient.port.dropout.items():

        def plant(patient: Patient, stack: ExitStack, path: str = path, settings: Any = settings) -> None:
            stack.callback(patient.port.dropout.__setitem__, path, settings)
            patient.port.dropout[path] = [*settings[:2], 1.0 - settings[2]]

        words = ("scales",)
        yield Fault("dropout-mode", path, plant, stages=("forward_train",), point=layer_point(path), words=words)


@kind("dropout-on", "a dropout is on in evaluation too, as a function that nothing switches off")
def dropout_on(patient: Patient) -> Iterator[Fault]:
    """`F.dropout(x, 0.1)`, whose `training` is True by default, where the original has none, or none in evaluation."""
    for path, layer in patient.layers(nn.Conv2D, nn.ReLU, nn.Sequential, leaf=False):

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            wrap_forward(stack, layer, lambda own, *x: F.dropout(own(*x), 0.1))

        yield Fault("dropout-on", path, plant, stages=("forward",), words=("dropout",))


@kind("one-element", "one element of a layer's output is off by 1e-6")
def one_element(patient: Patient) -> Iterator[Fault]:
    """What a mean over the tensor hides."""
    for path, layer in patient.layers(nn.Conv2D, leaf=False):

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            def wrong(own: Any, *x: Any) -> Any:
                out = own(*x)
                mask = paddle.zeros_like(out)
                mask[0, -1, -1, -1] = 1e-6
                return out + mask

            wrap_forward(stack, layer, wrong)

        yield Fault("one-element", path, plant, point=layer_point(path), words=(r"1 of \d+ elements",))
