"""What can be installed: ranges, and for each of them the version that the tests ran with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging.requirements")

FOLDER = Path(__file__).resolve().parents[3] / "requirements"
RANGES = [path.stem for path in sorted(FOLDER.glob("*.txt")) if path.stem != "constraints"]


def requirements(name: str) -> list:
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [packaging.Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", RANGES)
def test_each_range_has_one_pinned_version_that_lies_in_it(name: str) -> None:
    pins = {normal(pin.name): pin.specifier for pin in requirements("constraints")}
    assert len(pins) == len(requirements("constraints"))
    for requirement in requirements(name):
        (pin,) = pins[normal(requirement.name)]
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), requirement
        assert all(part.operator == ">=" for part in requirement.specifier), requirement


def test_setup_and_linter_name_the_same_oldest_python() -> None:
    setup = (FOLDER.parent / "setup.py").read_text(encoding="utf-8")
    oldest = re.search(r'python_requires=">=(\d)\.(\d+)"', setup)
    project = (FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'target-version = "py{oldest[1]}{oldest[2]}"' in project
