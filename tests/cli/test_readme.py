"""What the READMEs tell people to type works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "parity/README.md")


def blocks(document, language):
    """(text of the line before, code) of each fenced block of a language."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder that looks like a checkout, into which commands may write."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("parity", "paddleseg_ext", "tools", "configs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    for index, code in enumerate(blocks("README.md", "python")):
        name = re.match(r"# (\w+\.py)", code)
        (folder / (name.group(1) if name else f"snippet_{index}.py")).write_text(code)
    return folder


def commands():
    return [line for document in DOCUMENTS for code in blocks(document, "sh") for line in code.splitlines() if line]


@pytest.mark.parametrize("command", commands())
def test_a_command_succeeds(checkout, command):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, shell=True, cwd=checkout, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_python_snippet_runs(checkout, document):
    for code in blocks(document, "python"):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]


def test_the_readme_opens_with_the_two_commands():
    first = blocks("README.md", "")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make check", "make test"]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"check", "test"} <= targets


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "parity/README.md", "CHANGELOG.md"])
def test_links_and_paths_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    folder = (ROOT / document).parent
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (folder / target).exists(), target


def test_the_table_in_the_readme_has_every_case_and_stage():
    from parity import cases
    from parity.case import STAGES

    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- check:begin -->")[2]
    rows = [line.split("|")[1:-1] for line in table.partition("<!-- check:end -->")[0].splitlines() if line[:1] == "|"]
    assert [cell.strip() for cell in rows[0]] == ["case", "upstream = reference", *STAGES, "verdict"]
    shown = {row[0].strip(): row for row in rows[2:]}
    assert set(shown) == set(cases.load())
    assert all(row[-1].strip() == "pass" and "verified" in row[1] for row in shown.values())
