"""Everything that is wrong with a configuration, found before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from paddleseg_ext.config import habits, schema
from paddleseg_ext.config.document import ConfigPath, Mark, Node, plain, show
from paddleseg_ext.config.load import Config, closest, did_you_mean, dotted
from paddleseg_ext.config.schema import Field
from paddleseg_ext.config.typecheck import Parameter, fits, mismatches, parameters, read_type
from paddleseg_ext.errors import ConfigError
from paddleseg_ext.registry import LOSSES, OPTIMIZERS, Registry


def validate(config: Config, command: str | None = None, *, do_eval: bool = False) -> None:
    """Checks every key and value; the registries must be full (`build.import_components`).

    Args:
        config: the configuration with all overrides applied.
        command: "train", "val", "predict" or "export", whose sections must be there; None needs none.
        do_eval: training evaluates too, so it needs `val_dataset`.

    Raises:
        ConfigError: lists all problems, each as `file:line: path: what was found; what to do`.
    """
    checker = _Checker(config)
    checker.top_level()
    if command is not None:
        checker.needed_sections(command, do_eval)
    problems = list(dict.fromkeys(checker.problems))
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError(f"{len(problems)} problems in the configuration:\n" + "\n".join(problems))


class _Checker:
    """Walks a configuration and collects what is wrong."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.problems: list[str] = []
        self.suggested: set[str] = set()  # top-level keys that a misspelt or foreign key stands for

    def report(self, path: ConfigPath, text: str) -> None:
        """Adds a problem, with the origin of what is at `path` or, if nothing is, of what is above it."""
        mark = self.config.walk(path)[1].mark
        place = f"{mark}: " if mark.path == path else f"{mark}: {dotted(path)}: "
        self.problems.append(place + text)

    def report_value(self, path: ConfigPath, text: str, default: Any = None) -> None:
        """Adds a wrong value; if it was typed, with the value that it replaced."""
        node = self.config.walk(path)[1]
        if node.replaced is not None:
            text += f" (default {show(plain(node.replaced))} from {node.replaced.mark})"
        elif node.mark.line is None and default is not None:
            text += f" (default {show(default)})"
        self.report(path, text + ("" if text.endswith(".") else "."))

    def top_level(self) -> None:
        sections: dict[str, Callable[[Node, ConfigPath], None]] = {
            "losses": self.losses,
            "optimizer": self.optimizer,
            "meta": lambda node, path: None,
        }
        for key, node in self.config.root.value.items():
            path = (key,)
            if key in schema.TOP_LEVEL:
                self.value(node, path, schema.TOP_LEVEL[key])
            elif key not in schema.TOP_KEYS:
                self.unknown_top_level(key, node)
            elif node.value is None:
                continue
            elif key in sections:
                sections[key](node, path)
            elif key in schema.TABLES:
                self.table(node, path, schema.TABLES[key])
            else:
                self.component(node, path, schema.COMPONENTS[key])
        self.test_config()
        self.panoptic()

    def unknown_top_level(self, key: str, node: Node) -> None:
        hint = habits.top_level_hint(key, plain(node))
        self.suggested.add(habits.REPLACED_BY.get(key) or closest(key, schema.TOP_KEYS) or "")
        if hint:
            self.report((key,), f"unknown key: {hint}")
        else:
            options = ", ".join(schema.TOP_KEYS)
            self.report((key,), f"unknown key.{did_you_mean(key, schema.TOP_KEYS)} Known: {options}.")

    def needed_sections(self, command: str, do_eval: bool) -> None:
        needed = [*schema.NEEDS[command], *(["val_dataset"] if do_eval and command == "train" else [])]
        for key in needed:
            if self.config.data.get(key) is None and key not in self.suggested:
                example = schema.HELP[key] if key in schema.HELP else schema.TOP_LEVEL[key].expected()
                purpose = f"{command} with do_eval" if key == "val_dataset" and command == "train" else command
                self.report((key,), f"missing, but {purpose!r} needs it; add {key}: {example}")
        if command == "predict" and isinstance(self.config.data.get("val_dataset"), dict):
            if "transforms" not in self.config.data["val_dataset"]:
                self.report(("val_dataset",), "has no 'transforms', which 'predict' needs as its preprocessing")

    def component(self, node: Node, path: ConfigPath, registry: Registry) -> None:
        """Checks `{type: Name, ...arguments}`, and the keys that this kind of component has beside its arguments."""
        if not isinstance(node.value, dict):
            hint = f"; write {{type: {node.value}}}" if isinstance(node.value, str) and node.value in registry else ""
            self.report_value(path, f"expected {_a(registry.kind)} ({{type: ..., ...}}), got {show(plain(node))}{hint}")
            return
        name = self.type_name(node, path, registry.kind, registry.names())
        known, others = ({}, True) if name is None else parameters(registry.get(name))
        known = {key: p for key, p in known.items() if key not in schema.SUPPLIED.get(registry.kind, ())}
        beside = {key: field for key, field in schema.beside(registry).items() if key not in known}
        unknown = []
        for key, child in node.value.items():
            if key in known or (others and key != "type" and key not in beside):
                self.argument(child, (*path, key), known.get(key), registry.kind)
            elif key != "type" and key not in beside:
                unknown.append(key)
                self.unknown_argument(node, (*path, key), registry, [*known, *beside])
        required = [key for key, parameter in known.items() if parameter.required]
        for key in _missing(required, node, unknown, [*known, *beside]):
            self.report(path, f"{name} needs the argument {key!r} ({schema.argument_type(key, known[key])}); add it.")
        self.fields(node, path, beside, unknown)

    def type_name(self, node: Node, path: ConfigPath, kind: str, names: Sequence[str]) -> str | None:
        """The `type` of a mapping; None, and a problem, if it is not one of the names."""
        available = f"Available: {', '.join(names) or 'none'}."
        child = node.value.get("type")
        if child is None:
            typo = next((key for key in node.value if closest(key, ["type"])), None)
            hint = " Did you mean 'type'?" if typo else ""
            self.report((*path, typo) if typo else path, f"{_a(kind)} needs a 'type'.{hint} {available}")
        elif not isinstance(child.value, str) or child.value not in names:
            hint = did_you_mean(str(child.value), names)
            self.report_value((*path, "type"), f"unknown {kind} {show(plain(child))}.{hint} {available}")
        else:
            return child.value
        return None

    def unknown_argument(self, node: Node, path: ConfigPath, registry: Registry, options: list[str]) -> None:
        key, type_node = str(path[-1]), node.value["type"]
        hint = habits.argument_hint(registry.kind, key)
        text = f"{type_node.value} takes no argument {key!r}"
        text += f": {hint}." if hint else f".{did_you_mean(key, ['type', *options])}"  # `type` may be inherited
        text += f" It takes: {', '.join(options) or 'none'}."
        mark, type_mark = node.value[key].mark, type_node.mark
        if mark.source != type_mark.source and mark.line is not None:
            text += _how_to_drop(path, type_node, type_mark)
        self.report(path, text)

    def argument(self, node: Node, path: ConfigPath, parameter: Parameter | None, kind: str) -> None:
        """Checks one argument of a component; its type is unknown if there is no `parameter`."""
        key, value = str(path[-1]), plain(node)
        one, many = schema.NESTED.get(key), schema.NESTED_LISTS.get(key)
        if one is not None and isinstance(value, dict):
            self.component(node, path, one)
        elif many is not None and isinstance(value, list):
            for index, item in enumerate(node.value):
                self.component(item, (*path, index), many)
        elif one is not None and not _declares(parameter, value):
            self.component(node, path, one)
        elif many is not None and not _declares(parameter, value):
            self.report_value(path, f"expected a list of {many.kind}s [{{type: ...}}, ...], got {show(value)}")
        elif parameter is not None:
            for place, text in mismatches(value, parameter.type):
                self.report_value((*path, *place), text, parameter.default)
            if not _declares(parameter, value) and isinstance(value, dict) and "type" in value:
                keys = ", ".join([*schema.NESTED, *schema.NESTED_LISTS])
                self.report(path, f"a component cannot be here; expected one only under the keys {keys}.")
            elif (kind, key) in schema.RANGES and fits(value, parameter.type):
                self.value(node, path, schema.RANGES[kind, key])

    def table(self, node: Node, path: ConfigPath, fields: Mapping[str, Field]) -> None:
        """Checks a mapping whose keys are listed."""
        if not isinstance(node.value, dict):
            self.report_value(path, f"expected a mapping, got {show(plain(node))}; known keys: {', '.join(fields)}")
            return
        unknown = [key for key in node.value if key not in fields and key != "type"]
        for key in unknown:
            hint = habits.setting_hint(str(path[-1]), key)
            hint = f": {hint}." if hint else f".{did_you_mean(key, fields)}"
            self.report((*path, key), f"unknown key{hint} Known: {', '.join(fields)}.")
        self.fields(node, path, fields, unknown)

    def fields(self, node: Node, path: ConfigPath, fields: Mapping[str, Field], unknown: list[str]) -> None:
        """Checks the listed keys of a mapping; `unknown` are keys of it that are reported already."""
        for key, field in fields.items():
            if key in node.value and key in schema.NESTED_LISTS:
                self.argument(node.value[key], (*path, key), None, "")
            elif key in node.value:
                self.value(node.value[key], (*path, key), field)
        for key in _missing([key for key, field in fields.items() if field.required], node, unknown, fields):
            self.report(path, f"needs {key!r} ({fields[key].help}); add {key}: {fields[key].expected()}.")

    def value(self, node: Node, path: ConfigPath, field: Field) -> None:
        if field.fields is not None and isinstance(node.value, dict):
            self.table(node, path, field.fields)
            return
        for place, text in field.mismatches(plain(node)):
            self.report_value((*path, *place), text, field.default)

    def losses(self, node: Node, path: ConfigPath) -> None:
        if isinstance(node.value, dict) and ({"types", "coef"} & set(node.value)):
            self.report(path, habits.loss_hint(plain(node)))
            return
        if not isinstance(node.value, list) or not node.value:
            self.report_value(path, f"expected {schema.HELP['losses']}, got {show(plain(node))}")
            return
        names: dict[str, Mark] = {}
        for index, item in enumerate(node.value):
            self.component(item, (*path, index), LOSSES)
            name = _loss_name(plain(item))
            if name in names:
                self.report(
                    (*path, index), f"its name {name!r} is taken by the loss at {names[name]}; add a `name` of its own."
                )
            elif name is not None:
                names[name] = item.mark

    def optimizer(self, node: Node, path: ConfigPath) -> None:
        self.component(node, path, OPTIMIZERS)
        if not isinstance(node.value, dict):
            return
        groups = node.value.get("param_groups")
        for index, group in enumerate(groups.value if groups and isinstance(groups.value, list) else []):
            self.parameter_group(group, (*path, "param_groups", index))
        clip = node.value.get("grad_clip")
        if clip and isinstance(clip.value, dict):
            self.gradient_clip(clip, (*path, "grad_clip"))

    def parameter_group(self, node: Node, path: ConfigPath) -> None:
        self.table(node, path, schema.PARAM_GROUP_KEYS)
        if not isinstance(node.value, dict):
            return
        rule = plain(node)
        if rule.get("name") is None and rule.get("kind") is None:
            self.report(path, "the rule selects nothing; add a 'name' (regular expression) or a 'kind'.")
        try:
            re.compile(rule["name"] if isinstance(rule.get("name"), str) else "")
        except re.error as error:
            self.report_value((*path, "name"), f"{show(rule['name'])} is no regular expression: {error}")

    def gradient_clip(self, node: Node, path: ConfigPath) -> None:
        name = self.type_name(node, path, "gradient clipping", list(schema.GRAD_CLIPS))
        if name is not None:
            self.table(node, path, schema.GRAD_CLIPS[name])

    def test_config(self) -> None:
        """The window of `is_slide` is there, its steps leave no gaps, and what was typed has an effect."""
        test = self.config.data.get("test_config")
        if not isinstance(test, dict):
            return
        sizes = [test.get(key) for key in ("crop_size", "stride")]
        pair = read_type("tuple[int, int]")
        if test.get("is_slide") is True and None in sizes:
            self.report(("test_config", "is_slide"), "needs crop_size and stride, each [width, height] in pixels.")
        elif all(fits(size, pair) for size in sizes) and any(step > size for size, step in zip(*sizes)):
            text = f"expected at most crop_size {show(sizes[0])}, got {show(sizes[1])}; the windows would leave gaps"
            self.report_value(("test_config", "stride"), text)
        for key, switch in schema.NEEDS_SWITCH.items():
            mark = self.config.walk(("test_config", key))[1].mark
            if key == "scales" and isinstance(test.get(key), list) and len(test[key]) == 1:
                continue  # one scale alone is a protocol of its own: engine/evaluate.py
            if mark.line is None and mark.path == ("test_config", key) and test.get(key) and not test.get(switch):
                self.report(("test_config", key), f"has no effect without {switch}; add --{switch}, or remove it.")

    def panoptic(self) -> None:
        """What belongs to one task is not given to the other."""
        data = self.config.data
        sections = (data.get(key) for key in ("postprocess", "test_config"))
        post, test = (section if isinstance(section, dict) else {} for section in sections)
        if data.get("task") != "panoptic":
            if data.get("postprocess") is not None:
                self.report(("postprocess",), "has no effect without 'task: panoptic'; add it, or remove postprocess.")
            return
        kernel = post.get("nms_kernel")
        if type(kernel) is int and kernel % 2 == 0:
            self.report_value(("postprocess", "nms_kernel"), f"expected an odd number, got {kernel}")
        for key in ("aug_eval", "is_slide"):
            if test.get(key) is True:
                self.report(("test_config", key), "'task: panoptic' takes the whole image at its own scale; remove it.")
        if isinstance(test.get("scales"), list) and test["scales"] != [1.0]:
            self.report(("test_config", "scales"), "'task: panoptic' takes the image at its own scale; remove it.")


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _missing(required: list[str], node: Node, unknown: list[str], options: Iterable[str]) -> list[str]:
    """Required keys that a mapping lacks, without those that an unknown key probably means."""
    meant = {closest(key, options) for key in unknown}
    return [key for key in required if key not in node.value and key not in meant]


def _declares(parameter: Parameter | None, value: Any) -> bool:
    """Whether an argument's annotation names a type that the value has, or None is its default."""
    if parameter is None:
        return False
    if value is None and not parameter.required and parameter.default is None:
        return True
    members = parameter.type.args if parameter.type.kind == "union" else (parameter.type,)
    return any(member.kind != "any" and fits(value, member) for member in members)


def _loss_name(entry: Any) -> str | None:
    """The name under which a term is logged, as `build_losses` gives it; None if it cannot be told."""
    if not isinstance(entry, dict):
        return None
    output = entry.get("output")
    first = output[0] if isinstance(output, list) and output else output
    name = entry.get("name", f"loss_{first}" if isinstance(first, str) else None)
    return name if isinstance(name, str) else None


def _how_to_drop(path: ConfigPath, type_node: Node, type_mark: Mark) -> str:
    section = dotted(path[:-1])
    if type_mark.line is None:
        return f" To replace the whole section: --opts {section}='{{type: {type_node.value}, ...}}'."
    return f" It is inherited; `_inherited_: false` beside `type` ({type_mark}) drops what the bases have."
