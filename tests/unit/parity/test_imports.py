"""Which module may import what, by reading the source: the direction of the two packages and their frameworks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TORCH = ("parity/torch_", "parity/reference/", "parity/upstream/", "parity/probes/", "parity/diagnosis/calls.py")
PADDLE = (
    "parity/paddle_side.py",
    "parity/paddle_float64.py",
    "parity/probes/",
    "parity/faults/",
    "parity/diagnosis/calls.py",
)


def sources(folder):
    return sorted(path for path in (ROOT / folder).rglob("*.py"))


def imports(path):
    """(name of an imported module, whether it is imported where the module itself is) in a source file."""
    found = []

    def visit(node, lazy):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.append((_absolute(path, child), lazy))
                found.extend((f"{_absolute(path, child)}.{alias.name}", lazy) for alias in child.names)
            elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith(("import_module", "__import__")):
                argument = child.args[0] if child.args else None
                if isinstance(argument, ast.Constant):
                    found.append((argument.value, lazy))
            visit(child, lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def _absolute(path, node):
    if not node.level:
        return node.module
    package = path.relative_to(ROOT).parent.parts
    parts = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
    return ".".join(part for part in parts if part)


def offenders(folder, package, *, allowed=(), lazily_allowed=()):
    """Files that import `package`, but for those that may."""
    found = []
    for path in sources(folder):
        name = path.relative_to(ROOT).as_posix()
        for module, lazy in imports(path):
            if module.split(".")[0] == package and not name.startswith(tuple(allowed)):
                if not (lazy and name.startswith(tuple(lazily_allowed))):
                    found.append(f"{name} imports {module}")
    return found


def test_the_walk_sees_every_form_of_an_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    package = tmp_path / "package" / "part"
    package.mkdir(parents=True)
    (package / "module.py").write_text(
        "import torch.nn as nn\nfrom torch import optim\nfrom ..other import x\nfrom . import y\n"
        "class A:\n    def f(self):\n        import paddle\n        importlib.import_module('torch')\n",
        encoding="utf-8",
    )
    found = imports(package / "module.py")
    for expected in (
        ("torch.nn", False),
        ("torch.optim", False),
        ("package.other.x", False),
        ("package.part.y", False),
        ("paddle", True),
        ("torch", True),
    ):
        assert expected in found
    assert len(offenders("package", "torch")) == 4  # `from torch import optim` counts twice
    assert offenders("package", "paddle", lazily_allowed=("package/",)) == []


def test_the_product_never_imports_torch_or_the_harness():
    assert offenders("paddleseg_ext", "torch") == []
    assert offenders("paddleseg_ext", "parity") == []


def test_torch_is_imported_by_the_reference_side_only():
    assert offenders("parity", "torch", allowed=TORCH, lazily_allowed=("parity/cases/",)) == []


def test_paddle_is_imported_by_the_ports_side_only():
    assert offenders("parity", "paddle", allowed=PADDLE, lazily_allowed=("parity/cases/",)) == []


def test_references_need_torch_and_numpy_and_nothing_of_this_repository():
    for package in ("paddle", "paddleseg_ext", "cv2", "torchvision"):
        assert offenders("parity/reference", package) == []


def test_cases_import_models_only_inside_their_functions():
    for package in ("paddleseg_ext", "torch", "paddle"):
        assert offenders("parity/cases", package, lazily_allowed=("parity/cases/",)) == []
    eager = [m for path in sources("parity/cases") for m, lazy in imports(path) if not lazy]
    assert not [module for module in eager if module.startswith("parity.reference")]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 does not list its modules")
def test_no_module_has_the_name_of_a_standard_or_required_module():
    from importlib.metadata import packages_distributions

    required = set()
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith(("#", "-")):
                required.add(re.split("[<>=]", line)[0].strip().lower().replace("_", "-"))
    taken = set(sys.stdlib_module_names)
    for module, distributions in packages_distributions().items():
        if any(name.lower().replace("_", "-") in required for name in distributions):
            taken.add(module)
    assert {"numpy", "yaml", "cv2", "trace"} <= taken
    scripts = [*(ROOT / "parity").glob("*"), *(ROOT / "tools").glob("*"), *(ROOT / "tools").glob("*/*")]
    own = {path.stem for path in scripts if path.suffix == ".py" or path.is_dir()}  # first on sys.path when run
    assert own & taken == set()


NUMPY_ONLY = """
import sys
import paddleseg_ext, paddleseg_ext.errors, paddleseg_ext.registry, paddleseg_ext.threads
import parity, parity.bench, parity.cli, parity.compare, parity.chain, parity.diagnose, parity.isolation, parity.known
import parity.report, parity.traces, parity.weights, parity.torch_files
import parity.commands, parity.probes
from parity import cases
loaded = cases.load()
for case in loaded.values():
    case.make_inputs(0, (9, 17))
    for stage in parity.case.STAGES:
        case.why_not(stage)
print(sorted({"torch", "paddle"} & set(sys.modules)))
"""


def test_listing_cases_and_comparing_traces_loads_neither_framework():
    done = subprocess.run(
        [sys.executable, "-c", NUMPY_ONLY], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["torch_side", "paddle_side"])
def test_each_side_loads_its_own_framework_only(module):
    own, other = ("torch", "paddle") if module == "torch_side" else ("paddle", "torch")
    for path in (ROOT / "parity" / f"{module}.py", *map(ROOT.joinpath, ["parity/bench.py", "parity/stages.py"])):
        names = {name.split(".")[0] for name, lazy in imports(path) if not lazy}
        assert other not in names
    assert own in {name for name, _ in imports(ROOT / "parity" / f"{module}.py")}
