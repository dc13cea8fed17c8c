"""Cityscapes' panoptic files in COCO's format, as cityscapesScripts' createPanopticImgs makes them.

Training and evaluation here read the instance maps and need none of these; other tools do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_ext.data import image_io
from paddleseg_ext.data.classes import CITYSCAPES_PALETTE
from paddleseg_ext.data.datasets.cityscapes import INSTANCE_SUFFIX, find_stems
from paddleseg_ext.data.datasets.cityscapes_panoptic import CATEGORIES, segments_of
from paddleseg_ext.data.panoptic_format import (
    category_entries,
    ids_and_areas,
    segments_info,
    write_ids,
    write_panoptic_json,
)
from paddleseg_ext.data.workers import ordered_map
from paddleseg_ext.segments import VOID


def write_cityscapes_panoptic(
    root: str | os.PathLike[str],
    splits: Sequence[str] = ("train", "val"),
    *,
    train_ids: bool = False,
    num_workers: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[str]:
    """Writes gtFine/cityscapes_panoptic_<split>.json and the folder of PNGs beside it; returns the JSON paths.

    Args:
        root: folder that holds gtFine.
        splits: those wanted; one without instance maps is left out.
        train_ids: whether categories are training ids (`_trainId` in the names), as detectron2 wants them.
        num_workers: processes; 0 writes here.
        progress: called with the split, the number of maps done, and of all.

    Raises:
        DataError: if a map is damaged or holds unknown ids.
    """
    written = []
    for split in splits:
        maps = find_stems(Path(root) / "gtFine" / split, INSTANCE_SUFFIX)
        if not maps:
            continue
        name = f"cityscapes_panoptic_{split}{'_trainId' if train_ids else ''}"
        folder = Path(root) / "gtFine" / name
        with image_io.file_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        jobs = [str(path) for path in sorted(maps.values())]
        for path, (size, entries) in zip(
            jobs, ordered_map(_convert, jobs, state=(folder, train_ids), num_workers=num_workers)
        ):
            stem = Path(path).name[: -len(INSTANCE_SUFFIX)]
            images.append(
                {"id": stem, "width": size[1], "height": size[0], "file_name": f"{stem}_gtFine_leftImg8bit.png"}
            )
            file_name = f"{stem}_gtFine_panoptic.png"
            annotations.append({"image_id": stem, "file_name": file_name, "segments_info": entries})
            if progress:
                progress(f"panoptic {split}", len(images), len(jobs))
        categories = _categories(train_ids)
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_panoptic_json(folder.with_suffix(".json"), content)
        written.append(str(folder.with_suffix(".json")))
    return written


def _convert(state: tuple[Path, bool], path: str) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """Writes the PNG of one map; its size and entries."""
    folder, train_ids = state
    ids = image_io.read_instances(path)
    segments = segments_of(*ids_and_areas(ids), path, train_ids=train_ids)
    counted = np.zeros(ids.max() + 1, bool)
    counted[[segment.id for segment in segments]] = True
    panoptic = np.where(counted[ids], ids, VOID)
    name = Path(path).name[: -len(INSTANCE_SUFFIX)] + "_gtFine_panoptic.png"
    with image_io.file_errors(folder):
        write_ids(folder / name, panoptic)
    return ids.shape, segments_info(panoptic, segments)


def _categories(train_ids: bool) -> list[dict[str, Any]]:
    entries = category_entries(CATEGORIES, CITYSCAPES_PALETTE)
    return [{**entry, "id": k} for k, entry in enumerate(entries)] if train_ids else entries
