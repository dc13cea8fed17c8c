"""A model small enough for tests, and a way to run the tools with it: `python tiny.py train --config ...`."""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def register() -> None:
    """Makes `TinyNet` known to configurations."""
    import paddle
    import paddle.nn.functional as F
    from paddle import nn

    from paddleseg_ext.registry import MODELS

    if "TinyNet" in MODELS:
        return

    @MODELS.register
    class TinyNet(nn.Layer):
        """Two convolutions, with a norm, and dropout so that randomness matters."""

        def __init__(
            self,
            num_classes: int,
            norm: str = "batch",
            dropout: float = 0.1,
            poison_at: int = -1,
            poison: str = "logits",
            seconds: float = 0.0,
        ) -> None:
            super().__init__()
            self.conv = nn.Conv2D(3, 8, 3, stride=2, padding=1)
            self.norm = nn.BatchNorm2D(8) if norm == "batch" else nn.GroupNorm(2, 8)
            self.dropout = nn.Dropout(dropout)
            self.head = nn.Conv2D(8, num_classes, 1)
            self.poison_at = poison_at  # the pass in which NaN appears, in the "image" or in the "logits"
            self.poison = poison
            self.seconds = seconds  # that a training pass takes longer
            self.passes = 0

        def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
            self.passes += self.training
            time.sleep(self.seconds * self.training)
            bad = float("nan") if self.training and self.passes - 1 == self.poison_at else 1.0
            image = image * bad if self.poison == "image" else image
            logits = self.head(self.dropout(F.relu(self.norm(self.conv(image)))))
            logits = logits * bad if self.poison == "logits" else logits
            return {"semantic": F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=False)}


def config_data(root: Path, **changes: Any) -> dict[str, Any]:
    """A configuration over a generated city; `changes` replace top-level keys, and add to `runtime` and `model`."""
    normalize = {"type": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    crop = {"type": "RandomPaddingCrop", "crop_size": [64, 32]}
    city = {"type": "Cityscapes", "dataset_root": str(root)}
    data: dict[str, Any] = {
        "batch_size": 4,
        "iters": 12,
        "model": {"type": "TinyNet", "num_classes": 19, **changes.pop("model", {})},
        "train_dataset": {**city, "mode": "train", "transforms": [{"type": "HorizontalFlip"}, crop, normalize]},
        "val_dataset": {**city, "mode": "val", "transforms": [normalize]},
        "losses": [{"type": "CrossEntropy", "output": "semantic", "name": "loss_seg"}],
        "optimizer": {"type": "Momentum", "momentum": 0.9, "weight_decay": 1e-4},
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.05, "power": 0.9},
        "runtime": {"seed": 0, "log_iters": 1, "save_interval": 6, **changes.pop("runtime", {})},
    }
    return {**data, **changes}


def main() -> None:
    """Runs `tools/<first argument>.py` with the other arguments."""
    sys.path.insert(0, str(REPOSITORY))
    register()
    tool = REPOSITORY / "tools" / f"{sys.argv[1]}.py"
    sys.argv = [str(tool), *sys.argv[2:]]
    runpy.run_path(str(tool), run_name="__main__")


if __name__ == "__main__":
    main()
