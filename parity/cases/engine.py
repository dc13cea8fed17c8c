"""The training step of paddleseg_ext's engine, so that what trains is what is proven; what cases share, and no case.

    Side(model, losses, optimizer, ..., train_step=engine.train_step)

`optimizer` has to be what `paddleseg_ext.optim.build_optimizer` returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def train_step(
    model: Any, losses: Any, optimizer: Any, inputs: Sequence[Any], targets: Mapping[str, Any], iteration: int
) -> dict[str, float]:
    """`engine.step.training_step` on a batch whose `image` is the only input of the model."""
    from paddleseg_ext.engine.step import training_step

    (image,) = inputs
    return training_step(model, losses, optimizer, {"image": image, **targets}, iteration)
