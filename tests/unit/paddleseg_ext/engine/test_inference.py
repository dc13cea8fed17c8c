"""Inference modes against loops in numpy, and against what can be computed by hand."""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.engine import inference
from paddleseg_ext.engine.inference import TestConfig, predict_labels, predict_logits, window_starts
from paddleseg_ext.errors import ConfigError, PaddlesegExtError

NumpyModel = Callable[[np.ndarray], np.ndarray]


def as_model(function: NumpyModel) -> inference.Model:
    """A model for `predict_logits` from a function on (N, C, h, w) arrays."""
    return lambda image: {"semantic": paddle.to_tensor(function(image.numpy()))}


def identity(image: np.ndarray) -> np.ndarray:
    return image


def ramp(image: np.ndarray) -> np.ndarray:
    """Depends on the place in its input, and differently on rows and columns."""
    height, width = image.shape[2:]
    return image + 0.1 * np.arange(height)[:, None] - 0.03 * np.arange(width)[None, :]


def contrast(image: np.ndarray) -> np.ndarray:
    """Depends on everything in its input, so that no window sees what another one does."""
    return image * 2 - image.mean(axis=(2, 3), keepdims=True) + image.std(axis=(2, 3), keepdims=True)


def random_image(*shape: int, seed: int = 0) -> paddle.Tensor:
    """Float64, so that comparisons need no tolerance for rounding."""
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape))


# The naive reference


