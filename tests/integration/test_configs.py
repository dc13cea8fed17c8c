"""The recipes as they are: a slip of the pen anywhere in them is refused at its line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddleseg_ext.config import import_components, load_config, validate
from paddleseg_ext.config.document import Node
from paddleseg_ext.errors import ConfigError

pytestmark = pytest.mark.integration

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yml") if "_base_" not in p.parts)


@pytest.fixture(scope="module", autouse=True)
def components() -> None:
    import_components()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    return tmp_path / "configs"


def keys(node: Node, *, top: bool = True) -> Iterator[tuple[str, str | None, int | None]]:
    """(key, file, line) of everything that may not be misspelt."""
    children = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
    for key, child in children:
        if top and key == "meta":
            continue
        if isinstance(key, str):
            yield key, child.mark.source, child.mark.line
        if isinstance(child.value, (dict, list)):
            yield from keys(child, top=False)


def refusal(path: Path, command: str) -> str:
    """Why a configuration is refused; "" if it is not."""
    try:
        validate(load_config(path), command, do_eval=True)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_valid_for_every_command(recipe: str) -> None:
    commands = ("train", "val", "predict", "export")
    assert {command: refusal(CONFIGS / recipe, command) for command in commands} == dict.fromkeys(commands, "")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_misspelt_key_of_a_recipe_is_refused_at_its_line_with_the_right_one(copied: Path, recipe: str) -> None:
    path = copied / recipe
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    own = [(key, line) for key, file, line in keys(load_config(path).root) if line and Path(str(file)) == path]
    assert own
    for key, line in dict.fromkeys(own):
        changed, count = re.subn(rf"(?<![\w.]){re.escape(key)}:", f"{key}x:", lines[line - 1], count=1)
        assert count == 1, (key, line)
        path.write_text("".join([*lines[: line - 1], changed, *lines[line:]]), encoding="utf-8")
        said = refusal(path, "train")
        assert f"{path}:{line}: " in said, (key, line)
        assert f"Did you mean {key!r}?" in said, (key, line)
