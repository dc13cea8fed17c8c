"""From a model's named outputs and a batch's targets to named, weighted loss terms."""

from __future__ import annotations

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
    """

    name: str
    outputs: tuple[str, ...]
    target: str
    weight: float


class Losses(nn.Layer):
    """All loss terms of a recipe. Each loss is a sub-layer under its term's name, so its parameters have names.

    Args:
        terms: what to bind, in order.
        losses: one layer per term: `(output, target) -> scalar` or a dict of scalars.
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
            for output in term.outputs:
                result = getattr(self, term.name)(_pick(outputs, output, term), _pick(targets, term.target, term))
                parts = {f"{term.name}_{key}": v for key, v in result.items()} if isinstance(result, dict) else None
                for name, value in (parts or {term.name: result}).items():
                    value = value * term.weight if term.weight != 1.0 else value
                    values[name] = values[name] + value if name in values else value
        return values


def build_losses(specs: Sequence[Mapping[str, Any]]) -> Losses:
    """Builds the losses of a configuration.

    Args:
        specs: entries `{type, output, target, weight, name, ...}`; what is left are the loss's own arguments.
            `target` defaults to "label", `weight` to 1, `name` to "loss_<output>".

    Raises:
        ConfigError: if a type is unknown or a name is used twice.
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
        terms.append(LossTerm(name, outputs, arguments.pop("target", "label"), float(arguments.pop("weight", 1.0))))
        losses.append(loss_class(**arguments))
    return Losses(terms, losses)


def _pick(values: Mapping[str, paddle.Tensor], name: str, term: LossTerm) -> paddle.Tensor:
    if name not in values:
        raise ConfigError(f"losses: {term.name} needs {name!r}; available: {', '.join(values)}")
    return values[name]
