"""Porting mistakes in the model, planted one at a time in the port of STDC1, and what the harness says of each.

Every mistake is made in a port that is correct otherwise, and the first divergence has to be the layer or the point
where the mistake is. test_catches_training.py has those of losses and optimizers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from parity import Rename, run
from parity.case import STAGES
from parity.paddle_side import PaddleSide

pytestmark = pytest.mark.parity

FEATURES = "cp.backbone.features"
BOTTLENECK = f"{FEATURES}.2"  # stride 2: with `avd_layer` and `skip`


@dataclass(frozen=True)
class Fault:
    """One mistake and what has to be said of it.

    Attributes:
        point: `<stage>/<name>` of the first divergence.
        model: changes a built model.
        rules: of the weights.
        verdict: of the first finding.
        cause: what the diagnosis has to contain.
        text: what the finding has to contain.
    """

    point: str
    model: Callable[[nn.Layer], None] = lambda model: None
    rules: tuple[Any, ...] = ()
    verdict: str = "fail"
    cause: str = ""
    text: str = ""


# --- ways to make a mistake -----------------------------------------------------------------------------------------


def changed(model: nn.Layer, change: Callable[[nn.Layer], None]) -> nn.Layer:
    change(model)
    return model


def at(model: nn.Layer, path: str) -> nn.Layer:
    """The sublayer at a path."""
    for name in path.split("."):
        model = model._sub_layers[name]
    return model


def setting(path: str, **attributes: Any) -> Callable[[nn.Layer], None]:
    """Sets attributes of a sublayer."""

    def change(model: nn.Layer) -> None:
        for name, value in attributes.items():
            assert hasattr(at(model, path), name)
            setattr(at(model, path), name, value)

    return change


def both(*changes: Callable[[nn.Layer], None]) -> Callable[[nn.Layer], None]:
    return lambda model: [change(model) for change in changes]


def computing(path: str, wrong: Callable[..., Any]) -> Callable[[nn.Layer], None]:
    """Makes a sublayer (or the model, "") compute `wrong(own forward, layer, *inputs)`."""

    def change(model: nn.Layer) -> None:
        layer = at(model, path) if path else model
        own = layer.forward
        layer.forward = lambda *inputs: wrong(own, layer, *inputs)

    return change


def calling(path: str, name: str, **arguments: Any) -> Callable[[nn.Layer], None]:
    """Makes the code of a sublayer call `F.<name>` with other arguments."""

    def wrong(own: Any, layer: nn.Layer, *inputs: Any) -> Any:
        operator = getattr(F, name)
        setattr(F, name, lambda *a, **k: operator(*a, **{**k, **arguments}))
        try:
            return own(*inputs)
        finally:
            setattr(F, name, operator)

    return computing(path, wrong)


def replacing(path: str, build: Callable[[nn.Layer], nn.Layer]) -> Callable[[nn.Layer], None]:
    """Puts another layer at a path."""

    def change(model: nn.Layer) -> None:
        parent, _, name = path.rpartition(".")
        at(model, parent)._sub_layers[name] = build(at(model, path))

    return change


def exchanging(one: str, other: str) -> Callable[[nn.Layer], None]:
    """Makes the state dict hand out two tensors under each other's names."""

    def change(model: nn.Layer) -> None:
        own = model.state_dict

        def state_dict(*args: Any, **kwargs: Any) -> Any:
            state = own(*args, **kwargs)
            state[one], state[other] = state[other], state[one]
            return state

        model.state_dict = state_dict

    return change


def add_bias(path: str) -> Callable[[nn.Layer], None]:
    def change(model: nn.Layer) -> None:
        layer = at(model, path)
        layer.bias = layer.create_parameter([layer.weight.shape[0]], is_bias=True)

    return change


def one_nan(own: Any, layer: nn.Layer, x: Any) -> Any:
    out = own(x)
    mask = np.zeros(out.shape, bool)
    mask[1, 3, 2, 4] = True
    return paddle.where(paddle.to_tensor(mask), paddle.full_like(out, np.nan), out)


def reversed_parts(own: Any, layer: nn.Layer, x: Any) -> Any:
    half = layer.conv_list[0].conv.weight.shape[0]
    out = own(x)
    return paddle.concat([out[:, half:], out[:, :half]], axis=1)


def transposed_kernel(axes: list[int]) -> Callable[..., Any]:
    def wrong(own: Any, layer: nn.Layer, x: Any) -> Any:
        weight = paddle.transpose(layer.weight, axes)
        return F.conv2d(x, weight, stride=layer._stride, padding=layer._padding, groups=layer._groups)

    return wrong


