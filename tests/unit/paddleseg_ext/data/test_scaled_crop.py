"""The crop of a random scale, and the exchange of red and blue."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_ext.data.transforms import RandomScaledCrop, ReverseChannels
from paddleseg_ext.errors import ConfigError


def sample(height: int = 8, width: int = 12) -> dict:
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    return {"image": image, "label": np.arange(height * width, dtype=np.uint8).reshape(height, width), "meta": {}}


def test_at_scale_1_it_is_a_plain_crop_at_the_share_of_the_room() -> None:
    given = sample()
    out = RandomScaledCrop((6, 4)).apply(given, {"scale": 1.0, "x": 0.5, "y": 0.99})
    np.testing.assert_array_equal(out["image"], given["image"][3:7, 3:9])  # rooms of 4 and 6
    np.testing.assert_array_equal(out["label"], given["label"][3:7, 3:9])


def test_at_scale_2_half_the_window_is_enlarged_and_labels_stay_ids() -> None:
    given = sample()
    out = RandomScaledCrop((8, 8)).apply(given, {"scale": 2.0, "x": 0.0, "y": 0.0})
    assert out["image"].shape == (8, 8, 3)
    np.testing.assert_array_equal(out["label"], given["label"][:4, :4].repeat(2, axis=0).repeat(2, axis=1))


def test_what_reaches_beyond_the_image_is_grey_and_ignored() -> None:
    out = RandomScaledCrop((16, 16)).apply(sample(), {"scale": 1.0, "x": 0.7, "y": 0.7})
    np.testing.assert_array_equal(out["image"][8:], np.full((8, 16, 3), 128, np.uint8))
    np.testing.assert_array_equal(out["label"][:, 12:], np.full((16, 4), 255, np.uint8))
    np.testing.assert_array_equal(out["label"][:8, :12], sample()["label"])


def test_half_of_the_scales_enlarge_and_all_are_within_the_limits() -> None:
    transform, rng = RandomScaledCrop((6, 4)), np.random.default_rng(0)
    scales = np.array([transform.draw(rng, sample())["scale"] for _ in range(2000)])
    assert scales.min() >= 0.5 and scales.max() <= 4.0
    assert 0.46 < (scales > 1).mean() < 0.54
    assert scales[scales > 1].mean() == pytest.approx(2.5, abs=0.1)


def test_scales_that_do_not_include_1_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"min_scale 1\.5"):
        RandomScaledCrop((6, 4), min_scale=1.5)


@pytest.mark.parametrize("reverse", [False, True])
def test_channels_are_reversed_and_columns_are_not(reverse: bool) -> None:
    given = sample()
    out = ReverseChannels().apply(given, {"reverse": reverse})
    np.testing.assert_array_equal(out["image"], given["image"][:, :, ::-1] if reverse else given["image"])
    np.testing.assert_array_equal(out["label"], given["label"])
