"""ADE20K as the MIT scene-parsing benchmark publishes it (ADEChallengeData2016)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_ext.data import image_io
from paddleseg_ext.data.classes import ADE20K_CLASSES, ADE20K_PALETTE, IGNORE
from paddleseg_ext.data.datasets.base import (
    Pair,
    SegmentationDataset,
    check_mode,
    describe_folder,
    find_root,
    name_some,
)
from paddleseg_ext.data.transforms.base import Transform
from paddleseg_ext.errors import DataError
from paddleseg_ext.registry import DATASETS

NAMES = ("ADEChallengeData2016", "ade20k")
PUBLISHED_COUNTS = {"train": 20210, "val": 2000}
_FOLDERS = {"train": "training", "val": "validation"}
_DOWNLOAD = "download http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip and extract it there"


@DATASETS.register
class ADE20K(SegmentationDataset):
    """ADE20K with 150 classes: images/{training,validation}/*.jpg, annotations/{training,validation}/*.png.

    The files store 0 for "other" and 1..150 for the classes; samples hold 255 and 0..149.

    Args:
        dataset_root: folder that holds images and annotations. If it does not exist:
            $DETECTRON2_DATASETS/ADEChallengeData2016.
        mode: train or val.
        transforms: the pipeline that loaders apply.
    """

    def __init__(
        self,
        dataset_root: str | None = "data/ADEChallengeData2016",
        mode: str = "train",
        transforms: Sequence[Transform] = (),
    ) -> None:
        mode = check_mode(mode, tuple(_FOLDERS), "ADE20K")
        root = find_root(dataset_root, NAMES, _DOWNLOAD)
        image_dir = root / "images" / _FOLDERS[mode]
        label_dir = root / "annotations" / _FOLDERS[mode]
        images = {path.stem: path for path in sorted(image_dir.glob("*.jpg"))}
        labels = {path.stem: path for path in sorted(label_dir.glob("*.png"))}
        if not images:
            raise DataError(f"{image_dir}: no *.jpg; {describe_folder(root)}; {_DOWNLOAD}")
        without = [stem for stem in images if stem not in labels]
        if without:
            raise DataError(f"{label_dir}: no *.png for {len(without)} images ({name_some(without)}); {_DOWNLOAD}")
        super().__init__(
            [Pair(str(path), str(labels[stem])) for stem, path in images.items()],
            classes=ADE20K_CLASSES,
            palette=ADE20K_PALETTE,
            transforms=transforms,
            hint="expected the benchmark's annotations with values 0..150, not those of the full ADE20K",
        )
        self.notice_root(dataset_root, root)
        self.notice_count(root, mode, PUBLISHED_COUNTS[mode])

    @property
    def published_ids(self) -> np.ndarray:
        """(256,) uint8 table from class to the benchmark's number: one more, since its 0 is "other"."""
        return np.arange(1, 257).astype(np.uint8)

    def read_label(self, index: int) -> np.ndarray:
        """(H, W) uint8: stored value - 1, and 255 for 0.

        Raises:
            DataError: for a stored 255, which would become the 255th class.
        """
        stored = image_io.read_label(self.pairs[index].label)
        if (stored == IGNORE).any():
            raise DataError(f"{self.pairs[index].label}: has the value 255; {self.hint}")
        return stored - np.uint8(1)  # 0 wraps to 255
