"""What the reference's side needs of torch, for versions back to 1.4, which lack some of it.

`prepare` adds what is missing, and nothing else; on a torch of today it does nothing. Python 3.8.
"""

from __future__ import annotations

import inspect
from typing import Any


def prepare() -> list[str]:
    """Adds to the installed torch what it lacks.

    Returns:
        Names of what was added.
    """
    import torch

    added = []
    module, optimizer, tensor = torch.nn.Module, torch.optim.Optimizer, torch.Tensor
    for owner, name, stand_in in (
        (module, "get_submodule", get_submodule),
        (optimizer, "register_step_pre_hook", register_step_pre_hook),
        (tensor, "square", lambda self: self * self),
        (torch.nn, "Dropout1d", type("Dropout1d", (torch.nn.Dropout2d,), {})),
    ):
        if not hasattr(owner, name):
            setattr(owner, name, stand_in)
            added.append(name)
    if "remove_duplicate" not in inspect.signature(module.named_modules).parameters:
        module.named_modules = named_modules
        added.append("named_modules")
    return added


def get_submodule(self: Any, target: str) -> Any:
    """The module at a path; "" is the module itself."""
    module = self
    for name in target.split(".") if target else ():
        if name not in module._modules:
            raise AttributeError(f"{type(module).__name__} has no module {name!r}")
        module = module._modules[name]
    return module


def named_modules(self: Any, memo: Any = None, prefix: str = "", remove_duplicate: bool = True) -> Any:
    """(path, module) of all modules; with `remove_duplicate`, one that is registered twice only once."""
    memo = set() if memo is None else memo
    if self in memo:
        return
    if remove_duplicate:
        memo.add(self)
    yield prefix, self
    for name, module in self._modules.items():
        if module is not None:
            path = f"{prefix}.{name}" if prefix else name
            yield from named_modules(module, memo, path, remove_duplicate)


def register_step_pre_hook(self: Any, hook: Any) -> None:
    """Calls `hook(optimizer, arguments, options)` before each step."""
    own = self.step

    def step(*arguments: Any, **options: Any) -> Any:
        hook(self, arguments, options)
        return own(*arguments, **options)

    self.step = step
