"""Every figure of two full-size images against cityscapesScripts; `python benchmarks/metrics.py` compares twenty."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.integration

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module benchmarks/metrics.py."""
    pytest.importorskip("cityscapesscripts")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    spec = importlib.util.spec_from_file_location("metrics_benchmark", BENCHMARKS / "metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("read", [False, True], ids=["from memory", "from files"])
def test_iou_iiou_ap_and_pq_of_1024_x_2048_images_equal_the_official_tools(
    benchmark: ModuleType, tmp_path: Path, read: bool
) -> None:
    files = benchmark.SceneFiles(tmp_path, benchmark.make_scenes(2, seed=int(read)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = list(benchmark.measure(files, 1, read=read))
    assert {row.metric for row in rows} >= {"mIoU", "IoU and iIoU", "AP, a mask per object", "PQ"}
    assert {row.metric: row.differing for row in rows if row.differing} == {}


def test_a_figure_that_is_off_by_one_bit_is_named(benchmark: ModuleType) -> None:
    expected = {"a": 0.1, "b": [0.5, float("nan")], "c": 1}
    assert benchmark.differing(expected, {"a": np.float64(0.1), "b": (0.5, np.nan), "c": 1}) == []
    assert benchmark.differing(expected, {"a": np.nextafter(0.1, 1), "b": [0.5, 0.0], "d": 1}) == ["a", "b", "d"]
