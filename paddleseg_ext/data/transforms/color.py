"""Colours. Each docstring says which library computes, in which order and with which rounding."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from paddleseg_ext.data.transforms.base import Draws, Sample, Transform, as_uint8, check
from paddleseg_ext.registry import TRANSFORMS


@TRANSFORMS.register
class ColorJitter(Transform):
    """Brightness, contrast and saturation, in this order, each by Pillow on uint8, as STDC-Seg does.

    Args:
        brightness: the factor is uniform in [max(1 - brightness, 0), 1 + brightness]; 0 leaves it out.
        contrast: likewise.
        saturation: likewise.

    Upstream: MichaelFan01/STDC-Seg@59ff37f transform.py
    """

    is_random = True

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> None:
        self.ranges = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, value in self.ranges.items():
            check(value >= 0, self, f"{name} is {value}; expected 0 or more")

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`brightness`, `contrast`, `saturation`: factors; one that is left out is missing."""
        return {
            name: float(rng.uniform(max(1 - value, 0), 1 + value)) for name, value in self.ranges.items() if value > 0
        }

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Enhances; the image becomes uint8."""
        image = Image.fromarray(np.ascontiguousarray(as_uint8(sample["image"])))
        for name, enhancer in _ENHANCERS.items():
            if name in draws and name != "sharpness":
                image = enhancer(image).enhance(draws[name])
        return {**sample, "image": np.array(image)}


_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


@TRANSFORMS.register
class RandomDistort(Transform):
    """Brightness, contrast, saturation, sharpness and hue in random order, each now and then, as PaddleSeg does.

    Everything is computed by Pillow on uint8; a float32 image loses its fraction on the way in and comes out as
    float32 again. The hue is moved in Pillow's HSV, where it has 256 steps, and wraps around.

    Args:
        brightness_range: the factor is uniform in [1 - range, 1 + range].
        brightness_prob: how often.
        contrast_range: likewise.
        contrast_prob: likewise.
        saturation_range: likewise.
        saturation_prob: likewise.
        hue_range: the shift is uniform in [-range, range], in 256ths of a turn.
        hue_prob: likewise.
        sharpness_range: likewise.
        sharpness_prob: likewise; 0 by default.

    Upstream: PaddlePaddle/PaddleSeg@d7975e7 paddleseg/transforms/transforms.py
    """

    is_random = True

    def __init__(  # PaddleSeg's arguments
        self,
        brightness_range: float = 0.5,
        brightness_prob: float = 0.5,
        contrast_range: float = 0.5,
        contrast_prob: float = 0.5,
        saturation_range: float = 0.5,
        saturation_prob: float = 0.5,
        hue_range: float = 18,
        hue_prob: float = 0.5,
        sharpness_range: float = 0.5,
        sharpness_prob: float = 0.0,
    ) -> None:
        self.settings = {
            "brightness": (1 - brightness_range, 1 + brightness_range, brightness_prob),
            "contrast": (1 - contrast_range, 1 + contrast_range, contrast_prob),
            "saturation": (1 - saturation_range, 1 + saturation_range, saturation_prob),
            "sharpness": (1 - sharpness_range, 1 + sharpness_range, sharpness_prob),
            "hue": (-hue_range, hue_range, hue_prob),
        }
        for name, (low, high, prob) in self.settings.items():
            check(low <= high, self, f"{name}_range is {(high - low) / 2:g}; expected 0 or more")
            check(0 <= prob <= 1, self, f"{name}_prob is {prob}; expected a probability in [0, 1]")

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`order`: names of the operations that happen, in order; and under each name its factor or shift."""
        names = list(self.settings)
        draws: Draws = {"order": []}
        for position in rng.permutation(len(names)):
            name = names[int(position)]
            low, high, prob = self.settings[name]
            if rng.random() < prob:
                draws["order"].append(name)
                draws[name] = float(rng.uniform(low, high))
        return draws

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Distorts; the image becomes float32."""
        image = Image.fromarray(np.ascontiguousarray(as_uint8(sample["image"])))
        for name in draws["order"]:
            if name == "hue":
                image = _shift_hue(image, draws["hue"])
            else:
                image = _ENHANCERS[name](image).enhance(draws[name])
        return {**sample, "image": np.array(image).astype(np.float32)}


def _shift_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    moved = np.mod(np.trunc(np.array(hue).astype(np.float64) + shift), 256).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(moved), saturation, value)).convert("RGB")


@TRANSFORMS.register
class PhotoMetricDistortion(Transform):
    """Brightness, contrast, saturation and hue, each with probability 1/2; contrast comes second or last.

    mmsegmentation's and, given the same draws, also PointRend's in detectron2 (`ColorAugSSD`). Brightness and contrast
    are computed in float32, clipped to 0..255 and cut to uint8 after each step; saturation and hue in OpenCV's 8-bit
    HSV, whose hue has 180 steps and wraps around.

    Args:
        brightness_delta: the shift is uniform in [-delta, delta], on the scale 0..255.
        contrast_range: the factor is uniform in it.
        saturation_range: the factor is uniform in it.
        hue_delta: the shift is a whole number in [-delta, delta), in 180ths of a turn.

    Upstream: open-mmlab/mmsegmentation@056edc8 mmseg/datasets/transforms/transforms.py
    """

    is_random = True

    def __init__(
        self,
        brightness_delta: int = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
    ) -> None:
        for name, (low, high) in {"contrast_range": contrast_range, "saturation_range": saturation_range}.items():
            check(0 <= low <= high, self, f"{name} is [{low}, {high}]; expected 0 <= low <= high")
        check(brightness_delta >= 0, self, f"brightness_delta is {brightness_delta}; expected 0 or more")
        check(hue_delta > 0, self, f"hue_delta is {hue_delta}; expected 1 or more")
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`contrast_first`, and of `brightness`, `contrast`, `saturation`, `hue` those that happen."""
        draws: Draws = {"contrast_first": bool(rng.integers(2))}
        if rng.integers(2):
            draws["brightness"] = float(rng.uniform(-self.brightness_delta, self.brightness_delta))
        if rng.integers(2):
            draws["contrast"] = float(rng.uniform(*self.contrast_range))
        if rng.integers(2):
            draws["saturation"] = float(rng.uniform(*self.saturation_range))
        if rng.integers(2):
            draws["hue"] = int(rng.integers(-self.hue_delta, self.hue_delta))
        return draws

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Distorts; the image becomes uint8."""
        image = as_uint8(sample["image"])
        if "brightness" in draws:
            image = _scale_shift(image, shift=draws["brightness"])
        if "contrast" in draws and draws["contrast_first"]:
            image = _scale_shift(image, factor=draws["contrast"])
        if "saturation" in draws:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[:, :, 1] = _scale_shift(hsv[:, :, 1], factor=draws["saturation"])
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if "hue" in draws:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[:, :, 0] = (hsv[:, :, 0].astype(np.int64) + draws["hue"]) % 180
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if "contrast" in draws and not draws["contrast_first"]:
            image = _scale_shift(image, factor=draws["contrast"])
        return {**sample, "image": image}


@TRANSFORMS.register
class ColorAugSSD(PhotoMetricDistortion):
    """`PhotoMetricDistortion` whose hue shift can also be `hue_delta` itself, as PointRend's in detectron2.

    Upstream: facebookresearch/detectron2@02b5c4e projects/PointRend/point_rend/color_augmentation.py
    """

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """As of `PhotoMetricDistortion`."""
        draws = super().draw(rng, sample)
        if "hue" in draws:
            draws["hue"] = int(rng.integers(-self.hue_delta, self.hue_delta + 1))
        return draws


def _scale_shift(values: np.ndarray, *, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.clip(values.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)
