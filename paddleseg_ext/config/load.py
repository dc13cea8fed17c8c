"""Reading a configuration file with its bases, every value knowing where it came from."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paddleseg_ext.config.document import ConfigPath, Mark, Node, dump_inline, from_plain, parse_file, plain, show
from paddleseg_ext.errors import ConfigError

MAX_BASE_DEPTH = 5
MAX_FILE_BYTES = 1_000_000

_BASE = "_base_"
_DROP_MARKERS = {"_inherited_": False, "_delete_": True}  # the value that drops what the bases have


class Config:
    """A configuration: plain data, and the place that each value came from.

    Not changed by anything: overrides give a new one (`override.py`).

    Args:
        root: the merged mapping.
        path: the file it was loaded from; None if it was made from data.

    Attributes:
        data: the configuration as dicts, lists and scalars.
    """

    def __init__(self, root: Node, path: Path | None = None) -> None:
        self.root = root
        self.path = path
        self.data: dict[str, Any] = plain(root)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "config") -> Config:
        """A configuration from data.

        Args:
            data: what a YAML file would hold; `_base_` has no meaning here.
            source: stands for the file in messages.

        Raises:
            ConfigError: if a value is not plain data.
        """
        return cls(from_plain(dict(data), Mark(source)))

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path such as "optimizer.param_groups.0.name", or `default`."""
        keys, node = self.walk(path)
        return plain(node) if len(keys) == len(path.split(".")) else default

    def where(self, path: str | ConfigPath) -> str:
        """Origin of the value at a path: "file.yml:12", "--opts a.b=1", "--iters 10".

        Of a path that does not exist: the origin of the closest mapping or list above it.
        """
        return str(self.walk(path)[1].mark)

    def walk(self, path: str | ConfigPath) -> tuple[ConfigPath, Node]:
        """Follows a path as far as it exists; that part of it, list indices as int, and the node there."""
        node, done = self.root, []
        for key in path.split(".") if isinstance(path, str) else path:
            found = child_key(node, key)
            if found is None:
                break
            node = node.value[found]
            done.append(found)
        return tuple(done), node

    def to_yaml(self, *, where: bool = False) -> str:
        """The configuration as one YAML file without bases.

        Args:
            where: end each line with a comment that names the value's origin.
        """
        lines = list(_yaml_lines(self.root))
        if not where:
            return "".join(f"{text}\n" for text, _ in lines)
        width = min(60, max((len(text) for text, _ in lines), default=0))
        return "".join(f"{text:<{width}}  # {mark}\n" for text, mark in lines)


def child_key(node: Node, key: str | int) -> str | int | None:
    """The key under which a node has a child: a name of a mapping, an index of a list; None if there is none."""
    if isinstance(node.value, dict):
        return key if key in node.value else None
    if isinstance(node.value, list) and str(key).isdecimal() and int(key) < len(node.value):
        return int(key)
    return None


def dotted(path: ConfigPath) -> str:
    """A path as messages and `--opts` write it: "losses.0.weight"."""
    return ".".join(str(key) for key in path)


def closest(name: str, options: Any) -> str | None:
    """The option most like `name`, whatever its case; None if none is."""
    by_lower = {str(option).lower(): str(option) for option in options}
    match = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return by_lower[match[0]] if match else None


def did_you_mean(name: str, options: Any) -> str:
    """A question with the closest option, starting with a space; "" if none is close."""
    match = closest(name, options)
    return f" Did you mean {match!r}?" if match else ""


def load_config(path: str | os.PathLike[str]) -> Config:
    """Reads a YAML file and its bases.

    `_base_` is a file or a list of files, relative to the file that names it. Mappings are merged key by key and the
    file's own value wins; lists and scalars are replaced. Of several bases the first wins. `_inherited_: false` or
    `_delete_: true` in a mapping drops what the bases have there.

    Args:
        path: relative to the working directory or, if there is no such file, to the repository or to the
            configurations that are installed with the package.

    Raises:
        ConfigError: with file:line, if the file or a base cannot be read or is not a configuration.
    """
    found = find_config(path)
    return Config(_load(found, ()), found)


