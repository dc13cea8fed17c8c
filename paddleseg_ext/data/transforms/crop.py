"""Crops, paddings and flips. `crop_size` and `target_size` are (width, height), PaddleSeg's order."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from paddleseg_ext.data.transforms.base import (
    IGNORE,
    Draws,
    Sample,
    Size,
    Transform,
    check,
    check_size,
    map_geometry,
    size_of,
)
from paddleseg_ext.data.transforms.resize import resize_pil
from paddleseg_ext.registry import TRANSFORMS


def _window(array: np.ndarray, x: int, y: int, size: Size, fill: int) -> np.ndarray:
    """The (width, height) window at (x, y), with `fill` where it leaves the array."""
    width, height = size
    rows, cols = array.shape[:2]
    if x >= 0 and y >= 0 and x + width <= cols and y + height <= rows:
        return array[y : y + height, x : x + width]
    out = np.full((height, width, *array.shape[2:]), fill, array.dtype)
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + height, rows), min(x + width, cols)
    if top < bottom and left < right:
        out[top - y : bottom - y, left - x : right - x] = array[top:bottom, left:right]
    return out


def _pad(
    sample: Sample, room: Size, *, at: Size = (0, 0), image_value: float | Sequence[float], label_value: int
) -> Sample:
    """Adds (rows, columns) `room` around the image, which becomes float32 in any case.

    Args:
        sample: left as it is.
        room: rows and columns to add.
        at: how many of them are above and at the left.
        image_value: of new pixels, of all channels or of each.
        label_value: of new label pixels.
    """
    if room == (0, 0):
        return {**sample, "image": sample["image"].astype(np.float32, copy=False)}
    (top, left), (below, right) = at, (room[0] - at[0], room[1] - at[1])

    def padded(array: np.ndarray, value: float | Sequence[float]) -> np.ndarray:
        channels = 1 if array.ndim == 2 else array.shape[2]
        values = tuple(value) if isinstance(value, Sequence) else (value,) * channels
        return cv2.copyMakeBorder(array, top, below, left, right, cv2.BORDER_CONSTANT, value=values)

    return map_geometry(
        sample,
        lambda image: padded(image.astype(np.float32), image_value),
        lambda array, fill: padded(array, label_value if fill == IGNORE else fill),
        {"op": "padding", "size": list(size_of(sample))} if at == (0, 0) else None,
    )


@TRANSFORMS.register
class ResizeUpRandomCrop(Transform):
    """A random window; an image that is too small is first resized up, as STDC-Seg does (Pillow on uint8).

    STDC-Seg resizes by the ratio of widths if the image is taller than wide and of heights otherwise, so another
    shape than the crop's can still be too small; the window then reaches outside, where the image is black and the
    label 255. Cityscapes never comes to that.

    Args:
        crop_size: (width, height) of the window.

    Upstream: MichaelFan01/STDC-Seg@59ff37f transform.py, RandomCrop
    """

    is_random = True

    def __init__(self, crop_size: Size) -> None:
        self.crop_size = check_size(crop_size, self, "crop_size")

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`x`, `y`: position of the window as a fraction of the room it has, in [0, 1)."""
        return {"x": float(rng.random()), "y": float(rng.random())}

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """The window at (int(x * (w - width)), int(y * (h - height)))."""
        width, height = self.crop_size
        h, w = size_of(sample)
        if w < width or h < height:
            scale = width / w if w < h else height / h
            w, h = int(scale * w + 1), int(scale * h + 1)
            sample = resize_pil(sample, (h, w))
        x, y = int(draws["x"] * (w - width)), int(draws["y"] * (h - height))
        return map_geometry(
            sample,
            lambda image: _window(image, x, y, self.crop_size, 0),
            lambda array, fill: _window(array, x, y, self.crop_size, fill),
        )


@TRANSFORMS.register
class RandomPaddingCrop(Transform):
    """A random window; an image that is too small is padded, below and at the right as PaddleSeg does, or all around.

    Args:
        crop_size: (width, height) of the window.
        im_padding_value: of new image pixels, in 0..255, or of their red, green and blue; the image becomes float32,
            which 127.5 needs.
        label_padding_value: of new label pixels.
        random_padding: a small image lies anywhere in the window, as in bowenc0221's panoptic-deeplab, and not in its
            upper left corner.

    Upstream: PaddlePaddle/PaddleSeg@d7975e7 paddleseg/transforms/transforms.py; bowenc0221/panoptic-deeplab@cf8e20b
        segmentation/data/transforms/transforms.py, RandomCrop
    """

    is_random = True

    def __init__(
        self,
        crop_size: Size = (512, 512),
        im_padding_value: float | Sequence[float] = 127.5,
        label_padding_value: int = IGNORE,
        random_padding: bool = False,
    ) -> None:
        self.crop_size = check_size(crop_size, self, "crop_size")
        check(
            not isinstance(im_padding_value, Sequence) or len(im_padding_value) == 3,
            self,
            f"im_padding_value is {im_padding_value}; expected one number, or those of red, green and blue",
        )
        self.im_padding_value = im_padding_value
        self.label_padding_value = label_padding_value
        self.random_padding = random_padding

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`x`, `y`: left and top of the window in pixels; `left`, `top`, if they are random: of the padding."""
        width, height = self.crop_size
        h, w = size_of(sample)
        draws = {}
        if self.random_padding and (h < height or w < width):
            draws["top"] = int(rng.integers(max(height - h, 0) + 1))
            draws["left"] = int(rng.integers(max(width - w, 0) + 1))
        draws["y"] = int(rng.integers(max(h - height, 0) + 1))
        draws["x"] = int(rng.integers(max(w - width, 0) + 1))
        return draws

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Pads if needed, then crops."""
        width, height = self.crop_size
        h, w = size_of(sample)
        sample = _pad(
            sample,
            (max(height - h, 0), max(width - w, 0)),
            at=(draws.get("top", 0), draws.get("left", 0)),
            image_value=self.im_padding_value,
            label_value=self.label_padding_value,
        )
        x, y = draws["x"], draws["y"]
        return map_geometry(
            sample,
            lambda image: _window(image, x, y, self.crop_size, 0),
            lambda array, fill: _window(array, x, y, self.crop_size, fill),
        )


