"""Panoptic models small enough for tests, and a way to run the tools with them: `python tiny_panoptic.py val ...`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
MEAN = STD = 0.5


def register() -> None:
    """Makes `TinyPanoptic` and `Oracle` known to configurations."""
    import paddle
    import paddle.nn.functional as F
    from paddle import nn

    from paddleseg_ext.registry import MODELS

    if "Oracle" in MODELS:
        return

    @MODELS.register
    class TinyPanoptic(nn.Layer):
        """Three convolutions for all three maps."""

        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.convs = nn.Sequential(nn.Conv2D(3, 16, 3, stride=2, padding=1), nn.ReLU())
            self.heads = nn.LayerDict(
                {"semantic": nn.Conv2D(16, num_classes, 3, padding=1), "center": nn.Conv2D(16, 1, 1)}
            )
            self.heads["offset"] = nn.Conv2D(16, 2, 1)

        def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
            x = self.convs(image)
            outputs = {name: head(x) for name, head in self.heads.items()}
            return {name: F.interpolate(value, image.shape[2:], mode="bilinear") for name, value in outputs.items()}

    @MODELS.register
    class Oracle(nn.Layer):
        """Knows the validation set of a city, and makes mistakes that its picture decides."""

        def __init__(self, num_classes: int, root: str, noise: float = 1.0) -> None:
            super().__init__()
            from paddleseg_ext.data.datasets import CityscapesPanoptic

            dataset = CityscapesPanoptic(root, "val")
            self.known = {_key(sample["image"]): sample for sample in dataset}
            self.num_classes, self.noise = num_classes, noise
            self.bias = self.create_parameter([1])

        def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
            pixels = np.rint((image[0].numpy().transpose(1, 2, 0) * STD + MEAN) * 255).astype(np.uint8)
            maps = noisy_maps(self.known[_key(pixels)], self.num_classes, self.noise)
            return {name: paddle.to_tensor(value[None]) for name, value in maps.items()}


def noisy_maps(sample: dict[str, Any], num_classes: int, noise: float) -> dict[str, np.ndarray]:
    """Logits, heat and offsets of the ground truth, blurred and disturbed."""
    import cv2

    from paddleseg_ext.targets import panoptic_deeplab_targets

    rng = np.random.default_rng(sample["panoptic"].size + len(sample["segments"]))
    thing_ids = sample["meta"]["thing_ids"]
    targets = panoptic_deeplab_targets(sample["panoptic"], sample["segments"], thing_ids=thing_ids, sigma=2)
    height, width = sample["label"].shape
    logits = np.stack([(sample["label"] == k) * 4.0 for k in range(num_classes)])
    logits += noise * np.stack(
        [cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 2) * 6 for _ in range(num_classes)]
    )
    heat = targets["center"] * rng.uniform(0.1, 1.0, targets["center"].shape)
    offset = targets["offset"] + noise * rng.normal(size=targets["offset"].shape) * 2
    maps = {"semantic": logits, "center": heat, "offset": offset}
    return {name: value.astype(np.float32) for name, value in maps.items()}


def _key(pixels: np.ndarray) -> bytes:
    return np.ascontiguousarray(pixels).tobytes()


def config_data(root: Path, **changes: Any) -> dict[str, Any]:
    """A panoptic configuration over a generated city; `changes` replace top-level keys, and add to `runtime`."""
    normalize = {"type": "Normalize", "mean": [MEAN] * 3, "std": [STD] * 3}
    target = {"type": "PanopticDeepLabTarget", "sigma": 2, "small_instance_area": 16}
    crop = {"type": "ResizeUpRandomCrop", "crop_size": [64, 32]}
    city = {"type": "CityscapesPanoptic", "dataset_root": str(root)}
    weighted = [
        {"type": "TopKCrossEntropy", "output": "semantic", "weights": "semantic_weights", "top_k": 0.2},
        {"type": "CenterLoss", "output": "center", "target": "center", "weights": "center_weights", "weight": 200},
        {"type": "OffsetLoss", "output": "offset", "target": "offset", "weights": "offset_weights", "weight": 0.01},
    ]
    data: dict[str, Any] = {
        "task": "panoptic",
        "batch_size": 4,
        "iters": 6,
        "model": {"type": "TinyPanoptic", "num_classes": 19},
        "train_dataset": {**city, "mode": "train", "transforms": [{"type": "HorizontalFlip"}, crop, normalize, target]},
        "val_dataset": {**city, "mode": "val", "transforms": [normalize]},
        "postprocess": {"stuff_area": 20, "nms_kernel": 3},
        "losses": weighted,
        "optimizer": {"type": "AdamW", "weight_decay": 0.0},
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01, "power": 0.9},
        "runtime": {"seed": 0, "log_iters": 1, "save_interval": 3, **changes.pop("runtime", {})},
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
