"""What a panoptic network says about a picture, with pictures and files of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_ext.data.image_io import file_errors
from paddleseg_ext.data.panoptic_format import category_entries, segments_info, write_ids, write_panoptic_json
from paddleseg_ext.panoptic_pictures import colorize_segments, panoptic_overlay
from paddleseg_ext.segments import Category, Segment


@dataclass(frozen=True, eq=False)
class PanopticPrediction:
    """Segments of an image.

    Attributes:
        image: (H, W, 3) uint8 RGB, the image itself.
        ids: (H, W) int32 segment ids, 0 = void.
        segments: one for each id, ascending; `category_id` is a class 0..K-1, things have a `score`.
        label: (H, W) integers, classes of the semantic branch, without void.
        categories: K classes with the ids of their publisher.
        palette: (K, 3) uint8 RGB.
    """

    image: np.ndarray
    ids: np.ndarray
    segments: tuple[Segment, ...]
    label: np.ndarray
    categories: tuple[Category, ...]
    palette: np.ndarray

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""
        return tuple(category.name for category in self.categories)

    @property
    def thing_ids(self) -> tuple[int, ...]:
        """Classes whose objects are told apart."""
        return tuple(k for k, category in enumerate(self.categories) if category.is_thing)

    @property
    def things(self) -> tuple[Segment, ...]:
        """The objects."""
        return tuple(segment for segment in self.segments if segment.category_id in self.thing_ids)

    def mask(self, segment: Segment) -> np.ndarray:
        """(H, W) bool: the pixels of a segment."""
        return self.ids == segment.id

    def overlay(self, opacity: float = 0.5, *, contours: bool = True, names: bool = False) -> np.ndarray:
        """(H, W, 3) uint8: the image tinted by segment, each object in a shade of its own."""
        return panoptic_overlay(
            self.image,
            self.ids,
            self.segments,
            self.palette,
            self.thing_ids,
            opacity=opacity,
            contours=contours,
            names=self.classes if names else (),
        )

    def colorized(self) -> np.ndarray:
        """(H, W, 3) uint8: the segments' colours alone."""
        return colorize_segments(self.ids, self.segments, self.palette, self.thing_ids)

    def counts(self) -> dict[str, int]:
        """Objects of each thing that occurs, the most frequent first."""
        found: dict[str, int] = {}
        for segment in self.things:
            name = self.classes[segment.category_id]
            found[name] = found.get(name, 0) + 1
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def annotation(self, image_id: str | int, file_name: str) -> dict[str, Any]:
        """An entry of `annotations` in COCO's panoptic format, with the publisher's class ids, and scores of things.

        Args:
            image_id: name of the image.
            file_name: of the PNG.
        """
        published = [s._replace(category_id=self.categories[s.category_id].id) for s in self.segments]
        entries = segments_info(self.ids, published)
        for entry, segment in zip(entries, self.segments):
            if segment.category_id in self.thing_ids:
                entry["score"] = float(segment.score)
        return {"image_id": image_id, "file_name": file_name, "segments_info": entries}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a panoptic PNG and, beside it, `<name>.json` in COCO's format; the folder must exist.

        Raises:
            DataError: if they cannot be written.
        """
        path = Path(path)
        with file_errors(path):
            write_ids(path, self.ids)
        save_annotations(path.with_suffix(".json"), [self.annotation(path.stem, path.name)], self)


def save_annotations(
    path: str | os.PathLike[str], annotations: Sequence[dict[str, Any]], prediction: PanopticPrediction
) -> None:
    """Writes COCO's JSON file for entries that `PanopticPrediction.annotation` returned.

    Args:
        path: of the JSON file.
        annotations: entries.
        prediction: any of them, for the classes.
    """
    categories = category_entries(prediction.categories, prediction.palette)
    write_panoptic_json(path, {"annotations": list(annotations), "categories": categories})
