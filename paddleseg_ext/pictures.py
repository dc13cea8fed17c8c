"""Pictures of label maps: colours, overlays, differences and panels with a legend.

H W image, K classes. Pictures are (H, W, 3) uint8 RGB, palettes (K, 3) uint8 RGB. Pixels without a class (255, or
anything outside 0..K-1) are black in a coloured map and left as they are in an overlay.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddleseg_ext.data.classes import voc_palette
from paddleseg_ext.data.image_io import write_png
from paddleseg_ext.errors import ConfigError, DataError

_TABLE_SIZE = 256
_WRONG = (214, 39, 40)
_IGNORED = (0, 0, 0)
_BACKGROUND = (255, 255, 255)
_INK = (32, 32, 32)
_GAP = 8  # pixels between the pictures of a panel, and around it
_TEXT_SIZE = 14


def palette(num_classes: int) -> np.ndarray:
    """Colours for classes that have none of their own: PaddleSeg's, the Pascal VOC colours without black.

    Args:
        num_classes: K, at most 255.

    Returns:
        (K, 3) uint8 RGB, all different.
    """
    return voc_palette(num_classes + 1)[1:]


def with_custom_colors(colors: np.ndarray, custom_color: Sequence[int]) -> np.ndarray:
    """A palette whose first colours are replaced, as `--custom_color` says.

    Args:
        colors: (K, 3) uint8.
        custom_color: red, green and blue of class 0, of class 1 and so on, each in 0..255; classes beyond keep theirs.

    Raises:
        ConfigError: if the numbers are no colours of at most K classes.
    """
    numbers = list(custom_color)
    if len(numbers) % 3 or len(numbers) > colors.size or not all(0 <= number <= 255 for number in numbers):
        raise ConfigError(
            f"--custom_color: {len(numbers)} numbers {numbers[:6]}; expected red, green, blue in 0..255 for each class "
            f"from the first on, at most {colors.size} numbers for {len(colors)} classes"
        )
    out = colors.copy()
    out.reshape(-1)[: len(numbers)] = numbers
    return out


def colorize(label: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """A label map as a picture.

    Args:
        label: (H, W) integers.
        colors: (K, 3) uint8.
    """
    return _table(colors)[_bytes(label, len(colors))]


def save_label(path: str | os.PathLike[str], label: np.ndarray, colors: np.ndarray) -> None:
    """Writes a palette PNG: its pixels are the class ids, viewers show the colours.

    Args:
        path: where to; the folder must exist.
        label: (H, W) integers; what is no class becomes 255.
        colors: (K, 3) uint8.
    """
    write_png(path, _bytes(label, len(colors)), palette=_table(colors))


def overlay(image: np.ndarray, label: np.ndarray, colors: np.ndarray, *, opacity: float = 0.5) -> np.ndarray:
    """The image tinted by class.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) integers.
        colors: (K, 3) uint8.
        opacity: of the colours, 0..1; PaddleSeg's pictures have 0.4.
    """
    _check_size("overlay", image, label)
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity: {opacity}; expected 0..1")
    ids = _bytes(label, len(colors))
    mixed = cv2.addWeighted(image, 1 - opacity, _table(colors)[ids], opacity, 0)
    return np.where((ids == 255)[..., None], image, mixed)


def difference_map(
    pred: np.ndarray, label: np.ndarray, *, image: np.ndarray | None = None, ignore_index: int = 255
) -> np.ndarray:
    """Where a prediction is wrong: red; where it is right: white, or the pale image; ignored pixels are black.

    Args:
        pred: (H, W) integers.
        label: (H, W) integers.
        image: (H, W, 3) uint8 to show faintly behind.
        ignore_index: label of the pixels that do not count.
    """
    _check_size("difference_map", pred, label)
    out = np.full((*label.shape, 3), 255, np.uint8)
    if image is not None:
        _check_size("difference_map", image, label)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        out[...] = (128 + grey // 2)[..., None]
    out[pred != label] = _WRONG
    out[label == ignore_index] = _IGNORED
    return out


def legend(classes: Sequence[str], colors: np.ndarray, width: int) -> np.ndarray:
    """Colour swatches with names, in as many rows as they need.

    Args:
        classes: names.
        colors: as many colours.
        width: of the picture in pixels.
    """
    font, row, swatch = ImageFont.load_default(_TEXT_SIZE), _TEXT_SIZE + _GAP, _TEXT_SIZE
    places, x, y = [], _GAP, _GAP // 2
    for name in classes:
        length = swatch + _GAP // 2 + int(font.getlength(name)) + 2 * _GAP
        if x > _GAP and x + length > width:
            x, y = _GAP, y + row
        places.append((x, y))
        x += length
    picture = Image.new("RGB", (width, y + row), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for name, color, (x, y) in zip(classes, colors, places):
        draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), fill=tuple(map(int, color)), outline=_INK)
        draw.text((x + swatch + _GAP // 2, y + swatch / 2), name, fill=_INK, font=font, anchor="lm")
    return np.array(picture)


def panel(
    pictures: Mapping[str, np.ndarray],
    *,
    columns: int | None = None,
    picture_width: int | None = None,
    classes: Sequence[str] = (),
    colors: np.ndarray | None = None,
) -> np.ndarray:
    """Pictures of one size side by side, each under its title, over a legend.

    Args:
        pictures: title -> (H, W, 3) uint8.
        columns: pictures per row; all in one row by default.
        picture_width: width of each in the panel; their own by default.
        classes: names for the legend; there is none without them.
        colors: (K, 3) uint8, as many as names.
    """
    first = next(iter(pictures.values()))
    columns = min(columns or len(pictures), len(pictures))
    rows = -(-len(pictures) // columns)
    width = picture_width or first.shape[1]
    height = max(1, round(first.shape[0] * width / first.shape[1]))
    title = _TEXT_SIZE + _GAP
    cell_width, cell_height = width + _GAP, height + _GAP + title
    canvas = Image.new("RGB", (columns * cell_width + _GAP, rows * cell_height + _GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_TEXT_SIZE)
    for i, (name, picture) in enumerate(pictures.items()):
        _check_size(f"panel, {name}", picture, first)
        x, y = _GAP + i % columns * cell_width, i // columns * cell_height
        draw.text((x, y + title - _GAP // 2), name, fill=_INK, font=font, anchor="ls")
        canvas.paste(Image.fromarray(_fit(picture, height, width)), (x, y + title))
    if not classes:
        return np.array(canvas)
    return np.concatenate([np.array(canvas), legend(classes, colors, canvas.width)])


def comparison(
    image: np.ndarray,
    pred: np.ndarray,
    label: np.ndarray,
    *,
    classes: Sequence[str],
    colors: np.ndarray,
    picture_width: int | None = None,
) -> np.ndarray:
    """Image, ground truth, prediction and their difference, with a legend of the classes in sight.

    Args:
        image: (H, W, 3) uint8.
        pred: (H, W) integers.
        label: (H, W) integers, 255 = ignored.
        classes: K names.
        colors: (K, 3) uint8.
        picture_width: of each of the four pictures.
    """
    seen = [int(k) for k in np.union1d(pred, label) if 0 <= k < len(classes)]
    pictures = {
        "image": image,
        "ground truth": colorize(label, colors),
        "prediction": colorize(pred, colors),
        "difference (red: wrong)": difference_map(pred, label, image=image),
    }
    names = [classes[k] for k in seen]
    return panel(pictures, columns=2, picture_width=picture_width, classes=names, colors=colors[seen])


def _table(colors: np.ndarray) -> np.ndarray:
    """(256, 3) colours by pixel value."""
    table = np.zeros((_TABLE_SIZE, 3), np.uint8)
    table[: len(colors)] = colors
    return table


def _bytes(label: np.ndarray, num_classes: int) -> np.ndarray:
    """(H, W) uint8 class ids, 255 for what is no class."""
    if num_classes >= _TABLE_SIZE:
        raise DataError(f"{num_classes} classes; expected at most {_TABLE_SIZE - 1}, which fit into 8 bits")
    return np.where((label >= 0) & (label < num_classes), label, 255).astype(np.uint8)


def _check_size(where: str, first: np.ndarray, second: np.ndarray) -> None:
    if first.shape[:2] != second.shape[:2]:
        raise DataError(f"{where}: {first.shape[:2]} and {second.shape[:2]} (height, width); expected one size")


def _fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    smaller = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_NEAREST)
