"""Lets Python 3.8 import what recording a reference needs; on a later Python it changes nothing.

Recording is for environments as old as the code they hold. What this package cannot do there is explain a divergence:
that is for the place where the recordings meet.
"""

from __future__ import annotations

import sys
import types
from collections import abc
from typing import Any

_EXPLAINING = ("parity.diagnose", "parity.diagnosis")


class _Absent:
    """Finds, and loads, modules that are not there; what is taken from them explains nothing."""

    def find_module(self, name: str, path: Any = None) -> Any:
        return self if name.startswith(_EXPLAINING) else None

    def load_module(self, name: str) -> Any:
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.__path__ = []
        module.__getattr__ = lambda attribute: _stand_in(f"{name}.{attribute}")
        return module


def _stand_in(name: str) -> Any:
    if name.rpartition(".")[2].startswith("__"):
        raise AttributeError(name)

    return lambda *_, **__: ""  # no explanation


def prepare() -> None:
    """Makes the abstract classes of collections subscriptable, and leaves out what explains divergences."""
    for name in abc.__all__:
        kind = getattr(abc, name)
        if not hasattr(kind, "__class_getitem__"):
            kind.__class_getitem__ = classmethod(lambda cls, item: cls)
    sys.meta_path.insert(0, _Absent())


if sys.version_info < (3, 9):  # noqa: UP036
    prepare()
