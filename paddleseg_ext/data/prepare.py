"""From the archives of Cityscapes to what training reads: files in place, training ids, lists, a count of it all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paddleseg_ext.data import image_io
from paddleseg_ext.data.archive import extract_zip
from paddleseg_ext.data.classes import cityscapes_train_ids
from paddleseg_ext.data.datasets.cityscapes import (
    IMAGE_SUFFIX,
    LABEL_ID_SUFFIX,
    PUBLISHED_COUNTS,
    TRAIN_ID_SUFFIX,
    find_stems,
)
from paddleseg_ext.data.workers import ordered_map
from paddleseg_ext.errors import ConfigError, DataError

Progress = Callable[[str, int, int], None]
_WANTED = re.compile(r"(?:leftImg8bit|gtFine)/(?:train|val|test)/[\w.-]+/[\w.-]+\.(?:png|json)")


@dataclass
class PrepareReport:
    """What was done and what is there now.

    Attributes:
        placed: files extracted or copied.
        kept: files that were in place already.
        converted: training-id maps written.
        images: split -> images found.
        labels: split -> images that have training ids.
        lists: list files written.
        problems: what is missing; empty when training can start.
    """

    placed: int = 0
    kept: int = 0
    converted: int = 0
    images: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.problems


def prepare_cityscapes(
    root: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]] = (),
    *,
    separator: str = ",",
    num_workers: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> PrepareReport:
    """Makes a Cityscapes folder ready for training. Running it again continues where it stopped.

    Args:
        root: folder that will hold leftImg8bit and gtFine.
        sources: archives, folders with archives, or folders that hold leftImg8bit or gtFine; none if the files are
            already below the root.
        separator: between image and label in train.txt, val.txt and test.txt.
        num_workers: processes that convert labels; 0 converts here.
        force: whether to make training ids again where there are some.
        progress: called with a step's name, the number of files done, and of all.

    Raises:
        DataError: if an archive is damaged or hostile, a source is no such thing, or a label holds an unknown id.
    """
    root, report = Path(root), PrepareReport()
    with image_io.file_errors(root):
        for source in _found_sources(sources):
            placed, kept = _place(source, root, _step(progress, f"from {source.name}"))
            report.placed, report.kept = report.placed + placed, report.kept + kept
    if not (root / "leftImg8bit").is_dir() and not (root / "gtFine").is_dir():
        raise DataError(
            f"{root}: neither leftImg8bit nor gtFine; expected archives or folders that hold them; "
            "give leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
        )
    with image_io.file_errors(root):
        step = _step(progress, "training ids")
        report.converted = convert_labels(root, num_workers=num_workers, force=force, progress=step)
        report.lists = write_lists(root, separator=separator)
    _count(root, report)
    return report


def report_lines(report: PrepareReport, root: str | os.PathLike[str]) -> list[str]:
    """A report as text."""
    lines = [f"{root}: {report.placed} files placed, {report.kept} kept, {report.converted} training-id maps written"]
    for split, published in PUBLISHED_COUNTS.items():
        remark = "" if report.images[split] == published else f" (the published set has {published})"
        lines.append(f"  {split:5} {report.images[split]:5} images, {report.labels[split]:5} with training ids{remark}")
    return lines + [f"  list  {path}" for path in report.lists]


def convert_labels(
    root: str | os.PathLike[str],
    *,
    num_workers: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes *_labelTrainIds.png beside each *_labelIds.png of train and val; returns how many.

    Args:
        root: folder that holds gtFine.
        num_workers: processes; 0 converts here.
        force: whether to replace existing ones.
        progress: called with the number of files done, and of all.

    Raises:
        DataError: if a label holds an id that Cityscapes does not have; names the file.
    """
    todo = []
    for split in ("train", "val"):
        for path in find_stems(Path(root) / "gtFine" / split, LABEL_ID_SUFFIX).values():
            target = path.with_name(path.name[: -len(LABEL_ID_SUFFIX)] + TRAIN_ID_SUFFIX)
            if force or not target.exists():
                todo.append((str(path), str(target)))
    for done, _ in enumerate(ordered_map(_convert_label, todo, num_workers=num_workers), 1):
        if progress:
            progress(done, len(todo))
    return len(todo)


