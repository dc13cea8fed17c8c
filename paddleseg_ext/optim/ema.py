"""An average of the weights over the steps, which often evaluates better than the last weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.errors import CheckpointError


class EMA:
    """Exponential moving average of a model's parameters and running statistics.

    It starts with the model's values; after each step average = decay * average + (1 - decay) * value. What is not a
    floating-point number is copied.

    Args:
        model: whose values are averaged.
        decay: share of the old average kept, 0..1.
    """

    def __init__(self, model: nn.Layer, decay: float = 0.999) -> None:
        self.decay = decay
        self._live = model.state_dict()
        # a tensor that the model holds under two names has one average
        self._averages = {id(tensor): tensor.detach().clone() for tensor in self._live.values()}

    def update(self) -> None:
        """Takes in the model's values of now."""
        with paddle.no_grad():
            for key, tensor in self._unique().items():
                average = self._averages[key]
                if tensor.is_floating_point():
                    value = tensor.detach().astype(average.dtype)
                    average.set_value(self.decay * average + (1.0 - self.decay) * value)
                else:
                    average.set_value(tensor)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averages; afterwards, its own values again."""
        own = {key: tensor.numpy() for key, tensor in self._unique().items()}
        self._assign({key: self._averages[key].numpy() for key in own})
        try:
            yield
        finally:
            self._assign(own)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The averages under the model's names."""
        return {name: self._averages[id(tensor)].numpy() for name, tensor in self._live.items()}

    def set_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: if it belongs to another model.
        """
        different = sorted(set(state) ^ set(self._live))
        if different:
            raise CheckpointError(
                f"averaged weights: {len(different)} names differ, such as {', '.join(different[:5])}; expected those "
                "of the same model; resume with the same config"
            )
        for name, tensor in self._live.items():
            self._averages[id(tensor)].set_value(state[name])

    def _unique(self) -> dict[int, paddle.Tensor]:
        return {id(tensor): tensor for tensor in self._live.values()}

    def _assign(self, values: Mapping[int, np.ndarray]) -> None:
        for key, tensor in self._unique().items():
            tensor.set_value(values[key])
