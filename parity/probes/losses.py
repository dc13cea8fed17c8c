"""Losses and activations: what is averaged over, and values at corners."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as PF
import torch
import torch.nn.functional as TF

from parity.probes import answer, precision, probe


def _cross_entropy(labels: list[int], **options: Any) -> tuple[Any, Any]:
    """Of two classes with equal logits: log(2) = 0.693 per pixel."""
    logits, label = np.zeros((1, 2, 1, len(labels))), np.array(labels).reshape(1, 1, -1)
    weight = options.pop("weight", None)
    own = {} if weight is None else {"weight": torch.tensor(weight)}
    other = {} if weight is None else {"weight": paddle.to_tensor(weight)}
    return (
        answer(lambda: TF.cross_entropy(torch.from_numpy(logits), torch.from_numpy(label), **own, **options)),
        answer(lambda: PF.cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(label), axis=1, **other, **options)),
    )


@probe("cross_entropy, half of the pixels ignored, ignore_index=255", "nothing")
def ignored_half() -> tuple[Any, Any]:
    return _cross_entropy([0, 1, 255, 255], ignore_index=255)


@probe("cross_entropy, half of the pixels ignored, ignore_index=-1", "use 255: Paddle also averages ignored pixels")
def ignored_negative() -> tuple[Any, Any]:
    return _cross_entropy([0, 1, -1, -1], ignore_index=-1)


@probe("cross_entropy, half of the pixels ignored by the default", "use 255: Paddle also averages pixels labelled -100")
def ignored_default() -> tuple[Any, Any]:
    return _cross_entropy([0, 1, -100, -100])


@probe("cross_entropy, every pixel ignored", "Paddle's loss is 0, torch's NaN: decide which, and say so in the port")
def ignored_all() -> tuple[Any, Any]:
    return _cross_entropy([255, 255], ignore_index=255)


@probe(
    "cross_entropy where the true class's logit is lower by 100",
    "a pixel's loss ends at 64 on a CPU; its gradient does not",
)
def largest_loss() -> tuple[Any, Any]:
    logits, label = np.array([[0.0, 100.0]]), np.array([0])
    return (
        TF.cross_entropy(torch.from_numpy(logits), torch.from_numpy(label)),
        PF.cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(label)),
    )


@probe("cross_entropy, a label out of range", "nothing: neither computes")
def out_of_range() -> tuple[Any, Any]:
    return _cross_entropy([0, 7], ignore_index=255)


@probe("cross_entropy, class weights 1 and 3", "nothing: both divide by the sum of weights")
def class_weights() -> tuple[Any, Any]:
    logits = np.array([[[[2.0, 0.0]], [[0.0, 0.0]]]])
    label = np.array([[[0, 1]]])
    return (
        TF.cross_entropy(torch.from_numpy(logits), torch.from_numpy(label), weight=torch.tensor([1.0, 3.0]).double()),
        PF.cross_entropy(
            paddle.to_tensor(logits), paddle.to_tensor(label), axis=1, weight=paddle.to_tensor([1.0, 3.0], "float64")
        ),
    )


@probe("cross_entropy(label_smoothing=0.1) over axis 1", "move the classes last for Paddle")
def smoothing() -> tuple[Any, Any]:
    return _cross_entropy([0, 1, 1], label_smoothing=0.1)


@probe(
    "binary_cross_entropy_with_logits: gradient at logit 0, target 0",
    "Paddle's has the wrong sign where a logit is exactly 0: write the loss out",
)
def bce_at_zero() -> tuple[Any, Any]:
    one, other = torch.zeros(1).double().requires_grad_(), paddle.zeros([1], "float64")
    other.stop_gradient = False
    TF.binary_cross_entropy_with_logits(one, torch.zeros(1).double()).backward()
    PF.binary_cross_entropy_with_logits(other, paddle.zeros([1], "float64")).backward()
    return one.grad, other.grad


@probe("smooth_l1_loss of a distance of 1, beta=2 and delta=2", "divide Paddle's by delta")
def smooth_l1() -> tuple[Any, Any]:
    zero, one = np.zeros(1), np.ones(1)
    return (
        TF.smooth_l1_loss(torch.from_numpy(one), torch.from_numpy(zero), beta=2.0),
        PF.smooth_l1_loss(paddle.to_tensor(one), paddle.to_tensor(zero), delta=2.0),
    )


@probe("kl_div: default reduction, two rows", "nothing; pass reduction='batchmean' on both sides")
def kl_div() -> tuple[Any, Any]:
    logs, target = np.log(np.full((2, 2), 0.5)), np.array([[0.9, 0.1], [0.2, 0.8]])
    return (
        TF.kl_div(torch.from_numpy(logs), torch.from_numpy(target)),
        PF.kl_div(paddle.to_tensor(logs), paddle.to_tensor(target)),
    )


# --- activations ----------------------------------------------------------------------------------------------------


def _unary(values: list[float], ours: Any, theirs: Any) -> tuple[Any, Any]:
    return ours(torch.tensor(values, dtype=torch.float64)), theirs(paddle.to_tensor(values, "float64"))


def _slopes(values: list[float], ours: Any, theirs: Any) -> tuple[Any, Any]:
    one = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    other = paddle.to_tensor(values, "float64", stop_gradient=False)
    ours(one).sum().backward()
    theirs(other).sum().backward()
    return one.grad, other.grad


@probe("relu of NaN", "a NaN vanishes in Paddle's ReLU: look for it before")
def relu_nan() -> tuple[Any, Any]:
    return _unary([float("nan")], TF.relu, PF.relu)


@probe("relu: gradient at 0", "nothing")
def relu_zero() -> tuple[Any, Any]:
    return _slopes([0.0], TF.relu, PF.relu)


@probe("relu6: gradient at 6", "nothing")
def relu6_bound() -> tuple[Any, Any]:
    return _slopes([6.0], TF.relu6, PF.relu6)


@probe("clamp / clip to [0, 1]: gradient at 0 and 1", "nothing")
def clamp_bound() -> tuple[Any, Any]:
    return _slopes([0.0, 1.0], lambda x: x.clamp(0.0, 1.0), lambda x: paddle.clip(x, 0.0, 1.0))


@probe("abs: gradient at 0", "nothing")
def abs_zero() -> tuple[Any, Any]:
    return _slopes([0.0], torch.abs, paddle.abs)


@probe("gelu(1)", "nothing: both are exact; approximate='tanh' is approximate=True")
def gelu() -> tuple[Any, Any]:
    return _unary([1.0], TF.gelu, PF.gelu)


@probe(
    "hardsigmoid: precision of the slope 1/6 in float64",
    "nothing: the harness computes it; Paddle's slope is 0.1666667",
    ledger="float32 inside float64 operators",
)
def hardsigmoid() -> tuple[Any, Any]:
    return tuple(precision(value.numpy(), [2 / 3]) for value in _unary([1.0], TF.hardsigmoid, PF.hardsigmoid))


@probe(
    "selu: precision of its constants in float64",
    "nothing: the harness computes it",
    ledger="float32 inside float64 operators",
)
def selu() -> tuple[Any, Any]:
    return tuple(precision(value.numpy(), [1.0507009873554805]) for value in _unary([1.0], TF.selu, PF.selu))


@probe("leaky_relu(-1)", "nothing")
def leaky() -> tuple[Any, Any]:
    return _unary([-1.0], TF.leaky_relu, PF.leaky_relu)


@probe("softplus(30)", "nothing: both are linear above 20")
def softplus() -> tuple[Any, Any]:
    return _unary([30.0], TF.softplus, PF.softplus)


@probe("dropout of 64 ones in evaluation: the sum", "nothing for the default mode")
def dropout_eval() -> tuple[Any, Any]:
    return TF.dropout(torch.ones(64), 0.5, training=False).sum(), PF.dropout(
        paddle.ones([64]), 0.5, training=False
    ).sum()


@probe("normalize of (0, 0)", "nothing")
def normalize_zero() -> tuple[Any, Any]:
    return _unary([0.0, 0.0], lambda x: TF.normalize(x, dim=0), lambda x: PF.normalize(x, axis=0))
