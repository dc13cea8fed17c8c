"""The augmentation of PaddlePaddle/models' DeepLabv3+. `crop_size` is (width, height), PaddleSeg's order."""

from __future__ import annotations

import numpy as np

from paddleseg_ext.data.transforms.base import (
    Draws,
    Sample,
    Size,
    Transform,
    check,
    check_size,
    map_geometry,
    size_of,
)
from paddleseg_ext.data.transforms.crop import _window
from paddleseg_ext.data.transforms.resize import resize_cv2
from paddleseg_ext.registry import TRANSFORMS


@TRANSFORMS.register
class RandomScaledCrop(Transform):
    """A window whose size is the crop's divided by a random scale, resized to the crop's (OpenCV, bilinear).

    Half of the scales are uniform in [1, max_scale], the other half in [min_scale, 1]. Where the window is larger than
    the image, it begins at the image's edge and reaches beyond the opposite one, where there is padding.

    Args:
        crop_size: (width, height) of the result.
        min_scale: smallest scale, at most 1.
        max_scale: largest scale, at least 1.
        im_padding_value: of image pixels outside, 0..255.

    Upstream: PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/reader.py
    """

    is_random = True

    def __init__(
        self,
        crop_size: Size = (769, 769),
        *,
        min_scale: float = 0.5,
        max_scale: float = 4.0,
        im_padding_value: int = 128,
    ) -> None:
        self.crop_size = check_size(crop_size, self, "crop_size")
        check(
            0 < min_scale <= 1 <= max_scale,
            self,
            f"min_scale {min_scale}, max_scale {max_scale}; expected 0 < min_scale <= 1 <= max_scale",
        )
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.im_padding_value = im_padding_value

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`scale`; `x`, `y`: position of the window as a fraction of the room it has, in [0, 1)."""
        low, high = (1.0, self.max_scale) if rng.random() > 0.5 else (self.min_scale, 1.0)
        scale = float(rng.random() * (high - low) + low)
        return {"scale": scale, "x": float(rng.random()), "y": float(rng.random())}

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """Cuts the window and resizes it."""
        width, height = (max(1, int(side / draws["scale"])) for side in self.crop_size)
        h, w = size_of(sample)
        y = int(draws["y"] * max(1, h - height // 2 * 2))
        x = int(draws["x"] * max(1, w - width // 2 * 2))
        sample = map_geometry(
            sample,
            lambda image: _window(image, x, y, (width, height), self.im_padding_value),
            lambda array, fill: _window(array, x, y, (width, height), fill),
        )
        return resize_cv2(sample, self.crop_size[::-1])


@TRANSFORMS.register
class ReverseChannels(Transform):
    """Red and blue change places, with a probability.

    PaddlePaddle/models does this where a mirror image seems to be meant: its index reverses the axis of the channels.

    Args:
        prob: of the exchange.

    Upstream: PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/reader.py
    """

    is_random = True

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """`reverse`: whether to."""
        return {"reverse": bool(rng.random() < self.prob)}

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """The image with its channels in reverse order, or as it is."""
        if not draws["reverse"]:
            return sample
        return {**sample, "image": np.ascontiguousarray(sample["image"][:, :, ::-1])}
