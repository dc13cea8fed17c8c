"""What the reference's side hangs on a torch model's modules while it computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.ties import first_largest, ordered
from parity.traces import Trace

STATISTICS = ("running_mean", "running_var")


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A copy, which later changes in place do not reach."""
    return tensor.detach().clone().numpy()


def recorder(trace: Trace, path: str, fired: list[tuple[str, np.ndarray]] | None) -> Any:
    """Adds a module's output to the trace, and in the backward pass its gradient to `fired`."""
    leaf = path in trace.meta["leaves"]

    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            return
        trace.add(path, to_numpy(output))
        if fired is not None and leaf and output.requires_grad:
            output.register_hook(lambda gradient: fired.append((path, to_numpy(gradient))))

    return hook


def counter(norms: dict[str, Any], path: str) -> Any:
    """Notes what each call of a norm averages, for `known.RunningVariance`."""

    def hook(module: nn.Module, arguments: Any) -> None:
        if not module.training:
            return
        x = arguments[0]
        call = {"count": x.numel() // x.shape[1], "momentum": float(module.momentum)}
        norms.setdefault(path, []).append({**call, "before": to_numpy(module.running_var)})

    return hook


@contextmanager
def first_of_equals() -> Iterator[None]:
    """Within it `topk` and `sort` take equal elements in the order of `ties`, as the port's do.

    The kernels below torch's functions are replaced, so that it does not matter how a model calls them, and who watches
    its functions sees them. A torch that does not let kernels be replaced and put back (before 2.1) keeps its own.
    """
    library = getattr(getattr(torch, "library", None), "Library", None)
    if not hasattr(library, "_destroy") or _replaced:
        yield
        return
    _replaced.extend(_KERNELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kernel is overridden
        kernels = library("aten", "IMPL", "CPU")
        for name, kernel in _KERNELS.items():
            kernels.impl(name, kernel)
    try:
        yield
    finally:
        kernels._destroy()
        _replaced.clear()


def _topk(
    x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    return _gathered(x, dim, lambda values: first_largest(values, k, dim, largest=largest))


def _sort(
    x: torch.Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    return _gathered(x, dim, lambda values: ordered(values, dim, descending=descending))


def _gathered(
    x: torch.Tensor, dim: int, choose: Callable[[np.ndarray], np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor]:
    if not x.ndim:
        return x.clone(), torch.zeros((), dtype=torch.int64)
    plain = x.detach().float() if x.dtype == torch.bfloat16 else x.detach()  # which numpy does not know
    indices = torch.from_numpy(choose(plain.numpy()))
    return x.gather(dim, indices), indices


_KERNELS = {"topk": _topk, "sort.stable": _sort}  # `sort` and `argsort` call the latter
_replaced: list[str] = []  # kernels that are replaced now


@contextmanager
def norm_alone() -> Iterator[None]:
    """Within it `clip_grad_norm_` divides by the norm, as Paddle does, and not by the norm plus a millionth.

    A torch that computes the factor elsewhere (before 2.6) keeps its own.
    """
    module = torch.nn.utils.clip_grad
    own = getattr(module, "_clip_grads_with_norm_", None)
    if own is None:
        yield
        return

    def clip(parameters: Any, max_norm: float, total_norm: torch.Tensor, foreach: bool | None = None) -> None:
        own(parameters, max_norm, total_norm - 1e-6, foreach)

    module._clip_grads_with_norm_ = clip
    try:
        yield
    finally:
        module._clip_grads_with_norm_ = own


def has_shift(module: nn.Module) -> bool:
    """Whether it adds a bias per channel: its gradient is a sum, which may cancel to nothing but rounding."""
    bias = getattr(module, "bias", None)
    return isinstance(bias, nn.Parameter) and bias.ndim == 1 and not list(module.children())


class Shifts:
    """Which norms take away what which biases add: those behind them with nothing but convolutions in between.

    Args:
        found: is filled in: norm path -> bias name -> by how much the norm's input moves if the bias moves by 1.
    """

    def __init__(self, found: dict[str, dict[str, float]]) -> None:
        self.found = found
        self._moved: dict[int, tuple[torch.Tensor, dict[str, float]]] = {}  # keeps the tensors, for their ids to last

    def hooks(self, path: str, module: nn.Module) -> list[Any]:
        """Handles of the hooks that a module needs."""
        handles = []
        if tracks(module):
            handles.append(module.register_forward_pre_hook(self.arrival(path)))
        if has_shift(module) or isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(self.departure(path)))
        return handles

    def departure(self, path: str) -> Any:
        """A forward hook for what adds a bias, and for convolutions."""

        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor):
                return
            carried = {}
            _, arrived = self._moved.get(id(arguments[0]), (None, {}))
            if arrived and isinstance(module, nn.Conv2d):
                gain = float(module.weight.detach().abs().sum(dim=(1, 2, 3)).max())
                carried = {name: factor * gain for name, factor in arrived.items()}
            if has_shift(module):
                carried[f"{path}.bias"] = 1.0
            self._moved[id(output)] = (output, carried)

        return hook

    def arrival(self, path: str) -> Any:
        """A forward pre-hook for norms."""

        def hook(module: nn.Module, arguments: Any) -> None:
            _, arrived = self._moved.get(id(arguments[0]), (None, {}))
            if arrived:
                self.found.setdefault(path, {}).update(arrived)

        return hook


def summer(sums: dict[str, float], path: str) -> Any:
    """Adds the magnitude of what the gradient of a module's bias sums up."""

    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: add_magnitudes(sums, path, module, to_numpy(gradient)))

    return hook


def add_magnitudes(sums: dict[str, float], path: str, module: nn.Module, gradient: np.ndarray) -> None:
    """Adds the scale of a bias's gradient (see `policy`) from the gradient at the module's output."""
    if has_shift(module) and gradient.ndim > 1:
        channel = gradient.ndim - 1 if isinstance(module, nn.Linear) else 1
        others = tuple(axis for axis in range(gradient.ndim) if axis != channel)
        count = gradient.size // gradient.shape[channel]
        magnitudes = np.sqrt(count) * float(np.abs(gradient).sum(axis=others).max())
        sums[f"{path}.bias"] = sums.get(f"{path}.bias", 0.0) + magnitudes


def has_statistics(module: nn.Module) -> bool:
    """Whether it normalises with running statistics, which may be frozen."""
    return all(isinstance(getattr(module, name, None), torch.Tensor) for name in STATISTICS)


def calibrator() -> Any:
    """Sets a norm's statistics to those of what it gets first, just before it normalises with them."""
    ran: list[bool] = []

    def hook(module: nn.Module, arguments: Any) -> None:
        if ran:
            return
        ran.append(True)
        x = arguments[0].transpose(0, 1).flatten(1)  # (C, everything else)
        module.running_mean.copy_(x.mean(dim=1))
        module.running_var.copy_(x.var(dim=1, unbiased=False))

    return hook


def tracks(module: nn.Module) -> bool:
    """Whether it averages running statistics with a momentum; a frozen batch norm has none."""
    return getattr(module, "running_var", None) is not None and getattr(module, "momentum", None) is not None
