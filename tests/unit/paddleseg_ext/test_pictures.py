"""Pictures of label maps, on maps small enough to say every pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext import pictures
from paddleseg_ext.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from paddleseg_ext.errors import ConfigError, DataError

COLORS = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)
LABEL = np.array([[0, 1, 255], [1, 0, 0]], np.int32)
IMAGE = np.full((2, 3, 3), 100, np.uint8)


def test_generic_colors_are_paddlesegs_and_all_different() -> None:
    colors = pictures.palette(255)
    assert colors[:4].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert len(np.unique(colors, axis=0)) == 255
    assert colors.any(axis=1).all()


def test_custom_colors_replace_the_first_classes() -> None:
    colors = pictures.with_custom_colors(COLORS, [1, 2, 3])
    assert colors.tolist() == [[1, 2, 3], [200, 100, 0]]
    assert COLORS.tolist() == [[10, 20, 30], [200, 100, 0]]


@pytest.mark.parametrize("numbers", [[1, 2], [1, 2, 256], [-1, 2, 3], list(range(9))])
def test_custom_colors_that_are_none_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ConfigError, match="--custom_color"):
        pictures.with_custom_colors(COLORS, numbers)


def test_each_class_gets_its_color_and_ignored_pixels_are_black() -> None:
    picture = pictures.colorize(LABEL, COLORS)
    assert picture.dtype == np.uint8
    assert picture[0].tolist() == [[10, 20, 30], [200, 100, 0], [0, 0, 0]]


@pytest.mark.parametrize("value", [-1, 2, 254, 300])
def test_what_is_no_class_is_black(value: int) -> None:
    assert pictures.colorize(np.full((1, 1), value), COLORS).tolist() == [[[0, 0, 0]]]


def test_a_palette_png_holds_ids_and_shows_colors(tmp_path: Path) -> None:
    pictures.save_label(tmp_path / "out.png", LABEL, COLORS)
    with Image.open(tmp_path / "out.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), LABEL)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), pictures.colorize(LABEL, COLORS))


def test_an_overlay_mixes_by_opacity_and_leaves_ignored_pixels() -> None:
    picture = pictures.overlay(IMAGE, LABEL, COLORS, opacity=0.25)
    assert picture[0, 1].tolist() == [125, 100, 75]
    assert picture[0, 2].tolist() == [100, 100, 100]


def test_opacity_0_is_the_image_and_1_the_colors() -> None:
    np.testing.assert_array_equal(pictures.overlay(IMAGE, LABEL, COLORS, opacity=0), IMAGE)
    assert pictures.overlay(IMAGE, LABEL, COLORS, opacity=1)[1].tolist() == COLORS[LABEL[1]].tolist()


def test_an_opacity_beyond_1_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"opacity: 1.5; expected 0..1"):
        pictures.overlay(IMAGE, LABEL, COLORS, opacity=1.5)


def test_an_overlay_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="one size"):
        pictures.overlay(IMAGE[:, :2], LABEL, COLORS)


def test_wrong_pixels_are_red_right_ones_white_and_ignored_ones_black() -> None:
    pred = np.array([[0, 0, 1], [1, 0, 0]])
    picture = pictures.difference_map(pred, LABEL)
    assert picture[0].tolist() == [[255, 255, 255], [214, 39, 40], [0, 0, 0]]
    assert (picture[1] == 255).all()


def test_the_image_shows_faintly_behind_a_difference() -> None:
    picture = pictures.difference_map(LABEL, LABEL, image=IMAGE)
    assert picture[1].tolist() == [[178] * 3] * 3


def test_a_panel_holds_every_picture_at_its_size() -> None:
    shown = {name: np.full((40, 60, 3), value, np.uint8) for name, value in (("a", 1), ("b", 2), ("c", 3))}
    panel = pictures.panel(shown, columns=2)
    for value in (1, 2, 3):
        rows, columns = np.nonzero((panel == value).all(axis=2))
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1, len(rows)) == (40, 60, 2400)


def test_a_panel_scales_pictures_to_the_width_asked_for() -> None:
    panel = pictures.panel({"a": np.full((40, 60, 3), 7, np.uint8)}, picture_width=120)
    assert (panel == 7).all(axis=2).sum() == 80 * 120


def test_a_panel_of_different_sizes_is_refused() -> None:
    with pytest.raises(DataError, match="panel, b"):
        pictures.panel({"a": IMAGE, "b": IMAGE[:1]})


def test_a_legend_wraps_and_shows_every_color() -> None:
    wide = pictures.legend(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, 3000)
    narrow = pictures.legend(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, 300)
    assert narrow.shape[1] == 300
    assert narrow.shape[0] > 4 * wide.shape[0]
    for color in CITYSCAPES_PALETTE:
        for picture in (wide, narrow):
            assert (picture == color).all(axis=2).sum() >= 12 * 12


def test_a_comparison_names_only_classes_in_sight() -> None:
    label, image = np.zeros((30, 60), np.uint8), np.full((30, 60, 3), 9, np.uint8)
    pred = label.copy()
    pred[:, :10] = 13
    picture = pictures.comparison(image, pred, label, classes=CITYSCAPES_CLASSES, colors=CITYSCAPES_PALETTE)
    road, car, sky = (CITYSCAPES_PALETTE[CITYSCAPES_CLASSES.index(name)] for name in ("road", "car", "sky"))
    swatch = 12 * 12
    assert (picture == road).all(axis=2).sum() == pytest.approx(30 * 60 + 30 * 50 + swatch, abs=swatch)
    assert (picture == car).all(axis=2).sum() == pytest.approx(30 * 10 + swatch, abs=60)
    assert not (picture == sky).all(axis=2).any()
    assert (picture == (214, 39, 40)).all(axis=2).sum() == 300
