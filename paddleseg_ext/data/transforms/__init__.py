"""Transforms of the recipes that our models come from, with randomness that can be recorded and replayed."""

from paddleseg_ext.data.transforms.base import Compose, Draws, Sample, Transform
from paddleseg_ext.data.transforms.color import ColorJitter, PhotoMetricDistortion, RandomDistort
from paddleseg_ext.data.transforms.crop import (
    HorizontalFlip,
    Padding,
    RandomCropCatMaxRatio,
    RandomHorizontalFlip,
    RandomPaddingCrop,
    ResizeUpRandomCrop,
)
from paddleseg_ext.data.transforms.normalize import Normalize
from paddleseg_ext.data.transforms.resize import (
    RandomResize,
    RandomScale,
    Resize,
    ResizeShortestEdge,
    ResizeStepScaling,
)

__all__ = [
    "ColorJitter",
    "Compose",
    "Draws",
    "HorizontalFlip",
    "Normalize",
    "Padding",
    "PhotoMetricDistortion",
    "RandomCropCatMaxRatio",
    "RandomDistort",
    "RandomHorizontalFlip",
    "RandomPaddingCrop",
    "RandomResize",
    "RandomScale",
    "Resize",
    "ResizeShortestEdge",
    "ResizeStepScaling",
    "ResizeUpRandomCrop",
    "Sample",
    "Transform",
]
