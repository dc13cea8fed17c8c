"""Which parameters an optimizer updates, at which rate and with which decay: rules as data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import nn

from paddleseg_ext.errors import ConfigError

KINDS = ("norm", "bias", "depthwise", "weight")
_NORMS = (nn.layer.norm._BatchNormBase, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2D)


@dataclass(frozen=True)
class GroupRule:
    """What holds for the parameters it matches; the first matching rule decides.

    Attributes:
        name: regular expression searched in the parameter's full name; None matches all.
        kind: "norm" (scale and shift of a normalisation), "bias", "depthwise" (kernel of a depthwise convolution) or
            "weight" (every other); None matches all.
        lr_mult: factor on the schedule's rate.
        weight_decay_mult: factor on the optimizer's weight decay.
        trainable: False leaves the parameter out of the optimizer; its running statistics, if any, still move.
    """

    name: str | None = None
    kind: str | None = None
    lr_mult: float = 1.0
    weight_decay_mult: float = 1.0
    trainable: bool = True

    def matches(self, name: str, kind: str) -> bool:
        """Whether the rule applies to a parameter."""
        return (self.kind is None or self.kind == kind) and (self.name is None or bool(re.search(self.name, name)))


@dataclass
class ParameterGroup:
    """Parameters that share their multipliers."""

    lr_mult: float
    weight_decay_mult: float
    parameters: dict[str, paddle.Tensor] = field(default_factory=dict)


def parameter_groups(layers: Mapping[str, nn.Layer], rules: Sequence[Mapping[str, Any]] = ()) -> list[ParameterGroup]:
    """Sorts the parameters of some layers into groups.

    Args:
        layers: prefix -> layer; the prefix "" is the model's, "losses" that of the losses.
        rules: fields of `GroupRule`, in order of precedence; what none matches has both factors 1.

    Returns:
        Groups in the order in which their first parameter appears; each parameter in at most one.

    Raises:
        ConfigError: if a rule has an unknown field or kind, or matches no parameter.
    """
    parsed = [_parse(index, rule) for index, rule in enumerate(rules)]
    used = [False] * len(parsed)
    groups: dict[tuple[float, float], ParameterGroup] = {}
    for prefix, layer in layers.items():
        kinds = _kinds(layer)
        for local_name, parameter in layer.named_parameters():
            name = f"{prefix}.{local_name}" if prefix else local_name
            matching = [i for i, rule in enumerate(parsed) if rule.matches(name, kinds[id(parameter)])]
            for index in matching:
                used[index] = True
            rule = parsed[matching[0]] if matching else GroupRule()
            if rule.trainable and not parameter.stop_gradient:
                key = (rule.lr_mult, rule.weight_decay_mult)
                groups.setdefault(key, ParameterGroup(*key)).parameters[name] = parameter
    for rule, was_used in zip(parsed, used):
        if not was_used:
            raise ConfigError(f"optimizer.param_groups: {rule} matches no parameter; correct or remove it")
    return list(groups.values())


def _parse(index: int, rule: Mapping[str, Any]) -> GroupRule:
    try:
        parsed = GroupRule(**rule)
    except TypeError as error:
        raise ConfigError(f"optimizer.param_groups[{index}]: {error}") from error
    if parsed.kind is not None and parsed.kind not in KINDS:
        raise ConfigError(f"optimizer.param_groups[{index}].kind: {parsed.kind!r}; expected {', '.join(KINDS)}")
    return parsed


def _kinds(layer: nn.Layer) -> dict[int, str]:
    """Parameter id -> kind."""
    kinds = {}
    for sublayer in layer.sublayers(include_self=True):
        for name, parameter in sublayer.named_parameters(include_sublayers=False):
            if isinstance(sublayer, _NORMS):
                kind = "norm"
            elif name.endswith("bias"):
                kind = "bias"
            elif isinstance(sublayer, nn.Conv2D) and sublayer._groups == sublayer._in_channels > 1:
                kind = "depthwise"
            else:
                kind = "weight"
            kinds[id(parameter)] = kind
    return kinds