def only_gamma(own: Any, layer: nn.Layer, x: Any) -> Any:
    gamma = paddle.abs(layer.weight)  # without the constant
    return F.batch_norm(
        x, layer._mean, layer._variance, gamma, layer.bias, layer.training, layer._momentum, layer._epsilon
    )


SWAPPED_HEADS = (
    Rename(r"^cp\.conv_head16\.conv\.weight$", "kept"),
    Rename(r"^cp\.conv_head32\.conv\.weight$", "cp.conv_head16.conv.weight"),
    Rename("^kept$", "cp.conv_head32.conv.weight"),
)

# --- the mistakes ---------------------------------------------------------------------------------------------------

FAULTS = {
    # layers
    "epsilon of one batch norm is 1.1e-5": Fault(
        f"forward/{FEATURES}.3.conv_list.1.bn",
        setting(f"{FEATURES}.3.conv_list.1.bn", _epsilon=1.1e-5),
        cause="epsilon 1.1e-05, reference 1e-05",
    ),
    "epsilon of one absolute-scale norm is 1.1e-5": Fault(
        "forward/cp.arm32.conv.bn", setting("cp.arm32.conv.bn", _epsilon=1.1e-5), cause="epsilon 1.1e-05"
    ),
    "the constant beside |gamma| is forgotten": Fault(
        "forward/cp.arm16.bn_atten", computing("cp.arm16.bn_atten", only_gamma), cause="differs on the reference's own"
    ),
    "|gamma| is forgotten": Fault(
        "forward/ffm.convblk.bn",
        replacing("ffm.convblk.bn", lambda layer: changed(layer, lambda it: setattr(it, "__class__", nn.BatchNorm2D))),
        cause="differs on the reference's own input",
    ),
    "momentum is copied": Fault(
        f"forward_train/buffer/{FEATURES}.1.bn.running_mean",
        setting(f"{FEATURES}.1.bn", _momentum=0.1),
        cause="momentum 0.9, reference 0.1 (Paddle's momentum is 1 minus torch's: 0.1, which was copied, and 0.9",
    ),
    "a norm uses its running statistics in training": Fault(
        f"forward_train/{FEATURES}.1.bn", setting(f"{FEATURES}.1.bn", _use_global_stats=True)
    ),
    "padding is on one side": Fault(
        f"forward/{FEATURES}.1.conv",
        setting(f"{FEATURES}.1.conv", _padding=[0, 2, 0, 2], _updated_padding=[0, 2, 0, 2]),
        cause="padding (0, 2, 0, 2), reference (1, 1)",
    ),
    "padding is forgotten": Fault(
        "forward/conv_out16.conv.conv",
        setting("conv_out16.conv.conv", _padding=0, _updated_padding=[0, 0]),
        verdict="shape",
        cause="padding (0, 0), reference (1, 1)",
    ),
    "the wrong convolution of a bottleneck has the stride": Fault(
        f"forward/{BOTTLENECK}.avd_layer.0",
        both(
            setting(f"{BOTTLENECK}.avd_layer.0", _stride=[1, 1]),
            setting(f"{BOTTLENECK}.conv_list.1.conv", _stride=[2, 2]),
        ),
        verdict="shape",
        cause="stride (1, 1), reference (2, 2)",
    ),
    "dilation 2 with the padding to match": Fault(
        f"forward/{FEATURES}.5.conv_list.2.conv",
        setting(f"{FEATURES}.5.conv_list.2.conv", _dilation=[2, 2], _padding=2, _updated_padding=[2, 2]),
        cause="dilation (2, 2), reference (1, 1)",
    ),
    "a ReLU is missing": Fault(
        f"forward/{FEATURES}.4.conv_list.3.relu", replacing(f"{FEATURES}.4.conv_list.3.relu", lambda _: nn.Identity())
    ),
    "a ReLU is another activation": Fault("forward/ffm.relu", replacing("ffm.relu", lambda _: nn.LeakyReLU(1e-6))),
    "average pooling does not count the padding": Fault(
        f"forward/{BOTTLENECK}.skip", setting(f"{BOTTLENECK}.skip", exclusive=True), cause="counts_padding False"
    ),
    "a convolution has a bias": Fault(
        "weights/plan",
        add_bias("cp.arm16.conv.conv"),
        verdict="missing",
        text="cp.arm16.conv.conv.bias (128,) gets no weight",
    ),
    # code between layers
    "align_corners is False": Fault(
        "forward/output/semantic",
        calling("", "interpolate", align_corners=False),
        cause="align_corners False, reference True; with align_corners=True, the difference falls",
    ),
    "context is carried up bilinearly": Fault(
        "forward/cp.conv_head32.conv",
        calling("cp", "interpolate", mode="bilinear"),
        cause="cp.conv_head32.conv itself agrees on the reference's input",
    ),
    "a bottleneck concatenates in another order": Fault(f"forward/{BOTTLENECK}", computing(BOTTLENECK, reversed_parts)),
    "two classes are exchanged": Fault(
        "forward/output/semantic",
        computing(
            "", lambda own, _, x: {k: v[:, [1, 0, *range(2, 19)]] if k == "semantic" else v for k, v in own(x).items()}
        ),
    ),
    "an output is not returned": Fault(
        "forward/output/aux32",
        computing("", lambda own, _, x: {k: v for k, v in own(x).items() if k != "aux32"}),
        verdict="missing",
    ),
    "one pixel is NaN": Fault(
        "forward/conv_out.conv_out", computing("conv_out.conv_out", one_nan), verdict="nonfinite", text="[1, 3, 2, 4]"
    ),
    "a square kernel is transposed": Fault(
        "forward/conv_out32.conv.conv", computing("conv_out32.conv.conv", transposed_kernel([0, 1, 3, 2]))
    ),
    "a square 1x1 kernel has its channels exchanged": Fault(
        "forward/cp.arm32.conv_atten", computing("cp.arm32.conv_atten", transposed_kernel([1, 0, 2, 3]))
    ),
    # weights
    "two kernels of one shape are exchanged": Fault(
        "forward/cp.conv_head32.conv", exchanging("cp.conv_head16.conv.weight", "cp.conv_head32.conv.weight")
    ),
    "running mean and variance are exchanged": Fault(
        "forward/cp.arm16.conv.bn",
        exchanging("cp.arm16.conv.bn._mean", "cp.arm16.conv.bn._variance"),
        verdict="nonfinite",  # a mean can be negative
    ),
    "rename rules exchange two kernels": Fault("forward/cp.conv_head32.conv", rules=SWAPPED_HEADS),
    # gradients
    "a branch is detached": Fault(
        "gradients/ffm.convblk.relu.output", computing("ffm.conv1", lambda own, _, x: own(x.detach()))
    ),
    "a parameter is frozen": Fault(
        "gradients/cp.arm32.conv.bn.weight",
        lambda model: setattr(model.cp.arm32.conv.bn.weight, "stop_gradient", True),
        verdict="gradient",
        text="the port computes no gradient",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found_where_it_is(name, small_case, assert_found):
    fault = FAULTS[name]
    own = small_case.port
    port = dataclasses.replace(own, model=lambda: changed(own.model(), fault.model))
    case = dataclasses.replace(small_case, port=port, weights=fault.rules)
    assert_found(case, fault.point, verdict=fault.verdict, cause=fault.cause, text=fault.text)


def load_by_shape(state: dict[str, np.ndarray], own: dict[str, Any]) -> dict[str, np.ndarray]:
    """Undoes the transposition of linear weights where the shape allows it."""
    return {name: value.T if value.ndim == 2 and len(set(value.shape)) == 1 else value for name, value in state.items()}


def load_by_order(state: dict[str, np.ndarray], own: dict[str, Any]) -> dict[str, np.ndarray]:
    """Exchanges two kernels of one shape, as if the port defined its layers in another order."""
    one, other = "cp.conv_head32.conv.weight", "cp.conv_head16.conv.weight"
    return {**state, one: state[other], other: state[one]}


@pytest.mark.parametrize(
    ("load", "point"),
    [(load_by_shape, "weights/cp.backbone.fc.weight"), (load_by_order, "weights/cp.conv_head32.conv.weight")],
)
def test_weights_that_were_loaded_wrong_are_found_before_anything_runs(
    load, point, small_case, small_weights, monkeypatch
):
    own = PaddleSide.load
    monkeypatch.setattr(PaddleSide, "load", lambda side, state: own(side, load(state, side.state())))
    result = run(small_case, stages=["forward"], weights=small_weights, float32=False, upstream=False)
    stage, finding = result.first
    assert not result.passed and (stage.stage, finding.point) == ("weights", point)
    assert [stage.stage for stage in result.stages] == ["weights"]


def test_the_port_without_a_fault_passes_all_stages(small_case, small_weights):
    result = run(small_case, weights=small_weights, float32=False, upstream=False)
    assert result.passed and result.exit_code == 0, result
    assert [stage.stage for stage in result.stages if stage.passed] == list(STAGES)