def train_ids_of(label_ids: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """(H, W) uint8 training ids of (H, W) uint8 label ids.

    Raises:
        DataError: for ids outside 0..33; names `path`.
    """
    mapped = cityscapes_train_ids()[label_ids]
    if (mapped < 0).any():
        unknown = np.unique(label_ids[mapped < 0]).tolist()
        raise DataError(
            f"{path}: has label ids {unknown} in {int((mapped < 0).sum())} pixels; expected 0..33; "
            "is it a map of training ids or of something else?"
        )
    return mapped.astype(np.uint8)


def write_lists(root: str | os.PathLike[str], *, separator: str = ",") -> list[str]:
    """Writes train.txt, val.txt and test.txt into the root; returns their paths.

    A line is `leftImg8bit/...png<separator>gtFine/...labelTrainIds.png`; test lines have no label. Images without a
    label are left out of train.txt and val.txt.

    Args:
        root: folder that holds leftImg8bit and gtFine.
        separator: between the two paths.

    Raises:
        ConfigError: if the separator is empty or occurs in a path.
    """
    root, written = Path(root), []
    for split in PUBLISHED_COUNTS:
        images = find_stems(root / "leftImg8bit" / split, IMAGE_SUFFIX)
        labels = find_stems(root / "gtFine" / split, TRAIN_ID_SUFFIX)
        if not images:
            continue
        lines = []
        for stem, image in images.items():
            fields = [image.relative_to(root).as_posix()]
            if split != "test" and stem in labels:
                fields.append(labels[stem].relative_to(root).as_posix())
            if not separator or any(separator in name for name in fields):
                raise ConfigError(f"separator {separator!r}: is empty or occurs in {fields[0]}; choose another")
            if split == "test" or len(fields) == 2:
                lines.append(separator.join(fields) + "\n")
        path = root / f"{split}.txt"
        with image_io.replacing(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        written.append(str(path))
    return written


def _convert_label(_state: None, job: tuple[str, str]) -> None:
    source, target = job
    image_io.write_png(target, train_ids_of(image_io.read_label(source), source))


def _found_sources(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Archives, and folders that hold leftImg8bit or gtFine."""
    found = []
    for source in map(Path, sources):
        if source.is_dir():
            has_files = (source / "leftImg8bit").is_dir() or (source / "gtFine").is_dir()
            inside = [source] if has_files else sorted(source.glob("*.zip"))
            if not inside:
                raise DataError(f"{source}: holds no *.zip, leftImg8bit or gtFine; expected one of them")
            found += inside
        elif source.is_file():
            found.append(source)
        else:
            raise DataError(f"{source}: there is no such file or folder; expected an archive or a folder")
    return found


def _place(source: Path, root: Path, progress: Callable[[int, int], None] | None) -> tuple[int, int]:
    """Brings the files of an archive or folder below the root; returns how many, and how many were there."""
    if source.is_dir():
        return _place_folder(source, root, progress)
    return extract_zip(source, root, wanted=_WANTED, progress=progress)


def _place_folder(source: Path, root: Path, progress: Callable[[int, int], None] | None) -> tuple[int, int]:
    """Brings a folder's files below the root: hard links if it is the same disk, copies if not."""
    if source.resolve() == root.resolve():
        return 0, 0
    files = [p for p in sorted(source.glob("*/*/*/*")) if _WANTED.fullmatch(p.relative_to(source).as_posix())]
    placed = kept = 0
    for path in files:
        target = root / path.relative_to(source)
        if target.is_file() and target.stat().st_size == path.stat().st_size:
            kept += 1
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with image_io.replacing(target) as temporary:
                try:
                    os.link(path, temporary)
                except OSError:
                    shutil.copyfile(path, temporary)
            placed += 1
        if progress:
            progress(placed + kept, len(files))
    return placed, kept


def _count(root: Path, report: PrepareReport) -> None:
    for split, published in PUBLISHED_COUNTS.items():
        images = find_stems(root / "leftImg8bit" / split, IMAGE_SUFFIX)
        labels = find_stems(root / "gtFine" / split, TRAIN_ID_SUFFIX)
        report.images[split] = len(images)
        report.labels[split] = sum(stem in labels for stem in images)
        if split == "test":
            continue
        without = [stem for stem in images if stem not in labels]
        alone = [stem for stem in labels if stem not in images]
        if not images:
            report.problems.append(f"{split}: no images; expected {published}; give leftImg8bit_trainvaltest.zip")
        elif without:
            report.problems.append(
                f"{split}: {len(without)} of {len(images)} images have no label ({without[0]} ...); "
                "give gtFine_trainvaltest.zip"
            )
        if images and alone:
            report.problems.append(f"{split}: {len(alone)} labels have no image ({alone[0]} ...)")


def _step(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress(name, done, total)) if progress else None