@TRANSFORMS.register
class RandomCropCatMaxRatio(Transform):
    """A random window in which no class rules, as mmsegmentation and detectron2 do.

    Windows are drawn until, ignored pixels apart, there are at least two classes and the largest has less than
    `cat_max_ratio` of the pixels; the last one is taken whatever it holds. An image that is too small is taken whole
    in that direction: add `Padding` after it for batches.

    Args:
        crop_size: (width, height) of the window.
        cat_max_ratio: limit for the largest class; 1.0 accepts the first window.
        ignore_index: label that does not count.
        attempts: redraws at most: 10 as in mmsegmentation (11 windows), 9 as in detectron2 (10 windows).

    Upstream: open-mmlab/mmsegmentation@056edc8 mmseg/datasets/transforms/transforms.py, RandomCrop
    """

    is_random = True

    def __init__(
        self, crop_size: Size, cat_max_ratio: float = 0.75, ignore_index: int = IGNORE, attempts: int = 10
    ) -> None:
        self.crop_size = check_size(crop_size, self, "crop_size")
        check(0 < cat_max_ratio <= 1, self, f"cat_max_ratio is {cat_max_ratio}; expected a share in (0, 1]")
        check(attempts >= 0, self, f"attempts is {attempts}; expected 0 or more")
        self.cat_max_ratio = cat_max_ratio
        self.ignore_index = ignore_index
        self.attempts = attempts

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`x`, `y`: left and top of the window in pixels."""
        window = self._draw_window(rng, sample)
        if self.cat_max_ratio == 1 or sample.get("label") is None:
            return window
        for _ in range(self.attempts):
            if self._is_mixed(self._cut(sample["label"], window)):
                break
            window = self._draw_window(rng, sample)
        return window

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Crops."""
        return map_geometry(sample, lambda image: self._cut(image, draws), lambda array, fill: self._cut(array, draws))

    def _draw_window(self, rng: np.random.Generator, sample: Sample) -> Draws:
        width, height = self.crop_size
        h, w = size_of(sample)
        return {"y": int(rng.integers(max(h - height, 0) + 1)), "x": int(rng.integers(max(w - width, 0) + 1))}

    def _cut(self, array: np.ndarray, window: Draws) -> np.ndarray:
        width, height = self.crop_size
        return array[window["y"] : window["y"] + height, window["x"] : window["x"] + width]

    def _is_mixed(self, label: np.ndarray) -> bool:
        ids, counts = np.unique(label, return_counts=True)
        counts = counts[ids != self.ignore_index]
        return len(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio


@TRANSFORMS.register
class Padding(Transform):
    """Pads below and at the right up to a size, as PaddleSeg does; the image becomes float32.

    Args:
        target_size: (width, height).
        im_padding_value: of new image pixels, on the image's own scale (0..255 before `Normalize`).
        label_padding_value: of new label pixels.

    Upstream: PaddlePaddle/PaddleSeg@d7975e7 paddleseg/transforms/transforms.py
    """

    def __init__(self, target_size: Size, im_padding_value: float = 127.5, label_padding_value: int = IGNORE) -> None:
        self.target_size = check_size(target_size, self, "target_size")
        self.im_padding_value = im_padding_value
        self.label_padding_value = label_padding_value

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Pads.

        Raises:
            ConfigError: if the image is larger than the target.
        """
        width, height = self.target_size
        h, w = size_of(sample)
        check(
            w <= width and h <= height,
            self,
            f"target_size (width, height) is {list(self.target_size)} but the image is {w} x {h}; expected a target "
            "at least as large; enlarge it or crop first",
        )
        return _pad(
            sample, (height - h, width - w), image_value=self.im_padding_value, label_value=self.label_padding_value
        )


@TRANSFORMS.register
class HorizontalFlip(Transform):
    """Mirrors left and right.

    Args:
        prob: how often.
    """

    is_random = True

    def __init__(self, prob: float = 0.5) -> None:
        check(0 <= prob <= 1, self, f"prob is {prob}; expected a probability in [0, 1]")
        self.prob = prob

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`flip`: whether."""
        return {"flip": bool(rng.random() < self.prob)}

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Mirrors, or returns the sample as it is."""
        if not draws["flip"]:
            return sample

        def mirrored(array: np.ndarray, _fill: int = 0) -> np.ndarray:
            return np.ascontiguousarray(array[:, ::-1])

        return map_geometry(sample, mirrored, mirrored)


@TRANSFORMS.register
class RandomHorizontalFlip(HorizontalFlip):
    """`HorizontalFlip` under PaddleSeg's name."""
