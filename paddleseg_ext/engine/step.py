"""One optimizer step: the part of training that decides what is learnt, and nothing else.

The training loop and the parity harness both call `training_step`, so what is proven is what trains.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.engine import processes
from paddleseg_ext.errors import TrainingError
from paddleseg_ext.optim import Optimizer


class NonFiniteStepError(TrainingError):
    """A loss or a gradient is NaN or infinite; neither the weights nor the optimizer have been touched.

    Attributes:
        terms: the loss terms by name.
        gradient_norms: L2 norm of each parameter's gradient, by name.
    """

    def __init__(self, iteration: int, terms: Mapping[str, float], gradient_norms: Mapping[str, float]) -> None:
        losses = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        bad = [name for name, norm in gradient_norms.items() if not math.isfinite(norm)]
        shown = f"{len(bad)} of {len(gradient_norms)} gradients{f', such as that of {bad[0]}' if bad else ''}"
        what = shown if all(map(math.isfinite, terms.values())) else "the loss"
        super().__init__(f"step {iteration + 1}: not finite: {what} ({losses}); expected numbers")
        self.terms = dict(terms)
        self.gradient_norms = dict(gradient_norms)


def training_step(
    model: nn.Layer,
    losses: Callable[..., Mapping[str, paddle.Tensor]],
    optimizer: Optimizer,
    batch: Mapping[str, paddle.Tensor],
    iteration: int,
    scaler: Any = None,
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> dict[str, float]:
    """Runs the model on a batch and updates its parameters once.

    With several processes the gradients are averaged over them, so each has the same weights afterwards.

    Args:
        model: in training mode; `model(image) -> dict of outputs`.
        losses: `losses(outputs, batch) -> dict of weighted scalars`, whose sum is minimised.
        optimizer: over the model's parameters.
        batch: `image` (N, 3, H, W) and the targets by name.
        iteration: 0-based number of the step; decides the learning rate.
        scaler: `paddle.amp.GradScaler` for fp16, or None. A step whose scaled gradients overflow is left out by it.
        autocast: makes the context in which model and losses run.

    Returns:
        The loss terms by name, averaged over the processes.

    Raises:
        NonFiniteStepError: if a term or a gradient is not finite, in any process; in all processes then.
    """
    with autocast():
        terms = losses(model(batch["image"]), batch)
        total = sum(terms.values())
    (total if scaler is None else scaler.scale(total)).backward()
    values = _averaged(terms)
    parameters = list(optimizer.named_parameters.values())
    processes.average_gradients(parameters)
    if not (all(map(math.isfinite, values.values())) and (scaler is not None or _are_finite(parameters))):
        norms = gradient_norms(optimizer)
        optimizer.clear_grad()
        raise NonFiniteStepError(iteration, values, norms)
    optimizer.step(iteration, scaler)
    optimizer.clear_grad()
    return values


def gradient_norms(optimizer: Optimizer) -> dict[str, float]:
    """L2 norm of each parameter's gradient; parameters without one are left out."""
    return {
        name: float(np.linalg.norm(parameter.grad.numpy().astype(np.float64)))
        for name, parameter in optimizer.named_parameters.items()
        if parameter.grad is not None
    }


def _are_finite(parameters: Sequence[paddle.Tensor]) -> bool:
    """Whether all gradients are finite. A finite loss does not say so: Paddle's ReLU turns NaN into 0 on a CPU."""
    with paddle.no_grad():
        sums = [p.grad.sum().astype("float64").reshape([]) for p in parameters if p.grad is not None]
        return not sums or bool(paddle.isfinite(paddle.stack(sums)).all())


def _averaged(terms: Mapping[str, paddle.Tensor]) -> dict[str, float]:
    """The terms as numbers; one transfer from the device for all."""
    kind = paddle.float64 if any(term.dtype == paddle.float64 for term in terms.values()) else paddle.float32
    with paddle.no_grad():
        vector = paddle.stack([term.detach().astype(kind).reshape([]) for term in terms.values()]).numpy()
    return dict(zip(terms, processes.mean(vector).tolist()))
