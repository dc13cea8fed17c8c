"""From validated data to objects: `{type: Name, ...}` becomes `Name(...)`, inside out."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from paddleseg_ext.config import schema
from paddleseg_ext.config.document import ConfigPath, Node, plain, show
from paddleseg_ext.config.load import Config, dotted
from paddleseg_ext.config.typecheck import convert, fits, parameters
from paddleseg_ext.errors import ConfigError, PaddlesegExtError
from paddleseg_ext.registry import Registry

COMPONENT_MODULES = (
    "paddleseg_ext.data.datasets",
    "paddleseg_ext.data.transforms",
    "paddleseg_ext.models",
    "paddleseg_ext.losses",
    "paddleseg_ext.optim",
)


def import_components() -> None:
    """Imports every module that registers components; imports paddle, so `threads.configure` goes first."""
    warnings.filterwarnings("ignore", message="No ccache found")  # it matters only to those who compile operators
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    with _without_thread_notice():
        for module in COMPONENT_MODULES:
            importlib.import_module(module)


@contextlib.contextmanager
def _without_thread_notice() -> Iterator[None]:
    """Drops the two lines with which paddle, when imported, objects to more than one thread; keeps all others."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    finally:
        lines = printed.getvalue().splitlines(keepends=True)
        sys.stderr.writelines(line for line in lines if "OMP_NUM_THREADS" not in line)


def build_component(
    config: Config, path: str | ConfigPath, *, registry: Registry | None = None, extra: Mapping[str, Any] | None = None
) -> Any:
    """Builds the component at a path, or the list of components there, with all that is nested in it.

    Keys beside the constructor's own are left out: `transforms` of a dataset whose class does not take them, and
    `output`, `target`, `weight`, `name` of a loss. Lists become tuples, and ints floats, where the constructor's
    annotations say so.

    Args:
        config: validated.
        path: such as "model" or "val_dataset.transforms".
        registry: where its `type` is looked up; by default that of the key's name.
        extra: further arguments of the constructor, which win over the configuration's.

    Raises:
        ConfigError: with file:line, if there is nothing at the path, or whatever a constructor raises. An error of
            this package keeps its class.
    """
    keys, node = config.walk(path)
    wanted = tuple(path.split(".")) if isinstance(path, str) else path
    if len(keys) < len(wanted):
        raise ConfigError(f"{node.mark}: {dotted(wanted)}: missing; expected a component")
    found = registry or _registry_of(keys)
    if found is None:
        raise ConfigError(f"{node.mark}: {dotted(keys)}: no component is expected here")
    if isinstance(node.value, list):
        return [_build(item, (*keys, index), found, {}) for index, item in enumerate(node.value)]
    return _build(node, keys, found, extra or {})


@contextlib.contextmanager
def located(config: Config, path: str | ConfigPath) -> Iterator[None]:
    """Errors of the block, which builds what is at `path`, are raised again with its file:line."""
    keys, node = config.walk(path)
    with _located(node, keys, ""):
        yield


def _registry_of(path: ConfigPath) -> Registry | None:
    """The registry that the name of a key, or of the list that holds the item, decides."""
    names = [key for key in path if isinstance(key, str)]
    if not names:
        return None
    if len(names) == 1:
        return schema.COMPONENTS.get(names[0])
    return schema.NESTED.get(names[-1]) or schema.NESTED_LISTS.get(names[-1])


def _build(node: Node, path: ConfigPath, registry: Registry, extra: Mapping[str, Any]) -> Any:
    if not isinstance(node.value, dict) or "type" not in node.value:
        raise ConfigError(f"{node.mark}: {dotted(path)}: expected {{type: ..., ...}}, got {show(plain(node))}")
    name = node.value["type"].value
    with _located(node.value["type"], path, ""):
        entry = registry.get(name)
    known, others = parameters(entry)
    arguments = {}
    for key, child in node.value.items():
        if key == "type" or (key not in known and not others and key in schema.beside(registry)):
            continue
        value = _build_argument(child, (*path, key))
        declared = known[key].type if key in known else None
        arguments[key] = convert(value, declared) if declared and fits(value, declared) else value
    with _located(node, path, f"{name} cannot be built: "):
        return entry(**{**arguments, **extra})


def _build_argument(node: Node, path: ConfigPath) -> Any:
    """An argument's value, components in it built."""
    one, many = schema.NESTED.get(str(path[-1])), schema.NESTED_LISTS.get(str(path[-1]))
    if one is not None and isinstance(node.value, dict):
        return _build(node, path, one, {})
    if many is not None and isinstance(node.value, list):
        return [_build(item, (*path, index), many, {}) for index, item in enumerate(node.value)]
    return plain(node)


@contextlib.contextmanager
def _located(node: Node, path: ConfigPath, what: str) -> Iterator[None]:
    try:
        yield
    except PaddlesegExtError as error:
        raise type(error)(f"{node.mark}: {dotted(path)}: {error}") from error
    except Exception as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigError(f"{node.mark}: {dotted(path)}: {what}{text}") from error
