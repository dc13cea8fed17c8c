"""What the tools use when they are given nothing: a small configuration, and a generated city."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paddleseg_ext.config import Config
from paddleseg_ext.data.demo import make_demo
from paddleseg_ext.engine import processes
from paddleseg_ext.errors import WeightError

CONFIG = "configs/demo/stdc1_demo_256x128.yml"
ROOT = "data/demo_city"
SAVE_DIR = "output/demo"
WEIGHTS = f"{SAVE_DIR}/best_model"


def make_city_if_needed(config: Config, say: Callable[[str], None]) -> None:
    """Generates the demo's city if the configuration uses it and it is not there yet; one process does it."""
    roots = {config.get(f"{section}.dataset_root") for section in ("train_dataset", "val_dataset")}
    if ROOT in roots and not Path(ROOT).exists() and processes.is_main():
        say(f"generating a small city in {ROOT} (half a minute; tools/data/make_demo.py makes others)")
        make_demo(ROOT)
    processes.wait_for_all()


def default_weights() -> str:
    """The best checkpoint that the demo has trained.

    Raises:
        WeightError: if there is none.
    """
    if not Path(WEIGHTS).is_dir():
        raise WeightError(
            f"{WEIGHTS}: no such folder; expected what the demo trains, since neither --config nor --model_path is "
            "given; run: make demo (or: python tools/train.py --do_eval), or give both"
        )
    return WEIGHTS
