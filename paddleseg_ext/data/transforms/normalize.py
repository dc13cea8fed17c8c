"""From pixels to what a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from paddleseg_ext.data.transforms.base import Draws, Sample, Transform, check
from paddleseg_ext.registry import TRANSFORMS


@TRANSFORMS.register
class Normalize(Transform):
    """(image / 255 - mean) / std, every step in float32, which is what torchvision's ToTensor and Normalize compute.

    There is no default on purpose: PaddleSeg means 0.5 and ImageNet recipes mean 0.485, 0.456, 0.406, and a silent
    mix-up costs several points of mIoU. For a recipe on the scale 0..255, divide its numbers by 255.

    Args:
        mean: of red, green and blue, on the scale 0..1.
        std: likewise.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        check(len(mean) == 3 and len(std) == 3, self, f"mean {list(mean)}, std {list(std)}; expected 3 numbers each")
        check(min(std) > 0, self, f"std is {list(std)}; expected positive numbers")
        check(max(mean) <= 1, self, f"mean is {list(mean)}; expected the scale 0..1; divide by 255")
        self.mean = np.asarray(mean, np.float32)
        self.std = np.asarray(std, np.float32)
        self._table = self._normalized(np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2))

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Normalises; of uint8 pixels through a table of the 256 results, which are the same numbers."""
        image = sample["image"]
        image = cv2.LUT(image, self._table) if image.dtype == np.uint8 else self._normalized(image)
        return {**sample, "image": image}

    def _normalized(self, image: np.ndarray) -> np.ndarray:
        out = image.astype(np.float32) / np.float32(255)
        out -= self.mean
        out /= self.std
        return out


@TRANSFORMS.register
class NormalizePixels(Transform):
    """(pixel - mean) / std on the scale 0..255, every step in float32, as detectron2 does.

    Args:
        mean: one number per channel, in the channels' order after `order`.
        std: likewise; MSRA's weights, which Caffe trained, want 1, 1, 1.
        order: of the channels that come out: "RGB", or the "BGR" of MSRA's weights.

    Upstream: facebookresearch/detectron2@02b5c4e detectron2/modeling/meta_arch/semantic_seg.py
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], order: Literal["RGB", "BGR"] = "RGB") -> None:
        check(len(mean) == 3 and len(std) == 3, self, f"mean {list(mean)}, std {list(std)}; expected 3 numbers each")
        check(min(std) > 0, self, f"std is {list(std)}; expected positive numbers")
        check(max(mean) > 1, self, f"mean is {list(mean)}; expected the scale 0..255; for 0..1 there is Normalize")
        check(order in ("RGB", "BGR"), self, f"order is {order!r}; expected RGB or BGR")
        self.mean = np.asarray(mean, np.float32)
        self.std = np.asarray(std, np.float32)
        self.order = order
        self._table = self._normalized(np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2))

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Reorders the channels and normalises; uint8 pixels through a table of the 256 results, the same numbers."""
        image = sample["image"]
        image = np.ascontiguousarray(image[:, :, ::-1] if self.order == "BGR" else image)
        image = cv2.LUT(image, self._table) if image.dtype == np.uint8 else self._normalized(image)
        return {**sample, "image": image}

    def _normalized(self, image: np.ndarray) -> np.ndarray:
        out = image.astype(np.float32)
        out -= self.mean
        out /= self.std
        return out
