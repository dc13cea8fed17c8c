"""What a constructor's annotations say about its arguments, and whether a YAML value fits.

Annotations are read as text, never evaluated, so that `int | None` means the same on Python 3.9 and later.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

from paddleseg_ext.config.document import ConfigPath, show

_SCALARS = {"int": "int", "float": "float", "bool": "bool", "str": "str", "None": "null", "NoneType": "null"}
_LISTS = {"list", "List", "Sequence", "MutableSequence", "Iterable", "Collection", "set", "Set", "frozenset"}
_TUPLES = {"tuple", "Tuple"}
_MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}
_PATHS = {"Path", "PathLike", "PurePath"}
_WRAPPERS = {"Annotated", "Final", "ClassVar"}
_MAX_ALIASES = 8
_NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Type:
    """A type that a YAML value can have.

    Attributes:
        kind: "int", "float", "bool", "str", "null", "list" (any length), "tuple" (fixed length), "mapping",
            "union", "literal", or "any" for what YAML cannot be checked against.
        args: of a list its item, of a tuple its items, of a mapping its value, of a union its members, of a literal
            its values. Empty if they are not declared.
        make_tuple: whether a list that fits is to be handed over as a tuple.
    """

    kind: str
    args: tuple[Any, ...] = ()
    make_tuple: bool = False

    def __str__(self) -> str:
        if self.kind == "union":
            return " or ".join(dict.fromkeys(str(arg) for arg in self.args))
        if self.kind == "literal":
            return " or ".join(show(arg) for arg in self.args)
        if self.kind == "tuple":
            return "[" + ", ".join(str(arg) for arg in self.args) + "]"
        if self.kind == "list" and self.args:
            return f"list of {self.args[0]}"
        return self.kind


ANY = Type("any")


@dataclass(frozen=True)
class Parameter:
    """An argument of a registered class or function.

    Attributes:
        type: from its annotation; "any" without one.
        required: whether it has no default.
        default: its default; None if required.
    """

    type: Type
    required: bool
    default: Any


def parameters(entry: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """Arguments that YAML can give by name, and whether others are accepted too (`**kwargs`)."""
    try:
        signature = inspect.signature(entry)
    except (TypeError, ValueError):  # a builtin without a signature
        return {}, True
    function = inspect.unwrap(entry.__init__ if inspect.isclass(entry) else entry)
    names = getattr(function, "__globals__", {})
    found, others = {}, False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            others = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            required = parameter.default is parameter.empty
            annotation = ANY if parameter.annotation is parameter.empty else read_type(parameter.annotation, names)
            found[name] = Parameter(annotation, required, None if required else parameter.default)
    return found, others


def read_type(annotation: Any, names: Mapping[str, Any] | None = None) -> Type:
    """The type that an annotation declares.

    Args:
        annotation: its text, or the object itself.
        names: where aliases such as `Size = tuple[int, int]` are looked up.
    """
    return _AnnotationReader(names or {}).read(annotation, 0)


class _AnnotationReader:
    def __init__(self, names: Mapping[str, Any]) -> None:
        self.names = names

    def read(self, annotation: Any, depth: int) -> Type:
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        try:
            return self.parse(ast.parse(text, mode="eval").body, depth)
        except (SyntaxError, ValueError):  # the repr of an object, or a literal that is a name
            return ANY

    def parse(self, node: ast.expr, depth: int) -> Type:
        if isinstance(node, ast.Constant):
            return Type("null") if node.value is None else self.read(node.value, depth)
        if isinstance(node, ast.BinOp):
            return _union([self.parse(node.left, depth), self.parse(node.right, depth)])
        if isinstance(node, ast.Subscript):
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            return self.generic(_last_name(node.value), items, depth)
        return self.name(_last_name(node), depth)

    def name(self, name: str, depth: int) -> Type:
        if name in _SCALARS:
            return Type(_SCALARS[name])
        if name in _LISTS:
            return Type("list")
        if name in _TUPLES:
            return Type("list", make_tuple=True)
        if name in _MAPPINGS:
            return Type("mapping")
        if name in _PATHS:
            return Type("str")
        alias = self.names.get(name)
        if alias is not None and not inspect.isclass(alias) and depth < _MAX_ALIASES:
            return self.read(alias, depth + 1)
        return ANY

    def generic(self, name: str, items: list[ast.expr], depth: int) -> Type:
        if name == "Literal":
            return Type("literal", tuple(ast.literal_eval(item) for item in items))
        if name == "Optional":
            return _union([self.parse(items[0], depth), Type("null")])
        if name == "Union":
            return _union([self.parse(item, depth) for item in items])
        if name in _WRAPPERS:
            return self.parse(items[0], depth)
        if name in _LISTS:
            return Type("list", (self.parse(items[0], depth),))
        if name in _MAPPINGS:
            return Type("mapping", (self.parse(items[-1], depth),))
        if name in _TUPLES:
            if isinstance(items[-1], ast.Constant) and items[-1].value is Ellipsis:
                return Type("list", (self.parse(items[0], depth),), make_tuple=True)
            return Type("tuple", tuple(self.parse(item, depth) for item in items), make_tuple=True)
        return self.name(name, depth)


def _last_name(node: ast.expr) -> str:
    """`Optional` of both `Optional` and `typing.Optional`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _union(members: list[Type]) -> Type:
    flat = [arg for member in members for arg in (member.args if member.kind == "union" else (member,))]
    return Type("union", tuple(flat))


