"""From a normalised image to scores per class at its own size: whole, sliding window, multi-scale and flips.

N batch, K classes, H W image, h w window. The model is any callable `image -> {"semantic": logits, ...}` whose logits
have the size of its input.

One *view* of the image is a scale and a flip. For each view the image is resized, flipped, run (whole or by windows),
flipped back and resized to (H, W); the scores returned are the mean over the views. This is PaddleSeg's order
(PaddlePaddle/PaddleSeg@d7975e7 paddleseg/core/infer.py) and, but for float rounding, its numbers:
- A view is int(side * scale + 0.5) pixels high and wide, resized bilinearly with align_corners=False. It is the
  normalised image that is resized, and no side is rounded to a multiple of the network's stride.
- Flips are none, horizontal, vertical and both, as far as they are asked for.
- Logits are averaged. `softmax_average` averages probabilities instead, which lets no view outvote the others by the
  size of its logits. The windows of one view are averaged as logits in either case.
- There are ceil((H - h) / stride) + 1 rows of windows, 1 if H <= h; the last one is moved back into the image. What
  windows share is averaged.

STDC-Seg reports its m50 and m75 (MichaelFan01/STDC-Seg@59ff37f evaluation.py) with one view of scale 0.5 or 0.75,
int(side * scale) pixels, and both resizes with align_corners=True: `scales: [0.5]`, `resize_align_corners: true`.
PaddleSeg's `--aug_eval --scales 0.5` differs from it by align_corners alone at 1024 x 2048; both are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_ext.errors import ConfigError, PaddlesegExtError

Model = Callable[[paddle.Tensor], Mapping[str, paddle.Tensor]]
Size = tuple[int, int]
Flip = tuple[bool, bool]


@dataclass(frozen=True)
class TestConfig:
    """How an image is evaluated; the section `test_config` of a configuration.

    Attributes:
        aug_eval: average over `scales` and flips; without it they have no effect.
        scales: factors on the image's sides; a single number is taken as one scale.
        flip_horizontal: also the mirrored image.
        flip_vertical: also the image upside down; with both, also the image turned by 180 degrees.
        is_slide: sliding windows instead of the whole image.
        crop_size: (width, height) of a window in pixels: PaddleSeg's order.
        stride: (width, height) of the step from window to window, at most `crop_size`.
        softmax_average: average the probabilities of the views instead of their logits.
        resize_align_corners: resize as STDC-Seg does for m50 and m75, see the module.
        window_batch: windows that go through the model at once; more is faster on a GPU and takes more memory.
    """

    __test__ = False  # no test case, as pytest would think from the name

    aug_eval: bool = False
    scales: tuple[float, ...] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: Size | None = None
    stride: Size | None = None
    softmax_average: bool = False
    resize_align_corners: bool = False
    window_batch: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", _checked_scales(self.scales))
        for name in ("crop_size", "stride"):
            object.__setattr__(self, name, _checked_size(name, getattr(self, name)))
        if self.is_slide and (self.crop_size is None or self.stride is None):
            missing = "crop_size" if self.crop_size is None else "stride"
            raise ConfigError(
                f"test_config: is_slide without {missing}; expected crop_size and stride, each (width, height) in "
                f"pixels; add {missing}"
            )
        if self.crop_size and self.stride and any(step > size for step, size in zip(self.stride, self.crop_size)):
            raise ConfigError(
                f"test_config.stride: {self.stride} is more than crop_size {self.crop_size}, (width, height); "
                "expected at most that, or the windows leave gaps; lower it"
            )
        if self.window_batch < 1:
            raise ConfigError(f"test_config.window_batch: {self.window_batch}; expected 1 or more")

    def views(self) -> Iterator[tuple[float, Flip]]:
        """(scale, (flip horizontally, flip vertically)) of each view, scale by scale."""
        flips = [(h, v) for v in (False, True) for h in (False, True)]
        if not self.aug_eval:
            yield 1.0, flips[0]
            return
        for scale in self.scales:
            for flip in flips:
                if flip[0] <= self.flip_horizontal and flip[1] <= self.flip_vertical:
                    yield scale, flip


def predict_logits(model: Model, image: paddle.Tensor, test_config: TestConfig | None = None) -> paddle.Tensor:
    """Scores per class at the image's size: mean logits, or mean probabilities with `softmax_average`.

    Args:
        model: in evaluation mode.
        image: (N, 3, H, W) normalised; N is 1 for a full-size image.
        test_config: whole image by default.

    Returns:
        (N, K, H, W), float32 or the model's float64.

    Raises:
        PaddlesegExtError: if memory does not suffice.
    """
    config = test_config or TestConfig()
    if getattr(model, "training", False):
        raise ValueError("predict_logits: the model is in training mode; call model.eval() first")
    try:
        with paddle.no_grad():
            return _mean_over_views(model, image, config)
    except MemoryError as e:
        height, width = image.shape[2:]
        raise PaddlesegExtError(
            f"out of memory at an image of {height} x {width} (height x width), scales {list(config.scales)}, "
            f"{config.window_batch} windows at once; expected an image that fits; give --is_slide with --crop_size "
            "and --stride, or smaller --scales"
        ) from e


def predict_scores(
    model: Model,
    image: paddle.Tensor,
    test_config: TestConfig | None = None,
    *,
    restore: Sequence[Mapping[str, Any]] = (),
) -> paddle.Tensor:
    """Scores per class at the size that the image had before the data pipeline changed it.

    Args:
        model: in evaluation mode.
        image: (N, 3, H, W) normalised.
        test_config: whole image by default.
        restore: geometry to undo, `meta["restore"]` of the sample.

    Returns:
        (N, K, H, W) of the original size; what they are, see `predict_logits`.
    """
    config = test_config or TestConfig()
    scores = predict_logits(model, image, config)
    return undo_geometry(scores, restore, align_corners=config.resize_align_corners)


def predict_labels(
    model: Model,
    image: paddle.Tensor,
    test_config: TestConfig | None = None,
    *,
    restore: Sequence[Mapping[str, Any]] = (),
) -> np.ndarray:
    """The most likely class of each pixel, decided once, at the original size.

    Args:
        model: in evaluation mode.
        image: (1, 3, H, W) normalised.
        test_config: whole image by default.
        restore: as in `predict_scores`.

    Returns:
        (H, W) int32 class ids, of the original size.
    """
    return labels_of(predict_scores(model, image, test_config, restore=restore))


def labels_of(scores: paddle.Tensor) -> np.ndarray:
    """(H, W) int32 classes of the highest score, from (1, K, H, W)."""
    return scores.argmax(axis=1, dtype="int32")[0].numpy()


def undo_geometry(
    scores: paddle.Tensor, restore: Sequence[Mapping[str, Any]], *, align_corners: bool = False
) -> paddle.Tensor:
    """Scores at the size that the image had before the data pipeline resized or padded it.

    Args:
        scores: (N, K, H, W).
        restore: what the pipeline did, in order: {"op": "resize" or "padding", "size": [H, W] before it}.
        align_corners: of the bilinear resize.
    """
    for step in reversed(restore):
        height, width = step["size"]
        if step["op"] == "resize":
            scores = _resize(scores, (height, width), align_corners)
        elif step["op"] == "padding":  # below and at the right
            scores = scores[:, :, :height, :width]
        else:
            raise ValueError(f"undo_geometry: unknown operation {step['op']!r}; expected resize or padding")
    return scores


def scaled_size(size: Sequence[int], scale: float, *, round_down: bool = False) -> Size:
    """(H, W) of a view.

    Args:
        size: (H, W) of the image.
        scale: factor.
        round_down: as STDC-Seg does; otherwise halves are rounded up, as PaddleSeg does.

    Raises:
        ConfigError: if nothing is left of the image.
    """
    height, width = (int(side * scale + (0.0 if round_down else 0.5)) for side in size)
    if min(height, width) < 1:
        raise ConfigError(f"test_config.scales: {scale} leaves nothing of {size[0]} x {size[1]} pixels; raise it")
    return height, width


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis; the last window is moved back to end with the image."""
    if size <= window:
        return [0]
    count = math.ceil((size - window) / stride) + 1
    return [min(i * stride, size - window) for i in range(count)]


