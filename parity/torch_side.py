"""The reference's side: the only module of the harness's core that imports torch.

Everything it returns is numpy. `match_paddle` gives torch the numbers that Paddle keeps as float32 (epsilon and
momentum of normalisations; momentum and decay of optimizers), so that float64 differences below 1e-9 mean something;
it is off where the reference is compared with its upstream repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.case import Schedule, Side
from parity.traces import Trace

ACCUMULATORS = {"momentum_buffer": "velocity", "exp_avg": "moment1", "exp_avg_sq": "moment2"}
_CHANNEL_DROPOUTS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
_DTYPES = {"float64": torch.float64, "float32": torch.float32}


class TorchSide:
    """A torch model that can be observed while it computes.

    Args:
        side: how it is built.
        dtype: "float64" or "float32".
        match_paddle: see the module's docstring.
    """

    name = "reference"

    def __init__(self, side: Side, *, dtype: str = "float64", match_paddle: bool = True) -> None:
        self.side = side
        self.dtype = _DTYPES[dtype]
        self.match_paddle = match_paddle
        self.model = side.model()
        self.dropout = {
            path: [module.p, float(isinstance(module, _CHANNEL_DROPOUTS)), 0.0]
            for path, module in self.model.named_modules()
            if isinstance(module, nn.modules.dropout._DropoutNd)
        }
        for path in self.dropout:
            self.model.get_submodule(path).p = 0.0
        self.model.to(self.dtype)
        if match_paddle:
            _round_attributes(self.model)
        self._training: tuple[Any, Any, Any] | None = None

    def versions(self) -> dict[str, str]:
        """Package versions that the numbers depend on."""
        return {"torch": str(torch.__version__), "numpy": np.__version__}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """State-dict names and shapes, in order."""
        return {name: tuple(value.shape) for name, value in self.model.state_dict().items()}

    def framework_only(self) -> dict[str, str]:
        """State-dict names that Paddle has no counterpart for, with the reason."""
        return {
            f"{path}.num_batches_tracked" if path else "num_batches_tracked": "Paddle does not count batches"
            for path, module in self.model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.num_batches_tracked is not None
        }

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Loads a state dict, strictly."""
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
        self.model.load_state_dict(tensors, strict=True)

    def state(self) -> dict[str, np.ndarray]:
        """The state dict, in order."""
        return {name: _numpy(value) for name, value in self.model.state_dict().items()}

    def buffers(self) -> dict[str, np.ndarray]:
        """Running statistics by name."""
        return {
            name: _numpy(value)
            for name, value in self.model.named_buffers()
            if not name.endswith("num_batches_tracked")
        }

    def parameters(self) -> dict[str, np.ndarray]:
        """Parameters of the model, and of the losses while training, by name."""
        return {name: _numpy(parameter) for name, parameter in self._named_parameters().items()}

    def module_types(self) -> dict[str, str]:
        """Leaf module path -> class name."""
        return {
            path: type(module).__name__ for path, module in self.model.named_modules() if not list(module.children())
        }

    def observe(
        self, inputs: Sequence[np.ndarray], targets: Mapping[str, np.ndarray], *, train: bool, backward: bool
    ) -> Trace:
        """Runs the model and records every module's output; with `backward`, gradients too.

        Returns:
            Points `<module path>`, `output/<name>`, and with `backward` `term/<loss term>`, `gradient/<leaf>.output`,
            `gradient/<parameter>` and `gradient/input.<i>`, in the order in which they come about.
        """
        trace = Trace(meta={"leaves": self.module_types(), "norms": {}, "sums": {}, "dropout": dict(self.dropout)})
        self.model.train(train)
        tensors = [self._tensor(value, gradient=backward) for value in inputs]
        fired: list[tuple[str, np.ndarray]] = []
        try:
            with self._hooks(trace, fired if backward else None), torch.set_grad_enabled(backward):
                outputs = self._forward(tensors)
                for name, value in outputs.items():
                    trace.add(f"output/{name}", _numpy(value))
                if backward:
                    terms = self._cast(self.side.losses(targets))(outputs, self._targets(targets))
                    for name, value in terms.items():
                        trace.add(f"term/{name}", _numpy(value))
                    self._clear_gradients()
                    sum(terms.values()).backward()
                    self._add_gradients(trace, fired, tensors)
                    for path, gradient in fired:
                        _add_magnitudes(trace.meta["sums"], path, self.model.get_submodule(path), gradient)
        except Exception as error:
            trace.meta["crash"] = f"{type(error).__name__}: {error}"
        return trace

    def evaluate_losses(self, outputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> Trace:
        """Loss terms of given outputs, and the gradient of their sum with respect to each output."""
        trace = Trace()
        tensors = {name: self._tensor(value, gradient=True) for name, value in outputs.items()}
        try:
            terms = self._cast(self.side.losses(targets))(tensors, self._targets(targets))
            for name, value in terms.items():
                trace.add(name, _numpy(value))
            total = sum(terms.values())
            if total.requires_grad:
                total.backward()
            for name, tensor in tensors.items():
                trace.add(f"d_{name}", _gradient(tensor))
        except Exception as error:
            trace.meta["crash"] = f"{type(error).__name__}: {error}"
        return trace

    def postprocess(self, outputs: Mapping[str, np.ndarray]) -> Trace:
        """What the model's post-processing makes of given outputs."""
        tensors = {name: self._tensor(value) for name, value in outputs.items()}
        try:
            result = self.side.postprocess(tensors)
            return Trace({name: _numpy(torch.as_tensor(value)) for name, value in result.items()})
        except Exception as error:
            return Trace(meta={"crash": f"{type(error).__name__}: {error}"})

    def start_training(self, schedule: Schedule, targets: Mapping[str, np.ndarray]) -> None:
        """Builds losses and optimizer; `train_step` can be called then."""
        losses = self._cast(self.side.losses(targets))
        optimizer = self.side.optimizer(self.model, losses, schedule)
        inner = getattr(optimizer, "optim", optimizer)
        if self.match_paddle:
            inner.register_step_pre_hook(_round_groups)
        self._training = (losses, optimizer, inner)

    def train_step(
        self, inputs: Sequence[np.ndarray], targets: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """One optimizer step in training mode.

        Returns:
            The loss terms before the step, and facts that the comparison needs: `norms` (see `known.RunningVariance`),
            `sums` (of each bias, the scale of what its gradient adds up, see `policy`) and `gains` (by how much the
            step multiplied an error of a gradient).
        """
        losses, optimizer, _ = self._training
        self.model.train()
        self._clear_gradients()
        norms: dict[str, Any] = {}
        sums: dict[str, float] = {}
        handles = [m.register_forward_pre_hook(_counter(norms, p)) for p, m in self.model.named_modules() if _tracks(m)]
        handles += [m.register_forward_hook(_summer(sums, p)) for p, m in self.model.named_modules() if _shifts(m)]
        try:
            outputs = self._forward([self._tensor(value) for value in inputs])
        finally:
            for handle in handles:
                handle.remove()
        terms = losses(outputs, self._targets(targets))
        sum(terms.values()).backward()
        optimizer.step()
        facts = {"norms": norms, "sums": sums, "gains": self._gains()}
        return {name: _numpy(value) for name, value in terms.items()}, facts

    def learning_rates(self) -> dict[str, float]:
        """Rate of the last step by parameter name; parameters in no group are absent."""
        names = {id(parameter): name for name, parameter in self._named_parameters().items()}
        groups = self._training[2].param_groups
        return {names[id(p)]: float(group["lr"]) for group in groups for p in group["params"]}

    def schedule(self, iterations: Sequence[int], schedule: Schedule) -> dict[int, float]:
        """The schedule's rate at given iterations, or {} if the side names no schedule."""
        return {i: float(self.side.rate(i, schedule)) for i in iterations} if self.side.rate else {}

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """Accumulators, `<parameter>.<accumulator>`, in Paddle's words."""
        names = {id(parameter): name for name, parameter in self._named_parameters().items()}
        state = {}
        for parameter, values in self._training[2].state.items():
            for key, value in values.items():
                if key in ACCUMULATORS and value is not None:
                    state[f"{names[id(parameter)]}.{ACCUMULATORS[key]}"] = _numpy(value)
        return state

    def attributes(self, path: str) -> dict[str, Any]:
        """What a leaf module is set to, in the words both sides share; {} for a type without known attributes."""
        module = self.model.get_submodule(path)
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            return _window_attributes(module)
        if _tracks(module):
            return {"epsilon": float(module.eps), "momentum": float(module.momentum)}
        if isinstance(module, nn.GroupNorm):
            return {"epsilon": float(module.eps), "groups": module.num_groups}
        if isinstance(module, nn.LayerNorm):
            return {"epsilon": float(module.eps)}
        return {}

    def replay(self, path: str, inputs: Sequence[np.ndarray], *, train: bool) -> np.ndarray:
        """Output of one leaf module on given inputs."""
        module = self.model.get_submodule(path).train(train)
        with torch.no_grad():
            return _numpy(module(*[self._tensor(value) for value in inputs]))

    def leaf_inputs(self, path: str, inputs: Sequence[np.ndarray], *, train: bool) -> list[np.ndarray]:
        """What a leaf module receives when the model runs on `inputs`."""
        received: list[np.ndarray] = []
        module = self.model.get_submodule(path)
        handle = module.register_forward_pre_hook(
            lambda _, arguments: received.extend(_numpy(a) for a in arguments) if not received else None
        )
        self.model.train(train)
        try:
            with torch.no_grad():
                self._forward([self._tensor(value) for value in inputs])
        finally:
            handle.remove()
        return received

    def _forward(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        result = self.model(*tensors)
        return self.side.outputs(result) if self.side.outputs else _named(result)

    def _tensor(self, value: np.ndarray, *, gradient: bool = False) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(value))
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype).requires_grad_(gradient)
        return tensor

    def _targets(self, targets: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: self._tensor(value) for name, value in targets.items()}

    def _cast(self, losses: Any) -> Any:
        return losses.to(self.dtype) if self.match_paddle and isinstance(losses, nn.Module) else losses

    def _named_parameters(self) -> dict[str, torch.Tensor]:
        named = dict(self.model.named_parameters())
        if self._training and isinstance(self._training[0], nn.Module):
            named.update({f"losses.{name}": p for name, p in self._training[0].named_parameters()})
        return named

    def _gains(self) -> dict[str, float]:
        names = {id(parameter): name for name, parameter in self._named_parameters().items()}
        inner, gains = self._training[2], {}
        for group in inner.param_groups:
            for parameter in group["params"]:
                square = inner.state[parameter].get("exp_avg_sq")
                divisor = 1.0 if square is None else float(square.min().sqrt()) + group["eps"]
                gains[names[id(parameter)]] = float(group["lr"]) / divisor
        return gains

    def _clear_gradients(self) -> None:
        for parameter in self._named_parameters().values():
            parameter.grad = None

    @contextmanager
    def _hooks(self, trace: Trace, fired: list[tuple[str, np.ndarray]] | None) -> Iterator[None]:
        handles = []
        for path, module in self.model.named_modules():
            if path:
                handles.append(module.register_forward_hook(_recorder(trace, path, fired)))
            if _tracks(module):
                handles.append(module.register_forward_pre_hook(_counter(trace.meta["norms"], path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add_gradients(
        self, trace: Trace, fired: Sequence[tuple[str, np.ndarray]], inputs: Sequence[torch.Tensor]
    ) -> None:
        parameters = {name: _gradient(parameter) for name, parameter in self.model.named_parameters()}
        for path, gradient in fired:
            trace.add(f"gradient/{path}.output", gradient)
            for name in [n for n in parameters if n.rpartition(".")[0] == path]:
                trace.add(f"gradient/{name}", parameters.pop(name))
        for name in reversed(list(parameters)):
            trace.add(f"gradient/{name}", parameters[name])
        for index, tensor in enumerate(inputs):
            trace.add(f"gradient/input.{index}", _gradient(tensor))


def _recorder(trace: Trace, path: str, fired: list[tuple[str, np.ndarray]] | None) -> Any:
    leaf = path in trace.meta["leaves"]

    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            return
        trace.add(path, _numpy(output))
        if fired is not None and leaf and output.requires_grad:
            output.register_hook(lambda gradient: fired.append((path, _numpy(gradient))))

    return hook


def _counter(norms: dict[str, Any], path: str) -> Any:
    def hook(module: nn.Module, arguments: Any) -> None:
        if not module.training:
            return
        x = arguments[0]
        call = {"count": x.numel() // x.shape[1], "momentum": float(module.momentum)}
        norms.setdefault(path, []).append({**call, "before": _numpy(module.running_var)})

    return hook


def _shifts(module: nn.Module) -> bool:
    """Whether it adds a bias per channel: its gradient is a sum, which may cancel to nothing but rounding."""
    bias = getattr(module, "bias", None)
    return isinstance(bias, nn.Parameter) and bias.ndim == 1 and not list(module.children())


def _summer(sums: dict[str, float], path: str) -> Any:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: _add_magnitudes(sums, path, module, _numpy(gradient)))

    return hook


def _add_magnitudes(sums: dict[str, float], path: str, module: nn.Module, gradient: np.ndarray) -> None:
    if _shifts(module) and gradient.ndim > 1:
        channel = gradient.ndim - 1 if isinstance(module, nn.Linear) else 1
        others = tuple(axis for axis in range(gradient.ndim) if axis != channel)
        count = gradient.size // gradient.shape[channel]
        magnitudes = np.sqrt(count) * float(np.abs(gradient).sum(axis=others).max())
        sums[f"{path}.bias"] = sums.get(f"{path}.bias", 0.0) + magnitudes


def _tracks(module: nn.Module) -> bool:
    """Whether it averages running statistics with a momentum; a frozen batch norm has none."""
    return getattr(module, "running_var", None) is not None and getattr(module, "momentum", None) is not None


def _round_attributes(model: nn.Module) -> None:
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm)  # Paddle's GroupNorm holds its epsilon in float64
    for module in model.modules():
        if (isinstance(module, kinds) or _tracks(module)) and isinstance(getattr(module, "eps", None), float):
            module.eps = float(np.float32(module.eps))
        if _tracks(module):
            module.momentum = 1.0 - float(np.float32(1.0 - module.momentum))


def _round_groups(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        rounded: tuple[str, ...] = ()
        if isinstance(optimizer, torch.optim.SGD) and group["momentum"]:
            rounded = ("momentum", "weight_decay")
        elif isinstance(optimizer, torch.optim.AdamW):
            rounded = ("weight_decay",)
        for key in rounded:
            group[key] = float(np.float32(group[key]))


def _window_attributes(module: nn.Module) -> dict[str, Any]:
    def pair(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, (int, str)) else tuple(value)

    attributes = {key: pair(getattr(module, key)) for key in ("kernel_size", "stride", "padding")}
    if isinstance(module, nn.Conv2d):
        attributes.update(dilation=pair(module.dilation), groups=module.groups, bias=module.bias is not None)
        attributes["padding_mode"] = module.padding_mode
    else:
        attributes["ceil_mode"] = module.ceil_mode
        if isinstance(module, nn.AvgPool2d):
            attributes["counts_padding"] = module.count_include_pad
    return attributes


def _named(result: Any) -> dict[str, torch.Tensor]:
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, (tuple, list)):
        return {str(index): value for index, value in enumerate(result)}
    return {"0": result}


def _gradient(tensor: torch.Tensor) -> np.ndarray:
    return np.zeros(0) if tensor.grad is None else _numpy(tensor.grad)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().clone().numpy()
