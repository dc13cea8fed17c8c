"""YAML text as nodes that know their file and line.

The dialect is YAML 1.2's core schema: `1e-3` is a number, only `true` and `false` are booleans (`no` and `on` are
text), and there are no tags beyond the plain ones, so no text can ever name a Python object.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Callable, Union

import yaml

from paddleseg_ext.errors import ConfigError

PathKey = Union[str, int]
ConfigPath = tuple[PathKey, ...]

MAX_NODES = 100_000
MAX_DEPTH = 100


@dataclass(frozen=True)
class Mark:
    """Where a value came from.

    Attributes:
        source: a file's path for display, or what was typed: "--opts a.b=1", "--iters 0".
        line: 1-based line of a file; None if it was typed.
        path: of a typed value, the place in the configuration that it sets.
    """

    source: str
    line: int | None = None
    path: ConfigPath | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Node:
    """A value and its origin.

    Attributes:
        value: dict of str to Node, list of Node, or None, bool, int, float, str.
        mark: line of the key if the node is a value in a mapping, else of the node itself.
        replaced: what an override took the place of.
    """

    value: Any
    mark: Mark
    replaced: Node | None = None


def plain(node: Node) -> Any:
    """The node's data without marks: dicts, lists and scalars, all fresh."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def from_plain(data: Any, mark: Mark) -> Node:
    """Data as nodes which all have the same mark; tuples become lists.

    Raises:
        ConfigError: for anything that YAML could not hold.
    """
    if isinstance(data, dict):
        for key in data:
            if not isinstance(key, str):
                raise ConfigError(f"{mark}: the key {key!r} is not text; write {str(key)!r}")
        return Node({key: from_plain(value, mark) for key, value in data.items()}, mark)
    if isinstance(data, (list, tuple)):
        return Node([from_plain(value, mark) for value in data], mark)
    if data is None or type(data) in (bool, int, float, str):
        return Node(data, mark)
    raise ConfigError(
        f"{mark}: {data!r} is a {type(data).__name__}; expected data: dict, list, str, number, bool, None"
    )


def show(value: Any, *, limit: int = 60) -> str:
    """A value as a message shows it: text in quotes, the rest as YAML on one line."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(show(item) for item in value) + "]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def parse_file(text: str, source: str) -> Node:
    """The one document of a YAML file, a mapping.

    Raises:
        ConfigError: with file:line, for what is not YAML, not a mapping, a key twice, a tag.
    """
    raw = _compose(text, Mark(source, 1))
    if raw is None:
        raise ConfigError(f"{source}:1: the file is empty; expected a mapping such as 'batch_size: 4'")
    node = _Converter(source).convert(raw)
    if not isinstance(node.value, dict):
        raise ConfigError(f"{node.mark}: found {show(plain(node))}; expected a mapping such as 'batch_size: 4'")
    return Node(node.value, Mark(source, 1))


def parse_value(text: str, mark: Mark) -> Node:
    """A value typed on the command line; `None` counts as null, as PaddleSeg's and mmsegmentation's users write it.

    Raises:
        ConfigError: if it is not YAML, or empty.
    """
    if not text.strip():
        raise ConfigError(f"{mark}: there is no value; write null, or '' for empty text")
    raw = _compose(text, mark)
    if raw is None:
        raise ConfigError(f"{mark}: there is no value; write null, or '' for empty text")
    node = _Converter(mark.source, fixed=mark).convert(raw)
    return Node(None, mark) if text.strip() == "None" else node


_PREFIX = "tag:yaml.org,2002:"
_NULL = re.compile(r"(?:~|null|Null|NULL|)")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)


def _parse_int(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _parse_float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (_NULL, lambda text: None),
    "bool": (_BOOL, lambda text: text.lower() == "true"),
    "int": (_INT, _parse_int),
    "float": (_FLOAT, _parse_float),
    "str": (re.compile(r"(?s:.*)"), str),
}

_FIRST_CHARACTERS = {"null": "~nN", "bool": "tTfF", "int": "-+0123456789", "float": "-+.0123456789"}


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's table: first character of a plain scalar, or "" if it is empty -> tags with patterns, in order."""
    table = {"": [(_PREFIX + "null", _NULL)]}
    for name, characters in _FIRST_CHARACTERS.items():
        for character in characters:
            table.setdefault(character, []).append((_PREFIX + name, re.compile(f"{_SCALARS[name][0].pattern}$")))
    return table


class CoreLoader(yaml.SafeLoader):
    """PyYAML's parser with the scalar rules of YAML 1.2's core schema."""


CoreLoader.yaml_implicit_resolvers = _resolvers()