def _mean_over_views(model: Model, image: paddle.Tensor, config: TestConfig) -> paddle.Tensor:
    """Mean scores; one running sum, whatever the number of views."""
    size = tuple(image.shape[2:])
    views = list(config.views())
    total, scaled, last_scale = None, image, 1.0
    for scale, flip in views:
        if scale != last_scale:
            view_size = scaled_size(size, scale, round_down=config.resize_align_corners)
            scaled, last_scale = _resize(image, view_size, config.resize_align_corners), scale
        scores = _flip(_run(model, _flip(scaled, flip), config), flip)
        scores = _resize(scores, size, config.resize_align_corners)
        if config.softmax_average:
            scores = F.softmax(scores, axis=1)
        total = scores if total is None else total + scores
    return total / len(views) if len(views) > 1 else total


def _run(model: Model, image: paddle.Tensor, config: TestConfig) -> paddle.Tensor:
    return _slide(model, image, config) if config.is_slide else _logits(model, image)


def _logits(model: Model, image: paddle.Tensor) -> paddle.Tensor:
    """Logits of the input's size, in float32 unless they are float64."""
    logits = model(image)["semantic"]
    if tuple(logits.shape[2:]) != tuple(image.shape[2:]):
        raise ValueError(
            f"the model's logits are {list(logits.shape[2:])} for an image of {list(image.shape[2:])} (height, "
            "width); expected the image's size; the model has to resize them itself"
        )
    return logits if logits.dtype == paddle.float64 else logits.astype("float32")


