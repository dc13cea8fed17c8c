"""The port's side: with `paddle_float64`, the only module of the harness's core that imports paddle.

Its methods are those of `TorchSide`, and so are the names it returns: normalisation buffers and accumulators are
called what torch calls them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import paddle
from paddle import nn

from parity import paddle_float64, settings
from parity.case import Schedule, Side
from parity.model_side import INITIAL_SEED, ModelSide
from parity.traces import Trace, digested
from parity.weights import PortTensor

_BATCH_NORMS = nn.layer.norm._BatchNormBase
_BUFFERS = {"_mean": "running_mean", "_variance": "running_var"}
_PARAMETERS = ((nn.layer.norm._InstanceNormBase, {"scale": "weight"}), (nn.PReLU, {"_weight": "weight"}))
_ACCUMULATORS = ("velocity", "moment1", "moment2")
_DROPOUTS = (nn.Dropout, nn.Dropout2D, nn.Dropout3D, nn.AlphaDropout)


class PaddleSide(ModelSide):
    """A Paddle model that can be observed while it computes.

    Args:
        side: how it is built.
        dtype: "float64", in which resizing and average pooling are exact (see `paddle_float64`), or "float32".
    """

    name = "port"

    def __init__(self, side: Side, *, dtype: str = "float64") -> None:
        paddle.set_device("cpu")
        self.side = side
        self.dtype = dtype
        if side.initial:
            paddle.seed(INITIAL_SEED)
        with nullcontext() if side.initial else _default_initial_values_zero():
            self.model = side.model()
        if not isinstance(self.model, nn.Layer):
            raise TypeError(f"its function returns a {type(self.model).__name__}; expected a paddle.nn.Layer")
        self._initial = {n: digested(v) for n, v in self.state().items()} if side.initial else {}
        layers = dict(self.model.named_sublayers())
        self.dropout = {path: _dropout(layer) for path, layer in layers.items() if isinstance(layer, _DROPOUTS)}
        for path in self.dropout:
            layers[path].p = 0.0
        self.model.to(dtype=dtype)
        self._training: tuple[Any, Any, Any] | None = None
        self._iteration = 0
        self._unloaded: dict[str, np.ndarray] = {}

    def cast(self, dtype: str) -> None:
        """As `TorchSide.cast`."""
        loaded, buffers = self.model.state_dict(), dict(self.model.named_buffers())
        if self.dtype == "float64":
            self._unloaded = {name: value.numpy() for name, value in buffers.items() if name not in loaded}
        self.dtype = dtype
        self.model.to(dtype=dtype)
        if dtype == "float64":
            for name, value in self.model.named_buffers():
                if name in self._unloaded:
                    value.set_value(self._unloaded[name])

    def versions(self) -> dict[str, str]:
        """Package versions that the numbers depend on."""
        return {"paddlepaddle": paddle.__version__, "numpy": np.__version__}

    def tensors(self) -> list[PortTensor]:
        """All parameters and buffers; how torch would name and lay them out follows their layer's type."""
        layers = _all_paths(self.model)
        tensors = []
        for name, value in self.model.state_dict().items():
            path, _, attribute = name.rpartition(".")
            layer, shape = layers[path], tuple(value.shape)
            if attribute in _BUFFERS and _has_statistics(layer):
                tensors.append(PortTensor(name, _torch_name(name), shape))
            elif attribute in _renamed(layer):
                tensors.append(PortTensor(name, _spelled(layer, name), shape))
            elif isinstance(layer, nn.Linear) and attribute == "weight":
                tensors.append(PortTensor(name, name, shape[::-1], transposed=True))
            else:
                tensors.append(PortTensor(name, name, shape))
        return tensors

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Loads a state in the port's own names, strictly."""
        own = self.model.state_dict()
        if set(own) != set(state):
            raise KeyError(f"state and port differ in {sorted(set(own) ^ set(state))[:5]}")
        for name, value in state.items():
            own[name].set_value(np.asarray(value).astype(str(own[name].dtype).rpartition(".")[2], copy=False))

    def state(self) -> dict[str, np.ndarray]:
        """The state dict in the port's own names."""
        return {name: value.numpy() for name, value in self.model.state_dict().items()}

    def buffers(self) -> dict[str, np.ndarray]:
        """Running statistics, those of frozen norms and other persistent buffers included, by torch's name."""
        layers = _all_paths(self.model)
        named = dict(self.model.named_buffers())
        named.update({name: value for name, value in self.model.named_parameters() if _is_statistic(name)})
        kept = self.model.state_dict()
        return {
            _torch_name(name) if _has_statistics(layers[name.rpartition(".")[0]]) else name: value.numpy()
            for name, value in named.items()
            if name in kept
        }

    def parameters(self, *, copy: bool = True) -> dict[str, np.ndarray]:
        """As `TorchSide.parameters`, as torch lays them out."""
        linear = self._linear_weights()
        return {n: _read(p, copy).T if n in linear else _read(p, copy) for n, p in self._named_parameters().items()}

    def module_types(self) -> dict[str, str]:
        """Leaf layer path -> class name."""
        return {path: type(layer).__name__ for path, layer in self.model.named_sublayers() if not layer._sub_layers}

    def start_training(self, schedule: Schedule, targets: Mapping[str, np.ndarray]) -> None:
        """As `TorchSide.start_training`."""
        losses = self._cast(self.side.losses(targets))
        optimizer = self.side.optimizer(self.model, losses, schedule)
        self._training = (losses, optimizer, getattr(optimizer, "inner", optimizer))
        self._iteration = schedule.start
        self._clear_gradients()

    def train_step(
        self, inputs: Sequence[np.ndarray], targets: Mapping[str, np.ndarray], *, facts: bool = True
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """As `TorchSide.train_step`; the second result is empty in any case."""
        losses, optimizer, _ = self._training
        self.model.train()
        tensors, labels = [self._tensor(value) for value in inputs], self._tensors(targets)
        with self._exact():
            if self.side.train_step is not None:  # which has to clear the gradients itself
                values = self.side.train_step(self.model, losses, optimizer, tensors, labels, self._iteration)
                self._iteration += 1
                return {name: np.array(value, np.float64) for name, value in values.items()}, {}
            self._clear_gradients()
            terms = losses(self._forward(tensors), labels)
            sum(terms.values()).backward()
            optimizer.step()
        self._clear_gradients()
        return {name: value.numpy() for name, value in terms.items()}, {}

    def end_training(self) -> None:
        """As `TorchSide.end_training`."""
        self._clear_gradients()
        self._training = None

    def learning_rates(self) -> dict[str, float]:
        """As `TorchSide.learning_rates`."""
        _, optimizer, inner = self._training
        if hasattr(optimizer, "learning_rates"):
            layers = _all_paths(self.model)
            rates = optimizer.learning_rates()
            return {_spelled(layers.get(n.rpartition(".")[0]), n): rate for n, rate in rates.items()}
        names = {id(parameter): name for name, parameter in self._named_parameters().items()}
        rate = float(inner.get_lr())
        optimized = [p for p in _optimized(inner) if id(p) in names]  # not the running statistics
        return {names[id(p)]: rate * p.optimize_attr["learning_rate"] for p in optimized}

    def optimizer_state(self, *, copy: bool = True) -> dict[str, np.ndarray]:
        """As `TorchSide.optimizer_state`."""
        names = {parameter.name: name for name, parameter in self._named_parameters().items()}
        linear = self._linear_weights()
        state = {}
        for accumulator, variables in self._training[2]._accumulators.items():
            for variable, value in variables.items():
                if accumulator in _ACCUMULATORS:
                    name = names[variable]
                    array = _read(value, copy)
                    state[f"{name}.{accumulator}"] = array.T if name in linear else array
        return state

    def layer(self, path: str) -> nn.Layer:
        """The layer at a path of the model."""
        found = self.model
        for name in path.split("."):
            found = found._sub_layers[name]
        return found

    def attributes(self, path: str) -> dict[str, Any]:
        """As `TorchSide.attributes`."""
        layer = self.layer(path)
        if isinstance(layer, (nn.Conv2D, nn.Conv2DTranspose)):
            transposed = isinstance(layer, nn.Conv2DTranspose)
            return {
                "kernel_size": _pair(layer._kernel_size),
                "stride": _pair(layer._stride),
                "padding": _pair(layer._padding),
                "dilation": _pair(layer._dilation),
                "groups": layer._groups,
                "bias": layer.bias is not None,
                "padding_mode": layer._padding_mode,
                **({"output_padding": _pair(layer.output_padding)} if transposed else {}),
            }
        if isinstance(layer, (nn.MaxPool2D, nn.AvgPool2D)):
            kernel = layer.ksize if hasattr(layer, "ksize") else layer.kernel_size
            stride = kernel if layer.stride is None else layer.stride
            attributes = {"kernel_size": _pair(kernel), "stride": _pair(stride), "padding": _pair(layer.padding)}
            attributes["ceil_mode"] = layer.ceil_mode
            if isinstance(layer, nn.AvgPool2D):
                attributes["counts_padding"] = not layer.exclusive
            return attributes
        if isinstance(layer, _BATCH_NORMS):
            return {"epsilon": float(np.float32(layer._epsilon)), "momentum": 1.0 - float(np.float32(layer._momentum))}
        if isinstance(layer, nn.GroupNorm):
            return {"epsilon": float(layer._epsilon), "groups": layer._num_groups}
        if isinstance(layer, nn.LayerNorm):
            return {"epsilon": float(np.float32(layer._epsilon))}
        if _has_statistics(layer) and hasattr(layer, "epsilon"):  # frozen
            return {"epsilon": float(layer.epsilon)}
        return settings.read(layer, settings.PADDLE)

    def replay(self, path: str, inputs: Sequence[np.ndarray], *, train: bool) -> np.ndarray:
        """As `TorchSide.replay`."""
        layer = self.layer(path)
        layer.train() if train else layer.eval()
        with paddle.no_grad(), self._exact():
            return layer(*[self._tensor(value) for value in inputs]).numpy()

    @contextmanager
    def _exact(self) -> Iterator[None]:
        if self.dtype == "float64":
            with paddle_float64.exact_operators():
                yield
        else:
            yield

    def _tensor(self, value: np.ndarray, *, gradient: bool = False) -> paddle.Tensor:
        array = np.asarray(value)
        if array.dtype.kind != "f":
            return paddle.to_tensor(array)
        return paddle.to_tensor(array.astype(self.dtype), stop_gradient=not gradient)

    def _array(self, value: Any) -> np.ndarray:
        return value.numpy() if isinstance(value, paddle.Tensor) else np.asarray(value)

    def _gradient(self, tensor: paddle.Tensor) -> np.ndarray:
        return np.zeros(0) if tensor.grad is None else tensor.grad.numpy()

    def _has_gradient(self, tensor: Any) -> bool:
        return not tensor.stop_gradient

    def _cast(self, losses: Any) -> Any:
        if isinstance(losses, nn.Layer):
            losses.to(dtype=self.dtype)
        return losses

    def _named_parameters(self) -> dict[str, paddle.Tensor]:
        named = self._model_parameters()
        if self._training and isinstance(self._training[0], nn.Layer):
            named.update({f"losses.{name}": p for name, p in self._training[0].named_parameters()})
        return named

    def _model_parameters(self) -> dict[str, paddle.Tensor]:
        """What learns, or could, as torch spells it."""
        layers = _all_paths(self.model)
        named = {name: p for name, p in self.model.named_parameters() if not _is_statistic(name)}
        return {_spelled(layers[name.rpartition(".")[0]], name): p for name, p in named.items()}

    def _linear_weights(self) -> set[str]:
        return {f"{p}.weight" for p, layer in self.model.named_sublayers() if isinstance(layer, nn.Linear)}

    def _clear_gradients(self) -> None:
        for parameter in self._named_parameters().values():
            parameter.clear_gradient(set_to_zero=False)

    @contextmanager
    def _watched(self, trace: Trace, fired: list[tuple[str, int, np.ndarray]], *, backward: bool) -> Iterator[None]:
        handles = [
            layer.register_forward_post_hook(_recorder(trace, path, fired if backward else None))
            for path, layer in self.model.named_sublayers()
        ]
        try:
            with self._exact(), paddle.set_grad_enabled(backward):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _add_gradients(
        self, trace: Trace, fired: Sequence[tuple[str, int, np.ndarray]], inputs: Sequence[paddle.Tensor]
    ) -> None:
        linear = self._linear_weights()
        gradients = {name: self._gradient(parameter) for name, parameter in self._model_parameters().items()}
        gradients = {name: value.T if name in linear else value for name, value in gradients.items()}
        for path, gradient in _last_call_first(fired):
            trace.add(f"gradient/{path}.output", gradient)
        for name in reversed(list(gradients)):
            trace.add(f"gradient/{name}", gradients[name])
        for index, tensor in enumerate(inputs):
            trace.add(f"gradient/input.{index}", self._gradient(tensor))


@contextmanager
def _default_initial_values_zero() -> Iterator[None]:
    """Within it Paddle draws no initial values where a layer asks for none in particular: `load` replaces them all."""
    zero = nn.initializer.Constant(0.0)
    nn.initializer.set_global_initializer(zero, zero)
    try:
        yield
    finally:
        nn.initializer.set_global_initializer(None, None)


def _read(tensor: paddle.Tensor, copy: bool) -> np.ndarray:
    return tensor.numpy() if copy else np.from_dlpack(tensor.detach())


def _recorder(trace: Trace, path: str, fired: list[tuple[str, int, np.ndarray]] | None) -> Any:
    leaf = path in trace.meta["leaves"]
    calls = itertools.count()

    def hook(layer: nn.Layer, arguments: Any, output: Any) -> None:
        if not isinstance(output, paddle.Tensor):
            return
        trace.add(path, output.numpy())
        call = next(calls)
        if fired is not None and leaf and not output.stop_gradient:
            output.register_hook(lambda gradient: fired.append((path, call, gradient.numpy())))

    return hook


def _last_call_first(fired: Sequence[tuple[str, int, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """(path, gradient), those of a layer that ran several times in torch's order: its last call first.

    Where the calls' outputs go separate ways, as those of HRNet's branches do, Paddle comes by them in another order.
    """
    calls: dict[str, list[tuple[int, np.ndarray]]] = {}
    for path, call, gradient in fired:
        calls.setdefault(path, []).append((call, gradient))
    for found in calls.values():
        found.sort(key=lambda entry: entry[0])
    for path, _, _ in fired:
        yield path, calls[path].pop()[1]


def _dropout(layer: nn.Layer) -> list[float]:
    """Rate; 1 if whole channels are dropped; 1 if it scales in evaluation, which torch never does."""
    whole = isinstance(layer, (nn.Dropout2D, nn.Dropout3D)) or getattr(layer, "axis", None) is not None
    return [layer.p, float(whole), float(getattr(layer, "mode", "") == "downscale_in_infer")]


def _all_paths(model: nn.Layer, prefix: str = "") -> dict[str, nn.Layer]:
    """Every path of every layer; a layer that is registered twice has two, unlike in `named_sublayers`."""
    paths = {prefix: model}
    for name, layer in model._sub_layers.items():
        if layer is not None:
            paths.update(_all_paths(layer, f"{prefix}.{name}" if prefix else name))
    return paths


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in _BUFFERS  # Paddle lists running statistics among the parameters


def _has_statistics(layer: nn.Layer) -> bool:
    return all(isinstance(getattr(layer, name, None), paddle.Tensor) for name in _BUFFERS)


def _torch_name(name: str) -> str:
    """Of a running statistic."""
    path, _, attribute = name.rpartition(".")
    return f"{path}.{_BUFFERS.get(attribute, attribute)}" if path else _BUFFERS.get(attribute, attribute)


def _renamed(layer: nn.Layer) -> dict[str, str]:
    """Paddle's name -> torch's, of the parameters of this layer that the two call differently."""
    return next((names for kind, names in _PARAMETERS if isinstance(layer, kind)), {})


def _spelled(layer: nn.Layer | None, name: str) -> str:
    """A parameter's name in torch's spelling."""
    path, dot, attribute = name.rpartition(".")
    return name if layer is None else f"{path}{dot}{_renamed(layer).get(attribute, attribute)}"


def _optimized(inner: Any) -> list[paddle.Tensor]:
    groups = inner._param_groups
    return [p for g in groups for p in g["params"]] if groups and isinstance(groups[0], dict) else list(groups)


def _pair(value: Any) -> tuple[Any, ...]:
    """(height, width); padding that differs between the ends of an axis stays (top, bottom, left, right)."""
    if isinstance(value, (int, str)):
        return (value, value)
    values = tuple(value)
    if len(values) == 4 and values[0] == values[1] and values[2] == values[3]:
        return values[::2]
    return values * 2 if len(values) == 1 else values
