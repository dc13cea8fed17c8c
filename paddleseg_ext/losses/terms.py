"""From a model's named outputs and a batch's targets to named, weighted loss terms."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from paddleseg_ext.errors import ConfigError
from paddleseg_ext.registry import LOSSES


@dataclass(frozen=True)
class LossTerm:
    """What one entry of `losses` binds together.

    Attributes:
        name: under which the term is logged.
        outputs: names of the model outputs; the loss is evaluated on each and summed.
        target: name of the target in the batch.
        weight: factor of the term in the total.
        weights: name of the target that holds a factor for each pixel, or None.
    """

    name: str
    outputs: tuple[str, ...]
    target: str
    weight: float
    weights: str | None = None


class Losses(nn.Layer):
    """All loss terms of a recipe. Each loss is a sub-layer under its term's name, so its parameters have names.

    Args:
        terms: what to bind, in order.
        losses: one layer per term: `(output, target) -> scalar` or a dict of scalars; called with `weights=` too
            if the term has them, and with the outputs that its `extra_outputs` names by argument, if it has that.
    """

    def __init__(self, terms: Sequence[LossTerm], losses: Sequence[nn.Layer]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        for term, loss in zip(self.terms, losses):
            self.add_sublayer(term.name, loss)

    def forward(
        self, outputs: Mapping[str, paddle.Tensor], targets: Mapping[str, paddle.Tensor]
    ) -> dict[str, paddle.Tensor]:
        """Weighted scalars by name; a loss that returns a dict gives `<name>_<key>`. Their sum is the total.

        Raises:
            ConfigError: if an output or a target is missing; lists those that exist.
        """
        values: dict[str, paddle.Tensor] = {}
        for term in self.terms:
            extra = {} if term.weights is None else {"weights": _pick(targets, term.weights, term)}
            others = getattr(getattr(self, term.name), "extra_outputs", {})
            extra.update({argument: _pick(outputs, output, term) for argument, output in others.items()})
            for output in term.outputs:
                target = _pick(targets, term.target, term)
                result = getattr(self, term.name)(_pick(outputs, output, term), target, **extra)
                parts = {f"{term.name}_{key}": v for key, v in result.items()} if isinstance(result, dict) else None
                for name, value in (parts or {term.name: result}).items():
                    value = value * term.weight if term.weight != 1.0 else value
                    values[name] = values[name] + value if name in values else value
        return values


def build_losses(specs: Sequence[Mapping[str, Any]]) -> Losses:
    """Builds the losses of a configuration.

    Args:
        specs: entries `{type, output, target, weights, weight, name, ...}`; what is left are the loss's own arguments.
            `target` defaults to "label", `weights` to none, `weight` to 1, `name` to "loss_<output>".

    Raises:
        ConfigError: if a type is unknown, a name is used twice, or a loss cannot have weights or needs them.
    """
    terms, losses = [], []
    for spec in specs:
        arguments = dict(spec)
        loss_class = LOSSES.get(arguments.pop("type"))
        output = arguments.pop("output")
        outputs = (output,) if isinstance(output, str) else tuple(output)
        name = arguments.pop("name", f"loss_{outputs[0]}")
        if any(term.name == name for term in terms):
            raise ConfigError(f"losses: two terms are named {name!r}; give each its own `name`")
        target, weights = arguments.pop("target", "label"), arguments.pop("weights", None)
        terms.append(LossTerm(name, outputs, target, float(arguments.pop("weight", 1.0)), weights))
        losses.append(loss_class(**arguments))
        _check_weights(terms[-1], losses[-1])
    return Losses(terms, losses)


def _check_weights(term: LossTerm, loss: nn.Layer) -> None:
    parameter = inspect.signature(loss.forward).parameters.get("weights")
    kind = type(loss).__name__
    if term.weights is not None and parameter is None:
        raise ConfigError(f"losses: {term.name}: {kind} takes no weights per pixel; remove weights: {term.weights}")
    if term.weights is None and parameter is not None and parameter.default is inspect.Parameter.empty:
        raise ConfigError(
            f"losses: {term.name}: {kind} needs weights per pixel; add weights: the name of the target that holds them"
        )


def _pick(values: Mapping[str, paddle.Tensor], name: str, term: LossTerm) -> paddle.Tensor:
    if name not in values:
        raise ConfigError(f"losses: {term.name} needs {name!r}; available: {', '.join(values)}")
    return values[name]
