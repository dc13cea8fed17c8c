"""What stands between a command and who typed it."""

from __future__ import annotations

import os

import pytest

from parity import guard
from parity.case import Side
from parity.errors import CaseError, SideError
from parity.model_side import ModelSide


def raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (CaseError("my.py: no case;\n  name one"), 2, "error: my.py: no case; name one"),
        (SideError("the port raised"), 3, "error: the port raised"),
        (OSError(28, "No space left", "x.json"), 2, "error: [Errno 28] No space left: 'x.json'"),
        (ZeroDivisionError("division\nby zero"), 3, "error: ZeroDivisionError: division by zero"),
        (SystemExit(0), 3, "error: a case or a model ended the program: SystemExit(0)"),
        (RecursionError("too deep"), 3, "error: RecursionError: too deep"),
        (MemoryError(), 3, "error: MemoryError:"),
    ],
)
def test_an_error_is_one_line_and_the_traceback_is_for_debug(capsys, error, code, said):
    assert guard.guarded(raising(error), debug=False) == code
    shown = capsys.readouterr().err
    assert shown.startswith(said) and shown.count("\n") == 1
    assert ("--debug shows the traceback" in shown) == (not isinstance(error, (CaseError, SideError, OSError)))
    assert guard.guarded(raising(error), debug=True) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_result_passes_and_an_interruption_is_130():
    assert guard.guarded(lambda: 1, debug=False) == 1
    assert guard.guarded(raising(KeyboardInterrupt()), debug=False) == 130


def test_outputs_that_can_be_written_pass_and_nothing_is_created(tmp_path):
    (tmp_path / "old.json").write_text("{}")
    files = {"--json": "-", "--md": None, "--html": tmp_path / "new.html", "--out": tmp_path / "old.json"}
    guard.check_outputs(files, {"--reprod-log": tmp_path / "a" / "b", "--report-dir": tmp_path, "--none": None})
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_outputs_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaseError, match=r"--json .*nowhere/x: there is no folder .*nowhere; expected one that exists"):
        guard.check_outputs({"--json": tmp_path / "nowhere" / "x"})
    with pytest.raises(CaseError, match=r"--html .*: is a folder; expected a file"):
        guard.check_outputs({"--html": tmp_path})
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CaseError, match=r"--reprod-log .*file is a file; expected a folder"):
            guard.check_outputs({}, {"--reprod-log": path})


def test_outputs_that_may_not_be_written_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(guard.os, "access", lambda path, mode: mode != os.W_OK)
    for files, folders in (({"--md": tmp_path / "x"}, {}), ({}, {"--report-dir": tmp_path / "x"})):
        with pytest.raises(CaseError, match="may not be written; expected a place that may"):
            guard.check_outputs(files, folders)


def test_a_text_is_written_through_a_link_and_into_a_device(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    guard.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    guard.write("/dev/null", "gone")
    assert not os.path.isfile("/dev/null") and len(list(tmp_path.iterdir())) == 2


def test_a_side_that_ends_the_program_has_crashed():
    side = ModelSide.__new__(ModelSide)
    side.side, side._tensors = Side(dict, postprocess=lambda outputs: raising(SystemExit(0))()), dict
    assert side.postprocess({}).meta == {"crash": "SystemExit: 0"}
