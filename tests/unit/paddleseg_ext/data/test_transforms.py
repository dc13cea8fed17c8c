from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from paddleseg_ext.data import transforms as T
from paddleseg_ext.errors import ConfigError
from paddleseg_ext.registry import TRANSFORMS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_sample(height: int = 48, width: int = 80, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (5, 5), 0)
    label = rng.integers(0, 19, (height, width)).astype(np.uint8)
    return {"image": image, "label": label, "instance": label.astype(np.int32) * 1000, "meta": {"restore": []}}


ALL = [
    T.ColorJitter(0.5, 0.5, 0.5),
    T.HorizontalFlip(0.5),
    T.RandomHorizontalFlip(0.5),
    T.RandomScale((0.5, 0.75, 1.5)),
    T.ResizeUpRandomCrop((64, 40)),
    T.ResizeStepScaling(0.5, 2.0, 0.25),
    T.ExactStepScaling(0.5, 2.0, 0.1),
    T.RandomPaddingCrop((64, 64)),
    T.RandomDistort(sharpness_prob=0.5),
    T.RandomResize((80, 48), (0.5, 2.0)),
    T.RandomCropCatMaxRatio((64, 40)),
    T.PhotoMetricDistortion(),
    T.ColorAugSSD(),
    T.ResizeShortestEdge((32, 40, 64), max_size=90),
    T.Resize((64, 32)),
    T.Padding((96, 64)),
    T.Normalize(MEAN, STD),
    T.RandomScaledCrop((64, 40)),
    T.ReverseChannels(0.5),
    T.NormalizePixels((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), order="BGR"),
]


def test_every_registered_transform_is_tested_here() -> None:
    elsewhere = {"PanopticDeepLabTarget"}  # needs a panoptic map: test_panoptic.py
    assert {type(transform).__name__ for transform in ALL} | elsewhere == set(TRANSFORMS.names())


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_draws_replay_exactly_and_inputs_stay_untouched(transform: T.Transform) -> None:
    for seed in range(6):
        sample = make_sample(seed=seed)
        before = {key: sample[key].copy() for key in ("image", "label", "instance")}
        pipeline = T.Compose([transform])
        out, draws = pipeline.record(sample, np.random.default_rng(seed))
        again = pipeline.replay(sample, json.loads(json.dumps(draws)))
        assert np.array_equal(out["image"], again["image"])
        assert np.array_equal(out["label"], again["label"])
        assert out["image"].shape[:2] == out["label"].shape == out["instance"].shape
        assert out["label"].dtype == np.uint8
        assert all(np.array_equal(sample[key], before[key]) for key in before)
        assert sample["meta"] == {"restore": []}


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_instances_follow_labels(transform: T.Transform) -> None:
    out = transform(make_sample(), np.random.default_rng(1))
    inside = out["label"] != 255
    assert np.array_equal(out["instance"][inside], out["label"][inside].astype(np.int32) * 1000)
    assert (out["instance"][~inside] == 0).all()


def test_is_random_says_whether_two_generators_can_differ() -> None:
    assert {type(t).__name__ for t in ALL if not t.is_random} == {"Resize", "Padding", "Normalize", "NormalizePixels"}
    assert not T.ResizeShortestEdge((512,)).is_random


# Recorded from MichaelFan01/STDC-Seg@59ff37f transform.py, run with Pillow 13 on the same picture and draws.
STDC_RECORDS = [
    (
        {"brightness": 1.3, "contrast": 0.7, "saturation": 1.2},
        {"flip": True, "scale": 0.675, "x": 0.9, "y": 0.4},
        [394854, 398264, 382189],
        [[49, 189, 60], [115, 116, 159], [174, 229, 138], [91, 92, 183]],
        [74, 54, 90, 84, 138, 126, 192, 174, 203, 167, 209, 174, 196, 160, 151, 117, 110, 84, 57],
        (8, 12),
    ),
    (
        {"brightness": 0.6, "contrast": 1.45, "saturation": 0.55},
        {"flip": False, "scale": 1.5, "x": 0.25, "y": 0.75},
        [209207, 201909, 201053],
        [[75, 100, 83], [11, 25, 72], [155, 153, 78], [99, 110, 130]],
        [0, 0, 0, 0, 0, 91, 91, 241, 241, 354, 284, 393, 283, 267, 167, 124, 14, 10, 0],
        (9, 17),
    ),
]


