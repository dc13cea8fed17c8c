from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data.demo import DemoSettings, make_demo


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated city: 7 training, 3 validation and 1 test scene of 32 x 64."""
    root = tmp_path_factory.mktemp("data") / "demo"
    return make_demo(root, DemoSettings(num_train=7, num_val=3, num_test=1, height=32, width=64, seed=5))


@pytest.fixture
def write_cityscapes(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Cityscapes folder of plain pictures; returns its root."""

    def write(
        split: str = "train",
        stems: tuple[str, ...] = ("aachen_000000_000019",),
        kind: str = "labelTrainIds",
        label: int | None = 3,
    ) -> Path:
        root = tmp_path / "cityscapes"
        for stem in stems:
            image_dir, label_dir = (root / name / split / stem.split("_")[0] for name in ("leftImg8bit", "gtFine"))
            image_dir.mkdir(parents=True, exist_ok=True)
            label_dir.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 8, 3), 90, np.uint8)).save(image_dir / f"{stem}_leftImg8bit.png")
            if label is not None:
                Image.fromarray(np.full((4, 8), label, np.uint8)).save(label_dir / f"{stem}_gtFine_{kind}.png")
        return root

    return write
