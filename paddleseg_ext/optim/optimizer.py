"""Paddle's optimizers behind one small interface: a schedule, named parameters, portable state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.errors import CheckpointError, ConfigError
from paddleseg_ext.optim.param_groups import ParameterGroup, parameter_groups
from paddleseg_ext.optim.schedules import Schedule
from paddleseg_ext.registry import OPTIMIZERS, SCHEDULES


@OPTIMIZERS.register
def SGD(groups: list[dict[str, Any]], *, weight_decay: float = 0.0, grad_clip: Any = None) -> Any:  # noqa: N802
    """Plain gradient descent; for momentum use `Momentum`."""
    return paddle.optimizer.SGD(0.0, parameters=groups, weight_decay=weight_decay, grad_clip=grad_clip)


@OPTIMIZERS.register
def Momentum(  # noqa: N802
    groups: list[dict[str, Any]],
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    use_nesterov: bool = False,
    grad_clip: Any = None,
) -> Any:
    """SGD with momentum, as torch.optim.SGD: v = momentum * v + g + weight_decay * p, p -= lr * v."""
    return paddle.optimizer.Momentum(
        0.0, momentum, parameters=groups, weight_decay=weight_decay, use_nesterov=use_nesterov, grad_clip=grad_clip
    )


@OPTIMIZERS.register
def Adam(  # noqa: N802
    groups: list[dict[str, Any]],
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    grad_clip: Any = None,
) -> Any:
    """Adam; the weight decay is added to the gradient, as torch.optim.Adam does."""
    return paddle.optimizer.Adam(
        0.0, beta1, beta2, epsilon, parameters=groups, weight_decay=weight_decay, grad_clip=grad_clip
    )


@OPTIMIZERS.register
def AdamW(  # noqa: N802
    groups: list[dict[str, Any]],
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
    grad_clip: Any = None,
) -> Any:
    """Adam with decoupled weight decay."""
    return paddle.optimizer.AdamW(
        0.0, beta1, beta2, epsilon, parameters=groups, weight_decay=weight_decay, grad_clip=grad_clip
    )


_CLIPS = {
    "ClipGradByGlobalNorm": nn.ClipGradByGlobalNorm,
    "ClipGradByNorm": nn.ClipGradByNorm,
    "ClipGradByValue": nn.ClipGradByValue,
}


class Optimizer:
    """A Paddle optimizer whose learning rate is a pure function of the iteration.

    Args:
        inner: the Paddle optimizer, built over the same groups.
        groups: the parameter groups, with names.
        schedule: rate of each iteration.
    """

    def __init__(self, inner: Any, groups: Sequence[ParameterGroup], schedule: Schedule) -> None:
        self.inner = inner
        self.groups = list(groups)
        self.schedule = schedule
        self.named_parameters = {name: p for group in self.groups for name, p in group.parameters.items()}

    def step(self, iteration: int, scaler: Any = None) -> None:
        """Updates the parameters with the gradients they hold, at the rate of `iteration` (0-based).

        Args:
            iteration: decides the rate.
            scaler: `paddle.amp.GradScaler` that scaled the loss, or None; it leaves the step out if they overflow.
        """
        self.inner.set_lr(self.schedule(iteration))
        if scaler is None:
            self.inner.step()
        else:
            scaler.step(self.inner)
            scaler.update()

    def clear_grad(self) -> None:
        """Forgets the gradients of the optimizer's parameters."""
        self.inner.clear_grad(set_to_zero=False)  # a gradient of zeros is as large, and has to be added to

    def learning_rates(self) -> dict[str, float]:
        """Rate of the last step by parameter name."""
        rate = self.inner.get_lr()
        return {name: rate * group.lr_mult for group in self.groups for name in group.parameters}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Accumulators as arrays, `<parameter name>/<accumulator>`, whatever Paddle calls its variables.

        Those of parameters that have never had a gradient are there too, so that the names do not depend on it.
        """
        return {name: variable.numpy() for name, variable in self._variables().items()}

    def set_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: if it belongs to other parameters or shapes.
        """
        variables = self._variables()
        if set(variables) != set(state):
            missing, extra = sorted(set(variables) - set(state)), sorted(set(state) - set(variables))
            raise CheckpointError(
                f"optimizer state: missing {missing[:5]}, unexpected {extra[:5]} ({len(missing)} and {len(extra)} in"
                " all); expected the state of the same optimizer over the same parameters; resume with the same config"
            )
        for name, variable in variables.items():
            variable.set_value(state[name].reshape(variable.shape))

    def _variables(self) -> dict[str, paddle.Tensor]:
        """All that the optimizer remembers, the fp32 copies of fp16 weights included, by our names."""
        self.inner._create_accumulators(
            paddle.base.framework.default_main_program().global_block(), list(self.named_parameters.values())
        )
        by_variable = {p.name: name for name, p in self.named_parameters.items()}
        kinds = {**self.inner._accumulators, "master_weight": getattr(self.inner, "_master_weights", {})}
        return {
            f"{by_variable[variable]}/{kind}": value
            for kind, variables in kinds.items()
            for variable, value in variables.items()
        }


def build_optimizer(
    config: Mapping[str, Any],
    schedule: Mapping[str, Any] | Schedule,
    *,
    model: nn.Layer,
    losses: nn.Layer | None = None,
    iters: int | None = None,
) -> Optimizer:
    """Builds the optimizer of a configuration.

    Args:
        config: `{type, param_groups, grad_clip, ...}`.
        schedule: a schedule, or `{type, learning_rate, ...}`.
        model: its parameters are optimized.
        losses: if they have parameters, those too, under the prefix "losses".
        iters: length of the run, for a schedule given as a mapping.

    Raises:
        ConfigError: for an unknown type or a rule that matches nothing.
    """
    if not isinstance(schedule, Schedule):
        arguments = dict(schedule)
        schedule = SCHEDULES.get(arguments.pop("type"))(iters=iters, **arguments)
    arguments = dict(config)
    kind, rules, clip = arguments.pop("type"), arguments.pop("param_groups", ()), arguments.pop("grad_clip", None)
    layers = {"": model} if losses is None else {"": model, "losses": losses}
    groups = parameter_groups(layers, rules)
    decay = float(arguments.get("weight_decay", 0.0))
    paddle_groups = [
        {
            "params": list(group.parameters.values()),
            "learning_rate": group.lr_mult,
            "weight_decay": decay * group.weight_decay_mult,
        }
        for group in groups
    ]
    inner = OPTIMIZERS.get(kind)(paddle_groups, grad_clip=_build_clip(clip), **arguments)
    return Optimizer(inner, groups, schedule)


def _build_clip(config: Mapping[str, Any] | None) -> Any:
    if config is None:
        return None
    arguments = dict(config)
    kind = arguments.pop("type")
    if kind not in _CLIPS:
        raise ConfigError(f"optimizer.grad_clip.type: {kind!r}; expected {', '.join(_CLIPS)}")
    return _CLIPS[kind](**arguments)
