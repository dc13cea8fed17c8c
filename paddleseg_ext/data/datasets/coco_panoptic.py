"""COCO's panoptic task: 80 things and 53 stuff, 2017 split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddleseg_ext.data.coco_classes import COCO_CATEGORIES, COCO_PALETTE
from paddleseg_ext.data.datasets.base import Pair, check_mode, describe_folder, find_root
from paddleseg_ext.data.datasets.panoptic import PanopticDataset
from paddleseg_ext.data.panoptic_format import check_ids, read_ids
from paddleseg_ext.data.transforms.base import Transform
from paddleseg_ext.errors import DataError
from paddleseg_ext.registry import DATASETS
from paddleseg_ext.segments import Segment

NAMES = ("coco",)
PUBLISHED_COUNTS = {"train": 118287, "val": 5000}
INDEX_VERSION = 1


class PanopticIndex(NamedTuple):
    """What COCO's JSON says, as arrays: a hundredth of its size, and read in a moment.

    N images, S segments in all; those of image i are starts[i] ... starts[i + 1].

    Attributes:
        image_ids: (N,) int64, as published.
        images: (N,) paths of the pictures below the root.
        maps: (N,) paths of the panoptic PNGs.
        starts: (N + 1,) int64.
        ids: (S,) int32 segment ids.
        classes: (S,) uint8 classes 0..132.
        crowds: (S,) bool.
        areas: (S,) int32 pixels, as the JSON says.
    """

    image_ids: np.ndarray
    images: np.ndarray
    maps: np.ndarray
    starts: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    crowds: np.ndarray
    areas: np.ndarray

    def segments(self, index: int) -> tuple[Segment, ...]:
        """The segments of an image."""
        part = slice(self.starts[index], self.starts[index + 1])
        rows = zip(*(array[part].tolist() for array in (self.ids, self.classes, self.crowds, self.areas)))
        return tuple(Segment(ident, k, is_crowd=crowd, area=area) for ident, k, crowd, area in rows)


def index_path(root: Path, mode: str) -> Path:
    """Where `prepare_coco_panoptic.py` writes the index of a split."""
    return root / f"panoptic_{mode}2017.npz"


@DATASETS.register
class COCOPanoptic(PanopticDataset):
    """COCO 2017 for panoptic segmentation, prepared by tools/data/prepare_coco_panoptic.py.

    Args:
        dataset_root: folder with the pictures and annotations. If it does not exist: $DETECTRON2_DATASETS/coco.
        mode: train or val.
        transforms: the pipeline that loaders apply.
    """

    def __init__(
        self,
        dataset_root: str | None = "data/coco",
        mode: str = "train",
        transforms: Sequence[Transform] = (),
    ) -> None:
        mode = check_mode(mode, tuple(PUBLISHED_COUNTS), "COCOPanoptic")
        root = find_root(dataset_root, NAMES, _how_to_get(dataset_root or "data/coco"))
        self._index = read_index(root, mode)
        pairs = [Pair(str(root / image), str(root / ids)) for image, ids in zip(self._index.images, self._index.maps)]
        super().__init__(pairs, categories=COCO_CATEGORIES, palette=COCO_PALETTE, transforms=transforms)
        self.notice_root(dataset_root, root)
        self.notice_count(root, mode, PUBLISHED_COUNTS[mode])

    def image_id(self, index: int) -> int:
        """As published."""
        return int(self._index.image_ids[index])

    def read_panoptic(self, index: int) -> tuple[np.ndarray, tuple[Segment, ...]]:
        """(H, W) int32 ids of the PNG, and the segments that the JSON lists.

        Raises:
            DataError: if an id is in one of them alone.
        """
        ids, segments = read_ids(self.pairs[index].label).astype(np.int32), self._index.segments(index)
        check_ids(ids, segments, self.pairs[index].label)
        return ids, segments


def read_index(root: Path, mode: str) -> PanopticIndex:
    """The index of a split.

    Raises:
        DataError: if it has not been prepared, or is damaged.
    """
    path = index_path(root, mode)
    if not path.is_file():
        raise DataError(f"{path}: no such file; {describe_folder(root)}; {_how_to_get(root)}")
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in (*PanopticIndex._fields, "version")}
    except (OSError, ValueError, KeyError) as e:
        raise DataError(f"{path}: damaged ({type(e).__name__}: {e}); {_how_to_get(root)}") from e
    if int(arrays.pop("version")) != INDEX_VERSION:
        raise DataError(f"{path}: written by another version; {_how_to_get(root)}")
    return PanopticIndex(**arrays)


def _how_to_get(root: str | Path) -> str:
    return (
        "extract train2017.zip, val2017.zip and panoptic_annotations_trainval2017.zip with the two archives in it from "
        f"https://cocodataset.org there and run: python tools/data/prepare_coco_panoptic.py --root {root}"
    )
