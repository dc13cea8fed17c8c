"""What each image contributes to a metric whose sums depend on the order of the images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from paddleseg_ext.errors import DataError

T = TypeVar("T")


class ByImage(Generic[T]):
    """Contributions by the number of the image in the data set, so that several processes add up to the same bits."""

    def __init__(self) -> None:
        self._items: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        """In the order of the data set."""
        return (self._items[index] for index in sorted(self._items))

    def free_index(self, index: int | None, image: str) -> int:
        """The number under which an image will be added; by default one more than the largest so far.

        Raises:
            DataError: if it is taken.
        """
        if index is None:
            return max(self._items, default=-1) + 1
        if index in self._items:
            raise DataError(f"{image}: image {index} was counted before; expected each image once")
        return index

    def add(self, index: int, item: T) -> None:
        """Adds an image under a number from `free_index`."""
        self._items[index] = item

    def state(self) -> dict[int, T]:
        """All contributions by number, a copy."""
        return dict(self._items)

    def merge(self, state: dict[int, T]) -> None:
        """Adds contributions that `state` returned elsewhere.

        Raises:
            DataError: if an image is in both.
        """
        both = sorted(self._items.keys() & state.keys())
        if both:
            raise DataError(f"merge: the images {both[:5]} were counted by two processes; expected each image once")
        self._items.update(state)
