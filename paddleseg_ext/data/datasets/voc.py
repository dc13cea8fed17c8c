"""Pascal VOC 2012 as its development kit has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paddleseg_ext.data.classes import VOC_CLASSES, VOC_PALETTE
from paddleseg_ext.data.datasets.base import Pair, SegmentationDataset, check_mode, describe_folder, find_root
from paddleseg_ext.data.transforms.base import Transform
from paddleseg_ext.errors import DataError
from paddleseg_ext.registry import DATASETS

NAMES = ("VOCdevkit", "VOC2012")
PUBLISHED_COUNTS = {"train": 1464, "val": 1449, "trainval": 2913, "trainaug": 10582}
_DOWNLOAD = "download http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar and extract it there"


@DATASETS.register
class PascalVOC(SegmentationDataset):
    """Pascal VOC 2012 with 20 classes and background; the white border of objects is 255.

    Args:
        dataset_root: VOCdevkit, or VOC2012 itself. If it does not exist: $DETECTRON2_DATASETS/VOCdevkit.
        mode: train, val, trainval, or trainaug: train.txt with SegmentationClass and then aug.txt with
            SegmentationClassAug (Hariharan's SBD annotations as palette or grey PNG).
        transforms: the pipeline that loaders apply.
    """

    def __init__(
        self,
        dataset_root: str | None = "data/VOCdevkit",
        mode: str = "train",
        transforms: Sequence[Transform] = (),
    ) -> None:
        mode = check_mode(mode, tuple(PUBLISHED_COUNTS), "PascalVOC")
        found = find_root(dataset_root, NAMES, _DOWNLOAD)
        root = found / "VOC2012" if (found / "VOC2012").is_dir() else found
        if mode == "trainaug":
            pairs = _listed(root, "train", "SegmentationClass") + _listed(root, "aug", "SegmentationClassAug")
        else:
            pairs = _listed(root, mode, "SegmentationClass")
        super().__init__(
            pairs,
            classes=VOC_CLASSES,
            palette=VOC_PALETTE,
            transforms=transforms,
            hint="expected values 0..20 and 255; are these another year's or another set's annotations?",
        )
        self.notice_root(dataset_root, found)
        self.notice_count(root, mode, PUBLISHED_COUNTS[mode])


def _listed(root: Path, name: str, label_folder: str) -> list[Pair]:
    list_path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    if not list_path.is_file():
        missing = "it comes with the augmented annotations" if name == "aug" else _DOWNLOAD
        raise DataError(f"{list_path}: no such file; {describe_folder(root)}; {missing}")
    stems = [line.strip() for line in list_path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not stems:
        raise DataError(f"{list_path}: the list is empty; expected one image name per line; {_DOWNLOAD}")
    pairs = [Pair(str(root / "JPEGImages" / f"{s}.jpg"), str(root / label_folder / f"{s}.png")) for s in stems]
    for number, pair in enumerate(pairs, 1):
        for path in (pair.image, pair.label):
            if not Path(path).is_file():
                raise DataError(f"{list_path}:{number}: {path} does not exist; expected the listed files; {_DOWNLOAD}")
    return pairs
