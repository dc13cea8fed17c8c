"""Training in fp16 or bf16 (automatic mixed precision)."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import paddle
from paddle import nn

from paddleseg_ext.errors import ConfigError
from paddleseg_ext.optim import Optimizer

_TYPES = {"fp16": "float16", "bf16": "bfloat16"}


class Precision:
    """How much of training runs in which precision.

    Args:
        name: "fp32", "fp16" or "bf16".
        level: "O1" (matrix products and convolutions in the low precision) or "O2" (all but batch norm; the
            optimizer keeps fp32 copies of the weights).

    Attributes:
        scaler: multiplies an fp16 loss so that small gradients survive; None otherwise.

    Raises:
        ConfigError: if this device cannot do it.
    """

    def __init__(self, name: str = "fp32", level: str = "O1") -> None:
        self.name = name
        self.level = level
        self.scaler = None
        if name != "fp32":
            _check_supported(name)
        if name == "fp16":
            self.scaler = paddle.amp.GradScaler(init_loss_scaling=2.0**15)

    def prepare(self, model: nn.Layer, optimizer: Optimizer) -> None:
        """Converts the weights for O2; a no-op otherwise."""
        if self.name != "fp32" and self.level == "O2":
            paddle.amp.decorate(
                models=model, optimizers=optimizer.inner, level="O2", dtype=_TYPES[self.name], master_weight=True
            )

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which model and losses run."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=_TYPES[self.name])

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state as plain data; empty without one."""
        state = {} if self.scaler is None else self.scaler.state_dict()
        return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)


def _check_supported(name: str) -> None:
    if paddle.device.get_device().startswith("cpu"):
        raise ConfigError(
            f"runtime.precision: {name} on the CPU; Paddle's mixed precision has no effect there; expected fp32; "
            "leave out --precision, or train on a GPU"
        )
    supported = paddle.amp.is_bfloat16_supported() if name == "bf16" else paddle.amp.is_float16_supported()
    if not supported:
        raise ConfigError(f"runtime.precision: {name} is not supported by {paddle.device.get_device()}; use fp32")
