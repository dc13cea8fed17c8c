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
    """`engine.step.training_step` on a batch of `image`; what else the model is fed is bound to it."""
    from paddleseg_ext.engine.step import training_step

    image, *others = inputs

    def fed(images: Any) -> Any:
        return model(images, *others)

    return training_step(fed, losses, optimizer, {"image": image, **targets}, iteration)
