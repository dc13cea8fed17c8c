"""Resizing. Which library resizes, on which numbers, is part of each recipe and said in each docstring.

Pillow's bilinear filter widens when it shrinks an image (no aliasing); OpenCV's INTER_LINEAR always looks at the two
nearest pixels. Nearest neighbours differ too: Pillow takes the source pixel under the target pixel's centre, OpenCV
under its corner. So a recipe keeps the library of its authors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from paddleseg_ext.data.transforms.base import (
    Draws,
    Sample,
    Size,
    Transform,
    as_uint8,
    check,
    check_size,
    map_geometry,
    size_of,
)
from paddleseg_ext.registry import TRANSFORMS

_CV2 = {
    "NEAREST": cv2.INTER_NEAREST,
    "LINEAR": cv2.INTER_LINEAR,
    "CUBIC": cv2.INTER_CUBIC,
    "AREA": cv2.INTER_AREA,
    "LANCZOS4": cv2.INTER_LANCZOS4,
}


def resize_pil(sample: Sample, size: Size) -> Sample:
    """Image resized by Pillow's bilinear filter in uint8, maps by its nearest neighbour.

    Args:
        sample: its image becomes uint8.
        size: (H, W) wanted.
    """

    def resized(array: np.ndarray, mode: Image.Resampling) -> np.ndarray:
        return np.array(Image.fromarray(array).resize((size[1], size[0]), mode))

    return map_geometry(
        sample,
        lambda image: resized(as_uint8(image), Image.Resampling.BILINEAR),
        lambda array, _: resized(array, Image.Resampling.NEAREST),
        {"op": "resize", "size": list(size_of(sample))},
    )


def resize_cv2(sample: Sample, size: Size, *, interp: str = "LINEAR", factor: float | None = None) -> Sample:
    """Image resized by OpenCV in its own dtype, maps by its nearest neighbour.

    Args:
        sample: uint8 or float image; the result has the same dtype.
        size: (H, W) wanted.
        interp: OpenCV's name without "INTER_".
        factor: 1 / distance of the sampled positions, whose size has to round to `size`; by default the ratios of
            the sizes, which differ from it where they were rounded.
    """

    def resized(array: np.ndarray, mode: int) -> np.ndarray:
        if factor is None:
            return cv2.resize(array, (size[1], size[0]), interpolation=mode)
        return cv2.resize(array, None, fx=factor, fy=factor, interpolation=mode)

    return map_geometry(
        sample,
        lambda image: resized(image, _CV2[interp]),
        lambda array, _: resized(array, cv2.INTER_NEAREST),
        {"op": "resize", "size": list(size_of(sample))},
    )


def _as_float(sample: Sample) -> Sample:
    return {**sample, "image": sample["image"].astype(np.float32)}


@TRANSFORMS.register
class RandomScale(Transform):
    """Scales by one of a list of factors, as STDC-Seg does: Pillow on uint8, sizes rounded down.

    Args:
        scales: factors, each equally likely.

    Upstream: MichaelFan01/STDC-Seg@59ff37f transform.py
    """

    is_random = True

    def __init__(self, scales: Sequence[float]) -> None:
        check(len(scales) > 0 and min(scales) > 0, self, f"scales is {list(scales)}; expected positive factors")
        self.scales = tuple(float(scale) for scale in scales)

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`scale`: the factor."""
        return {"scale": self.scales[int(rng.integers(len(self.scales)))]}

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Resizes to (int(H * scale), int(W * scale))."""
        height, width = size_of(sample)
        return resize_pil(sample, (int(height * draws["scale"]), int(width * draws["scale"])))


@TRANSFORMS.register
class ResizeStepScaling(Transform):
    """Scales by a factor from an even grid, as PaddleSeg does: OpenCV bilinear on float32, sizes rounded.

    Args:
        min_scale_factor: smallest factor.
        max_scale_factor: largest factor.
        scale_step_size: distance of the grid; 0 draws from the whole range.

    Upstream: PaddlePaddle/PaddleSeg@d7975e7 paddleseg/transforms/transforms.py
    """

    is_random = True

    def __init__(
        self, min_scale_factor: float = 0.75, max_scale_factor: float = 1.25, scale_step_size: float = 0.25
    ) -> None:
        check(
            0 < min_scale_factor <= max_scale_factor,
            self,
            f"the factors are {min_scale_factor} and {max_scale_factor}; expected 0 < min <= max",
        )
        check(scale_step_size >= 0, self, f"scale_step_size is {scale_step_size}; expected 0 or more")
        self.min_scale_factor = min_scale_factor
        self.max_scale_factor = max_scale_factor
        self.scale_step_size = scale_step_size

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`scale`: the factor."""
        low, high = self.min_scale_factor, self.max_scale_factor
        if self.scale_step_size == 0:
            return {"scale": float(rng.uniform(low, high))}
        grid = np.linspace(low, high, int((high - low) / self.scale_step_size + 1))
        return {"scale": float(grid[int(rng.integers(len(grid)))])}

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Resizes to (round(H * scale), round(W * scale)); the image becomes float32."""
        height, width = size_of(sample)
        return resize_cv2(_as_float(sample), (round(draws["scale"] * height), round(draws["scale"] * width)))


@TRANSFORMS.register
class ExactStepScaling(ResizeStepScaling):
    """Scales by a factor from an even grid, as bowenc0221's panoptic-deeplab does: OpenCV bilinear on float64.

    Unlike `ResizeStepScaling` it samples at distances of exactly 1 / factor, also where the sizes had to be rounded,
    and returns uint8, for which the results lose their fraction.

    Args:
        min_scale_factor: smallest factor.
        max_scale_factor: largest factor.
        scale_step_size: distance of the grid; 0 draws from the whole range.

    Upstream: bowenc0221/panoptic-deeplab@cf8e20b segmentation/data/transforms/transforms.py, RandomScale
    """

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Resizes to (round(H * scale), round(W * scale)); the image becomes uint8."""
        (height, width), factor = size_of(sample), draws["scale"]
        sample = {**sample, "image": sample["image"].astype(np.float64)}
        sample = resize_cv2(sample, (round(factor * height), round(factor * width)), factor=factor)
        return {**sample, "image": sample["image"].astype(np.uint8)}


