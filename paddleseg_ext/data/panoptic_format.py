"""COCO's panoptic format: a PNG whose colours are segment ids, and JSON that says what the ids mean.

The id of a pixel is red + 256 green + 65536 blue, 0 is void. A JSON file has `images`, `annotations` (one per image:
`image_id`, `file_name`, `segments_info`) and `categories`; predictions need `annotations` alone. `segments_info` lists
`id`, `category_id`, `area` in pixels, `bbox` ([x, y, width, height]) and `iscrowd`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from paddleseg_ext.data import image_io
from paddleseg_ext.errors import DataError
from paddleseg_ext.segments import VOID, Category, Segment, row_runs

LARGEST_ID = 2**24 - 1


def read_ids(path: str | os.PathLike[str]) -> np.ndarray:
    """(H, W) uint32 ids of a panoptic PNG.

    Raises:
        DataError: if the file is missing or damaged.
    """
    pixels = cv2.cvtColor(image_io.read_image(path), cv2.COLOR_RGB2RGBA)
    pixels[..., 3] = 0
    return pixels.view("<u4")[..., 0]


def write_ids(path: str | os.PathLike[str], ids: np.ndarray) -> None:
    """Writes a panoptic PNG; its folder must exist.

    Args:
        path: where to.
        ids: (H, W) integers in 0..2**24 - 1.
    """
    pixels = np.ascontiguousarray(ids, "<u4").view(np.uint8).reshape(*ids.shape, 4)
    image_io.write_png(path, np.ascontiguousarray(pixels[..., :3]))


def ids_and_areas(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids that occur in an (H, W) map, ascending, and their pixels."""
    starts, lengths = row_runs(ids)
    found, places = np.unique(ids.ravel()[starts], return_inverse=True)
    return found, np.bincount(places, weights=lengths, minlength=len(found)).astype(np.int64)


def segments_info(ids: np.ndarray, segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """The entries of `segments_info`, in the order of the segments.

    Args:
        ids: (H, W) map.
        segments: each with at least one pixel.

    Raises:
        DataError: if one has none.
    """
    starts, lengths = row_runs(ids)
    found, places = np.unique(ids.ravel()[starts], return_inverse=True)
    place_of = {ident: place for place, ident in enumerate(found.tolist())}
    absent = [segment.id for segment in segments if segment.id not in place_of]
    if absent:
        raise DataError(f"segments {absent[:5]} have no pixels in the map; expected at least one; leave them out")
    areas = np.bincount(places, weights=lengths, minlength=len(found)).astype(np.int64)
    y, x = np.divmod(starts, ids.shape[1])
    low = np.full((2, len(found)), np.iinfo(np.int64).max)
    high = np.zeros((2, len(found)), np.int64)
    for axis, (first, last) in enumerate(((x, x + lengths - 1), (y, y))):
        np.minimum.at(low[axis], places, first)
        np.maximum.at(high[axis], places, last)
    boxes = np.concatenate([low, high - low + 1]).T.tolist()
    return [
        {
            "id": int(segment.id),
            "category_id": int(segment.category_id),
            "area": int(areas[place_of[segment.id]]),
            "bbox": boxes[place_of[segment.id]],
            "iscrowd": int(segment.is_crowd),
        }
        for segment in segments
    ]


def category_entries(categories: Sequence[Category], palette: np.ndarray) -> list[dict[str, Any]]:
    """The entries of `categories`.

    Args:
        categories: K classes.
        palette: (K, 3) uint8 RGB.
    """
    return [
        {"id": category.id, "name": category.name, "isthing": int(category.is_thing), "color": color}
        for category, color in zip(categories, np.asarray(palette).tolist())
    ]


def read_panoptic_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a JSON file in this format.

    Raises:
        DataError: if it is missing, no JSON, or has no `annotations`.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read ({e}); expected COCO's panoptic format") from e
    if not isinstance(found, dict) or not isinstance(found.get("annotations"), list):
        raise DataError(f"{path}: has no list of annotations; expected COCO's panoptic format")
    return found


def write_panoptic_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes such a file; it appears whole or not at all, missing folders are made."""
    path = Path(path)
    with image_io.file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with image_io.replacing(path) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def check_ids(ids: np.ndarray, segments: Sequence[Segment], where: str) -> None:
    """Checks that a map and its list hold the same ids.

    Raises:
        DataError: if an id, other than void, is in one of them alone.
    """
    drawn = set(ids_and_areas(ids)[0].tolist()) - {VOID}
    listed = {segment.id for segment in segments}
    if drawn != listed:
        raise DataError(
            f"{where}: the ids {sorted(drawn - listed)[:5]} are in the PNG alone and {sorted(listed - drawn)[:5]} in "
            "the JSON alone; expected the same ids; do the two files belong together?"
        )
