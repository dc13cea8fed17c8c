"""The reference's side: the only module of the harness's core that imports torch.

Everything it returns is numpy. Torch gets the numbers that Paddle keeps as float32 (epsilon and momentum of
normalisations; momentum and decay of optimizers) rounded alike, so that float64 differences below 1e-9 mean something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from parity import settings
from parity.case import Schedule, Side
from parity.model_side import INITIAL_SEED, ModelSide
from parity.torch_hooks import (
    STATISTICS,
    Shifts,
    add_magnitudes,
    calibrator,
    counter,
    first_of_equals,
    has_shift,
    has_statistics,
    norm_alone,
    recorder,
    summer,
    to_numpy,
    tracks,
)
from parity.traces import Trace, digested

ACCUMULATORS = {"momentum_buffer": "velocity", "exp_avg": "moment1", "exp_avg_sq": "moment2"}
_CHANNEL_DROPOUTS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
_DTYPES = {"float64": torch.float64, "float32": torch.float32}


class TorchSide(ModelSide):
    """A torch model that can be observed while it computes.

    Args:
        side: how it is built.
        dtype: "float64" or "float32".
    """

    name = "reference"

    def __init__(self, side: Side, *, dtype: str = "float64") -> None:
        self.side = side
        self.dtype = _DTYPES[dtype]
        if side.initial:
            torch.manual_seed(INITIAL_SEED)
        self.model = side.model()
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"its function returns a {type(self.model).__name__}; expected a torch.nn.Module")
        self._initial = {n: digested(v) for n, v in self.state().items()} if side.initial else {}
        self.dropout = {
            path: [module.p, float(isinstance(module, _CHANNEL_DROPOUTS)), 0.0]
            for path, module in self.model.named_modules()
            if isinstance(module, nn.modules.dropout._DropoutNd)
        }
        for path in self.dropout:
            self.model.get_submodule(path).p = 0.0
        self.model.to(self.dtype)
        _round_attributes(self.model)
        self._training: tuple[Any, Any, Any] | None = None
        self._unloaded: dict[str, torch.Tensor] = {}

    def cast(self, dtype: str) -> None:
        """Computes in "float64" or "float32" from here on; `load` comes next.

        Buffers that are in no state dict come back from float32 with all the digits that they had.
        """
        loaded, buffers = self.model.state_dict(), dict(self.model.named_buffers())
        if self.dtype == torch.float64:
            self._unloaded = {name: value.clone() for name, value in buffers.items() if name not in loaded}
        self.dtype = _DTYPES[dtype]
        self.model.to(self.dtype)
        if self.dtype == torch.float64:
            for name, value in self.model.named_buffers():
                if name in self._unloaded:
                    value.copy_(self._unloaded[name])

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
        tensors = {name: _shared(value) for name, value in state.items()}  # loading copies
        self.model.load_state_dict(tensors, strict=True)

    def calibrate(self, inputs: Sequence[np.ndarray]) -> None:
        """Replaces running statistics by those of one batch; nothing else of the state changes.

        The model runs once in training mode, in float64 and without dropout. Each normalisation with running
        statistics, frozen ones included, takes the mean and the biased variance (mean of squared deviations) of its
        own input, and normalises with them, as a batch norm in training does. If it runs several times, the first
        counts; if it does not run, it keeps what it has. They are rounded to float32, like generated weights, so that
        the float32 report starts from the same ones.

        Args:
            inputs: of the model.
        """
        dtype, self.dtype = self.dtype, torch.float64
        self.model.to(self.dtype).train()
        before = {name: value.clone() for name, value in self.model.named_buffers()}
        modules = {path: m for path, m in self.model.named_modules() if has_statistics(m)}
        handles = [module.eval().register_forward_pre_hook(calibrator()) for module in modules.values()]
        try:
            with torch.no_grad(), self._exact():
                self._forward([self._tensor(value) for value in inputs])
        finally:
            for handle in handles:
                handle.remove()
        for name, value in self.model.named_buffers():
            value.copy_(value.float() if name.rpartition(".")[2] in STATISTICS else before[name])
        self.dtype = dtype
        self.model.to(dtype)

    def state(self) -> dict[str, np.ndarray]:
        """The state dict, in order."""
        return {name: to_numpy(value) for name, value in self.model.state_dict().items()}

    def buffers(self) -> dict[str, np.ndarray]:
        """Running statistics and other persistent buffers, by name."""
        kept = self.model.state_dict()
        return {
            name: to_numpy(value)
            for name, value in self.model.named_buffers()
            if name in kept and not name.endswith("num_batches_tracked")
        }

    def parameters(self, *, copy: bool = True) -> dict[str, np.ndarray]:
        """Parameters of the model, and of the losses while training, by name; without `copy`, a step changes them."""
        return {name: _read(parameter, copy) for name, parameter in self._named_parameters().items()}

    def module_types(self) -> dict[str, str]:
        """Leaf module path -> class name."""
        return {
            path: type(module).__name__ for path, module in self.model.named_modules() if not list(module.children())
        }

    def losses_learn(self, targets: Mapping[str, np.ndarray]) -> bool:
        """Whether the losses have parameters."""
        losses = self.side.losses(targets)
        return isinstance(losses, nn.Module) and any(True for _ in losses.parameters())

    def optimizer_settings(self, schedule: Schedule, targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Numbers that the first group of the optimizer is set to, Adam's betas as `beta1` and `beta2`."""
        optimizer = self.side.optimizer(self.model, self._cast(self.side.losses(targets)), schedule)
        group = getattr(optimizer, "optim", optimizer).param_groups[0]
        settings = {**group, **dict(zip(("beta1", "beta2"), group.get("betas", ())))}
        return {name: float(value) for name, value in settings.items() if isinstance(value, (int, float))}

    def start_training(self, schedule: Schedule, targets: Mapping[str, np.ndarray]) -> None:
        """Builds losses and optimizer; `train_step` can be called then."""
        losses = self._cast(self.side.losses(targets))
        optimizer = self.side.optimizer(self.model, losses, schedule)
        inner = getattr(optimizer, "optim", optimizer)
        inner.register_step_pre_hook(_round_groups)
        self._training = (losses, optimizer, inner)

    def train_step(
        self,
        inputs: Sequence[np.ndarray],
        targets: Mapping[str, np.ndarray],
        *,
        facts: bool = True,
        after: Trace | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """One optimizer step in training mode.

        Args:
            inputs: of the model.
            targets: of the losses.
            facts: whether to find out what the comparison of parameters needs; without, the second result is empty.
            after: what `observe` returned for the same batch, with gradients, as the last thing that the model did: the
                step takes these gradients instead of computing them again. Not for losses that learn.

        Returns:
            The loss terms before the step, and facts that the comparison needs: `norms` (see `known.RunningVariance`),
            `sums` (of each bias, the scale of what its gradient adds up, see `policy`), `gains` (by how much the step
            multiplied an error of a gradient, for each element if the optimizer is adaptive), `adaptive` (rms of the
            gradients, if so), `squares` (by how much errors of that size change the mean squares) and `shifts`
            (norm -> bias -> by how much its mean follows the bias).
        """
        losses, optimizer, _ = self._training
        if after is None:
            after = Trace(meta=self._facts())
            self.model.train()
            self._clear_gradients()
            with self._exact():
                with self._counted(after.meta if facts else None):
                    outputs = self._forward([self._tensor(value) for value in inputs])
                terms = losses(outputs, self._tensors(targets))
                sum(terms.values()).backward()
            after.points = {f"term/{name}": to_numpy(value) for name, value in terms.items()}
        with norm_alone() if self.dtype == torch.float64 else nullcontext():
            optimizer.step()
        found = {**{name: after.meta[name] for name in ("norms", "sums", "shifts")}, **self._gains()} if facts else {}
        self._clear_gradients()  # a large model's are gigabytes
        terms = {name.partition("/")[2]: v for name, v in after.points.items() if name.startswith("term/")}
        return terms, found

    @contextmanager
    def _counted(self, meta: dict[str, Any] | None) -> Iterator[None]:
        """Within it a forward pass, and the backward pass that follows, fill in the facts of `train_step`."""
        handles, shifts = [], Shifts(meta["shifts"] if meta is not None else {})
        for path, module in self.model.named_modules() if meta is not None else ():
            handles += shifts.hooks(path, module)
            if tracks(module):
                handles.append(module.register_forward_pre_hook(counter(meta["norms"], path)))
            if has_shift(module):
                handles.append(module.register_forward_hook(summer(meta["sums"], path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def end_training(self) -> None:
        """Lets go of what `start_training` built."""
        self._clear_gradients()
        self._training = None

    def learning_rates(self) -> dict[str, float]:
        """Rate of the last step by parameter name; parameters in no group are absent."""
        names = {id(parameter): name for name, parameter in self._named_parameters().items()}
        groups = self._training[2].param_groups
        return {names[id(p)]: float(group["lr"]) for group in groups for p in group["params"]}

    def optimizer_state(self, *, copy: bool = True) -> dict[str, np.ndarray]:
        """Accumulators, `<parameter>.<accumulator>`, in Paddle's words; without `copy`, a step changes them."""
        names = {id(parameter): name for name, parameter in self._named_parameters().items()}
        state = {}
        for parameter, values in self._training[2].state.items():
            for key, value in values.items():
                if key in ACCUMULATORS and value is not None:
                    state[f"{names[id(parameter)]}.{ACCUMULATORS[key]}"] = _read(value, copy)
        return state

    def attributes(self, path: str) -> dict[str, Any]:
        """What a leaf module is set to, in the words both sides share; {} for a type without known attributes."""
        module = self.model.get_submodule(path)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d)):
            return _window_attributes(module)
        if tracks(module):
            return {"epsilon": float(module.eps), "momentum": float(module.momentum)}
        if isinstance(module, nn.GroupNorm):
            return {"epsilon": float(module.eps), "groups": module.num_groups}
        if isinstance(module, nn.LayerNorm):
            return {"epsilon": float(module.eps)}
        if has_statistics(module) and hasattr(module, "eps"):  # frozen
            return {"epsilon": float(module.eps)}
        return settings.read(module, settings.TORCH)

    def replay(self, path: str, inputs: Sequence[np.ndarray], *, train: bool) -> np.ndarray:
        """Output of one leaf module on given inputs."""
        module = self.model.get_submodule(path).train(train)
        with torch.no_grad(), self._exact():
            return to_numpy(module(*[self._tensor(value) for value in inputs]))

    def leaf_inputs(self, path: str, inputs: Sequence[np.ndarray], *, train: bool) -> list[np.ndarray]:
        """What a leaf module receives when the model runs on `inputs`."""
        received: list[np.ndarray] = []
        module = self.model.get_submodule(path)
        handle = module.register_forward_pre_hook(
            lambda _, arguments: received.extend(to_numpy(a) for a in arguments) if not received else None
        )
        self.model.train(train)
        try:
            with torch.no_grad(), self._exact():
                self._forward([self._tensor(value) for value in inputs])
        finally:
            handle.remove()
        return received

    def _tensor(self, value: np.ndarray, *, gradient: bool = False) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(value))
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype).requires_grad_(gradient)
        return tensor

    def _facts(self) -> dict[str, Any]:
        return {"norms": {}, "sums": {}, "shifts": {}}

    def _array(self, value: Any) -> np.ndarray:
        return to_numpy(torch.as_tensor(value))

    def _gradient(self, tensor: torch.Tensor) -> np.ndarray:
        return np.zeros(0) if tensor.grad is None else to_numpy(tensor.grad)

    def _has_gradient(self, tensor: Any) -> bool:
        return tensor.requires_grad

    def _exact(self) -> AbstractContextManager[None]:
        return first_of_equals() if self.dtype == torch.float64 else nullcontext()

    def _cast(self, losses: Any) -> Any:
        return losses.to(self.dtype) if isinstance(losses, nn.Module) else losses

    def _named_parameters(self) -> dict[str, torch.Tensor]:
        named = dict(self.model.named_parameters())
        if self._training and isinstance(self._training[0], nn.Module):
            named.update({f"losses.{name}": p for name, p in self._training[0].named_parameters()})
        return named

    def _gains(self) -> dict[str, dict[str, Any]]:
        names = {id(parameter): name for name, parameter in self._named_parameters().items()}
        inner, facts = self._training[2], {"gains": {}, "adaptive": {}, "squares": {}}
        for group in inner.param_groups:
            for parameter in group["params"]:
                name, state = names[id(parameter)], inner.state.get(parameter, {})
                facts["gains"][name] = float(group["lr"])
                if "exp_avg_sq" in state:
                    found = _adaptive_gains(state, group)
                    facts["gains"][name], facts["adaptive"][name], facts["squares"][name] = found
        return facts

    def _clear_gradients(self) -> None:
        for parameter in self._named_parameters().values():
            parameter.grad = None

    @contextmanager
    def _watched(self, trace: Trace, fired: list[tuple[str, np.ndarray]], *, backward: bool) -> Iterator[None]:
        handles, shifts = [], Shifts(trace.meta["shifts"])
        for path, module in self.model.named_modules():
            if backward:
                handles += shifts.hooks(path, module)
            if path:
                handles.append(module.register_forward_hook(recorder(trace, path, fired if backward else None)))
            if tracks(module):
                handles.append(module.register_forward_pre_hook(counter(trace.meta["norms"], path)))
        try:
            with torch.set_grad_enabled(backward), self._exact():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _add_gradients(
        self, trace: Trace, fired: Sequence[tuple[str, np.ndarray]], inputs: Sequence[torch.Tensor]
    ) -> None:
        parameters = {name: self._gradient(parameter) for name, parameter in self.model.named_parameters()}
        for path, gradient in fired:
            trace.add(f"gradient/{path}.output", gradient)
            add_magnitudes(trace.meta["sums"], path, self.model.get_submodule(path), gradient)
            for name in [n for n in parameters if n.rpartition(".")[0] == path]:
                trace.add(f"gradient/{name}", parameters.pop(name))
        for name in reversed(list(parameters)):
            trace.add(f"gradient/{name}", parameters[name])
        for index, tensor in enumerate(inputs):
            trace.add(f"gradient/input.{index}", self._gradient(tensor))