def resize_naive(x: np.ndarray, size: tuple[int, int], align_corners: bool) -> np.ndarray:
    """Bilinear resize of (N, C, H, W), one output pixel at a time."""
    height, width = x.shape[2:]
    out = np.empty((*x.shape[:2], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y = source(i, height, size[0], align_corners)
            z = source(j, width, size[1], align_corners)
            y0, z0 = int(y), int(z)
            y1, z1 = min(y0 + 1, height - 1), min(z0 + 1, width - 1)
            top = x[:, :, y0, z0] * (1 - (z - z0)) + x[:, :, y0, z1] * (z - z0)
            bottom = x[:, :, y1, z0] * (1 - (z - z0)) + x[:, :, y1, z1] * (z - z0)
            out[:, :, i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


def source(i: int, old: int, new: int, align_corners: bool) -> float:
    if align_corners:
        return i * (old - 1) / (new - 1)
    return max((i + 0.5) * old / new - 0.5, 0.0)


def slide_naive(
    model: NumpyModel, image: np.ndarray, crop_size: tuple[int, int], stride: tuple[int, int]
) -> np.ndarray:
    """PaddleSeg's windows; sizes are (width, height)."""
    height, width = image.shape[2:]
    rows = max(math.ceil((height - crop_size[1]) / stride[1]), 0) + 1
    columns = max(math.ceil((width - crop_size[0]) / stride[0]), 0) + 1
    total, count = 0.0, np.zeros((height, width))
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * stride[1] + crop_size[1], height)
            right = min(column * stride[0] + crop_size[0], width)
            window = np.s_[max(bottom - crop_size[1], 0) : bottom, max(right - crop_size[0], 0) : right]
            logits = model(image[(..., *window)])
            if isinstance(total, float):
                total = np.zeros((*logits.shape[:2], height, width))
            total[(..., *window)] += logits
            count[window] += 1
    return total / count


def views_naive(model: NumpyModel, image: np.ndarray, config: TestConfig) -> list[np.ndarray]:
    """The logits of every view at the image's size."""
    height, width = image.shape[2:]
    rounding = 0.0 if config.resize_align_corners else 0.5
    views = []
    for scale in config.scales if config.aug_eval else (1.0,):
        size = int(height * scale + rounding), int(width * scale + rounding)
        scaled = resize_naive(image, size, config.resize_align_corners)
        axes = [()]
        axes += [(3,)] * (config.aug_eval and config.flip_horizontal)
        axes += [(2,)] * (config.aug_eval and config.flip_vertical)
        axes += [(2, 3)] * (config.aug_eval and config.flip_horizontal and config.flip_vertical)
        for axis in axes:
            flipped = np.flip(scaled, axis)
            if config.is_slide:
                logits = slide_naive(model, flipped, config.crop_size, config.stride)
            else:
                logits = model(flipped)
            views.append(resize_naive(np.flip(logits, axis), (height, width), config.resize_align_corners))
    return views


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


CONFIGS = {
    "whole": {},
    "scales": {"aug_eval": True, "scales": (0.75, 1.0, 1.25)},
    "flips": {"aug_eval": True, "flip_horizontal": True, "flip_vertical": True},
    "one flip": {"aug_eval": True, "flip_vertical": True},
    "scales and flips": {"aug_eval": True, "scales": (0.5, 1.5), "flip_horizontal": True, "flip_vertical": True},
    "slide": {"is_slide": True, "crop_size": (10, 7), "stride": (6, 5)},
    "slide in batches": {"is_slide": True, "crop_size": (10, 7), "stride": (6, 5), "window_batch": 4},
    "slide without overlap": {"is_slide": True, "crop_size": (10, 7), "stride": (10, 7)},
    "slide in scales": {
        "aug_eval": True,
        "scales": (0.4, 1.3),
        "flip_horizontal": True,
        "is_slide": True,
        "crop_size": (12, 8),
        "stride": (7, 6),
    },
    "m50": {"aug_eval": True, "scales": (0.5,), "resize_align_corners": True},
    "m75": {"aug_eval": True, "scales": (0.75,), "resize_align_corners": True},
}


@pytest.mark.parametrize("model", [ramp, contrast], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_mode_equals_a_naive_loop(name: str, model: NumpyModel) -> None:
    image, config = random_image(1, 3, 17, 23), TestConfig(**CONFIGS[name])
    expected = np.mean(views_naive(model, image.numpy(), config), axis=0)
    # Paddle computes where to look for a resized pixel in float32, to some 1e-6 of a pixel
    np.testing.assert_allclose(predict_logits(as_model(model), image, config).numpy(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["scales and flips", "slide in scales"])
def test_softmax_average_is_the_mean_of_the_views_probabilities(name: str) -> None:
    image, config = random_image(1, 3, 17, 23), TestConfig(**CONFIGS[name], softmax_average=True)
    expected = np.mean([softmax(view) for view in views_naive(ramp, image.numpy(), config)], axis=0)
    found = predict_logits(as_model(ramp), image, config).numpy()
    np.testing.assert_allclose(found, expected, atol=5e-6, rtol=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_two_views_are_averaged_as_by_hand() -> None:
    """A model that knows which view it sees: the first gets logits (4, 0), the mirrored one (0, 1)."""
    seen = []

    def model(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        logits = [4.0, 0.0] if len(seen) == 1 else [0.0, 1.0]
        return np.broadcast_to(np.array(logits).reshape(1, 2, 1, 1), (1, 2, *image.shape[2:])).copy()

    image = random_image(1, 3, 2, 2)
    logits = predict_logits(as_model(model), image, TestConfig(aug_eval=True, flip_horizontal=True)).numpy()
    assert logits[0, :, 0, 0].tolist() == [2.0, 0.5]
    np.testing.assert_array_equal(seen[1], image.numpy()[..., ::-1])
    seen.clear()
    config = TestConfig(aug_eval=True, flip_horizontal=True, softmax_average=True)
    probs = predict_logits(as_model(model), image, config).numpy()
    first, second = 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(1))
    assert probs[0, 0, 0, 0] == pytest.approx((first + second) / 2, rel=1e-12)


def test_the_views_are_paddlesegs_in_its_order() -> None:
    config = TestConfig(aug_eval=True, scales=(0.5, 1), flip_horizontal=True, flip_vertical=True)
    flips = [(False, False), (True, False), (False, True), (True, True)]
    assert list(config.views()) == [(0.5, flip) for flip in flips] + [(1.0, flip) for flip in flips]


@pytest.mark.parametrize("name", ["flips", "one flip"])
def test_flips_are_undone(name: str) -> None:
    image = random_image(1, 3, 5, 8)
    logits = predict_logits(as_model(identity), image, TestConfig(**CONFIGS[name]))
    np.testing.assert_allclose(logits.numpy(), image.numpy(), rtol=1e-15)


def test_without_aug_eval_scales_and_flips_have_no_effect() -> None:
    image = random_image(1, 3, 5, 8)
    logits = predict_logits(as_model(ramp), image, TestConfig(scales=(0.5, 2.0), flip_horizontal=True))
    np.testing.assert_array_equal(logits.numpy(), ramp(image.numpy()))


@pytest.mark.parametrize("crop_size", [(8, 5), (9, 6), (100, 100)])
def test_one_window_over_the_whole_image_equals_the_whole_image(crop_size: tuple[int, int]) -> None:
    image = random_image(1, 3, 5, 8).astype("float32")
    config = TestConfig(is_slide=True, crop_size=crop_size, stride=(3, 2))
    model = as_model(lambda x: contrast(x).astype(np.float32))
    np.testing.assert_array_equal(predict_logits(model, image, config).numpy(), predict_logits(model, image).numpy())


def test_crop_size_and_stride_are_width_before_height() -> None:
    shapes = []

    def model(image: np.ndarray) -> np.ndarray:
        shapes.append(image.shape[2:])
        return image

    config = TestConfig(is_slide=True, crop_size=(6, 2), stride=(3, 2))
    predict_logits(as_model(model), random_image(1, 3, 4, 9), config)
    assert shapes == [(2, 6)] * 4


def test_batched_windows_reach_the_model_together() -> None:
    batches = []

    def model(image: np.ndarray) -> np.ndarray:
        batches.append(len(image))
        return image

    config = TestConfig(is_slide=True, crop_size=(4, 4), stride=(4, 4), window_batch=4)
    image = random_image(1, 3, 8, 12)
    np.testing.assert_array_equal(predict_logits(as_model(model), image, config).numpy(), image.numpy())
    assert batches == [4, 2]


@pytest.mark.parametrize(
    ("size", "window", "stride", "starts"),
    [
        (10, 10, 4, [0]),
        (6, 10, 4, [0]),
        (18, 10, 4, [0, 4, 8]),
        (19, 10, 4, [0, 4, 8, 9]),
        (11, 10, 10, [0, 1]),
        (1024, 512, 341, [0, 341, 512]),
    ],
)
def test_the_last_window_is_moved_back_into_the_image(size: int, window: int, stride: int, starts: list[int]) -> None:
    assert window_starts(size, window, stride) == starts


def test_m50_sees_every_other_corner_aligned_pixel() -> None:
    """7 x 7 at scale 0.6 is 4 x 4, whose corner-aligned pixels are those at 0, 2, 4 and 6."""
    seen = []

    def model(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return image

    image = random_image(1, 1, 7, 7)
    logits = predict_logits(as_model(model), image, TestConfig(aug_eval=True, scales=(0.6,), resize_align_corners=True))
    np.testing.assert_allclose(seen[0], image.numpy()[..., ::2, ::2], atol=1e-6)
    np.testing.assert_allclose(logits.numpy()[..., ::2, ::2], image.numpy()[..., ::2, ::2], atol=1e-6)


def test_scaled_sizes_round_halves_up_as_paddleseg_and_down_as_stdc() -> None:
    assert inference.scaled_size((1025, 2049), 0.5) == (513, 1025)
    assert inference.scaled_size((1025, 2049), 0.5, round_down=True) == (512, 1024)
    assert inference.scaled_size((1024, 2048), 0.75) == (768, 1536)


def test_a_scale_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scales: 0.01 leaves nothing of 5 x 8 pixels"):
        predict_logits(as_model(identity), random_image(1, 3, 5, 8), TestConfig(aug_eval=True, scales=(0.01,)))


def test_the_models_input_is_not_changed() -> None:
    image = random_image(1, 3, 5, 8)
    before = image.numpy().copy()
    config = TestConfig(aug_eval=True, scales=(1.0, 0.5), flip_horizontal=True, softmax_average=True)
    predict_logits(lambda x: {"semantic": x}, image, config)
    np.testing.assert_array_equal(image.numpy(), before)


# Back to the original size


def test_padding_is_cut_off_and_a_resize_undone_in_reverse_order() -> None:
    """A 3 x 5 image was resized to 6 x 10 and padded to 8 x 12; logits that are linear in space come back linear."""
    rows, columns = np.meshgrid(np.arange(8.0), np.arange(12.0), indexing="ij")
    scores = paddle.to_tensor(np.stack([rows, columns])[None])
    steps = [{"op": "resize", "size": [3, 5]}, {"op": "padding", "size": [6, 10]}]
    restored = inference.undo_geometry(scores, steps).numpy()
    assert restored.shape == (1, 2, 3, 5)
    np.testing.assert_allclose(restored[0, 0, :, 0], [0.5, 2.5, 4.5], atol=1e-6)
    np.testing.assert_allclose(restored[0, 1, 0], [0.5, 2.5, 4.5, 6.5, 8.5], atol=1e-6)


def test_labels_are_decided_once_at_the_original_size() -> None:
    """Between pixels of classes 0 and 1, the resized logits favour class 2, second at both."""
    logits = np.array([[3.0, 0.0], [0.0, 3.0], [2.2, 2.2]]).reshape(1, 3, 1, 2)
    restore = [{"op": "resize", "size": [1, 6]}]
    labels = predict_labels(as_model(lambda _: logits), random_image(1, 3, 1, 2), restore=restore)
    assert labels.dtype == np.int32
    assert labels.tolist() == [[0, 0, 2, 2, 1, 1]]


def test_an_unknown_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="rotate"):
        inference.undo_geometry(random_image(1, 2, 3, 3), [{"op": "rotate", "size": [3, 3]}])


# What is wrong


def test_a_model_in_training_mode_is_refused() -> None:
    layer = nn.Conv2D(3, 2, 1)
    with pytest.raises(ValueError, match="training mode"):
        predict_logits(layer, random_image(1, 3, 4, 4))


def test_logits_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits are \[2, 4\] for an image of \[4, 8\]"):
        predict_logits(as_model(lambda x: x[:, :, ::2, ::2].copy()), random_image(1, 3, 4, 8))


def test_half_precision_logits_are_averaged_in_float32() -> None:
    image = random_image(1, 3, 4, 4).astype("float32")
    logits = predict_logits(lambda x: {"semantic": x.astype("bfloat16")}, image, TestConfig(**CONFIGS["flips"]))
    assert logits.dtype == paddle.float32


def test_lack_of_memory_says_what_to_do() -> None:
    def model(image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        raise MemoryError("(ResourceExhausted) Fail to alloc memory")

    with pytest.raises(PaddlesegExtError, match=r"out of memory at an image of 4 x 8 .* --is_slide"):
        predict_logits(model, random_image(1, 3, 4, 8))


@pytest.mark.parametrize("scales", [0, -1.0, math.nan, math.inf, (), (1.0, 0), ("1",), True, (1.0, None)])
def test_scales_that_are_no_positive_numbers_are_refused(scales: Any) -> None:
    with pytest.raises(ConfigError, match=r"test_config.scales: .* expected one or more numbers above 0"):
        TestConfig(aug_eval=True, scales=scales)


def test_a_single_scale_may_be_a_number() -> None:
    assert TestConfig(scales=1).scales == TestConfig(scales=1.0).scales == TestConfig(scales=[1]).scales == (1.0,)


@pytest.mark.parametrize("missing", ["crop_size", "stride"])
def test_slide_without_its_sizes_is_refused(missing: str) -> None:
    sizes = {"crop_size": (4, 4), "stride": (2, 2), missing: None}
    with pytest.raises(ConfigError, match=f"is_slide without {missing}"):
        TestConfig(is_slide=True, **sizes)


@pytest.mark.parametrize("size", [(4,), (4, 0), (4, -1), (4.0, 4), (1, 2, 3)])
def test_sizes_that_are_no_two_positive_integers_are_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match="expected width and height in pixels"):
        TestConfig(crop_size=size)


def test_a_stride_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(ConfigError, match="the windows leave gaps"):
        TestConfig(is_slide=True, crop_size=(8, 4), stride=(4, 8))
