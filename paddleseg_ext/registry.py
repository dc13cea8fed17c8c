"""Names that a configuration can use, and the classes behind them."""

from __future__ import annotations

import difflib
from typing import Any, Callable, TypeVar

from paddleseg_ext.errors import ConfigError

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """A mapping from the `type` of a component in YAML to the class or function that builds it.

    Args:
        kind: what it holds, in the singular, for error messages ("model", "transform").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Callable[..., Any]] = {}

    def register(self, entry: T) -> T:
        """Decorator: adds a class or function under its own name.

        Raises:
            ValueError: if the name is taken.
        """
        if entry.__name__ in self._entries:
            raise ValueError(f"{self.kind} {entry.__name__!r} is registered twice")
        self._entries[entry.__name__] = entry
        return entry

    def get(self, name: str) -> Callable[..., Any]:
        """The entry called `name`.

        Raises:
            ConfigError: if there is none; names the closest one and lists all.
        """
        if name not in self._entries:
            close = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"unknown {self.kind} {name!r}.{hint} Available: {', '.join(self.names())}.")
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries


MODELS = Registry("model")
BACKBONES = Registry("backbone")
LOSSES = Registry("loss")
DATASETS = Registry("dataset")
TRANSFORMS = Registry("transform")
OPTIMIZERS = Registry("optimizer")
SCHEDULES = Registry("learning-rate schedule")
