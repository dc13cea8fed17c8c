"""COCO's panoptic annotations made ready for training: checked once, and an index that is read in a moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_ext.data import image_io
from paddleseg_ext.data.coco_classes import COCO_CATEGORIES
from paddleseg_ext.data.datasets.base import describe_folder, name_some
from paddleseg_ext.data.datasets.coco_panoptic import INDEX_VERSION, PUBLISHED_COUNTS, PanopticIndex, index_path
from paddleseg_ext.data.panoptic_format import LARGEST_ID, check_ids, read_ids, read_panoptic_json
from paddleseg_ext.data.workers import ordered_map
from paddleseg_ext.errors import DataError
from paddleseg_ext.segments import Segment

_CLASSES = {category.id: k for k, category in enumerate(COCO_CATEGORIES)}
_DOWNLOAD = "extract {} from https://cocodataset.org there"


def prepare_coco_panoptic(
    root: str | os.PathLike[str],
    modes: Sequence[str] = ("train", "val"),
    *,
    check_pixels: bool = False,
    num_workers: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, int]:
    """Writes the index and the list file of each split; returns the number of images of each.

    Classes 0..132 are the 80 things and 53 stuff in the order of the published ids.

    Args:
        root: folder with `images/train2017` or `train2017`, `annotations/panoptic_train2017.json`, and the PNGs in
            `annotations/panoptic_train2017` or `panoptic_train2017`; likewise for val.
        modes: splits wanted.
        check_pixels: whether to read every PNG and compare its ids with the JSON's (minutes for val, an hour for
            train).
        num_workers: processes for that; 0 reads here.
        progress: called with a split's name, the number of PNGs done, and of all.

    Raises:
        DataError: if a file is missing, or the JSON does not fit COCO or its own images.
    """
    counts = {}
    for mode in modes:
        index = make_index(Path(root), mode)
        if check_pixels:
            jobs = [(str(Path(root) / path), index.segments(i)) for i, path in enumerate(index.maps)]
            for done, _ in enumerate(ordered_map(_check_map, jobs, num_workers=num_workers), 1):
                if progress:
                    progress(mode, done, len(jobs))
        _write(Path(root), mode, index)
        counts[mode] = len(index.images)
    return counts


def make_index(root: Path, mode: str) -> PanopticIndex:
    """The index of a split, checked against the files that there are.

    Raises:
        DataError: as `prepare_coco_panoptic`.
    """
    json_path = root / "annotations" / f"panoptic_{mode}2017.json"
    if not json_path.is_file():
        archive = "panoptic_annotations_trainval2017.zip"
        raise DataError(f"{json_path}: no such file; {describe_folder(root)}; {_DOWNLOAD.format(archive)}")
    content = read_panoptic_json(json_path)
    image_dir = _folder(root, (f"images/{mode}2017", f"{mode}2017"), f"{mode}2017.zip")
    map_dir = _folder(
        root, (f"annotations/panoptic_{mode}2017", f"panoptic_{mode}2017"), f"annotations/panoptic_{mode}2017.zip"
    )
    _check_categories(content.get("categories"), json_path)
    names = {entry["id"]: entry["file_name"] for entry in content.get("images", [])}
    annotations = sorted(content["annotations"], key=lambda entry: entry["image_id"])
    _check_images(annotations, names, json_path)
    _check_files(root / image_dir, [names[entry["image_id"]] for entry in annotations])
    _check_files(root / map_dir, [entry["file_name"] for entry in annotations])
    rows = [_segments(entry, json_path) for entry in annotations]
    flat = np.array([row for part in rows for row in part], np.int64).reshape(-1, 4)
    return PanopticIndex(
        image_ids=np.array([entry["image_id"] for entry in annotations], np.int64),
        images=np.array([f"{image_dir}/{names[entry['image_id']]}" for entry in annotations]),
        maps=np.array([f"{map_dir}/{entry['file_name']}" for entry in annotations]),
        starts=np.cumsum([0, *map(len, rows)]),
        ids=flat[:, 0].astype(np.int32),
        classes=flat[:, 1].astype(np.uint8),
        crowds=flat[:, 2].astype(bool),
        areas=flat[:, 3].astype(np.int32),
    )


def report_lines(root: str | os.PathLike[str], counts: Mapping[str, int]) -> list[str]:
    """What was done, as text."""
    lines = [f"{root}: 80 things and 53 stuff as classes 0..132"]
    for mode, count in counts.items():
        remark = "" if count == PUBLISHED_COUNTS[mode] else f" (the published set has {PUBLISHED_COUNTS[mode]})"
        lines.append(f"  {mode:5} {count:6} images{remark}: {index_path(Path(root), mode)}, {mode}_panoptic.txt")
    return lines


def _folder(root: Path, candidates: Sequence[str], archive: str) -> str:
    for name in candidates:
        if (root / name).is_dir():
            return name
    raise DataError(f"{root}: neither {' nor '.join(candidates)}; {describe_folder(root)}; {_DOWNLOAD.format(archive)}")


def _check_categories(found: Any, path: Path) -> None:
    entries = found if isinstance(found, list) else []
    theirs = {(entry.get("id"), bool(entry.get("isthing"))) for entry in entries}
    ours = {(category.id, category.is_thing) for category in COCO_CATEGORIES}
    if theirs != ours:
        different = sorted(theirs ^ ours, key=str)[:5]
        raise DataError(
            f"{path}: its categories are not COCO's 133 ({len(theirs)} found; different, as (id, thing): {different}); "
            "expected the published panoptic annotations"
        )


def _check_images(annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str], path: Path) -> None:
    seen = [entry["image_id"] for entry in annotations]
    twice = sorted({a for a, b in zip(seen, seen[1:]) if a == b})
    unknown = [number for number in seen if number not in names]
    if twice or unknown:
        what = f"annotated twice: {twice[:5]}" if twice else f"annotated but not listed: {unknown[:5]}"
        raise DataError(f"{path}: images {what}; expected one annotation for each image of the list")


def _check_files(folder: Path, names: Sequence[str]) -> None:
    there = set(os.listdir(folder))
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(names)} files are missing ({name_some(missing)}); expected all that the "
            "JSON names; extract the archive again"
        )


def _segments(annotation: Mapping[str, Any], path: Path) -> list[tuple[int, int, int, int]]:
    """(id, class, whether crowd, area) of each segment."""
    where = f"{path}: image {annotation['image_id']}"
    rows = []
    for entry in annotation["segments_info"]:
        if entry["category_id"] not in _CLASSES:
            raise DataError(f"{where}: unknown category {entry['category_id']}; expected COCO's 133")
        if not 0 < entry["id"] <= LARGEST_ID:
            raise DataError(f"{where}: segment id {entry['id']}; expected 1..{LARGEST_ID}")
        rows.append((entry["id"], _CLASSES[entry["category_id"]], int(bool(entry["iscrowd"])), entry["area"]))
    if len({row[0] for row in rows}) < len(rows):
        raise DataError(f"{where}: a segment id is listed twice; expected each once")
    return rows


def _check_map(_state: None, job: tuple[str, Sequence[Segment]]) -> None:
    check_ids(read_ids(job[0]), job[1], job[0])


def _write(root: Path, mode: str, index: PanopticIndex) -> None:
    with image_io.file_errors(root):
        with image_io.replacing(index_path(root, mode)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, version=np.array(INDEX_VERSION), **index._asdict())
        with image_io.replacing(root / f"{mode}_panoptic.txt") as temporary:
            lines = [f"{image},{ids}\n" for image, ids in zip(index.images, index.maps)]
            temporary.write_text("".join(lines), encoding="utf-8")
