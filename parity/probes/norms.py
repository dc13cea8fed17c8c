"""Normalisations: statistics, momentum, epsilon."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import torch

from parity.probes import answer, precision, probe

LEDGER = "float32 attributes of normalisations"


def _column(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1, 1, 1, 1)


def _running(momentum: float, x: np.ndarray, attribute: str) -> tuple[Any, Any]:
    """A running statistic after one batch with the same momentum argument; it starts at mean 0, variance 1."""
    ours, theirs = torch.nn.BatchNorm2d(1, momentum=momentum).double(), paddle.nn.BatchNorm2D(1, momentum=momentum)
    theirs.to(dtype="float64")
    ours.train(), theirs.train()
    ours(torch.from_numpy(x)), theirs(paddle.to_tensor(x))
    own = {"running_var": "_variance", "running_mean": "_mean"}[attribute]
    return getattr(ours, attribute), getattr(theirs, own)


@probe(
    "batch norm: momentum=0.1, running mean after a batch of 10s",
    "Paddle's momentum is what is kept, torch's what is replaced: pass 1 - momentum",
)
def momentum() -> tuple[Any, Any]:
    return _running(0.1, _column([9.0, 11.0]), "running_mean")


@probe(
    "batch norm: momentum=0.5, running variance after 1, 2, 3",
    "Paddle averages the biased variance: nothing to do when training anew; the harness predicts it",
    ledger="running variance",
)
def running_variance() -> tuple[Any, Any]:
    return _running(0.5, _column([1.0, 2.0, 3.0]), "running_var")


@probe(
    "batch norm: training on one value per channel",
    "Paddle returns its input where torch refuses: check the batch of what feeds 1x1 maps",
)
def single_value() -> tuple[Any, Any]:
    x = _column([5.0])
    ours, theirs = torch.nn.BatchNorm2d(1).double().train(), paddle.nn.BatchNorm2D(1)
    theirs.to(dtype="float64")
    theirs.train()
    return answer(lambda: ours(torch.from_numpy(x))[0, 0, 0, 0].detach()), answer(
        lambda: theirs(paddle.to_tensor(x))[0, 0, 0, 0]
    )


@probe("batch norm: buffers in named_buffers()", "running statistics are parameters in Paddle: _mean and _variance")
def buffers() -> tuple[Any, Any]:
    return len(list(torch.nn.BatchNorm2d(1).named_buffers())), len(list(paddle.nn.BatchNorm2D(1).named_buffers()))


@probe("instance norm: learnable parameters by default", "pass weight_attr=False, bias_attr=False unless affine=True")
def instance_affine() -> tuple[Any, Any]:
    return len(list(torch.nn.InstanceNorm2d(1).parameters())), len(paddle.nn.InstanceNorm2D(1).parameters())


def _epsilon(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """The precision in which each holds an epsilon of 1e-5, in a float64 layer."""
    x = 1e-3 * np.random.RandomState(0).standard_normal((2, 4, 3, 3))  # a variance as small as epsilon
    ours.double(), theirs.to(dtype="float64")
    first = {"b": (0, 2, 3), "i": (2, 3), "l": (1, 2, 3)}
    kind = type(ours).__name__[0].lower()
    grouped = x.reshape(2, 2, 18) if kind == "g" else x
    axes = (2,) if kind == "g" else first[kind]
    mean, var = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
    exact = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    return (
        precision(ours(torch.from_numpy(x)).detach().numpy(), exact),
        precision(theirs(paddle.to_tensor(x)).numpy(), exact),
    )


@probe("batch norm: precision of epsilon in float64", "nothing: the harness rounds torch's", ledger=LEDGER)
def batch_epsilon() -> tuple[Any, Any]:
    return _epsilon(torch.nn.BatchNorm2d(4), paddle.nn.BatchNorm2D(4))


@probe("instance norm: precision of epsilon in float64", "nothing: the harness rounds torch's", ledger=LEDGER)
def instance_epsilon() -> tuple[Any, Any]:
    return _epsilon(torch.nn.InstanceNorm2d(4), paddle.nn.InstanceNorm2D(4))


@probe("layer norm: precision of epsilon in float64", "nothing: the harness rounds torch's", ledger=LEDGER)
def layer_epsilon() -> tuple[Any, Any]:
    return _epsilon(torch.nn.LayerNorm([4, 3, 3]), paddle.nn.LayerNorm([4, 3, 3]))


@probe("group norm: precision of epsilon in float64", "nothing", ledger=LEDGER)
def group_epsilon() -> tuple[Any, Any]:
    return _epsilon(torch.nn.GroupNorm(2, 4), paddle.nn.GroupNorm(2, 4))


@probe(
    "group norm: float32 error around a mean of 1000",
    "Paddle's float32 loses the variance where the mean is large; keep activations centred, or compute in float64",
)
def group_float32() -> tuple[Any, Any]:
    x = 1000.0 + np.random.RandomState(0).standard_normal((1, 2, 16, 16))
    exact = (x - x.mean((1, 2, 3), keepdims=True)) / np.sqrt(x.var((1, 2, 3), keepdims=True) + 1e-5)
    single = x.astype(np.float32)
    found = (
        torch.nn.functional.group_norm(torch.from_numpy(single), 1).numpy(),
        paddle.nn.functional.group_norm(paddle.to_tensor(single), 1).numpy(),
    )
    return tuple(_decade(np.abs(value - exact).max()) for value in found)


def _decade(error: float) -> str:
    return f"1e{round(np.log10(error)):+03d}"


@probe("batch norm: default epsilon", "nothing")
def default_batch_epsilon() -> tuple[Any, Any]:
    return torch.nn.BatchNorm2d(1).eps, paddle.nn.BatchNorm2D(1)._epsilon


@probe("layer norm: default epsilon", "nothing; but ViT and Swin pass 1e-6")
def default_layer_epsilon() -> tuple[Any, Any]:
    return torch.nn.LayerNorm(1).eps, paddle.nn.LayerNorm(1)._epsilon


@probe("linear: shape of the weight of Linear(2, 3)", "transpose it; the harness and the converter do, by layer type")
def linear_layout() -> tuple[Any, Any]:
    return list(torch.nn.Linear(2, 3).weight.shape), list(paddle.nn.Linear(2, 3).weight.shape)


@probe("batch norm: precision of momentum in float64", "nothing: the harness rounds torch's", ledger=LEDGER)
def momentum_precision() -> tuple[Any, Any]:
    x = _column([9.0, 11.0])
    found = _running(0.1, x, "running_mean")[0], _running(0.9, x, "running_mean")[1]
    return tuple(precision(value.numpy(), [1.0]) for value in found)


@probe("batch norm: dtype of the weight after casting the layer to float64", "use to(dtype=), not astype, in Paddle")
def cast() -> tuple[Any, Any]:
    ours, theirs = torch.nn.BatchNorm2d(1).to(torch.float64), paddle.nn.BatchNorm2D(1).astype("float64")
    return str(ours.weight.dtype).rpartition(".")[2], str(theirs.weight.dtype).rpartition(".")[2]


@probe("group norm: default epsilon", "nothing")
def default_group_epsilon() -> tuple[Any, Any]:
    return torch.nn.GroupNorm(1, 1).eps, paddle.nn.GroupNorm(1, 1)._epsilon


@probe(
    "synchronised batch norm of -1 and 1 in training on a CPU",
    "build plain batch norms for a CPU: Paddle's does not run",
)
def synchronised() -> tuple[Any, Any]:
    x = _column([-1.0, 1.0]).astype(np.float32)
    return (
        answer(lambda: torch.nn.SyncBatchNorm(1).train()(torch.from_numpy(x)).detach().reshape(-1)),
        answer(lambda: paddle.nn.SyncBatchNorm(1)(paddle.to_tensor(x)).detach().reshape([-1])),
    )


@probe("dropout2d of 64 channels in training: channels that are partly dropped", "nothing: whole channels go")
def dropout_channels() -> tuple[Any, Any]:
    torch.manual_seed(0)
    paddle.seed(0)
    kept = (
        torch.nn.Dropout2d(0.5).train()(torch.ones(1, 64, 2, 2)),
        paddle.nn.Dropout2D(0.5)(paddle.ones([1, 64, 2, 2])),
    )
    return tuple(int((value.numpy().std((2, 3)) > 0).sum()) for value in kept)


@probe(
    "dropout(mode='downscale_in_infer') of a vector in evaluation", "torch has no such mode; Paddle refuses a vector"
)
def dropout_vector() -> tuple[Any, Any]:
    layer = paddle.nn.Dropout(0.5, mode="downscale_in_infer")
    layer.eval()
    return "no such mode", answer(lambda: layer(paddle.ones([4])).sum())
