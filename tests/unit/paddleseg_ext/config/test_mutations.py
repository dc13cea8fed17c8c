"""Every key of a configuration misspelt, every value of a wrong type: refused with file and line, nothing run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from paddleseg_ext.config import Config, load_config, validate
from paddleseg_ext.config.document import ConfigPath, Node, from_plain, plain
from paddleseg_ext.errors import ConfigError


def walk(node: Node, path: ConfigPath = ()) -> Iterator[tuple[ConfigPath, Node]]:
    """Every value below a node, except under `meta`, which is free."""
    if isinstance(node.value, (dict, list)):
        for key, child in node.value.items() if isinstance(node.value, dict) else enumerate(node.value):
            if path or key != "meta":
                yield (*path, key), child
                yield from walk(child, (*path, key))


def mutated(node: Node, path: ConfigPath, change: Any) -> Node:
    """The tree with `change(key, child) -> (key, child)` applied to the entry at `path`."""
    key, rest = path[0], path[1:]
    if isinstance(node.value, list):
        items = list(node.value)
        items[key] = mutated(items[key], rest, change) if rest else change(key, items[key])[1]
        return Node(items, node.mark)
    entries = {}
    for name, child in node.value.items():
        if name != key:
            entries[name] = child
        elif rest:
            entries[name] = mutated(child, rest, change)
        else:
            new_name, new_child = change(name, child)
            entries[new_name] = new_child
    return Node(entries, node.mark)


def without(node: Node, path: ConfigPath) -> Node:
    """The tree without the key at `path`."""
    if isinstance(node.value, list):
        items = [without(item, path[1:]) if i == path[0] else item for i, item in enumerate(node.value)]
        return Node(items, node.mark)
    entries = {
        name: without(child, path[1:]) if name == path[0] else child
        for name, child in node.value.items()
        if name != path[0] or len(path) > 1
    }
    return Node(entries, node.mark)


def refusal(root: Node) -> str:
    """The message with which `validate` refuses a configuration; "" if it accepts it."""
    try:
        validate(Config(root), "train", do_eval=True)
    except ConfigError as error:
        return str(error)
    return ""


TYPOS = {
    "a letter more": lambda key: key + "x",
    "a letter less": lambda key: key[:-1],
    "two letters swapped": lambda key: key[:-2] + key[-1] + key[-2],
    "another case": lambda key: key.upper(),
    "a space": lambda key: key + " ",
}


@pytest.mark.parametrize("typo", TYPOS)
def test_every_misspelt_key_is_refused_at_its_line_and_the_right_one_named(main_file, components, typo: str) -> None:
    root = load_config("main.yml").root
    for path, node in walk(root):
        key = path[-1]
        if isinstance(key, int) or TYPOS[typo](key) == key:
            continue
        message = refusal(mutated(root, path, lambda key, child: (TYPOS[typo](key), child)))
        assert f"{node.mark}: " in message, path
        assert f"Did you mean {key!r}" in message, path
        assert "missing" not in message, path
    assert components == []


WRONG = {
    "text": "not what was asked for",
    "number": 3.25,
    "bool": True,
    "list": [[[]]],
    "mapping": {"no_such_key": {}},
    "nan": float("nan"),
}

# Where a value of that type is right, so that no error is wanted.
ACCEPTED = {
    ("text", "name"),
    ("text", "output"),
    ("text", "target"),
    ("text", "dataset_root"),
    ("text", "pretrained"),
    ("text", "output.0"),
    ("text", "output.1"),
    ("bool", "align_corners"),
    ("bool", "trainable"),
    ("bool", "aug_eval"),
    ("bool", "flip_horizontal"),
    ("bool", "is_slide"),
}
NUMBERS = {
    "power",
    "learning_rate",
    "weight_decay",
    "weight",
    "lr_mult",
    "weight_decay_mult",
    "clip_norm",
    "prob",
    "factors.0",
    "factors.1",
    "scales.0",
    "scales.1",
    "fill.0",
    "fill.1",
    "fill.2",
}


def is_accepted(kind: str, path: ConfigPath) -> bool:
    name = f"{path[-2]}.{path[-1]}" if isinstance(path[-1], int) else str(path[-1])
    return (kind, name) in ACCEPTED or (kind == "number" and name in NUMBERS)


@pytest.mark.parametrize("kind", WRONG)
def test_every_value_of_a_wrong_type_is_refused_at_its_line(main_file, components, kind: str) -> None:
    root = load_config("main.yml").root
    for path, node in walk(root):
        wrong = from_plain(WRONG[kind], node.mark)
        message = refusal(mutated(root, path, lambda key, child, wrong=wrong: (key, wrong)))
        if is_accepted(kind, path):
            assert message == "", path
        else:
            assert f"{node.mark}: " in message, (path, plain(node))
    assert components == []


REQUIRED = {
    *("model", "losses", "optimizer", "lr_scheduler", "iters", "batch_size", "train_dataset", "val_dataset"),
    *(
        "type",
        "num_classes",
        "backbone",
        "dataset_root",
        "factors",
        "size",
        "prob",
        "learning_rate",
        "output",
        "clip_norm",
    ),
}


def is_required(path: ConfigPath) -> bool:
    if path[-1] in ("name", "kind"):
        return "param_groups" in path  # each rule here has only one of the two
    if path[-1] == "transforms":
        return "transforms" in path[:-1]  # of `Maybe`; those of a dataset may be left out
    return path[-1] in REQUIRED


def test_every_removed_key_is_either_optional_or_refused_by_name(main_file, components) -> None:
    root = load_config("main.yml").root
    for path, _ in walk(root):
        if isinstance(path[-1], str):
            message = refusal(without(root, path))
            assert bool(message) == is_required(path), path
            assert not message or str(path[-1]) in message, path
    assert components == []
