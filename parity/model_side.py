"""What both sides do alike: run a model under observation, its losses, its post-processing. Numpy only.

A side in a framework derives from `ModelSide` and says how its tensors are made, read and differentiated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from parity.case import Side
from parity.traces import Trace

INITIAL_SEED = 0  # of the generator that initial values are drawn with
Arrays = Mapping[str, np.ndarray]


class ModelSide:
    """A model that can be observed while it computes.

    Attributes:
        name: "reference" or "port".
        side: how it is built.
        model: the module or layer.
        dropout: path of each dropout -> `[rate, whole channels?, scaled in evaluation?]`; they are switched off.
    """

    name: str
    side: Side
    model: Any
    dropout: dict[str, list[float]]
    _initial: dict[str, tuple[tuple[int, ...], np.ndarray]]

    def observe(
        self, inputs: Sequence[np.ndarray], targets: Arrays, *, train: bool, backward: bool, losses: bool | None = None
    ) -> Trace:
        """Runs the model and records every module's output; with `backward`, gradients too.

        Args:
            inputs: of the model.
            targets: of the losses.
            train: in training mode, else in evaluation mode.
            backward: whether to run the backward pass.
            losses: whether to compute the losses; by default if there is a backward pass.

        Returns:
            Points `<module path>`, `output/<name>`, with losses `term/<loss term>`, and with `backward`
            `gradient/<leaf>.output`, `gradient/<parameter>` and `gradient/input.<i>`, in the order in which they come
            about.
        """
        trace = Trace(meta={"leaves": self.module_types(), "dropout": dict(self.dropout), **self._facts()})
        self.model.train() if train else self.model.eval()
        tensors = [self._tensor(value, gradient=backward) for value in inputs]
        fired: list[tuple[str, np.ndarray]] = []
        try:
            with self._watched(trace, fired, backward=backward):
                outputs = self._forward(tensors)
                for name, value in outputs.items():
                    trace.add(f"output/{name}", self._array(value))
                if backward if losses is None else losses:
                    terms = self._cast(self.side.losses(targets))(outputs, self._tensors(targets))
                    for name, value in terms.items():
                        trace.add(f"term/{name}", self._array(value))
                if backward:
                    self._clear_gradients()
                    sum(terms.values()).backward()
                    self._add_gradients(trace, fired, tensors)
        except (Exception, SystemExit) as error:
            trace.meta["crash"] = f"{type(error).__name__}: {error}"
        return trace

    def evaluate_losses(self, outputs: Arrays, targets: Arrays) -> Trace:
        """Loss terms of given outputs, and the gradient of their sum with respect to each output."""
        trace = Trace()
        tensors = {name: self._tensor(value, gradient=True) for name, value in outputs.items()}
        try:
            with self._exact():
                terms = self._cast(self.side.losses(targets))(tensors, self._tensors(targets))
                for name, value in terms.items():
                    trace.add(name, self._array(value))
                total = sum(terms.values())
                if self._has_gradient(total):
                    total.backward()
            for name, tensor in tensors.items():
                trace.add(f"d_{name}", self._gradient(tensor))
        except (Exception, SystemExit) as error:
            trace.meta["crash"] = f"{type(error).__name__}: {error}"
        return trace

    def postprocess(self, outputs: Arrays) -> Trace:
        """What the model's post-processing makes of given outputs."""
        try:
            result = self.side.postprocess(self._tensors(outputs))
            return Trace({name: self._array(value) for name, value in result.items()})
        except (Exception, SystemExit) as error:
            return Trace(meta={"crash": f"{type(error).__name__}: {error}"})

    def initial(self) -> dict[str, tuple[tuple[int, ...], np.ndarray]]:
        """Shape and digest of the values that the constructor left in each tensor of the state dict."""
        return self._initial

    def schedule(self, iterations: Sequence[int], schedule: Any) -> dict[int, float]:
        """The schedule's rate at given iterations, or {} if the side names no schedule."""
        return {i: float(self.side.rate(i, schedule)) for i in iterations} if self.side.rate else {}

    def module_types(self) -> dict[str, str]:
        """Leaf module path -> class name."""
        raise NotImplementedError

    def _forward(self, tensors: Sequence[Any]) -> dict[str, Any]:
        result = self.model(*tensors)
        if self.side.outputs:
            named = self.side.outputs(result)
        elif isinstance(result, Mapping):
            named = dict(result)
        else:
            named = {str(i): v for i, v in enumerate(result if isinstance(result, (tuple, list)) else [result])}
        for name, value in named.items():
            if value is None or isinstance(value, (Mapping, tuple, list)):
                raise TypeError(
                    f"the model's output {name} is a {type(value).__name__}; expected a tensor, or a dict or tuple of"
                    " tensors; Side(outputs=...) makes a dict of anything else"
                )
        return named

    def _tensors(self, arrays: Arrays) -> dict[str, Any]:
        return {name: self._tensor(value) for name, value in arrays.items()}

    # --- what differs between the frameworks ---

    def _facts(self) -> dict[str, Any]:
        """What the trace of an observation holds beside its points, to be filled by hooks."""
        return {}

    def _tensor(self, value: np.ndarray, *, gradient: bool = False) -> Any:
        """A tensor; floats in the side's dtype, with a gradient if asked for."""
        raise NotImplementedError

    def _array(self, value: Any) -> np.ndarray:
        """A copy of a tensor, or of something like an array."""
        raise NotImplementedError

    def _gradient(self, tensor: Any) -> np.ndarray:
        """Of a leaf tensor; without elements if there is none."""
        raise NotImplementedError

    def _has_gradient(self, tensor: Any) -> bool:
        """Whether there is anything to differentiate it by."""
        raise NotImplementedError

    def _cast(self, losses: Any) -> Any:
        """Losses in the side's dtype."""
        raise NotImplementedError

    def _clear_gradients(self) -> None:
        raise NotImplementedError

    def _exact(self) -> AbstractContextManager[None]:
        """Within it operators compute in full precision."""
        raise NotImplementedError

    def _watched(
        self, trace: Trace, fired: list[tuple[str, np.ndarray]], *, backward: bool
    ) -> AbstractContextManager[None]:
        """Within it modules record their outputs, and with `backward` add (path, gradient of the output) to `fired`."""
        raise NotImplementedError

    def _add_gradients(self, trace: Trace, fired: Sequence[tuple[str, np.ndarray]], inputs: Sequence[Any]) -> None:
        raise NotImplementedError
