from __future__ import annotations

import math

import pytest
import yaml

from paddleseg_ext.config import Config, load_config
from paddleseg_ext.config.document import MAX_NODES, Mark, dump_inline, parse_file, parse_value, plain
from paddleseg_ext.errors import ConfigError


def read(text: str):
    return plain(parse_file(text, "x.yml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # YAML 1.2.2, section 10.3.2
        ("1e-3", 0.001),
        ("5E4", 50000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("010", 10),
        ("0o10", 8),
        ("0xff", 255),
        ("+12", 12),
        ("~", None),
        ("", None),
        ("Null", None),
        ("true", True),
        ("FALSE", False),
        # text in 1.2, something else in 1.1
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("0b11", "0b11"),
        ("=", "="),
        ("None", "None"),
        # quotes and plain tags
        ("'1e-3'", "1e-3"),
        ("!!str 5", "5"),
        ("!!float 3", 3.0),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = read(f"key: {text}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(read("key: .nan")["key"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yml:3: the key 'a' is here twice, first at x.yml:1"),
        ("a:\n  b: 1\n  b: 2\n", "x.yml:3: the key 'b' is here twice, first at x.yml:2"),
        ("a: 1\n'a': 2\n", "x.yml:2: the key 'a' is here twice"),
        ("a: 1\nb: [1, 2\n", "x.yml:3: not YAML"),
        ("a: 1\n\tb: 2\n", "x.yml:2: not YAML"),
        ("a: *gone\n", "x.yml:1: not YAML: found undefined alias 'gone'"),
        ("a: 1\n---\nb: 2\n", "x.yml:2: not YAML"),
        ("", "x.yml:1: the file is empty"),
        ("# only a comment\n", "x.yml:1: the file is empty"),
        ("- a\n- b\n", "x.yml:1: found ['a', 'b']; expected a mapping"),
        ("a: 1\n2: b\n", "x.yml:2: the key 2 is not text"),
        ("? [a, b]\n: 1\n", "x.yml:1: a key is not text"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", "x.yml:3: merge keys"),
        ("a: &a\n  b: *a\n", "an alias refers to the value that contains it"),
        ("a: !!int x\n", "x.yml:1: 'x' is tagged !!int but is none"),
        ("a: 1\nb: " + "9" * 5000 + "\n", "x.yml:2: '99999"),
        ("a: b\x07\n", "x.yml:1: the character U+0007 is not allowed"),
    ],
)
def test_refuses_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object:os.system ls",
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/name:os.system ''",
        "!!python/object/new:subprocess.Popen [[touch, pwned]]",
        "!!python/tuple [1, 2]",
        "!!timestamp 2026-11-21",
        "!!binary aGk=",
        "!!set {a, b}",
        "!mine {a: 1}",
    ],
)
def test_tags_are_refused_and_nothing_runs(write_file, folder, tag: str) -> None:
    write_file("evil.yml", f"iters: 1\nmodel:\n  backbone: {tag}\n")
    with pytest.raises(ConfigError, match=r"^evil\.yml:3: the tag .* is refused"):
        load_config("evil.yml")
    assert [path.name for path in folder.iterdir()] == ["evil.yml"]


def test_aliases_are_copies() -> None:
    data = read("a: &a {x: [1]}\nb: *a\n")
    data["a"]["x"].append(2)
    assert data["b"] == {"x": [1]}


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match=f"more than {MAX_NODES} values"):
        read("\n".join(lines))


@pytest.mark.parametrize("text", ["a: " + "[" * 1500, "a: " + "[" * 120 + "]" * 120])
def test_nesting_beyond_reason_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        read(text)


def test_nesting_by_aliases_is_refused_too() -> None:
    lines = ["a0: &a0 [x]", *[f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 400)]]
    with pytest.raises(ConfigError, match="nested too deeply"):
        read("\n".join(lines))


def test_a_typed_value_has_the_mark_of_its_flag_at_every_depth() -> None:
    mark = Mark("--opts a=...")
    node = parse_value("{b: [1, 2]}", mark)
    assert node.mark is mark
    assert node.value["b"].value[1].mark is mark


@pytest.mark.parametrize(
    "value",
    [
        "no",
        "1e-3",
        "1_000",
        "null",
        "",
        "a: b",
        "#x",
        "1.0",
        "0o7",
        "line\nbreak",
        "\u00e9\u00d7",
        "true",
        "-",
        "[a]",
        "a, b",
    ],
)
def test_dumped_text_is_read_back_as_text_by_both_dialects(value: str) -> None:
    text = f"key: {dump_inline(value)}\n"
    assert read(text) == {"key": value}
    assert yaml.safe_load(text) == {"key": value}


@pytest.mark.parametrize("value", [1e-5, 5e-4, 1.0, 1e22, math.inf, -0.0, 3, True, None, [], {}, [1, [2, {"a": None}]]])
def test_dumped_values_are_read_back_by_both_dialects(value: object) -> None:
    text = f"key: {dump_inline(value)}\n"
    assert read(text) == {"key": value}
    assert yaml.safe_load(text) == {"key": value}


def test_from_dict_refuses_objects() -> None:
    with pytest.raises(ConfigError, match="expected data"):
        Config.from_dict({"model": object()})
    with pytest.raises(ConfigError, match="the key 1 is not text"):
        Config.from_dict({"model": {1: 2}})
