"""What stands between a command and who typed it: outputs are looked at first, and what goes wrong is one line.

Works on Python 3.8 with nothing beside it, like `recording`.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from parity.errors import CaseError, ParityError, SideError

EXIT_USAGE, EXIT_CRASH = 2, 3


def guarded(run: Callable[[], int], *, debug: bool) -> int:
    """What a command returns, or the exit code for what it raised, which is said in one line.

    Args:
        run: the command.
        debug: whether the traceback is shown as well.
    """
    try:
        return run()
    except KeyboardInterrupt:
        return 130
    except (Exception, SystemExit) as error:
        if debug:
            traceback.print_exc()
        text, code = _said(error)
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        return code


def _said(error: BaseException) -> tuple[str, int]:
    if isinstance(error, SideError):
        return str(error), EXIT_CRASH
    if isinstance(error, (ParityError, OSError)):
        return str(error), EXIT_USAGE
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SystemExit):
        said = f"a case or a model ended the program: SystemExit({error.code!r})"
    else:
        said = f"{type(error).__name__}: {error}"
    return f"{said}{where}; --debug shows the traceback", EXIT_CRASH


def check_outputs(files: Mapping[str, Any], folders: Mapping[str, Any] | None = None) -> None:
    """Makes sure that outputs can be written, before anything is computed; creates nothing.

    Args:
        files: option -> path, None or "-".
        folders: option -> path or None, of folders that are created where they are missing.

    Raises:
        CaseError: if one cannot.
    """
    for option, path in files.items():
        if path and str(path) != "-":
            if Path(path).is_dir():
                raise CaseError(f"{option} {path}: is a folder; expected a file; name one in it")
            _check_writable(option, Path(path), Path(path).parent)
    for option, path in (folders or {}).items():
        if path:
            nearest = Path(os.path.abspath(str(path)))
            while not nearest.exists():
                nearest = nearest.parent
            if not nearest.is_dir():
                raise CaseError(f"{option} {path}: {nearest} is a file; expected a folder; name another")
            _check_writable(option, Path(path), nearest)


def _check_writable(option: str, path: Path, folder: Path) -> None:
    if not folder.is_dir():
        raise CaseError(f"{option} {path}: there is no folder {folder}; expected one that exists; make it first")
    if not os.access(str(path if path.exists() else folder), os.W_OK) or not os.access(str(folder), os.W_OK):
        raise CaseError(f"{option} {path}: may not be written; expected a place that may; name another")


def write(path: Any, text: str) -> None:
    """Writes a text as a whole or not at all: a failure leaves an older file as it was."""
    path = Path(path)
    if path.exists() and not path.is_file():  # a terminal or a pipe
        path.write_text(text, encoding="utf-8")
        return
    target = path.resolve()  # of a link, what it leads to
    partial = target.with_name(target.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        if target.exists():
            shutil.copymode(str(target), str(partial))
        os.replace(str(partial), str(target))
    finally:
        if partial.exists():
            partial.unlink()