def _slide(model: Model, image: paddle.Tensor, config: TestConfig) -> paddle.Tensor:
    """Mean logits of all windows that hold a pixel; summed in numpy, whose slices are written in place."""
    batch, (height, width) = image.shape[0], image.shape[2:]
    (crop_width, crop_height), (step_width, step_height) = config.crop_size, config.stride
    h, w = min(crop_height, height), min(crop_width, width)
    corners = [
        (y, x)
        for y in window_starts(height, crop_height, step_height)
        for x in window_starts(width, crop_width, step_width)
    ]
    total = None
    count = np.zeros((height, width), np.float32)
    for some in _chunks(corners, config.window_batch):
        crops = [image[:, :, y : y + h, x : x + w] for y, x in some]
        logits = _logits(model, paddle.concat(crops) if len(crops) > 1 else crops[0]).numpy()
        if total is None:
            total = np.zeros((batch, logits.shape[1], height, width), logits.dtype)
        for i, (y, x) in enumerate(some):
            total[:, :, y : y + h, x : x + w] += logits[i * batch : (i + 1) * batch]
            count[y : y + h, x : x + w] += 1
    total /= count
    return paddle.to_tensor(total, place=image.place)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _flip(x: paddle.Tensor, flip: Flip) -> paddle.Tensor:
    if flip[0]:
        x = x[:, :, :, ::-1]
    if flip[1]:
        x = x[:, :, ::-1, :]
    return x.contiguous() if any(flip) else x


def _resize(x: paddle.Tensor, size: Sequence[int], align_corners: bool) -> paddle.Tensor:
    """Bilinear; the input itself if it has that size, which a bilinear resize would not change."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, list(size), mode="bilinear", align_corners=align_corners)


def _checked_scales(scales: float | Iterable[float]) -> tuple[float, ...]:
    values = (scales,) if isinstance(scales, (int, float)) else tuple(scales)
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not values or not numbers or not all(math.isfinite(value) and value > 0 for value in values):
        raise ConfigError(f"test_config.scales: {list(values)}; expected one or more numbers above 0, such as 0.75 1.0")
    return tuple(float(value) for value in values)


def _checked_size(name: str, size: Sequence[int] | None) -> Size | None:
    if size is None:
        return None
    sides = tuple(size)
    if len(sides) != 2 or not all(isinstance(side, (int, np.integer)) and side > 0 for side in sides):
        raise ConfigError(f"test_config.{name}: {list(sides)}; expected width and height in pixels, both positive")
    return int(sides[0]), int(sides[1])
