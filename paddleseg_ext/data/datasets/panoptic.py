"""What every panoptic data set is: segments instead of, and beside, class ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from paddleseg_ext.data.classes import IGNORE
from paddleseg_ext.data.datasets.base import Pair, SegmentationDataset, check_same_size
from paddleseg_ext.data.transforms.base import Sample, Transform
from paddleseg_ext.segments import Category, Segment, segment_places


class PanopticDataset(SegmentationDataset):
    """Pictures and their segments.

    A sample has, beside `image` and `meta`: `panoptic`, (H, W) int32 segment ids; `segments`, a tuple of `Segment`
    whose categories are classes 0..K-1, and `label`, (H, W) uint8 classes, which follows from both. What `segments`
    does not list is void. `meta` holds `thing_ids`, the classes whose objects are told apart.

    Args:
        pairs: files, in the order of the indices; `label` is the file of the segment ids.
        categories: K classes, with the ids of the publisher.
        palette: (K, 3) uint8 RGB.
        transforms: the pipeline that loaders apply; kept, not applied.

    Attributes:
        categories: as given.
        thing_ids: classes whose objects are told apart.
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        *,
        categories: Sequence[Category],
        palette: np.ndarray,
        transforms: Sequence[Transform] = (),
    ) -> None:
        names = [category.name for category in categories]
        super().__init__(pairs, classes=names, palette=palette, transforms=transforms)
        self.categories = tuple(categories)
        self.thing_ids = tuple(k for k, category in enumerate(categories) if category.is_thing)

    @property
    def published_ids(self) -> np.ndarray:
        """(256,) uint8 table from class to the publisher's id; 0 beyond."""
        table = np.zeros(256, np.uint8)
        table[: self.num_classes] = [category.id for category in self.categories]
        return table

    def image_id(self, index: int) -> str | int:
        """How COCO's panoptic format names an image."""
        raise NotImplementedError

    def read_panoptic(self, index: int) -> tuple[np.ndarray, tuple[Segment, ...]]:
        """(H, W) int32 ids, and what they mean, in classes 0..K-1."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        """The raw sample.

        Raises:
            DataError: if a file is damaged, the sizes differ, or the map does not fit its segments.
        """
        pair = self.pairs[index]
        sample = self.read_image(index)
        sample["meta"]["thing_ids"] = self.thing_ids
        if pair.label is None:
            return sample
        panoptic, segments = self.read_panoptic(index)
        check_same_size(pair.image, sample["image"], pair.label, panoptic)
        return {**sample, "panoptic": panoptic, "segments": segments, "label": classes_of(panoptic, segments)}


def classes_of(panoptic: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """(H, W) uint8 classes of a map of segments, 255 on void."""
    table = np.array([segment.category_id for segment in segments] + [IGNORE], np.uint8)
    return table[segment_places(panoptic, [segment.id for segment in segments])]
