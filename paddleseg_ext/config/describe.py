"""The schema in words: what a configuration can hold, and what a component takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from paddleseg_ext.config import schema
from paddleseg_ext.config.document import show
from paddleseg_ext.config.load import did_you_mean
from paddleseg_ext.config.schema import Field
from paddleseg_ext.config.typecheck import parameters
from paddleseg_ext.errors import ConfigError
from paddleseg_ext.registry import (
    BACKBONES,
    DATASETS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    TRANSFORMS,
    Registry,
)

REGISTRIES = (MODELS, BACKBONES, LOSSES, DATASETS, TRANSFORMS, OPTIMIZERS, SCHEDULES)


def describe_schema() -> str:
    """All keys with type, default and meaning, and the names of all registered components."""
    lines = ["# keys of a configuration"]
    lines += _table("", schema.TOP_LEVEL)
    lines += [f"{key}: {text}" for key, text in schema.HELP.items()]
    for section, fields in schema.TABLES.items():
        lines += ["", f"# {section}", *_table(f"{section}.", fields)]
    lines += ["", "# losses.N, beside the loss's own arguments", *_table("", schema.LOSS_KEYS)]
    lines += ["", "# optimizer.param_groups.N", *_table("", schema.PARAM_GROUP_KEYS)]
    lines += ["", "# components: the values of `type`"]
    lines += [f"{registry.kind}: {', '.join(registry.names()) or '-'}" for registry in REGISTRIES]
    return "\n".join(lines)


def describe_component(name: str) -> str:
    """The arguments of a registered component, with types, defaults and its own documentation.

    Raises:
        ConfigError: if nothing of that name is registered.
    """
    holders = [registry for registry in REGISTRIES if name in registry]
    if not holders:
        names = sorted(other for registry in REGISTRIES for other in registry.names())
        hint = did_you_mean(name, names)
        raise ConfigError(f"{name}: no component has this name.{hint} Registered: {', '.join(names) or 'none'}.")
    return "\n\n".join(_component(name, registry) for registry in holders)


def _component(name: str, registry: Registry) -> str:
    entry = registry.get(name)
    known, others = parameters(entry)
    lines = [f"# {registry.kind}", f"type: {name}"]
    for key, parameter in known.items():
        if key not in schema.SUPPLIED.get(registry.kind, ()):
            default = "required" if parameter.required else f"default {show(parameter.default)}"
            lines.append(f"{key}: {schema.argument_type(key, parameter)}, {default}")
    if others:
        lines.append("...: any other argument")
    lines += _table("", {key: field for key, field in schema.beside(registry).items() if key not in known})
    return "\n".join([*lines, "", inspect.getdoc(entry) or ""]).rstrip()


def _table(prefix: str, fields: Mapping[str, Field]) -> Iterator[str]:
    for key, field in fields.items():
        default = "required" if field.required else f"default {show(field.default)}"
        yield f"{prefix}{key}: {field.expected()}, {default}; {field.help}"
        if field.fields is not None:
            yield from _table(f"{prefix}{key}.", field.fields)
