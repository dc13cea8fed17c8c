"""Values typed on the command line: `--opts a.b.0.c=value`, and flags such as `--iters`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paddleseg_ext.config.document import (
    ConfigPath,
    Mark,
    Node,
    PathKey,
    dump_inline,
    from_plain,
    parse_value,
    plain,
    show,
)
from paddleseg_ext.config.load import Config, child_key, dotted
from paddleseg_ext.errors import ConfigError


def apply_opts(config: Config, opts: Iterable[str]) -> Config:
    """The configuration with `KEY=VALUE` overrides, in order.

    A key is a dotted path; a number is the index of a list item. A value is YAML: `1e-3`, `true`, `null` (or `None`),
    `[0.5, 1.0]`, `{type: Adam}`. A new key is created; `validate` refuses it later if it means nothing.

    Raises:
        ConfigError: lists all overrides that are malformed or lead nowhere.
    """
    problems = []
    for opt in opts:
        try:
            config = _apply_opt(config, opt)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def apply_flag(config: Config, path: str, value: Any, flag: str) -> Config:
    """The configuration with the value of a flag of its own; 0 and false count as much as any other value.

    Args:
        config: stays as it is.
        path: dotted path that the flag stands for, such as "lr_scheduler.learning_rate".
        value: plain data.
        flag: as typed, such as "--learning_rate"; names the origin in messages.
    """
    keys = tuple(path.split("."))
    typed = (
        flag
        if value is True
        else f"{flag} {' '.join(map(_typed, value if isinstance(value, (list, tuple)) else [value]))}"
    )
    mark = Mark(typed, path=_indexed(config, keys))
    return _replaced(config, keys, from_plain(value, mark), mark)


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else dump_inline(value)


def _apply_opt(config: Config, opt: str) -> Config:
    key, equals, text = opt.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"--opts {opt}: expected KEY=VALUE such as optimizer.weight_decay=1e-4")
    mark = Mark(f"--opts {opt}", path=_indexed(config, keys))
    return _replaced(config, keys, parse_value(text, mark), mark)


def _indexed(config: Config, keys: ConfigPath) -> ConfigPath:
    """The path with list indices as int, where it exists."""
    done, _ = config.walk(keys)
    return (*done, *keys[len(done) :])


def _replaced(config: Config, keys: ConfigPath, value: Node, mark: Mark) -> Config:
    return Config(_with_value(config.root, keys, value, mark, ()), config.path)


def _with_value(node: Node, keys: ConfigPath, value: Node, mark: Mark, above: ConfigPath) -> Node:
    """`node` with `value` at the path `keys` below it."""
    if not keys:
        return _remembering(value, node)
    if isinstance(node.value, list):
        index = child_key(node, keys[0])
        if index is None:
            length = len(node.value)
            found = f"0 to {length - 1}" if length else "none, it is empty"
            raise ConfigError(f"{mark}: {dotted(above)} is a list; expected an index ({found}), got {show(keys[0])}")
        items: dict[PathKey, Node] = {i: item for i, item in enumerate(node.value)}
        items[index] = _with_value(items[index], keys[1:], value, mark, (*above, index))
        return Node(list(items.values()), node.mark)
    if node.value is not None and not isinstance(node.value, dict):
        raise ConfigError(
            f"{mark}: {dotted(above)} is {show(plain(node))} ({node.mark}); it has no key {show(keys[0])}"
        )
    mapping = dict(node.value or {})
    child = mapping.get(keys[0])
    if child is None:
        mapping[keys[0]] = _created(keys[1:], value, mark)
    else:
        mapping[keys[0]] = _with_value(child, keys[1:], value, mark, (*above, keys[0]))
    return Node(mapping, node.mark if node.value is not None else mark)


def _created(keys: ConfigPath, value: Node, mark: Mark) -> Node:
    """A value inside new mappings."""
    return Node({keys[0]: _created(keys[1:], value, mark)}, mark) if keys else value


def _remembering(value: Node, old: Node) -> Node:
    """The new value, knowing the one that the file had."""
    return Node(value.value, value.mark, old.replaced or old)
