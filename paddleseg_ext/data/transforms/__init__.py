"""Transforms of the recipes that our models come from, with randomness that can be recorded and replayed."""

from paddleseg_ext.data.transforms.base import Compose, Draws, Sample, Transform
from paddleseg_ext.data.transforms.color import ColorAugSSD, ColorJitter, PhotoMetricDistortion, RandomDistort
from paddleseg_ext.data.transforms.crop import (
    HorizontalFlip,
    Padding,
    RandomCropCatMaxRatio,
    RandomHorizontalFlip,
    RandomPaddingCrop,
    ResizeUpRandomCrop,
)
from paddleseg_ext.data.transforms.normalize import Normalize, NormalizePixels
from paddleseg_ext.data.transforms.panoptic import PanopticDeepLabTarget
from paddleseg_ext.data.transforms.resize import (
    ExactStepScaling,
    RandomResize,
    RandomScale,
    Resize,
    ResizeShortestEdge,
    ResizeStepScaling,
)
from paddleseg_ext.data.transforms.scaled_crop import RandomScaledCrop, ReverseChannels

__all__ = [
    "ColorAugSSD",
    "ColorJitter",
    "Compose",
    "Draws",
    "ExactStepScaling",
    "HorizontalFlip",
    "Normalize",
    "NormalizePixels",
    "Padding",
    "PanopticDeepLabTarget",
    "PhotoMetricDistortion",
    "RandomCropCatMaxRatio",
    "RandomDistort",
    "RandomHorizontalFlip",
    "RandomPaddingCrop",
    "RandomResize",
    "RandomScale",
    "RandomScaledCrop",
    "Resize",
    "ResizeShortestEdge",
    "ResizeStepScaling",
    "ResizeUpRandomCrop",
    "ReverseChannels",
    "Sample",
    "Transform",
]