@pytest.mark.parametrize(("jitter", "geometry", "sums", "pixels", "counts", "ids"), STDC_RECORDS)
def test_stdc_pipeline_equals_upstream_given_the_same_draws(jitter, geometry, sums, pixels, counts, ids) -> None:
    y, x = np.mgrid[0:48, 0:80]
    image = np.stack([(x * 7 + y * 3) % 256, (x * x + 5 * y) % 256, (x * y + y * y * 3) % 256], 2).astype(np.uint8)
    label = ((x // 9 + 2 * (y // 7)) % 19).astype(np.uint8)
    pipeline = T.Compose(
        [T.ColorJitter(0.5, 0.5, 0.5), T.HorizontalFlip(), T.RandomScale((0.675, 1.5)), T.ResizeUpRandomCrop((64, 40))]
    )
    draws = [jitter, {"flip": geometry["flip"]}, {"scale": geometry["scale"]}, {k: geometry[k] for k in ("x", "y")}]
    out = pipeline.replay({"image": image, "label": label}, draws)
    assert out["image"].shape == (40, 64, 3)
    assert out["image"].sum(axis=(0, 1)).tolist() == sums
    assert [out["image"][i, j].tolist() for i, j in ((0, 0), (17, 31), (39, 63), (5, 60))] == pixels
    assert np.bincount(out["label"].ravel(), minlength=19).tolist() == counts
    assert (out["label"][17, 31], out["label"][39, 63]) == ids


def test_normalize_computes_in_float32_step_by_step() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    expected = np.empty((16, 16, 3), np.float32)
    for channel in range(3):
        scaled = image[:, :, channel].astype(np.float32) / np.float32(255)
        expected[:, :, channel] = (scaled - np.float32(MEAN[channel])) / np.float32(STD[channel])
    transform = T.Normalize(MEAN, STD)
    assert np.array_equal(transform.apply({"image": image}, {})["image"], expected)
    assert np.array_equal(transform.apply({"image": image.astype(np.float32)}, {})["image"], expected)


def test_normalize_has_no_default_and_refuses_the_scale_of_255() -> None:
    with pytest.raises(TypeError):
        T.Normalize()
    with pytest.raises(ConfigError, match="divide by 255"):
        T.Normalize((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def test_random_scale_rounds_down_and_step_scaling_rounds() -> None:
    sample = make_sample(10, 30)
    assert T.RandomScale((0.675,)).apply(sample, {"scale": 0.675})["image"].shape == (6, 20, 3)  # 6.75, 20.25
    assert T.ResizeStepScaling().apply(sample, {"scale": 0.675})["image"].shape == (7, 20, 3)


def test_exact_step_scaling_samples_one_over_the_factor_apart_and_drops_fractions() -> None:
    row = np.array([0, 100, 50, 201, 7], np.uint8)
    sample = {"image": np.stack([row[None].repeat(5, 0)] * 3, axis=2), "label": row[None].repeat(5, 0)}
    out = T.ExactStepScaling().apply(sample, {"scale": 0.7})  # 3.5 is rounded to 4, the even one
    # pixel x lies at (x + 0.5) / 0.7 - 0.5: 0.214, 1.643, 3.071, 4.5; by the ratio of sizes it would be 0.125, ...
    assert out["image"].dtype == np.uint8 and out["image"][0, :, 0].tolist() == [21, 67, 187, 7]
    assert out["label"][0].tolist() == [0, 100, 50, 7]  # the pixel at floor(x / 0.7): 0, 1, 2, 4
    assert T.ResizeStepScaling().apply(sample, {"scale": 0.7})["image"][0, 0, 0] == 12.5


@pytest.mark.parametrize("kind", [T.ResizeStepScaling, T.ExactStepScaling])
def test_step_scaling_draws_from_its_grid_only(kind: type) -> None:
    transform = kind(0.5, 2.0, 0.25)
    drawn = {transform.draw(np.random.default_rng(seed), {})["scale"] for seed in range(200)}
    assert drawn == {0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(1.0, (512, 1024)), (0.5, (256, 512)), (1.3, (665, 1330))],  # box 1331 x 665: the factor is 665 / 256
)
def test_random_resize_fits_the_box_as_mmcv_does(ratio: float, expected: tuple[int, int]) -> None:
    sample = {"image": np.zeros((256, 512, 3), np.uint8)}
    assert T.RandomResize((1024, 512)).apply(sample, {"ratio": ratio})["image"].shape[:2] == expected


def test_random_resize_without_keep_ratio_takes_width_and_height() -> None:
    out = T.RandomResize((40, 20), keep_ratio=False).apply(make_sample(), {"ratio": 1.5})
    assert out["image"].shape[:2] == (30, 60)


@pytest.mark.parametrize(
    ("size", "edge", "max_size", "expected"),
    [
        ((480, 640), 240, 4096, (240, 320)),
        ((640, 480), 240, 4096, (320, 240)),
        ((100, 333), 64, 4096, (64, 213)),  # 213.12
        ((100, 333), 64, 150, (45, 150)),  # 150 / 213.12 * 64 = 45.05
    ],
)
def test_shortest_edge_sizes(size, edge: int, max_size: int, expected) -> None:
    sample = {"image": np.zeros((*size, 3), np.uint8)}
    out = T.ResizeShortestEdge((edge,), max_size).apply(sample, {"short_edge": edge})
    assert out["image"].shape[:2] == expected


def test_resize_takes_width_then_height_and_can_keep_the_ratio() -> None:
    sample = make_sample(48, 80)
    assert T.Resize((40, 30)).apply(sample, {})["image"].shape[:2] == (30, 40)
    assert T.Resize((40, 30), keep_ratio=True).apply(sample, {})["image"].shape[:2] == (24, 40)
    assert T.Resize((40, 30), size_divisor=32).apply(sample, {})["image"].shape[:2] == (32, 64)


def test_labels_are_never_interpolated() -> None:
    sample = make_sample()
    sample["label"][:] = np.where(sample["label"] > 9, 18, 0)
    for transform in ALL:
        out = transform(sample, np.random.default_rng(3))
        assert set(np.unique(out["label"])) <= {0, 18, 255}


def test_small_images_are_resized_up_before_the_crop() -> None:
    sample = make_sample(20, 40)
    out = T.ResizeUpRandomCrop((64, 32)).apply(sample, {"x": 0.0, "y": 0.0})
    enlarged = Image.fromarray(sample["image"]).resize((65, 33), Image.Resampling.BILINEAR)  # 32/20 = 1.6; +1
    assert np.array_equal(out["image"], np.array(enlarged)[:32, :64])


def test_window_beyond_the_image_is_black_and_ignored() -> None:
    sample = make_sample(30, 30)
    sample["label"][:] = 7
    out = T.ResizeUpRandomCrop((60, 20)).apply(sample, {"x": 0.5, "y": 0.0})
    # 30 x 30 against 60 x 20: resized by 20/30 to 21 x 21; x = int(0.5 * (21 - 60)) = -19
    assert out["label"].shape == (20, 60)
    assert (out["label"][:, 19:40] == 7).all()
    assert (out["label"][:, :19] == 255).all() and (out["label"][:, 40:] == 255).all()
    assert (out["image"][:, 40:] == 0).all()


def test_padding_crop_pads_below_and_right_with_half_grey() -> None:
    sample = make_sample(10, 40)
    out = T.RandomPaddingCrop((30, 16)).apply(sample, {"x": 5, "y": 0})
    assert out["image"].dtype == np.float32
    assert np.array_equal(out["image"][:10], sample["image"][:, 5:35].astype(np.float32))
    assert (out["image"][10:] == 127.5).all()
    assert (out["label"][10:] == 255).all() and (out["instance"][10:] == 0).all()


def test_padding_crop_pads_all_around_with_a_color() -> None:
    sample = make_sample(10, 20)
    crop = T.RandomPaddingCrop((30, 16), im_padding_value=[123, 116, 103], random_padding=True)
    out = crop.apply(sample, {"top": 2, "left": 7, "y": 0, "x": 0})
    assert np.array_equal(out["image"][2:12, 7:27], sample["image"].astype(np.float32))
    for outside in (np.s_[:2], np.s_[12:], np.s_[:, :7], np.s_[:, 27:]):
        assert (out["image"][outside] == [123, 116, 103]).all()
        assert (out["label"][outside] == 255).all() and (out["instance"][outside] == 0).all()
    assert np.array_equal(out["label"][2:12, 7:27], sample["label"])


def test_padding_crop_draws_every_place_in_the_window() -> None:
    transform, sample = T.RandomPaddingCrop((3, 2), random_padding=True), make_sample(1, 2)
    drawn = [transform.draw(np.random.default_rng(seed), sample) for seed in range(60)]
    assert {(d["top"], d["left"], d["y"], d["x"]) for d in drawn} == {(y, x, 0, 0) for y in (0, 1) for x in (0, 1)}
    assert set(transform.draw(np.random.default_rng(0), make_sample(2, 3))) == {"y", "x"}


def test_padding_crop_draws_every_position() -> None:
    transform, sample = T.RandomPaddingCrop((3, 2)), make_sample(4, 4)
    drawn = {tuple(transform.draw(np.random.default_rng(s), sample).values()) for s in range(100)}
    assert drawn == {(y, x) for y in range(3) for x in range(2)}


def test_padding_refuses_a_larger_image() -> None:
    with pytest.raises(ConfigError, match=r"\[60, 60\] but the image is 80 x 48"):
        T.Padding((60, 60)).apply(make_sample(), {})


def test_cat_max_ratio_redraws_until_classes_mix() -> None:
    label = np.zeros((10, 100), np.uint8)
    label[:, 50:] = 1
    sample = {"image": np.zeros((10, 100, 3), np.uint8), "label": label}
    transform = T.RandomCropCatMaxRatio((20, 10), cat_max_ratio=0.75, attempts=1000)
    for seed in range(20):
        x = transform.draw(np.random.default_rng(seed), sample)["x"]
        assert 35 < x < 45  # more than 5 and fewer than 15 of 20 columns from either class


def test_cat_max_ratio_takes_the_last_window_and_does_not_count_ignored_pixels() -> None:
    label = np.full((10, 100), 255, np.uint8)
    label[:, ::2] = 4
    sample = {"image": np.zeros((10, 100, 3), np.uint8), "label": label}
    transform = T.RandomCropCatMaxRatio((20, 10), attempts=3)
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    drawn = transform.draw(rng, sample)
    windows = [(int(same.integers(1)), int(same.integers(81))) for _ in range(4)]
    assert (drawn["y"], drawn["x"]) == windows[-1]  # one class only: 1 window and 3 redraws, none accepted


def test_color_jitter_leaves_out_what_is_zero() -> None:
    transform, sample = T.ColorJitter(contrast=0.5), make_sample()
    draws = transform.draw(np.random.default_rng(0), sample)
    assert set(draws) == {"contrast"}
    expected = ImageEnhance.Contrast(Image.fromarray(sample["image"])).enhance(draws["contrast"])
    assert np.array_equal(transform.apply(sample, draws)["image"], np.array(expected))


def test_random_distort_applies_its_order() -> None:
    sample = make_sample()
    image = Image.fromarray(sample["image"])
    expected = ImageEnhance.Brightness(ImageEnhance.Contrast(image).enhance(1.4)).enhance(0.7)
    draws = {"order": ["contrast", "brightness"], "brightness": 0.7, "contrast": 1.4}
    out = T.RandomDistort().apply({**sample, "image": sample["image"].astype(np.float32) + 0.4}, draws)["image"]
    assert out.dtype == np.float32
    assert np.array_equal(out, np.array(expected).astype(np.float32))


def test_random_distort_turns_the_hue_around_the_circle() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    out = T.RandomDistort().apply({"image": red}, {"order": ["hue"], "hue": -43.0})["image"]  # a sixth of 256 back
    assert out[0, 0].tolist() == pytest.approx([255, 0, 255], abs=6)  # red -> magenta


@pytest.mark.parametrize("contrast_first", [True, False])
def test_photometric_distortion_against_a_pixel_loop(contrast_first: bool) -> None:
    draws = {"contrast_first": contrast_first, "brightness": -20.5, "contrast": 1.37, "saturation": 0.6, "hue": -11}
    sample = make_sample(4, 5)

    def scaled(value: np.uint8, factor: float, shift: float) -> int:
        return int(min(max(np.float32(value) * np.float32(factor) + np.float32(shift), 0), 255))

    expected = np.empty_like(sample["image"])
    for i, j in np.ndindex(4, 5):
        pixel = [scaled(v, 1, draws["brightness"]) for v in sample["image"][i, j]]
        if contrast_first:
            pixel = [scaled(v, draws["contrast"], 0) for v in pixel]
        hsv = cv2.cvtColor(np.array([[pixel]], np.uint8), cv2.COLOR_RGB2HSV)
        hsv[0, 0, 1] = scaled(hsv[0, 0, 1], draws["saturation"], 0)
        hsv = cv2.cvtColor(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), cv2.COLOR_RGB2HSV)
        hsv[0, 0, 0] = (int(hsv[0, 0, 0]) + draws["hue"]) % 180
        pixel = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
        if not contrast_first:
            pixel = [scaled(v, draws["contrast"], 0) for v in pixel]
        expected[i, j] = pixel
    assert np.array_equal(T.PhotoMetricDistortion().apply(sample, draws)["image"], expected)


def test_deterministic_geometry_can_be_undone_from_meta() -> None:
    pipeline = T.Compose([T.Resize((40, 24)), T.Padding((64, 32)), T.Padding((64, 32))])
    out = pipeline(make_sample(48, 80), np.random.default_rng(0))
    assert out["meta"]["restore"] == [{"op": "resize", "size": [48, 80]}, {"op": "padding", "size": [24, 40]}]


def test_flip_mirrors_columns() -> None:
    sample = make_sample()
    out = T.HorizontalFlip().apply(sample, {"flip": True})
    assert np.array_equal(out["image"], sample["image"][:, ::-1])
    assert np.array_equal(out["label"], sample["label"][:, ::-1])
    assert T.HorizontalFlip().apply(sample, {"flip": False}) is sample


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: T.RandomScale([]), "RandomScale: scales is "),
        (lambda: T.RandomScale([0.5, -1]), "expected positive factors"),
        (lambda: T.ResizeStepScaling(2.0, 1.0), "0 < min <= max"),
        (lambda: T.RandomPaddingCrop((512, 0)), r"crop_size is \[512, 0\]; expected \[width, height\]"),
        (lambda: T.RandomPaddingCrop((512,)), r"crop_size is \[512\]"),
        (lambda: T.RandomPaddingCrop((8, 8), [1, 2]), r"im_padding_value is \[1, 2\]; expected one number, or those"),
        (lambda: T.HorizontalFlip(1.5), "probability"),
        (lambda: T.RandomCropCatMaxRatio((8, 8), 0), "cat_max_ratio is 0"),
        (lambda: T.Resize((8, 8), interp="BICUBIC"), "interp is 'BICUBIC'; expected one of NEAREST"),
        (lambda: T.Compose([{"type": "Normalize"}]), "no transform"),
    ],
)
def test_wrong_arguments_are_config_errors(build, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_color_aug_ssd_draws_both_ends_of_the_hue_and_photometric_distortion_one() -> None:
    rng = np.random.default_rng(0)
    shifts = {
        kind: {kind(hue_delta=2).draw(rng, {}).get("hue") for _ in range(300)} - {None}
        for kind in (T.ColorAugSSD, T.PhotoMetricDistortion)
    }
    assert shifts == {T.ColorAugSSD: {-2, -1, 0, 1, 2}, T.PhotoMetricDistortion: {-2, -1, 0, 1}}


def test_pixels_are_normalised_on_their_own_scale_in_the_order_asked_for() -> None:
    image = np.array([[[10, 20, 30]]], np.uint8)
    out = T.NormalizePixels((1.0, 2.0, 3.0), (2.0, 4.0, 8.0), order="BGR").apply({"image": image}, {})["image"]
    assert out.dtype == np.float32 and out.flags.c_contiguous
    assert out[0, 0].tolist() == [29 / 2, 18 / 4, 7 / 8]
    same = T.NormalizePixels((1.0, 2.0, 3.0), (1.0, 1.0, 1.0)).apply({"image": image}, {})["image"]
    assert same[0, 0].tolist() == [9, 18, 27]
    assert image.tolist() == [[[10, 20, 30]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"mean": (0.4, 0.4, 0.4)}, "expected the scale 0..255"), ({"order": "GBR"}, "expected RGB or BGR")],
)
def test_pixel_statistics_of_another_scale_or_order_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        T.NormalizePixels(**{"mean": (100.0, 100.0, 100.0), "std": (1.0, 1.0, 1.0), **arguments})