def _compose(text: str, start: Mark) -> yaml.Node | None:
    """PyYAML's nodes; its errors as ours."""
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=CoreLoader)
        return root
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(start.source, mark.line + 1) if mark and start.line else start
        raise ConfigError(f"{place}: not YAML: {error.problem or error.context}{_syntax_hint(start)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        place = Mark(start.source, line) if start.line else start
        raise ConfigError(f"{place}: the character U+{ord(text[error.position]):04X} is not allowed in YAML") from error
    except RecursionError as error:
        raise ConfigError(f"{start}: nested too deeply to be a configuration") from error


def _syntax_hint(start: Mark) -> str:
    return "" if start.line else """; quote text with special characters twice: KEY='"..."'"""


class _Converter:
    """PyYAML's nodes to ours, refusing what a configuration must not hold."""

    def __init__(self, source: str, *, fixed: Mark | None = None) -> None:
        self.source = source
        self.fixed = fixed
        self.count = 0
        self.ancestors: list[yaml.Node] = []

    def mark(self, raw: yaml.Node) -> Mark:
        return self.fixed or Mark(self.source, raw.start_mark.line + 1)

    def convert(self, raw: yaml.Node, mark: Mark | None = None) -> Node:
        mark = mark or self.mark(raw)
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigError(f"{mark}: more than {MAX_NODES} values once its aliases are expanded")
        if isinstance(raw, yaml.ScalarNode):
            return Node(self.scalar(raw), mark)
        if any(raw is ancestor for ancestor in self.ancestors):
            raise ConfigError(f"{mark}: an alias refers to the value that contains it")
        if len(self.ancestors) == MAX_DEPTH:
            raise ConfigError(f"{mark}: nested too deeply to be a configuration")
        is_mapping = isinstance(raw, yaml.MappingNode)
        if raw.tag != _PREFIX + ("map" if is_mapping else "seq"):
            raise ConfigError(self.refuse_tag(raw))
        self.ancestors.append(raw)
        value = self.mapping(raw) if is_mapping else [self.convert(item) for item in raw.value]
        self.ancestors.pop()
        return Node(value, mark)

    def mapping(self, raw: yaml.Node) -> dict[str, Node]:
        items: dict[str, Node] = {}
        for raw_key, raw_value in raw.value:
            mark = self.mark(raw_key)
            key = self.key(raw_key)
            if key in items:
                raise ConfigError(f"{mark}: the key {key!r} is here twice, first at {items[key].mark}; remove one")
            items[key] = self.convert(raw_value, mark)
        return items

    def key(self, raw: yaml.Node) -> str:
        if not isinstance(raw, yaml.ScalarNode):
            raise ConfigError(f"{self.mark(raw)}: a key is not text; expected a name")
        key = self.scalar(raw)
        if not isinstance(key, str):
            raise ConfigError(f"{self.mark(raw)}: the key {raw.value} is not text; quote it")
        if key == "<<" and raw.style is None:
            raise ConfigError(f"{self.mark(raw)}: merge keys ('<<') are not part of YAML 1.2; use `_base_` instead")
        return key

    def scalar(self, raw: yaml.ScalarNode) -> Any:
        name = raw.tag[len(_PREFIX) :] if raw.tag.startswith(_PREFIX) else ""
        if name not in _SCALARS:
            raise ConfigError(self.refuse_tag(raw))
        pattern, convert = _SCALARS[name]
        try:
            if pattern.fullmatch(raw.value):
                return convert(raw.value)
        except ValueError as error:  # an integer beyond Python's limit of digits
            raise ConfigError(f"{self.mark(raw)}: {show(raw.value)} is too long for a number") from error
        raise ConfigError(f"{self.mark(raw)}: {show(raw.value)} is tagged !!{name} but is none")

    def refuse_tag(self, raw: yaml.Node) -> str:
        tag = raw.tag.replace(_PREFIX, "!!")
        return f"{self.mark(raw)}: the tag {tag} is refused: a configuration is data; remove the tag"


class _CoreDumper(yaml.SafeDumper):
    """Writes text so that both YAML 1.1 and 1.2 read it back as text."""


_CoreDumper.yaml_implicit_resolvers = {**yaml.SafeDumper.yaml_implicit_resolvers}
for _character, _entries in _resolvers().items():
    _CoreDumper.yaml_implicit_resolvers[_character] = [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(_character, []),
        *_entries,
    ]


def dump_inline(data: Any) -> str:
    """Data as YAML on one line."""
    if isinstance(data, dict):
        return "{" + ", ".join(f"{dump_inline(key)}: {dump_inline(value)}" for key, value in data.items()) + "}"
    if isinstance(data, (list, tuple)):
        return "[" + ", ".join(dump_inline(item) for item in data) + "]"
    text = yaml.dump([data], Dumper=_CoreDumper, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.strip()[1:-1]
