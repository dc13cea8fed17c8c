from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import paddleseg_ext
from paddleseg_ext.config import Config, schema, settings
from paddleseg_ext.config.describe import describe_component, describe_schema
from paddleseg_ext.config.typecheck import read_type
from paddleseg_ext.errors import ConfigError

PACKAGE = Path(paddleseg_ext.__file__).parent
TABLES = [schema.TOP_LEVEL, schema.TEST_CONFIG, schema.RUNTIME, schema.EMA, schema.LOSS_KEYS, schema.PARAM_GROUP_KEYS]


def literal(file: str, name: str) -> object:
    """The value assigned to a name in a source file, without importing it."""
    for node in ast.parse((PACKAGE / file).read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise LookupError(name)


def annotated_fields(file: str, name: str) -> dict[str, object]:
    """Fields and defaults of a dataclass in a source file."""
    body = next(node.body for node in ast.parse((PACKAGE / file).read_text()).body if getattr(node, "name", "") == name)
    fields = [node for node in body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: ast.literal_eval(node.value) for node in fields}


def test_every_default_fits_its_own_field() -> None:
    for table in TABLES:
        for key, field in table.items():
            if not field.required and not (field.default is None and key == "name"):
                default = list(field.default) if isinstance(field.default, tuple) else field.default
                assert field.mismatches(default) == [], key


def test_parameter_rules_are_those_of_the_optimizers() -> None:
    rule = annotated_fields("optim/param_groups.py", "GroupRule")
    assert {key: field.default for key, field in schema.PARAM_GROUP_KEYS.items()} == rule
    kinds = literal("optim/param_groups.py", "KINDS")
    assert read_type(schema.PARAM_GROUP_KEYS["kind"].type).args == (*kinds, None)


def test_settings_have_defaults_for_what_is_not_given() -> None:
    config = Config.from_dict({"runtime": {"seed": 3, "ema": {}}, "test_config": {"crop_size": [512, 1024]}})
    runtime = settings(config, "runtime")
    assert set(runtime) == set(schema.RUNTIME)
    assert (runtime["seed"], runtime["log_iters"], runtime["ema"]) == (3, 10, {"decay": 0.999})
    test = settings(config, "test_config")
    assert (test["crop_size"], test["stride"], test["scales"]) == ((512, 1024), None, [1.0])
    assert settings(Config.from_dict({}), "runtime")["ema"] is None


def test_a_range_is_part_of_what_is_expected() -> None:
    assert schema.TOP_LEVEL["reference_batch_size"].expected() == "int >= 1 or null"
    assert schema.EMA["decay"].expected() == "float >= 0 and < 1"
    assert schema.TEST_CONFIG["crop_size"].expected() == "[int, int] >= 1 or null"
    assert schema.RUNTIME["ema"].expected() == "mapping or null"


def test_the_schema_is_described_with_every_key_and_component() -> None:
    text = describe_schema()
    for table in (*TABLES, schema.HELP):
        assert [key for key in table if f"{key}: " not in text] == []
    assert "runtime.ema.decay: float >= 0 and < 1, default 0.999; " in text
    assert "transform: Crop, Maybe, Scale" in text


def test_a_component_is_described_with_its_arguments() -> None:
    lines = describe_component("Crop").splitlines()
    assert lines[:4] == [
        "# transform",
        "type: Crop",
        "size: [int, int], required",
        "fill: list of float, default [0.0]",
    ]
    assert "iters" not in describe_component("PolynomialDecay")
    assert "groups: " not in describe_component("Momentum").replace("param_groups: ", "")
    assert "output: str or list of str, required; " in describe_component("CrossEntropy")
    with pytest.raises(ConfigError, match=r"^Corp: no component has this name\. Did you mean 'Crop'\?"):
        describe_component("Corp")


def test_nothing_here_imports_paddle() -> None:
    code = "import sys, paddleseg_ext.config, paddleseg_ext.config.describe; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False).returncode == 0
