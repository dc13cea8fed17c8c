"""Checks of what panoptic and instance metrics are told about the ids of a map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from paddleseg_ext.errors import DataError
from paddleseg_ext.segments import VOID, Category, Segment

__all__ = ["VOID", "Category", "Segment", "check_predicted", "check_segments"]


def check_segments(segments: Sequence[Segment], known: Iterable[int], where: str) -> None:
    """Checks that each segment has an id of its own and a known class.

    Args:
        segments: of one map.
        known: ids of the classes.
        where: image and map, for messages.

    Raises:
        DataError: if not.
    """
    ids = [segment.id for segment in segments]
    twice = sorted({ident for ident in ids if ids.count(ident) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise DataError(f"{where}: the segments {twice[:5]} are listed twice; expected one entry each")
    if VOID in ids:
        raise DataError(f"{where}: a segment has the id {VOID}, which is void; expected ids above {VOID}")
    unknown = {segment.category_id for segment in segments}.difference(known)
    if unknown:
        raise DataError(
            f"{where}: the segments have unknown categories {sorted(unknown)[:5]}; expected those of the data set; "
            "are they train ids?"
        )


def check_predicted(segments: Sequence[Segment], ids: np.ndarray, where: str) -> None:
    """Checks that a predicted map and its list of segments hold the same ids.

    Args:
        segments: of the map.
        ids: that occur in the map.
        where: image and map, for messages.

    Raises:
        DataError: if an id, other than void, is in one of them alone.
    """
    listed, drawn = {segment.id for segment in segments}, set(ids.tolist()) - {VOID}
    if drawn - listed:
        raise DataError(
            f"{where}: the map has the ids {sorted(drawn - listed)[:5]}, which no segment lists; expected one entry "
            "for each id"
        )
    if listed - drawn:
        raise DataError(
            f"{where}: the segments {sorted(listed - drawn)[:5]} have no pixels in the map; expected at least one; "
            "leave them out"
        )
