"""What every data set is: pairs of files, class names, and the checks of a pair when it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddleseg_ext.data import image_io
from paddleseg_ext.data.check import label_value_error
from paddleseg_ext.data.transforms.base import Compose, Sample, Transform
from paddleseg_ext.errors import ConfigError, DataError

ROOT_VARIABLE = "DETECTRON2_DATASETS"


class Pair(NamedTuple):
    """The files of one sample.

    Attributes:
        image: path of the picture.
        label: path of the class ids; None where there is no ground truth.
        instance: path of the instance ids, if wanted.
    """

    image: str
    label: str | None = None
    instance: str | None = None


class SegmentationDataset:
    """Pictures and their label maps; `dataset[i]` reads a raw sample, without any transform.

    Args:
        pairs: files, in the order of the indices.
        classes: K names, in the order of the ids.
        palette: (K, 3) uint8 RGB.
        transforms: the pipeline that loaders apply; kept, not applied.
        ignore_index: label id without a class.
        hint: what to do about label values that are no classes; ends their error message.

    Attributes:
        num_classes: K.
        classes: names.
        palette: colours.
        ignore_index: 255 unless set otherwise.
        transforms: `Compose` of the pipeline.
        notices: remarks for the start banner, such as "200 images in train; the published set has 2975".
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        *,
        classes: Sequence[str],
        palette: np.ndarray,
        transforms: Sequence[Transform] = (),
        ignore_index: int = 255,
        hint: str = "",
    ) -> None:
        self.pairs = tuple(pairs)
        self.classes = tuple(classes)
        self.palette = palette
        self.ignore_index = ignore_index
        self.transforms = Compose(transforms)
        self.hint = hint
        self.notices: list[str] = []

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """The raw sample: image (H, W, 3) uint8, label (H, W) uint8 if there is one, meta.

        Raises:
            DataError: if a file is damaged, the sizes differ, or the label holds other values than classes and
                `ignore_index`.
        """
        pair = self.pairs[index]
        sample = self.read_image(index)
        if pair.label is not None:
            sample["label"] = self.read_label(index)
            check_same_size(pair.image, sample["image"], pair.label, sample["label"])
            wrong = label_value_error(sample["label"], self.num_classes, self.ignore_index)
            if wrong:
                raise DataError(f"{pair.label}: {wrong}{'; ' + self.hint if self.hint else ''}")
        if pair.instance is not None:
            sample["instance"] = image_io.read_instances(pair.instance)
            check_same_size(pair.image, sample["image"], pair.instance, sample["instance"])
        return sample

    @property
    def published_ids(self) -> np.ndarray:
        """(256,) uint8 table from class to the id that the data set's publisher, and its test server, use."""
        return np.arange(256, dtype=np.uint8)

    def notice_root(self, dataset_root: str | None, root: Path) -> None:
        """Notes that the data come from elsewhere than the configuration says."""
        if dataset_root is not None and Path(dataset_root).expanduser() != root:
            self.notices.append(f"dataset_root {dataset_root} does not exist; using {root}")

    def notice_count(self, root: Path, mode: str, published: int) -> None:
        """Notes that this is not the whole published set."""
        if len(self) != published:
            self.notices.append(f"{root}: {len(self)} images in {mode}; the published set has {published}")

    def read_image(self, index: int) -> Sample:
        """A sample of the picture alone: image and meta."""
        pair = self.pairs[index]
        image = image_io.read_image(pair.image)
        meta = {
            "image_path": pair.image,
            "label_path": pair.label,
            "index": index,
            "original_size": image.shape[:2],
            "restore": [],
        }
        return {"image": image, "meta": meta}

    def read_label(self, index: int) -> np.ndarray:
        """(H, W) uint8 class ids as training uses them; a data set that stores others converts them here."""
        return image_io.read_label(self.pairs[index].label)


def check_same_size(image_path: str, image: np.ndarray, label_path: str, label: np.ndarray) -> None:
    """Raises a DataError unless an image and its label have the same height and width."""
    if image.shape[:2] != label.shape:
        raise DataError(
            f"{label_path}: the label is {label.shape[0]} x {label.shape[1]} (height x width) but its image "
            f"{image_path} is {image.shape[0]} x {image.shape[1]}; expected the same size; "
            "is it the right pair, or was one of them resized or rotated?"
        )


def check_mode(mode: str, allowed: Sequence[str], owner: str) -> str:
    """The mode in lower case.

    Raises:
        ConfigError: if the data set has no such part.
    """
    if mode.lower() not in allowed:
        raise ConfigError(f"{owner}: mode is {mode!r}; expected one of {', '.join(allowed)}")
    return mode.lower()


def find_root(dataset_root: str | None, names: Sequence[str], how_to_get: str) -> Path:
    """The folder of a data set.

    Looked for as written. If that is one of the usual names, or None, then also under the other names and below the
    folder in the environment variable DETECTRON2_DATASETS.

    Args:
        dataset_root: from the configuration; None leaves it to the environment variable.
        names: names that the folder goes by, the usual one first.
        how_to_get: what to run or where to download, ends the error message.

    Raises:
        DataError: if there is none; lists where it was looked for.
    """
    written = Path(dataset_root).expanduser() if dataset_root is not None else None
    candidates = [written] if written else []
    if written and written.name in names:
        candidates += [written.with_name(name) for name in names]
    if os.environ.get(ROOT_VARIABLE) and (written is None or written.name in names):
        candidates += [Path(os.environ[ROOT_VARIABLE]) / name for name in names]
    tried = list(dict.fromkeys(candidates))
    for candidate in tried:
        if candidate.is_dir():
            return candidate
    looked = ", ".join(map(str, tried)) or f"nowhere, since neither dataset_root nor {ROOT_VARIABLE} is set"
    raise DataError(f"dataset_root {dataset_root}: no such folder (looked for {looked}); {how_to_get}")


def describe_folder(folder: Path, limit: int = 8) -> str:
    """What is in a folder, for an error message."""
    if not folder.is_dir():
        return f"{folder} does not exist"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    shown = ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
    return f"{folder} holds {shown}" if names else f"{folder} is empty"


def name_some(names: Sequence[str], limit: int = 5) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
