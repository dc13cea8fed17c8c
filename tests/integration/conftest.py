from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import pytest

TINY = Path(__file__).with_name("tiny.py")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module tiny.py, its model registered."""
    from paddleseg_ext.config import import_components

    spec = importlib.util.spec_from_file_location("tiny", TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import_components()
    module.register()
    return module


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and three validation scenes."""
    from paddleseg_ext.data.demo import DemoSettings, make_demo

    return make_demo(tmp_path_factory.mktemp("data") / "city", DemoSettings(8, 3, 1, height=64, width=128))


@pytest.fixture
def run_train(tiny: ModuleType, city: Path, tmp_path: Path) -> Callable[..., Any]:
    """Trains the tiny model in this process: `run_train(name, options={...}, **changes of the configuration)`."""
    from paddleseg_ext.config import Config, validate
    from paddleseg_ext.engine.train import TrainOptions, train

    def run(name: str = "run", options: dict[str, Any] | None = None, **changes: Any) -> Any:
        config = Config.from_dict(tiny.config_data(city, **changes))
        validate(config, "train")
        return train(config, TrainOptions(**{"save_dir": str(tmp_path / name), "device": "cpu", **(options or {})}))

    return run


@pytest.fixture
def run_tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a tool with the tiny model in a process of its own."""

    def run(tool: str, *arguments: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(TINY), tool, *map(str, arguments)]
        kwargs = {"capture_output": True, "text": True, "timeout": 120, **kwargs}
        return subprocess.run(command, check=False, **kwargs)

    return run