@TRANSFORMS.register
class RandomResize(Transform):
    """Scales into a random multiple of a box, as mmsegmentation does: OpenCV bilinear, on uint8 if it gets uint8.

    Args:
        scale: the box, (width, height) or (height, width): with `keep_ratio` the longer side limits the image's
            longer side.
        ratio_range: the box's factor is uniform in it.
        keep_ratio: whether the image keeps its shape; otherwise it gets `scale` as (width, height).

    Upstream: open-mmlab/mmcv@a8073c7 mmcv/transforms/processing.py, mmcv/image/geometric.py
    """

    is_random = True

    def __init__(self, scale: Size, ratio_range: tuple[float, float] = (0.5, 2.0), keep_ratio: bool = True) -> None:
        self.scale = check_size(scale, self, "scale")
        check(
            len(ratio_range) == 2 and 0 < ratio_range[0] <= ratio_range[1],
            self,
            f"ratio_range is {list(ratio_range)}; expected [low, high] with 0 < low <= high",
        )
        self.ratio_range = (float(ratio_range[0]), float(ratio_range[1]))
        self.keep_ratio = keep_ratio

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`ratio`: the box's factor."""
        return {"ratio": float(rng.uniform(*self.ratio_range))}

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Resizes to int(side * factor + 0.5) with the largest factor that fits the box."""
        box = [int(side * draws["ratio"]) for side in self.scale]
        if not self.keep_ratio:
            return resize_cv2(sample, (box[1], box[0]))
        height, width = size_of(sample)
        factor = min(max(box) / max(height, width), min(box) / min(height, width))
        return resize_cv2(sample, (int(height * factor + 0.5), int(width * factor + 0.5)))


@TRANSFORMS.register
class ResizeShortestEdge(Transform):
    """Scales so that the shorter side has one of several lengths, as detectron2 does: Pillow on uint8.

    Args:
        short_edge_length: the lengths, each equally likely; one length makes it deterministic.
        max_size: the longer side never exceeds it; the shorter one then gives way.

    Upstream: facebookresearch/detectron2@02b5c4e detectron2/data/transforms/augmentation_impl.py
    """

    is_random = True

    def __init__(self, short_edge_length: Sequence[int], max_size: int = 4096) -> None:
        lengths = tuple(int(length) for length in short_edge_length)
        check(len(lengths) > 0 and min(lengths) > 0, self, f"short_edge_length is {list(lengths)}; expected positive")
        check(max_size > 0, self, f"max_size is {max_size}; expected a positive number of pixels")
        self.short_edge_length = lengths
        self.max_size = max_size
        self.is_random = len(lengths) > 1

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`short_edge`: the length."""
        return {"short_edge": self.short_edge_length[int(rng.integers(len(self.short_edge_length)))]}

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Resizes in proportion; sizes are rounded half up."""
        height, width = size_of(sample)
        length = float(draws["short_edge"])
        factor = length / min(height, width)
        new = [length, factor * width] if height < width else [factor * height, length]
        if max(new) > self.max_size:
            factor = self.max_size / max(new)
            new = [side * factor for side in new]
        return resize_pil(sample, (int(new[0] + 0.5), int(new[1] + 0.5)))


@TRANSFORMS.register
class Resize(Transform):
    """Resizes to a given size, as PaddleSeg does: OpenCV on float32.

    Args:
        target_size: (width, height), PaddleSeg's order.
        keep_ratio: fit into `target_size` (its longer side limits the longer side) and keep the image's shape.
        size_divisor: round both sides up to a multiple of it.
        interp: OpenCV's interpolation of the image; maps always use the nearest neighbour.

    Upstream: PaddlePaddle/PaddleSeg@d7975e7 paddleseg/transforms/transforms.py
    """

    def __init__(
        self,
        target_size: Size,
        keep_ratio: bool = False,
        size_divisor: int | None = None,
        interp: Literal["NEAREST", "LINEAR", "CUBIC", "AREA", "LANCZOS4"] = "LINEAR",
    ) -> None:
        self.target_size = check_size(target_size, self, "target_size")
        check(interp in _CV2, self, f"interp is {interp!r}; expected one of {', '.join(_CV2)}")
        check(size_divisor is None or size_divisor > 0, self, f"size_divisor is {size_divisor}; expected 1 or more")
        self.keep_ratio = keep_ratio
        self.size_divisor = size_divisor
        self.interp = interp

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Resizes; the image becomes float32."""
        width, height = self.target_size
        if self.keep_ratio:
            old_height, old_width = size_of(sample)
            factor = min(
                max(width, height) / max(old_width, old_height), min(width, height) / min(old_width, old_height)
            )
            width, height = round(old_width * factor), round(old_height * factor)
        if self.size_divisor:
            width, height = (math.ceil(side / self.size_divisor) * self.size_divisor for side in (width, height))
        return resize_cv2(_as_float(sample), (height, width), interp=self.interp)
