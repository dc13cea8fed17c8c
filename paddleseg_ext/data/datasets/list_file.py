"""Any data set, given by list files as PaddleSeg writes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from paddleseg_ext.data.classes import voc_palette
from paddleseg_ext.data.datasets.base import Pair, SegmentationDataset, check_mode
from paddleseg_ext.data.transforms.base import Transform
from paddleseg_ext.errors import ConfigError, DataError
from paddleseg_ext.registry import DATASETS


@DATASETS.register
class Dataset(SegmentationDataset):
    """Pairs from a text file: one line `image<separator>label` per sample, paths relative to `dataset_root`.

    Args:
        dataset_root: folder that the paths start from; they may not leave it.
        num_classes: K.
        mode: train, val or test; selects the list. Only test lines may lack the label.
        train_path: list file of the training set.
        val_path: list file of the validation set.
        test_path: list file of the test set.
        separator: between the two paths.
        ignore_index: label id without a class.
        transforms: the pipeline that loaders apply.
        classes: K names; numbers if not given.
    """

    def __init__(  # PaddleSeg's arguments
        self,
        dataset_root: str,
        num_classes: int,
        mode: str = "train",
        train_path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        separator: str = " ",
        ignore_index: int = 255,
        transforms: Sequence[Transform] = (),
        classes: Sequence[str] | None = None,
    ) -> None:
        mode = check_mode(mode, ("train", "val", "test"), "Dataset")
        if not 1 <= num_classes <= 255:
            raise ConfigError(f"Dataset: num_classes is {num_classes}; expected 1..255")
        if classes is not None and len(classes) != num_classes:
            raise ConfigError(f"Dataset: {len(classes)} classes named but num_classes is {num_classes}")
        list_path = {"train": train_path, "val": val_path, "test": test_path}[mode]
        if list_path is None:
            raise ConfigError(f"Dataset: mode is {mode!r} but {mode}_path is not set; expected the path of a list file")
        if not Path(dataset_root).is_dir():
            raise DataError(f"dataset_root {dataset_root}: no such folder; expected the folder that lists start from")
        super().__init__(
            read_list(list_path, dataset_root, separator=separator, needs_label=mode != "test"),
            classes=classes or [str(number) for number in range(num_classes)],
            palette=voc_palette(num_classes),
            transforms=transforms,
            ignore_index=ignore_index,
            hint=f"check num_classes ({num_classes}) and ignore_index ({ignore_index}), or correct the label",
        )


def read_list(
    list_path: str | os.PathLike[str],
    dataset_root: str | os.PathLike[str],
    *,
    separator: str = " ",
    needs_label: bool = True,
) -> list[Pair]:
    """Pairs of a list file. A byte-order mark, Windows line ends and empty lines are fine.

    Args:
        list_path: UTF-8 text.
        dataset_root: folder that the paths are relative to.
        separator: between image and label.
        needs_label: whether a line without a label is an error.

    Raises:
        DataError: with the line's number, if a line is malformed, a file is missing or outside the root.
    """
    if not separator:
        raise ConfigError("Dataset: separator is empty; expected for example ' ' or ','")
    try:
        lines = Path(list_path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise DataError(f"{list_path}: cannot be read ({e.strerror}); expected a list file") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{list_path}: is not UTF-8 text ({e.reason} at byte {e.start}); save it as UTF-8") from e
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{list_path}:{number}"
            fields = _split(line, separator, where, needs_label)
            pairs.append(Pair(*(_inside(field, Path(dataset_root), where) for field in fields)))
    if not pairs:
        raise DataError(f"{list_path}: the list is empty; expected lines 'image{separator}label'")
    return pairs


def _split(line: str, separator: str, where: str, needs_label: bool) -> list[str]:
    fields = [field.strip() for field in line.strip().split(separator)]
    if len(fields) == 2 and all(fields):
        return fields
    if len(fields) == 1 and not needs_label:
        return fields
    other = next((mark for mark in (",", ";", "\t", " ") if mark != separator and line.strip().count(mark) == 1), None)
    hint = f"is the separator {other!r}?" if other else "set separator to a character that no path contains"
    raise DataError(
        f"{where}: {len(fields)} fields in {line.strip()!r}; expected 'image{separator}label' "
        f"with separator {separator!r}; {hint}"
    )


def _inside(field: str, root: Path, where: str) -> str:
    if PurePosixPath(field).is_absolute() or PureWindowsPath(field).is_absolute() or PureWindowsPath(field).drive:
        raise DataError(f"{where}: {field!r} is an absolute path; expected one relative to {root}")
    if ".." in PureWindowsPath(field).parts or ".." in PurePosixPath(field).parts:
        raise DataError(f"{where}: {field!r} leaves {root}; expected a path below it, without '..'")
    path = root / field
    if not path.is_file():
        raise DataError(f"{where}: {path} does not exist; expected a file; correct the line or dataset_root ({root})")
    return str(path)
