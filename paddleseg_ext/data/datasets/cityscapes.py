"""Cityscapes in its published layout: leftImg8bit/<split>/<city>/*, gtFine/<split>/<city>/*."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddleseg_ext.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, cityscapes_label_ids
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

NAMES = ("cityscapes", "cityscape")
PUBLISHED_COUNTS = {"train": 2975, "val": 500, "test": 1525}
IMAGE_SUFFIX = "_leftImg8bit.png"
TRAIN_ID_SUFFIX = "_gtFine_labelTrainIds.png"
LABEL_ID_SUFFIX = "_gtFine_labelIds.png"
INSTANCE_SUFFIX = "_gtFine_instanceIds.png"


@DATASETS.register
class Cityscapes(SegmentationDataset):
    """Cityscapes' fine annotations with 19 training ids.

    An image and its label belong together by the stem `<city>_<sequence>_<frame>`, never by their order.

    Args:
        dataset_root: folder that holds leftImg8bit and gtFine. If it does not exist: its other spelling
            (cityscape, cityscapes), then $DETECTRON2_DATASETS/cityscapes.
        mode: train, val, or test, which has no labels.
        transforms: the pipeline that loaders apply.
        instances: whether samples also hold `instance`, (H, W) int32: class id, or class id * 1000 + k for the
            k-th object of a class with instances (label ids, not training ids).
    """

    def __init__(
        self,
        dataset_root: str | None = "data/cityscapes",
        mode: str = "train",
        transforms: Sequence[Transform] = (),
        instances: bool = False,
    ) -> None:
        mode = check_mode(mode, tuple(PUBLISHED_COUNTS), "Cityscapes")
        root = find_root(dataset_root, NAMES, how_to_get(dataset_root or "data/cityscapes"))
        super().__init__(
            pair_up(root, mode, instances=instances and mode != "test"),
            classes=CITYSCAPES_CLASSES,
            palette=CITYSCAPES_PALETTE,
            transforms=transforms,
            hint=(
                "the labels are probably label ids instead of training ids: "
                f"run python tools/data/prepare_cityscapes.py --root {root} --force"
            ),
        )
        self.notice_root(dataset_root, root)
        self.notice_count(root, mode, PUBLISHED_COUNTS[mode])

    @property
    def published_ids(self) -> np.ndarray:
        """(256,) uint8 table from training id to label id."""
        return cityscapes_label_ids()


def pair_up(root: Path, mode: str, *, instances: bool = False, label_suffix: str = TRAIN_ID_SUFFIX) -> list[Pair]:
    """Pairs of a split, sorted by city and stem.

    Args:
        root: folder that holds leftImg8bit and gtFine.
        mode: train, val, or test, whose pairs have no label.
        instances: whether to add the instance maps.
        label_suffix: of the label files.

    Raises:
        DataError: if images or labels are missing; says which, and what to run.
    """
    images = find_stems(root / "leftImg8bit" / mode, IMAGE_SUFFIX)
    if not images:
        raise DataError(
            f"{root}: no image matches leftImg8bit/{mode}/*/*{IMAGE_SUFFIX}; {_what_exists(root, mode)}; "
            + how_to_get(root)
        )
    if mode == "test":
        return [Pair(str(path)) for path in images.values()]
    labels = find_stems(root / "gtFine" / mode, label_suffix)
    _check_complete(root, mode, images, labels, label_suffix)
    maps = find_stems(root / "gtFine" / mode, INSTANCE_SUFFIX) if instances else {}
    if instances:
        _check_complete(root, mode, images, maps, INSTANCE_SUFFIX)
    return [Pair(str(path), str(labels[stem]), str(maps[stem]) if instances else None) for stem, path in images.items()]


def find_stems(folder: Path, suffix: str) -> dict[str, Path]:
    """Files `<folder>/<city>/<stem><suffix>` by "<city>/<stem>", sorted."""
    paths = sorted(folder.glob(f"*/*{suffix}"))
    return {f"{path.parent.name}/{path.name[: -len(suffix)]}": path for path in paths}


def _check_complete(root: Path, mode: str, images: dict[str, Path], labels: dict[str, Path], suffix: str) -> None:
    without = [stem for stem in images if stem not in labels]
    alone = [stem for stem in labels if stem not in images]
    command = f"python tools/data/prepare_cityscapes.py --root {root}"
    if without:
        raw = find_stems(root / "gtFine" / mode, LABEL_ID_SUFFIX)
        convertible = suffix == TRAIN_ID_SUFFIX and all(stem in raw for stem in without)
        remedy = f"the label ids are there, make training ids of them: {command}" if convertible else None
        raise DataError(
            f"{root}/gtFine/{mode}: {len(images)} images but no label */*{suffix} for {len(without)} of them "
            f"({name_some(without)}); {_what_exists(root, mode)}; {remedy or how_to_get(root)}"
        )
    if alone:
        raise DataError(
            f"{root}/leftImg8bit/{mode}: {len(alone)} labels have no image */*{IMAGE_SUFFIX} ({name_some(alone)}); "
            f"expected one for each; extract leftImg8bit_trainvaltest.zip again: {command} ZIP"
        )


def how_to_get(root: str | Path) -> str:
    """What to download or run so that there are data in a folder; ends an error message."""
    demo = f"python tools/data/make_demo.py --root {root}"
    if Path(root).name.startswith("demo"):
        return f"generate it: {demo}"
    return (
        "download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com and "
        f"run: python tools/data/prepare_cityscapes.py ZIP ZIP --root {root}; or generate a small city: {demo}"
    )


def _what_exists(root: Path, mode: str) -> str:
    for folder in (root / "gtFine" / mode, root / "gtFine", root):
        if folder.is_dir():
            if folder.name != mode:
                return describe_folder(folder)
            ids, train_ids = (len(find_stems(folder, s)) for s in (LABEL_ID_SUFFIX, TRAIN_ID_SUFFIX))
            return f"{folder} has {ids} files *{LABEL_ID_SUFFIX} and {train_ids} files *{TRAIN_ID_SUFFIX}"
    return f"{root} does not exist"
