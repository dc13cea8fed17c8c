"""What a transform is: its randomness apart from its arithmetic.

Shapes: H W image. A *sample* is a dict:
    image: (H, W, 3) RGB, uint8 as read, or float32.
    label: (H, W) uint8 class ids, 255 = ignored; absent for pictures without ground truth.
    instance: (H, W) int32, optional; instance ids, 0 = none.
    panoptic: (H, W) int32, of panoptic data sets; segment ids, what `segments` does not list is void, as is 0.
    segments: tuple of `segments.Segment`, with it; categories are classes 0..K-1.
    meta: image_path, label_path, index, original_size (H, W), and `restore`: what geometric transforms did, so that
        evaluation can undo it, a list of {"op": "resize" or "padding", "size": [H, W] before it}.
Transforms never write into the arrays that they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from paddleseg_ext.errors import ConfigError

Sample = dict[str, Any]
Draws = dict[str, Any]
Size = tuple[int, int]

IGNORE = 255
MAPS = {"label": IGNORE, "instance": 0, "panoptic": 0}  # maps that follow the image, and what fills new pixels


class Transform:
    """A step of a pipeline.

    `draw` makes all random decisions and returns them as plain numbers, `apply` does the arithmetic. The same draws
    always give the same pixels, so a recorded pipeline can be replayed, and compared with its original.
    """

    is_random = False

    def draw(self, rng: np.random.Generator, sample: Sample) -> Draws:
        """Random decisions for this sample, as data that JSON can hold."""
        return {}

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """A new sample, transformed as `draws` says."""
        raise NotImplementedError

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draws and applies."""
        return self.apply(sample, self.draw(rng, sample))


class Compose:
    """Transforms one after the other.

    Args:
        transforms: in order.
    """

    def __init__(self, transforms: Iterable[Transform] = ()) -> None:
        self.transforms = tuple(transforms)
        for transform in self.transforms:
            if not isinstance(transform, Transform):
                raise ConfigError(f"transforms: {transform!r} is no transform; expected {{type: Name, ...}}")

    @property
    def is_random(self) -> bool:
        """Whether any transform makes random decisions."""
        return any(transform.is_random for transform in self.transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The transformed sample."""
        return self.record(sample, rng)[0]

    def record(self, sample: Sample, rng: np.random.Generator) -> tuple[Sample, list[Draws]]:
        """The transformed sample, and the draws of each transform, for `replay`."""
        recorded = []
        for transform in self.transforms:
            draws = transform.draw(rng, sample)
            sample = transform.apply(sample, draws)
            recorded.append(draws)
        return sample, recorded

    def replay(self, sample: Sample, draws: Sequence[Draws]) -> Sample:
        """The sample transformed with draws that `record` returned, or that come from elsewhere."""
        if len(draws) != len(self.transforms):
            raise ValueError(f"replay: {len(draws)} draws for {len(self.transforms)} transforms; expected one each")
        for transform, drawn in zip(self.transforms, draws):
            sample = transform.apply(sample, drawn)
        return sample


def size_of(sample: Sample) -> Size:
    """(H, W) of the sample's image."""
    return sample["image"].shape[:2]


def as_uint8(image: np.ndarray) -> np.ndarray:
    """8-bit pixels; floats lose their fraction, as PaddleSeg does before its colour operations."""
    return image if image.dtype == np.uint8 else image.astype(np.uint8)


def map_geometry(
    sample: Sample,
    image: Callable[[np.ndarray], np.ndarray],
    maps: Callable[[np.ndarray, int], np.ndarray],
    undo: Mapping[str, Any] | None = None,
) -> Sample:
    """A sample whose image and maps went through the same geometry.

    Args:
        sample: left as it is.
        image: what happens to the image.
        maps: what happens to the label and the instance map; its second argument is the value of new pixels.
        undo: entry for `meta["restore"]`.
    """
    out = {**sample, "image": image(sample["image"])}
    for key, fill in MAPS.items():
        if sample.get(key) is not None:
            out[key] = maps(sample[key], fill)
    if undo is not None:
        meta = sample.get("meta", {})
        out["meta"] = {**meta, "restore": [*meta.get("restore", ()), dict(undo)]}
    return out


def check(condition: bool, owner: object, message: str) -> None:
    """Raises a ConfigError that begins with the transform's name unless the condition holds."""
    if not condition:
        raise ConfigError(f"{type(owner).__name__}: {message}")


def check_size(size: Sequence[int], owner: object, name: str) -> Size:
    """A (width, height) from a configuration, checked; PaddleSeg's order."""
    check(
        len(size) == 2 and all(isinstance(side, (int, np.integer)) and side > 0 for side in size),
        owner,
        f"{name} is {list(size)}; expected [width, height] in pixels, both positive",
    )
    return int(size[0]), int(size[1])
