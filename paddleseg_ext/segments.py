"""Segments and classes of panoptic maps, as data sets, targets, post-processing and metrics name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

VOID = 0
_TABLE_LIMIT = 2**17  # ids below are looked up in a table, larger ones are sorted


class Category(NamedTuple):
    """A class of a panoptic data set.

    Attributes:
        id: as the segments name it.
        name: for tables.
        is_thing: whether its objects are told apart.
    """

    id: int
    name: str
    is_thing: bool


class Segment(NamedTuple):
    """A region of a map: an object, or all that there is of a stuff class.

    Attributes:
        id: value of its pixels in the map, more than 0.
        category_id: its class.
        score: confidence of a predicted object, any finite number.
        is_crowd: whether it is a group whose objects are not told apart; ground truth only.
        area: pixels, if a file says so (COCO's `area`, which the official evaluators trust); None counts them.
    """

    id: int
    category_id: int
    score: float = 1.0
    is_crowd: bool = False
    area: int | None = None

    @classmethod
    def from_coco(cls, entry: Mapping[str, Any]) -> Segment:
        """From an entry of `segments_info` in COCO's panoptic format."""
        return cls(
            id=entry["id"],
            category_id=entry["category_id"],
            score=entry.get("score", 1.0),
            is_crowd=bool(entry.get("iscrowd", 0)),
            area=entry.get("area"),
        )


def segment_places(panoptic: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """The place of each pixel's id in a list.

    Args:
        panoptic: (H, W) integers, 0 or more.
        ids: S different ones.

    Returns:
        (H, W) int32 in 0..S; S for what is not in the list.
    """
    count = len(ids)
    if max(panoptic.max(), *ids, 0) < _TABLE_LIMIT:
        table = np.full(_TABLE_LIMIT, count, np.int32)
        table[list(ids)] = np.arange(count)
        return table[panoptic]
    order = np.argsort(np.asarray(ids, np.int64))
    known = np.append(np.asarray(ids, np.int64)[order], -1)  # -1 is found for what is larger than all
    starts, lengths = row_runs(panoptic)
    values = panoptic.ravel()[starts]
    found = np.searchsorted(known[:-1], values)
    places = np.where(known[found] == values, np.append(order, count)[found], count).astype(np.int32)
    return np.repeat(places, lengths).reshape(panoptic.shape)


def row_runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First pixels (flat) and lengths of the runs of equal values in an (H, W) map; a run ends with its row.

    Maps of segments have a hundred times fewer runs than pixels.
    """
    begins = np.ones(values.shape, bool)
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    starts = np.flatnonzero(begins)
    return starts, np.diff(starts, append=values.size)
