from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, Union  # noqa: UP035

import pytest

from paddleseg_ext.config.typecheck import convert, fits, mismatches, parameters, read_type

Size = Tuple[int, int]  # noqa: UP006

NAMES = {"Size": Size, "Path": Path}


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [0, -3], [True, 1.0, "1", None, [1]]),
        ("float", [0, 0.5, float("inf")], [True, "0.5", None, float("nan"), [0.5]]),
        ("bool", [True, False], [0, 1, "no", None]),
        ("str", ["", "a"], [1, None, True, ["a"]]),
        ("None", [None], [0, "", False]),
        ("int | None", [1, None], [1.5, "None", True]),
        ("Optional[int]", [1, None], [1.5, "None"]),
        ("str | None", ["a", None], ["None", 3]),
        ("typing.Union[int, str]", [1, "a"], [1.5, None]),
        ("list[int]", [[], [1, 2]], [[1.0], 1, [True], {"a": 1}]),
        ("Sequence[float]", [[1, 0.5]], [["a"], "ab", 0.5]),
        ("tuple[int, int]", [[1, 2]], [[1], [1, 2, 3], [1, "a"], 1]),
        ("tuple[float, ...]", [[], [1, 2.5, 3]], [["a"], 2.5]),
        ("tuple", [[], [1, "a"]], [1, "a"]),
        ("dict[str, int]", [{}, {"a": 1}], [{"a": "b"}, [1]]),
        ("Mapping", [{"a": None}], [[1], "a"]),
        ("Literal['a', 1]", ["a", 1], ["b", 2, True]),
        ("Literal['a', None]", ["a", None], ["b"]),
        ("Size | None", [[1, 2], None], [[1, 2, 3], 5]),
        ("Path", ["a/b"], [3]),
        ("'int'", [1], ["a"]),
        ("Any", [1, "a", None, [object], {}], []),
        ("nn.Layer", [1, "a", {}], []),
        ("list[tuple[int, int]]", [[[1, 2], [3, 4]]], [[[1]], [1, 2]]),
    ],
)
def test_a_value_fits_its_annotation_or_not(annotation: str, good: list, bad: list) -> None:
    expected = read_type(annotation, NAMES)
    assert [value for value in good if not fits(value, expected)] == []
    assert [value for value in bad if fits(value, expected)] == []


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Optional[int], "int or null"),
        (Union[int, str], "int or str"),
        (List[float], "list of float"),  # noqa: UP006
        (Tuple[int, int], "[int, int]"),  # noqa: UP006
        (Dict[str, Any], "mapping"),  # noqa: UP006
        (Mapping[str, int], "mapping"),
        (Sequence[int], "list of int"),
        (Literal["a", "b"], "'a' or 'b'"),
        (int, "int"),
        (None, "null"),
        (Any, "any"),
        (object(), "any"),
    ],
)
def test_annotations_that_are_objects_are_read_too(annotation: Any, text: str) -> None:
    assert str(read_type(annotation)) == text


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("abc", "float", "expected float, got 'abc'"),
        ("no", "bool", "expected bool, got 'no'; write false"),
        (8e4, "int", "expected int, got 80000.0; write 80000"),
        ("0.5", "float", "expected float, got '0.5'; remove the quotes"),
        (3, "str", "expected str, got 3; write '3' in quotes"),
        ("None", "str | None", "expected str or null, got 'None'; write null"),
        (0.5, "list[float]", "expected list of float, got 0.5; write [0.5]"),
        ([1, 2, 3], "tuple[int, int]", "expected [int, int], got [1, 2, 3]"),
        ({"a": True}, "int", "expected int, got {a: true}"),
        ("x" * 500, "int", "expected int, got '" + "x" * 56 + "..."),
    ],
)
def test_a_mismatch_says_what_was_expected_found_and_meant(value: Any, annotation: str, message: str) -> None:
    assert mismatches(value, read_type(annotation)) == [((), message)]


def test_a_mismatch_inside_a_list_names_the_item() -> None:
    assert mismatches([1, "a", None], read_type("list[int] | None")) == [
        ((1,), "expected int, got 'a'"),
        ((2,), "expected int, got null"),
    ]


def test_an_annotation_is_never_evaluated() -> None:
    assert str(read_type("__import__('os').system('false') or int")) == "any"


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ([1, 2], "tuple[int, int]", (1, 2)),
        ([1, 2], "tuple[float, ...] | None", (1.0, 2.0)),
        ([[1, 2]], "list[tuple[int, int]]", [(1, 2)]),
        (1, "float", 1.0),
        (1, "float | int", 1),
        (1, "Any", 1),
        ([1, 2], "Sequence[float]", [1.0, 2.0]),
        ({"a": 1}, "dict[str, float]", {"a": 1.0}),
        ("a", "float | str", "a"),
    ],
)
def test_values_are_converted_to_the_declared_type(value: Any, annotation: str, expected: Any) -> None:
    found = convert(value, read_type(annotation))
    assert found == expected
    assert repr(found) == repr(expected)


def test_parameters_of_a_class_and_of_a_function() -> None:
    class Thing:
        def __init__(self, a: int, *, b: str = "x") -> None: ...

    def function(a, b=(1, 2), **others) -> None: ...

    known, others = parameters(Thing)
    assert {name: (str(p.type), p.required, p.default) for name, p in known.items()} == {
        "a": ("int", True, None),
        "b": ("str", False, "x"),
    }
    assert not others
    known, others = parameters(function)
    assert {name: (str(p.type), p.required, p.default) for name, p in known.items()} == {
        "a": ("any", True, None),
        "b": ("any", False, (1, 2)),
    }
    assert others
