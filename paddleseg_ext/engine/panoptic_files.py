"""What evaluation of a panoptic model writes beside figures: pictures, and predictions for test servers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from paddleseg_ext.data import Sample
from paddleseg_ext.data.datasets import PanopticDataset
from paddleseg_ext.data.image_io import file_errors, read_image, write_png
from paddleseg_ext.data.panoptic_format import category_entries, segments_info, write_ids, write_panoptic_json
from paddleseg_ext.engine import processes
from paddleseg_ext.engine.panoptic import PanopticOutput
from paddleseg_ext.panoptic_pictures import panoptic_comparison, panoptic_overlay


class PanopticWriter:
    """Called with each sample and its prediction; `close` belongs behind the last one.

    `format_dir` gets panoptic/<image>.png and panoptic.json in COCO's format with the publisher's ids, and
    semantic/<image>.png with the published class ids of the semantic branch.

    Args:
        dataset: what is predicted.
        format_dir: folder for predictions; None writes none.
        save_dir: folder for pictures; None draws none.
    """

    def __init__(self, dataset: PanopticDataset, format_dir: str | None, save_dir: str | None) -> None:
        self._dataset = dataset
        self._format_dir = Path(format_dir) if format_dir is not None else None
        self._save_dir = Path(save_dir) if save_dir is not None else None
        self._top = os.path.commonpath([os.path.dirname(pair.image) for pair in dataset.pairs])
        self._annotations: dict[int, dict[str, Any]] = {}

    def __call__(self, sample: Sample, output: PanopticOutput) -> None:
        """Writes what belongs to one image."""
        name = Path(os.path.relpath(sample["meta"]["image_path"], self._top)).with_suffix(".png")
        if self._format_dir is not None:
            self._format(sample["meta"]["index"], name.name, output)
        if self._save_dir is not None:
            path = self._save_dir / name
            with file_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_png(path, self._picture(sample, output))

    def close(self) -> None:
        """Writes the JSON file; all processes take part."""
        if self._format_dir is None:
            return
        annotations = {index: entry for part in processes.gather(self._annotations) for index, entry in part.items()}
        if processes.is_main():
            content = {
                "annotations": [annotations[index] for index in sorted(annotations)],
                "categories": category_entries(self._dataset.categories, self._dataset.palette),
            }
            write_panoptic_json(self._format_dir / "panoptic.json", content)

    def _format(self, index: int, name: str, output: PanopticOutput) -> None:
        dataset = self._dataset
        segments = [s._replace(category_id=dataset.categories[s.category_id].id) for s in output.segments]
        with file_errors(self._format_dir):
            for folder in ("panoptic", "semantic"):
                (self._format_dir / folder).mkdir(parents=True, exist_ok=True)
            write_ids(self._format_dir / "panoptic" / name, output.ids)
            write_png(self._format_dir / "semantic" / name, dataset.published_ids[output.label])
        entries = segments_info(output.ids, segments)
        scored = [
            {**entry, "score": float(segment.score)} if dataset.categories[k].is_thing else entry
            for entry, segment, k in zip(entries, segments, [s.category_id for s in output.segments])
        ]
        self._annotations[index] = {
            "image_id": dataset.image_id(index),
            "file_name": name,
            "segments_info": scored,
        }

    def _picture(self, sample: Sample, output: PanopticOutput) -> Any:
        dataset, image = self._dataset, read_image(sample["meta"]["image_path"])
        pred = (output.ids, output.segments)
        if "panoptic" not in sample:
            return panoptic_overlay(image, *pred, dataset.palette, dataset.thing_ids)
        return panoptic_comparison(
            image,
            pred,
            (sample["panoptic"], sample["segments"]),
            classes=dataset.classes,
            colors=dataset.palette,
            thing_ids=dataset.thing_ids,
        )
