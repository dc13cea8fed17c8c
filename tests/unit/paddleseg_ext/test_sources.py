"""What no module may do, by reading the source: run code from data, open a window, hide damage."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("paddleseg_ext", "parity", "tools")
RECORDERS = "parity/upstream/"  # run the user's own checkout of upstream, whatever that takes

# call -> files that may make it, with the reason
FORBIDDEN = {
    "eval": {},
    "exec": {},
    "compile": {},
    "__import__": {},
    "os.system": {},
    "os.popen": {},
    "pickle.load": {},
    "pickle.loads": {
        "paddleseg_ext/data/workers.py": "what its own main process has sent",
        "parity/faults/memory.py": "what the same object has dumped, and kept in memory",
    },
    "yaml.load": {},
    "yaml.unsafe_load": {},
    "yaml.full_load": {},
    "paddle.load": {},
    "shutil.unpack_archive": {},
    "joblib.load": {},
    "cv2.imshow": {},
    "cv2.namedWindow": {},
    "cv2.waitKey": {},
    "cv2.destroyAllWindows": {},
}


@functools.cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """(file, name of the function as written, call) of every call in the sources."""
    return [
        (path.relative_to(ROOT).as_posix(), ast.unparse(node.func), node)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def keyword(call: ast.Call, name: str) -> object:
    """The value of a keyword argument, or None."""
    found = [word.value for word in call.keywords if word.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


@pytest.mark.parametrize("function", FORBIDDEN)
def test_nothing_is_called_that_runs_code_from_data_or_needs_a_window(function: str) -> None:
    found = {file for file, name, _ in calls() if name == function and not file.startswith(RECORDERS)}
    assert found == set(FORBIDDEN[function])


def test_numpy_and_torch_files_are_read_without_pickled_objects() -> None:
    reading = [(file, name, call) for file, name, call in calls() if name in ("np.load", "numpy.load", "torch.load")]
    assert {name for _, name, _ in reading} == {"np.load", "torch.load"}
    for file, name, call in reading:
        assert keyword(call, "weights_only" if name == "torch.load" else "allow_pickle") is (name == "torch.load"), file


def test_no_shell_is_started_and_no_archive_extracted_unseen() -> None:
    for file, name, call in calls():
        assert keyword(call, "shell") is not True or file.startswith(RECORDERS), file
        assert not name.endswith((".extractall", ".extract")), file


def test_pillow_is_never_told_to_fill_up_truncated_files() -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert "LOAD_TRUNCATED_IMAGES = True" not in path.read_text(encoding="utf-8"), path


def test_the_table_of_faults_names_tests_that_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Which fault is tested where")[2]
    paths = re.findall(r"`((?:unit|integration|cli)/[\w/]+(?:\.py|/))`", table.partition("|---|")[2])
    assert len(paths) > 40
    for path in paths:
        short = path.startswith("unit/") and not path.startswith("unit/parity/")
        assert (ROOT / "tests" / (path.replace("unit/", "unit/paddleseg_ext/", 1) if short else path)).exists(), path