def config_root() -> Path:
    """Folder of the configurations that come with this package: installed inside it, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(path: str | os.PathLike[str]) -> Path:
    """The file that a path on the command line means.

    Besides the file itself, `x` in the place of a multiplication sign is tried (configurations elsewhere are named
    "1024x512" with either).

    Raises:
        ConfigError: if there is none; names the file most like it.
    """
    wanted = Path(path)
    root = config_root()
    candidates = [wanted] if wanted.is_absolute() else [wanted, root.parent / wanted, root / wanted]
    for candidate in candidates:
        found = _existing(candidate)
        if found:
            return found
    if any(os.path.isdir(candidate) for candidate in candidates):
        raise ConfigError(f"{path}: this is a folder; expected a YAML file in it")
    raise ConfigError(f"{path}: there is no such file{_suggest_file(candidates, root)}")


def _existing(path: Path) -> Path | None:
    """The path, or its twin in ASCII, if that is a file."""
    twins = (path, Path(str(path).replace("\u00d7", "x")))
    return next((twin for twin in twins if os.path.isfile(twin)), None)  # unlike Path's, these never raise


def _suggest_file(candidates: list[Path], root: Path) -> str:
    """Names the file most like a missing one, in its own folder or anywhere among our configurations."""
    for candidate in candidates:
        folder = candidate.parent
        if os.path.isdir(folder):
            names = [entry.name for entry in folder.iterdir() if entry.suffix in (".yml", ".yaml")]
            match = closest(candidate.name, names)
            if match:
                return f". Did you mean {_display(folder / match)!r}?"
    ours = sorted(root.rglob("*.yml")) if root.is_dir() else []
    by_path = {str(file.relative_to(root.parent)): file for file in ours}
    match = closest(str(candidates[0]), by_path) or closest(candidates[0].name, [file.name for file in ours])
    return f". Did you mean {match!r}?" if match else f"; configurations are in {_display(root)}"


def _display(path: Path) -> str:
    """A path for messages: relative if it is below the working directory."""
    normal = Path(os.path.normpath(Path.cwd() / path))
    try:
        return str(normal.relative_to(Path.cwd()))
    except ValueError:
        return str(normal)


def _read(path: Path) -> Node:
    source = _display(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{source}: larger than {MAX_FILE_BYTES} bytes; this is no configuration")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{source}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    return parse_file(text, source)


def _load(path: Path, children: tuple[Path, ...]) -> Node:
    """The merged mapping of a file; `children` are the files whose bases led here."""
    node = _read(path)
    items = dict(node.value)
    base = items.pop(_BASE, None)
    merged = Node(items, node.mark)
    for name in _base_names(base) if base else []:
        merged = _merge(_load(_base_file(path, name, (*children, path)), (*children, path)), merged)
    return _without_markers(merged)


def _base_names(base: Node) -> Iterator[Node]:
    for name in base.value if isinstance(base.value, list) else [base]:
        if not isinstance(name.value, str):
            raise ConfigError(f"{name.mark}: {_BASE}: expected a file or a list of files, got {show(plain(name))}")
        yield name


def _base_file(path: Path, name: Node, chain: tuple[Path, ...]) -> Path:
    wanted = path.parent / name.value
    found = _existing(wanted)
    if found is None:
        hint = _suggest_file([wanted], config_root())
        raise ConfigError(f"{name.mark}: {_BASE}: there is no file {_display(wanted)}{hint}")
    if found.resolve() in [file.resolve() for file in chain]:
        circle = " -> ".join(_display(file) for file in (*chain, found))
        raise ConfigError(f"{name.mark}: {_BASE}: the file is its own base: {circle}; remove one `_base_`")
    if len(chain) > MAX_BASE_DEPTH:
        raise ConfigError(f"{name.mark}: {_BASE}: bases of bases more than {MAX_BASE_DEPTH} deep; merge some of them")
    return found


def _merge(base: Node, child: Node) -> Node:
    if not (isinstance(base.value, dict) and isinstance(child.value, dict)) or _drops_base(child):
        return child
    items = dict(base.value)
    for key, value in child.value.items():
        items[key] = _merge(items[key], value) if key in items else value
    return Node(items, child.mark)


def _drops_base(node: Node) -> bool:
    return any(node.value[key].value is drop for key, drop in _DROP_MARKERS.items() if key in node.value)


def _without_markers(node: Node) -> Node:
    """The node without `_inherited_` and `_delete_`, at every depth."""
    if isinstance(node.value, list):
        return Node([_without_markers(item) for item in node.value], node.mark)
    if not isinstance(node.value, dict):
        return node
    for key in _DROP_MARKERS:
        if key in node.value and not isinstance(node.value[key].value, bool):
            child = node.value[key]
            raise ConfigError(f"{child.mark}: {key}: expected true or false, got {show(plain(child))}")
    items = {key: _without_markers(child) for key, child in node.value.items() if key not in _DROP_MARKERS}
    return Node(items, node.mark)


def _is_leaf(node: Node) -> bool:
    """Whether a value goes on one line."""
    if isinstance(node.value, dict):
        return not node.value
    if isinstance(node.value, list):
        return all(not isinstance(item.value, dict) and _is_leaf(item) for item in node.value)
    return True


def _yaml_lines(node: Node, indent: str = "") -> Iterator[tuple[str, Mark]]:
    """Block-style lines of a mapping or list, each with its origin."""
    is_list = isinstance(node.value, list)
    for key, child in enumerate(node.value) if is_list else node.value.items():
        head = f"{indent}-" if is_list else f"{indent}{dump_inline(key)}:"
        if _is_leaf(child):
            yield f"{head} {dump_inline(plain(child))}", child.mark
        elif is_list and isinstance(child.value, dict):
            lines = _yaml_lines(child, indent + "  ")
            first, mark = next(lines)
            yield f"{head} {first.lstrip()}", mark
            yield from lines
        else:
            yield head, child.mark
            yield from _yaml_lines(child, indent + "  ")
