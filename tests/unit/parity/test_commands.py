"""What a command raises becomes one message and an exit code."""

from __future__ import annotations

import pytest

from parity import commands
from parity.commands import import_file
from parity.errors import CaseError


def test_an_error_that_nobody_foresaw_is_one_line_and_no_mismatch(monkeypatch, capsys):
    monkeypatch.setitem(commands.COMMANDS, "probe", (commands._probe_arguments, lambda options: 1 // 0, ""))
    assert commands.main(["probe"]) == 3
    printed = capsys.readouterr().err
    assert printed.startswith("error: ZeroDivisionError") and printed.count("\n") == 1
    assert commands.main(["probe", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--json", "--html", "--md"])
def test_nothing_is_computed_for_a_folder_that_is_not_there(option, tmp_path, capsys):
    command = ["record", "mine", "--side", "port"] if option == "--out" else ["compare", "a.npz", "b.npz"]
    assert commands.main([*command, option, str(tmp_path / "none" / "file.npz")]) == 2
    assert f"error: {option} {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = x.nothing\n", r"mine\.py:2: importing it raised AttributeError"),
        ("import parity\nparity.Case(1, 2, 3, {}, feed='a')\n", r"mine\.py:2: case 1: feed names 'a'"),
        ("x = (\n", r"mine\.py: importing it raised SyntaxError"),
        ("import sys\nsys.exit(0)\n", r"mine\.py:2: importing it raised SystemExit"),
    ],
)
def test_a_file_that_cannot_be_imported_says_where(text, said, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(CaseError, match=said):
        import_file(tmp_path / "mine.py", "mine")
