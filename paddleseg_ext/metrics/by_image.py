"""What each image contributes to a metric whose sums depend on the order of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics.runs import PairTable, pair_table
from paddleseg_ext.metrics.segments import Category, Segment

T = TypeVar("T")


class ByImage(Generic[T]):
    """Contributions by the number of the image in the data set, so that several processes add up to the same bits."""

    def __init__(self) -> None:
        self._images: dict[int, T] = {}

    @property
    def num_images(self) -> int:
        """Images counted so far."""
        return len(self._images)

    def state(self) -> dict[str, Any]:
        """All that was counted, to be sent to another process (it can be pickled)."""
        return {"images": dict(self._images)}

    def merge_state(self, state: Mapping[str, Any]) -> None:
        """Adds what another process has counted.

        Raises:
            DataError: if both counted the same image.
        """
        both = sorted(self._images.keys() & state["images"].keys())
        if both:
            raise DataError(f"merge: the images {both[:5]} were counted by two processes; expected each image once")
        self._images.update(state["images"])

    def merge(self, other: ByImage[T]) -> None:
        """Adds what another one has counted."""
        self.merge_state(other.state())

    def _free_index(self, index: int | None, image: str) -> int:
        """The number under which an image will be added; by default one more than the largest so far.

        Raises:
            DataError: if it is taken.
        """
        if index is None:
            return max(self._images, default=-1) + 1
        if index in self._images:
            raise DataError(f"{image}: image {index} was counted before; expected each image once")
        return index

    def _in_order(self) -> list[T]:
        """The contributions in the order of the data set."""
        return [self._images[index] for index in sorted(self._images)]


class SegmentMetric(ByImage[T]):
    """Counts images that are maps of segment ids with a list of segments, on both sides.

    Args:
        categories: classes, in the order in which their figures are averaged.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        super().__init__()
        self.categories = tuple(categories)
        self._places = {category.id: k for k, category in enumerate(self.categories)}

    def update(
        self,
        pred: np.ndarray,
        pred_segments: Sequence[Segment],
        label: np.ndarray,
        label_segments: Sequence[Segment],
        *,
        image: str = "image",
        index: int | None = None,
    ) -> None:
        """Counts an image.

        Args:
            pred: (H, W) segment ids; 0 is void, pixels without a prediction.
            pred_segments: one for each id in `pred`.
            label: (H, W) segment ids; 0 is void, pixels without a label.
            label_segments: ids in `label` that are not listed are neither void nor a segment.
            image: its name, for messages.
            index: its number in the data set, which decides the order of the sums; by default one more than the
                largest so far.

        Raises:
            DataError: if the maps differ in size or do not fit their segments, or the image was counted before.
        """
        self.add(pair_table(label, pred, image), pred_segments, label_segments, image=image, index=index)

    def add(
        self,
        table: PairTable,
        pred_segments: Sequence[Segment],
        label_segments: Sequence[Segment],
        *,
        image: str = "image",
        index: int | None = None,
    ) -> None:
        """Counts an image from its table of pairs of label id and predicted id; otherwise as `update`."""
        raise NotImplementedError