def fits(value: Any, expected: Type) -> bool:
    """Whether a YAML value has a type; an int is a float, a bool is neither, and a NaN is no value at all."""
    return not mismatches(value, expected)


def mismatches(value: Any, expected: Type, path: ConfigPath = ()) -> list[tuple[ConfigPath, str]]:
    """Where a value does not have its type: the place inside it, and "expected ..., got ..."."""
    if expected.kind == "union":
        return _union_mismatches(value, expected, path)
    if expected.kind in ("list", "tuple") and isinstance(value, list):
        items = expected.args if expected.kind == "tuple" else (expected.args or (ANY,)) * len(value)
        if len(items) == len(value):
            pairs = enumerate(zip(value, items))
            return [found for i, (item, kind) in pairs for found in mismatches(item, kind, (*path, i))]
    elif expected.kind == "mapping" and isinstance(value, dict):
        kind = expected.args[0] if expected.args else ANY
        return [found for key, item in value.items() for found in mismatches(item, kind, (*path, key))]
    elif _is_scalar_of(value, expected):
        return []
    return [(path, f"expected {expected}, got {show(value)}{_hint(value, expected)}")]


def _union_mismatches(value: Any, expected: Type, path: ConfigPath) -> list[tuple[ConfigPath, str]]:
    results = [mismatches(value, member, path) for member in expected.args]
    is_python_null = value == "None" and any(member.kind == "null" for member in expected.args)
    if not all(results) and not is_python_null:
        return []
    containers = [r for r in results if r and all(len(place) > len(path) for place, _ in r)]
    if len(containers) == 1:  # the value is a list and one member is a list: what is wrong is inside
        return containers[0]
    hints = dict.fromkeys(_hint(value, member) for member in expected.args)
    return [(path, f"expected {expected}, got {show(value)}{''.join(hints)}")]


def _is_scalar_of(value: Any, expected: Type) -> bool:
    if expected.kind == "any":
        return True
    if expected.kind == "literal":
        return any(value == option and type(value) is type(option) for option in expected.args)
    if expected.kind == "float":
        return type(value) in (int, float) and value == value
    return type(value) is {"int": int, "bool": bool, "str": str, "null": type(None)}.get(expected.kind)


def _hint(value: Any, expected: Type) -> str:
    """What to write instead, if that is clear."""
    if expected.kind == "bool" and str(value).lower() in ("yes", "no", "on", "off"):
        return f"; write {'true' if value.lower() in ('yes', 'on') else 'false'}"
    if expected.kind == "int" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if expected.kind in ("int", "float") and isinstance(value, str) and _NUMBER.fullmatch(value):
        return "; remove the quotes"
    if expected.kind == "str" and type(value) in (int, float, bool):
        return f"; write '{show(value)}' in quotes"
    if expected.kind == "null" and value == "None":
        return "; write null"
    if expected.kind == "list" and expected.args and not isinstance(value, list) and fits(value, expected.args[0]):
        return f"; write [{show(value)}]"
    return ""


def convert(value: Any, expected: Type) -> Any:
    """A value that fits, as its annotation has it: lists become tuples and ints floats where that is declared."""
    if expected.kind == "union":
        members = [member for member in expected.args if fits(value, member)]
        return convert(value, members[0]) if members and not _has_exact(value, members) else value
    if expected.kind == "float" and type(value) is int:
        return float(value)
    if expected.kind in ("list", "tuple") and isinstance(value, list):
        items = expected.args if expected.kind == "tuple" else (expected.args or (ANY,)) * len(value)
        converted = [convert(item, kind) for item, kind in zip(value, items)]
        return tuple(converted) if expected.make_tuple else converted
    if expected.kind == "mapping" and isinstance(value, dict) and expected.args:
        return {key: convert(item, expected.args[0]) for key, item in value.items()}
    return value


def _has_exact(value: Any, members: list[Type]) -> bool:
    """Whether a scalar already has one of the types, so that an int stays an int for `int | float`."""
    return type(value) is int and any(member.kind in ("int", "any") for member in members)
