"""Pictures of panoptic maps: stuff in its class's colour, each object in a shade of its own, with contours.

K classes, H W image.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddleseg_ext.errors import ConfigError, DataError
from paddleseg_ext.pictures import panel
from paddleseg_ext.segments import Segment, segment_places

_CONTOUR = (255, 255, 255)
_INK, _OUTLINE = (255, 255, 255), (0, 0, 0)
_GOLDEN = 0.6180339887498949  # multiples of it, without their whole part, are spread evenly
_HUE, _VALUES = 0.09, (0.62, 1.0)  # how far a shade goes from the class's colour
_SMALLEST_NAMED = 0.002  # share of the image that an object needs for its name


def segment_colors(segments: Sequence[Segment], colors: np.ndarray, thing_ids: Sequence[int]) -> np.ndarray:
    """(S, 3) uint8: the class's colour for stuff, a shade of it for each object; the same for the same list.

    Args:
        segments: S segments.
        colors: (K, 3) uint8.
        thing_ids: classes whose objects are told apart.
    """
    out = np.zeros((len(segments), 3), np.uint8)
    seen: dict[int, int] = {}
    for place, segment in enumerate(segments):
        out[place] = colors[segment.category_id]
        if segment.category_id in thing_ids:
            number = seen[segment.category_id] = seen.get(segment.category_id, 0) + 1
            out[place] = _shade(out[place], number)
    return out


def colorize_segments(
    ids: np.ndarray, segments: Sequence[Segment], colors: np.ndarray, thing_ids: Sequence[int]
) -> np.ndarray:
    """(H, W, 3) uint8 picture of a map of segments; void is black.

    Args:
        ids: (H, W) segment ids.
        segments: what they mean.
        colors: (K, 3) uint8.
        thing_ids: classes whose objects are told apart.
    """
    table = np.concatenate([segment_colors(segments, colors, thing_ids), np.zeros((1, 3), np.uint8)])
    return table[segment_places(ids, [segment.id for segment in segments])]


def panoptic_overlay(
    image: np.ndarray,
    ids: np.ndarray,
    segments: Sequence[Segment],
    colors: np.ndarray,
    thing_ids: Sequence[int],
    *,
    opacity: float = 0.5,
    contours: bool = True,
    names: Sequence[str] = (),
) -> np.ndarray:
    """The image tinted by segment.

    Args:
        image: (H, W, 3) uint8.
        ids: (H, W) segment ids; void stays as it is.
        segments: what they mean.
        colors: (K, 3) uint8.
        thing_ids: classes whose objects are told apart.
        opacity: of the colours, 0..1.
        contours: whether objects get a white line around them.
        names: of the K classes, written on objects that are large enough; none by default.
    """
    if image.shape[:2] != ids.shape:
        raise DataError(f"panoptic_overlay: {image.shape[:2]} and {ids.shape} (height, width); expected one size")
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity: {opacity}; expected 0..1")
    places = segment_places(ids, [segment.id for segment in segments])
    table = np.concatenate([segment_colors(segments, colors, thing_ids), np.zeros((1, 3), np.uint8)])
    mixed = cv2.addWeighted(image, 1 - opacity, table[places], opacity, 0)
    out = np.where((places == len(segments))[..., None], image, mixed)
    if contours:
        is_thing = np.array([segment.category_id in thing_ids for segment in segments] + [False])
        out[_contours(places, is_thing)] = _CONTOUR
    return _named(out, places, segments, thing_ids, names) if names else out


def panoptic_comparison(
    image: np.ndarray,
    pred: tuple[np.ndarray, Sequence[Segment]],
    label: tuple[np.ndarray, Sequence[Segment]],
    *,
    classes: Sequence[str],
    colors: np.ndarray,
    thing_ids: Sequence[int],
    picture_width: int | None = None,
) -> np.ndarray:
    """Image, ground truth, prediction and the prediction over the image, with a legend of the classes in sight.

    Args:
        image: (H, W, 3) uint8.
        pred: (H, W) ids and what they mean.
        label: likewise.
        classes: K names.
        colors: (K, 3) uint8.
        thing_ids: classes whose objects are told apart.
        picture_width: of each of the four pictures.
    """
    seen = sorted({segment.category_id for _, segments in (pred, label) for segment in segments})
    pictures = {
        "image": image,
        "ground truth": colorize_segments(*label, colors, thing_ids),
        "prediction": colorize_segments(*pred, colors, thing_ids),
        "prediction over image": panoptic_overlay(image, *pred, colors, thing_ids),
    }
    names = [classes[k] for k in seen]
    return panel(pictures, columns=2, picture_width=picture_width, classes=names, colors=colors[seen])


def _shade(color: np.ndarray, number: int) -> np.ndarray:
    """The n-th shade of a colour, n from 1."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(color / 255))
    step, fine = (number * _GOLDEN) % 1, (number * _GOLDEN * _GOLDEN) % 1
    low, high = _VALUES
    rgb = colorsys.hsv_to_rgb((hue + _HUE * (2 * step - 1)) % 1, min(1.0, saturation), low + (high - low) * fine)
    return np.round(np.array(rgb) * 255).astype(np.uint8)


def _contours(places: np.ndarray, is_thing: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of objects whose right or lower neighbour is of another segment, and stuff beside objects."""
    edge = np.zeros(places.shape, bool)
    for here, there, target in (
        (places[:, :-1], places[:, 1:], edge[:, :-1]),
        (places[:-1], places[1:], edge[:-1]),
    ):
        target |= (here != there) & (is_thing[here] | is_thing[there])
    return edge


def _named(
    picture: np.ndarray,
    places: np.ndarray,
    segments: Sequence[Segment],
    thing_ids: Sequence[int],
    names: Sequence[str],
) -> np.ndarray:
    """The picture with the names of objects on them."""
    canvas = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(9, picture.shape[0] // 64))
    areas = np.bincount(places.ravel(), minlength=len(segments) + 1)
    for place, segment in enumerate(segments):
        if segment.category_id in thing_ids and areas[place] >= _SMALLEST_NAMED * places.size:
            y, x = (int(np.median(axis)) for axis in np.nonzero(places == place))
            draw.text((x, y), names[segment.category_id], _INK, font, anchor="mm", stroke_width=1, stroke_fill=_OUTLINE)
    return np.array(canvas)