def _read(tensor: torch.Tensor, copy: bool) -> np.ndarray:
    return to_numpy(tensor) if copy else tensor.detach().numpy()


def _shared(value: np.ndarray) -> torch.Tensor:
    """A tensor of the array's own memory, if torch can use it."""
    array = np.asarray(value)
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def _adaptive_gains(state: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[np.ndarray, float, np.ndarray]:
    """By how much a step of Adam follows an error of the gradient, element by element, float32.

    Returns:
        Gains of the update, lr / (sqrt(v) + eps) * (1 + |m| / (sqrt(v) + eps)); rms of the mean gradient m; and by how
        much the mean square follows errors of that size: at most 2 sqrt(v) times what the step counts have weighted
        so far, by Cauchy and Schwarz.
    """
    step, (beta1, beta2) = float(state["step"]), group["betas"]
    weighted = 1 - beta2**step
    mean = state["exp_avg"].float().div_(1 - beta1**step)
    root = state["exp_avg_sq"].float().div_(weighted).sqrt_()
    rms = float(mean.norm(dtype=torch.float64)) / mean.numel() ** 0.5
    divisor = root + group["eps"]
    gains = mean.abs_().div_(divisor).add_(1.0).div_(divisor).mul_(group["lr"])
    return gains.numpy(), rms, root.mul_(2 * weighted * rms).numpy()


def _round_attributes(model: nn.Module) -> None:
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm)  # Paddle's GroupNorm holds its epsilon in float64
    for module in model.modules():
        if (isinstance(module, kinds) or tracks(module)) and isinstance(getattr(module, "eps", None), float):
            module.eps = float(np.float32(module.eps))
        if tracks(module):
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
    pair = settings.pair
    attributes = {key: pair(getattr(module, key)) for key in ("kernel_size", "stride", "padding")}
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        attributes.update(dilation=pair(module.dilation), groups=module.groups, bias=module.bias is not None)
        attributes["padding_mode"] = module.padding_mode
        if isinstance(module, nn.ConvTranspose2d):
            attributes["output_padding"] = pair(module.output_padding)
    else:
        attributes["ceil_mode"] = module.ceil_mode
        if isinstance(module, nn.AvgPool2d):
            attributes["counts_padding"] = module.count_include_pad
    return attributes
