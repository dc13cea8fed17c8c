"""Stand-ins for the real components, and a configuration that uses each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from paddleseg_ext import registry

SCHEDULE = """\
iters: 80000
optimizer:
  type: Momentum
  momentum: 0.9
  weight_decay: 5.0e-4
lr_scheduler:
  type: PolynomialDecay
  learning_rate: 0.01
  power: 0.9
"""

MAIN = """\
_base_: base/schedule.yml
batch_size: 4
reference_batch_size: 48
model:
  type: Net
  num_classes: 19
  align_corners: false
  backbone:
    type: Stem
    pretrained: null
train_dataset:
  type: Pictures
  dataset_root: data/city
  mode: train
  transforms:
    - type: Scale
      factors: [0.5, 2.0]
    - {type: Crop, size: [512, 1024], fill: [0, 0, 0]}
    - type: Maybe
      prob: 0.5
      transforms:
        - {type: Crop, size: [8, 8]}
val_dataset:
  type: Pictures
  dataset_root: data/city
  mode: val
  transforms: []
optimizer:
  weight_decay: 1.0e-4
  param_groups:
    - {name: "bn", weight_decay_mult: 0}
    - {kind: bias, lr_mult: 2, trainable: true}
  grad_clip: {type: ClipGradByGlobalNorm, clip_norm: 35}
losses:
  - type: CrossEntropy
    output: semantic
    target: label
    weight: 1.0
    name: loss_seg
    ignore_index: 255
  - {type: CrossEntropy, output: [aux16, aux32], weight: 0.4}
test_config:
  aug_eval: false
  scales: [0.75, 1.0]
  flip_horizontal: false
  is_slide: false
  crop_size: [512, 1024]
  stride: [256, 512]
runtime:
  seed: 0
  log_iters: 10
  on_nan: stop
  ema: {decay: 0.999}
meta:
  paper: https://arxiv.org/abs/0000.00000
  reported: {mIoU: 75.3}
"""


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Fills the registries with stand-ins; gives the list of what was constructed, with its arguments."""
    built: list[tuple[str, dict[str, Any]]] = []

    class Recorded:
        def __init__(self, **arguments: Any) -> None:
            built.append((type(self).__name__, arguments))
            self.arguments = arguments

    class Net(Recorded):
        def __init__(self, num_classes: int, backbone: SimpleNamespace, *, align_corners: bool = False) -> None:
            super().__init__(num_classes=num_classes, backbone=backbone, align_corners=align_corners)

    class Stem(Recorded):
        def __init__(self, *, pretrained: str | None = None, width: float = 1.0) -> None:
            super().__init__(pretrained=pretrained, width=width)

    class Pictures(Recorded):
        def __init__(self, dataset_root: str, *, mode: Literal["train", "val"] = "train") -> None:
            super().__init__(dataset_root=dataset_root, mode=mode)

    class Scale(Recorded):
        def __init__(self, *, factors: Sequence[float]) -> None:
            super().__init__(factors=factors)

    class Crop(Recorded):
        def __init__(self, size: tuple[int, int], *, fill: tuple[float, ...] = (0.0,)) -> None:
            super().__init__(size=size, fill=fill)

    class Maybe(Recorded):
        def __init__(self, *, prob: float, transforms: list[Any]) -> None:
            super().__init__(prob=prob, transforms=transforms)

    class CrossEntropy(Recorded):
        def __init__(self, *, class_weight: Sequence[float] | None = None, ignore_index: int = 255) -> None:
            super().__init__(class_weight=class_weight, ignore_index=ignore_index)

    class OhemCrossEntropy(Recorded):
        def __init__(self, *, thresh: float = 0.7, min_kept: int = 10000) -> None:
            super().__init__(thresh=thresh, min_kept=min_kept)

    class PolynomialDecay(Recorded):
        def __init__(self, *, learning_rate: float, iters: int, power: float = 0.9) -> None:
            super().__init__(learning_rate=learning_rate, iters=iters, power=power)

    def Momentum(groups: list, *, momentum: float = 0.9, weight_decay: float = 0.0, grad_clip: Any = None) -> Any:  # noqa: N802
        built.append(("Momentum", {}))

    def AdamW(groups: list, *, beta1: float = 0.9, weight_decay: float = 0.0, grad_clip: Any = None) -> Any:  # noqa: N802
        built.append(("AdamW", {}))

    def SGD(groups: list, *, weight_decay: float = 0.0, grad_clip: Any = None) -> Any:  # noqa: N802
        built.append(("SGD", {}))

    entries = {
        registry.MODELS: [Net],
        registry.BACKBONES: [Stem],
        registry.DATASETS: [Pictures],
        registry.TRANSFORMS: [Scale, Crop, Maybe],
        registry.LOSSES: [CrossEntropy, OhemCrossEntropy],
        registry.OPTIMIZERS: [Momentum, AdamW, SGD],
        registry.SCHEDULES: [PolynomialDecay],
    }
    for holder, found in entries.items():
        monkeypatch.setattr(holder, "_entries", {entry.__name__: entry for entry in found})
    return built


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def main_file(folder: Path) -> Path:
    """`main.yml` and its base in the working directory."""
    write(folder / "base/schedule.yml", SCHEDULE)
    return write(folder / "main.yml", MAIN)


@pytest.fixture
def write_file(folder: Path) -> Any:
    """Writes a file below the working directory."""
    return lambda name, text: write(folder / name, text)


def write(path: Path, text: str | bytes) -> Path:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path
