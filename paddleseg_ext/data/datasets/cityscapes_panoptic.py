"""Cityscapes with its objects told apart: things and stuff from the published maps of instance ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddleseg_ext.data import image_io
from paddleseg_ext.data.classes import CITYSCAPES_LABELS, CITYSCAPES_PALETTE, IGNORE
from paddleseg_ext.data.datasets.base import check_mode, find_root
from paddleseg_ext.data.datasets.cityscapes import (
    IMAGE_SUFFIX,
    INSTANCE_SUFFIX,
    NAMES,
    PUBLISHED_COUNTS,
    how_to_get,
    pair_up,
)
from paddleseg_ext.data.datasets.panoptic import PanopticDataset
from paddleseg_ext.data.panoptic_format import ids_and_areas
from paddleseg_ext.data.transforms.base import Transform
from paddleseg_ext.errors import DataError
from paddleseg_ext.registry import DATASETS
from paddleseg_ext.segments import Category, Segment

CATEGORIES = tuple(
    Category(label.id, label.name, label.has_instances) for label in CITYSCAPES_LABELS if label.train_id != IGNORE
)
_IDS_PER_CLASS = 1000


@DATASETS.register
class CityscapesPanoptic(PanopticDataset):
    """Cityscapes' fine annotations, 8 things and 11 stuff, for panoptic segmentation.

    It reads `*_gtFine_instanceIds.png`, which say everything that the official panoptic files say: no file has to be
    prepared. `panoptic` holds the instance ids as published: a label's id, or id * 1000 + k for the k-th object of a
    thing; the id of a thing alone is a group, a crowd. `segments` leaves out the labels that are not evaluated.

    Args:
        dataset_root: folder that holds leftImg8bit and gtFine. If it does not exist: its other spelling
            (cityscape, cityscapes), then $DETECTRON2_DATASETS/cityscapes.
        mode: train, val, or test, which has no labels.
        transforms: the pipeline that loaders apply.
    """

    def __init__(
        self,
        dataset_root: str | None = "data/cityscapes",
        mode: str = "train",
        transforms: Sequence[Transform] = (),
    ) -> None:
        mode = check_mode(mode, tuple(PUBLISHED_COUNTS), "CityscapesPanoptic")
        root = find_root(dataset_root, NAMES, how_to_get(dataset_root or "data/cityscapes"))
        super().__init__(
            pair_up(root, mode, label_suffix=INSTANCE_SUFFIX),
            categories=CATEGORIES,
            palette=CITYSCAPES_PALETTE,
            transforms=transforms,
        )
        self.notice_root(dataset_root, root)
        self.notice_count(root, mode, PUBLISHED_COUNTS[mode])

    def image_id(self, index: int) -> str:
        """`<city>_<sequence>_<frame>`, as the official panoptic files have it."""
        return image_id_of(self.pairs[index].image)

    def read_panoptic(self, index: int) -> tuple[np.ndarray, tuple[Segment, ...]]:
        """(H, W) int32 instance ids, and the segments in training ids."""
        path = self.pairs[index].label
        ids = image_io.read_instances(path)
        return ids, tuple(segments_of(*ids_and_areas(ids), path))


def image_id_of(path: str | Path) -> str:
    """What createPanopticImgs calls an image: `<city>_<sequence>_<frame>`."""
    name = Path(path).name
    return name[: -len(IMAGE_SUFFIX)] if name.endswith(IMAGE_SUFFIX) else Path(name).stem


def segments_of(ids: np.ndarray, areas: np.ndarray, path: str | Path, *, train_ids: bool = True) -> list[Segment]:
    """The segments of an image, by the rules of cityscapesScripts' createPanopticImgs.

    Args:
        ids: instance ids that occur, ascending.
        areas: their pixels.
        path: of the map, for messages.
        train_ids: whether categories are training ids; otherwise label ids.

    Raises:
        DataError: for ids that Cityscapes does not have.
    """
    segments, unknown = [], []
    for ident, area in zip(ids.tolist(), areas.tolist()):
        number = ident if ident < _IDS_PER_CLASS else ident // _IDS_PER_CLASS
        if not 0 <= number < len(CITYSCAPES_LABELS):
            unknown.append(ident)
            continue
        label = CITYSCAPES_LABELS[number]
        if label.train_id != IGNORE:
            is_crowd = ident < _IDS_PER_CLASS and label.has_instances
            category = label.train_id if train_ids else label.id
            segments.append(Segment(ident, category, is_crowd=is_crowd, area=area))
    if unknown:
        raise DataError(
            f"{path}: has the instance ids {unknown[:5]}; expected 0..33, or 1000 times such a label id and a number; "
            "is it a map of instance ids?"
        )
    return segments
