"""The few parts of Paddle 1.6's `fluid` that PaddlePaddle/models' DeepLabv3+ calls, in torch.

Layers with parameters, ReLU, dropout and the global mean become torch modules, under the reference's names
(`parity.fluid`), so that they are taps of the harness. The others are functions.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from parity.fluid import torch_name


@dataclass
class Regularizer:
    """L2 decay."""

    regularization_coeff: float


@dataclass
class ParamAttr:
    """Name, regularizer and initializer of a parameter."""

    name: str
    regularizer: Regularizer | None = None
    initializer: Callable[[torch.Tensor], Any] | None = None


@dataclass
class Momentum:
    """The arguments of the optimizer."""

    learning_rate: Callable[[int], float]
    momentum: float
    regularization: Regularizer | None = None

    def decay_of(self, own: Regularizer | None) -> float:
        """The decay of a parameter: its own regularizer wins over the optimizer's."""
        return (own or self.regularization).regularization_coeff


class GlobalMean(nn.Module):
    """Mean over height and width, both of which stay as 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3), keepdim=True)


class Program:
    """The modules of one network by path, made when they are first called.

    Attributes:
        scope: () -> path of the program's present scope.
        dtype: of floating-point constants.
    """

    def __init__(self) -> None:
        self.scope: Callable[[], str] = lambda: ""
        self.dtype = torch.float32
        self.begin()

    def begin(self) -> None:
        """Forgets the modules of the network before."""
        self.modules: dict[str, nn.Module] = {}
        self.decays: dict[str, Regularizer | None] = {}

    def module(self, path: str, make: Callable[[], nn.Module], **attributes: ParamAttr) -> nn.Module:
        """The module at a path.

        Args:
            path: in the reference's names.
            make: makes it if it is not there.
            attributes: of its `weight` and `bias`.
        """
        if path not in self.modules:
            module = self.modules[path] = make()
            for key, attribute in attributes.items():
                self.decays[f"{path}.{key}"] = attribute.regularizer
                if attribute.initializer is not None:
                    attribute.initializer(getattr(module, key))
        return self.modules[path]

    def register(self, owner: nn.Module, order: Sequence[str]) -> None:
        """Makes the modules part of an owner, in the order of given parameter names."""
        position = {name.rpartition(".")[0]: index for index, name in reversed(list(enumerate(order)))}
        for path in sorted(self.modules, key=lambda path: position.get(path, len(order))):
            parent = owner
            *parts, leaf = path.split(".")
            for part in parts:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent._modules[part]
            parent.add_module(leaf, self.modules[path])
        owner.decays = dict(self.decays)


def fluid_module(program: Program) -> types.ModuleType:
    """A module to be imported as `paddle.fluid`."""
    fluid = types.ModuleType("paddle.fluid")
    fluid.ParamAttr = ParamAttr
    fluid.regularizer = types.SimpleNamespace(L2DecayRegularizer=Regularizer)
    fluid.initializer = types.SimpleNamespace(
        TruncatedNormal=lambda loc, scale: (
            lambda tensor: nn.init.trunc_normal_(tensor, loc, scale, loc - 2 * scale, loc + 2 * scale)
        ),
        ConstantInitializer=lambda value: lambda tensor: nn.init.constant_(tensor, value),
    )
    fluid.optimizer = types.SimpleNamespace(Momentum=Momentum)
    fluid.layers = types.SimpleNamespace(**_layers(program), **_functions(program))
    torch.Tensor.astype = lambda self, dtype: _cast(program, self, dtype)
    return fluid


def _layers(program: Program) -> dict[str, Callable[..., Any]]:
    """Operators that become modules."""

    def conv2d(
        x: torch.Tensor,
        num_filters: int,
        filter_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int | None = None,
        *,
        param_attr: ParamAttr,
        bias_attr: Any = None,
        use_cudnn: bool = True,
        name: str | None = None,
    ) -> torch.Tensor:
        path = torch_name(param_attr.name).rpartition(".")[0]
        attributes = {"weight": param_attr, **({"bias": bias_attr} if bias_attr else {})}
        return program.module(
            path,
            lambda: nn.Conv2d(
                x.shape[1], num_filters, filter_size, stride, padding, dilation, groups or 1, bool(bias_attr)
            ),
            **attributes,
        )(x)

    def group_norm(
        x: torch.Tensor, groups: int, *, param_attr: ParamAttr, bias_attr: ParamAttr, epsilon: float = 1e-5, name: str
    ) -> torch.Tensor:
        path = torch_name(param_attr.name).rpartition(".")[0]
        layer = program.module(
            path, lambda: nn.GroupNorm(groups, x.shape[1], eps=epsilon), weight=param_attr, bias=bias_attr
        )
        return layer(x)

    def at_scope(kind: str, make: Callable[[], nn.Module]) -> nn.Module:
        return program.module(torch_name(program.scope() + kind), make)

    def dropout(x: torch.Tensor, dropout_prob: float) -> torch.Tensor:
        if dropout_prob != 0.0:
            raise ValueError(f"dropout {dropout_prob}; expected 0, so that both sides compute the same")
        return at_scope("dropout", lambda: nn.Dropout(0.0))(x)

    def reduce_mean(x: torch.Tensor, dim: Sequence[int] | None = None, keep_dim: bool = False) -> torch.Tensor:
        return x.mean() if dim is None else at_scope("reduce_mean", GlobalMean)(x)

    return {
        "conv2d": conv2d,
        "group_norm": group_norm,
        "dropout": dropout,
        "reduce_mean": reduce_mean,
        "relu": lambda x, name=None: at_scope("relu", nn.ReLU)(x),
    }


def _functions(program: Program) -> dict[str, Callable[..., Any]]:
    """Operators without a name."""

    def resize_bilinear(x: torch.Tensor, out_shape: Sequence[int]) -> torch.Tensor:
        return F.interpolate(x, size=tuple(out_shape), mode="bilinear", align_corners=True)

    def assign(value: np.ndarray) -> torch.Tensor:
        return _cast(program, torch.from_numpy(value), str(value.dtype))

    def cross_entropy(prob: torch.Tensor, label: torch.Tensor, ignore_index: int) -> torch.Tensor:
        known = label != ignore_index
        chosen = prob.gather(1, torch.where(known, label, 0))
        return torch.where(known, -chosen.log(), 0.0)

    def polynomial_decay(
        learning_rate: float, decay_steps: int, end_learning_rate: float, power: float
    ) -> Callable[[int], float]:
        def rate(step: int) -> float:
            left = 1.0 - min(step, decay_steps) / decay_steps
            return (learning_rate - end_learning_rate) * left**power + end_learning_rate

        return rate

    return {
        "resize_bilinear": resize_bilinear,
        "concat": lambda parts, axis: torch.cat(parts, dim=axis),
        "assign": assign,
        "cast": lambda x, dtype: _cast(program, x, dtype),
        "cross_entropy": cross_entropy,
        "elementwise_max": torch.maximum,
        "less_than": lambda x, y, force_cpu=None: x < y,
        "polynomial_decay": polynomial_decay,
        "reshape": lambda x, shape: x.reshape(shape),
        "softmax": lambda x, use_cudnn=True: torch.softmax(x, dim=-1),
        "transpose": lambda x, perm: x.permute(*perm),
    }


def _cast(program: Program, x: torch.Tensor, dtype: str) -> torch.Tensor:
    """A tensor in another type; what upstream calls float32 is the type of the run."""
    return x.to(program.dtype if dtype == "float32" else getattr(torch, dtype))
