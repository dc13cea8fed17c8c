"""The tutorial, typed: every file, every command, and what it says they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cli

ROOT = Path(__file__).resolve().parents[2]


def test_the_tutorial_does_what_it_says(tmp_path):
    text = (ROOT / "parity" / "TUTORIAL.md").read_text(encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "300"}
    output, returned, ran = "", 0, 0
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if language == "python":
            (tmp_path / re.match(r"# (\w+\.py)", code)[1]).write_text(code, encoding="utf-8")
        elif language == "sh":
            output, returned = "", 0
            for command in code.splitlines():
                done = subprocess.run(
                    command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250
                )
                assert done.returncode in (0, 1), done.stderr
                output, returned, ran = output + done.stdout, max(returned, done.returncode), ran + 1
        else:
            for line in code.splitlines():
                assert line in output, output
            assert returned == ("FAIL" in code), output
    assert ran == 15
    assert "NOT EQUAL" in (tmp_path / "report.html").read_text(encoding="utf-8")
