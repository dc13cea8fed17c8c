"""Prediction as a command: pictures in, overlays, palette PNGs and class ids out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_ext import pictures
from paddleseg_ext.data.image_io import file_errors, write_png
from paddleseg_ext.data.panoptic_format import write_ids
from paddleseg_ext.errors import ConfigError, DataError
from paddleseg_ext.panoptic_prediction import PanopticPrediction, save_annotations
from paddleseg_ext.predictor import Prediction, Predictor

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
OVERLAY, PALETTE, IDS = "added_prediction", "pseudo_color_prediction", "class_ids"  # the first two are PaddleSeg's
PANOPTIC = "panoptic"


def find_images(path: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
    """Pictures, each with the relative path under which its results are saved.

    Args:
        path: a picture, a folder (searched with its subfolders), or a text file with a path per line, relative to
            the text file's folder; what follows a path on its line, such as a label, is ignored.

    Raises:
        DataError: if there is nothing.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            raise DataError(f"{path}: no picture in it ({', '.join(SUFFIXES)}); expected at least one")
        return [(file, file.relative_to(path)) for file in found]
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or folder; expected a picture, a folder, or a list of pictures")
    if path.suffix.lower() == ".txt":
        return list(_listed(path))
    return [(path, Path(path.name))]


def predict_files(
    predictor: Predictor,
    images: Sequence[tuple[Path, Path]],
    save_dir: str | os.PathLike[str],
    *,
    custom_color: Sequence[int] | None = None,
    opacity: float = 0.5,
    names: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Predicts pictures and saves the results; the number of pictures.

    Args:
        predictor: from a configuration and weights.
        images: from `find_images`.
        save_dir: gets the folders `added_prediction` (the picture tinted by class), `pseudo_color_prediction` (palette
            PNGs, whose pixels are class ids) and `class_ids` (the same as grey PNGs). A panoptic predictor shows
            objects in the first two, and adds `panoptic` and `panoptic.json`, COCO's format with the ids of the data
            set's publisher.
        custom_color: red, green, blue of class 0, of class 1 ...; the data set's colours for those not given.
        opacity: of the tint, 0..1.
        names: whether the names of objects are written on them.
        say: gets a line per picture.

    Raises:
        ConfigError: if `names` are wanted of a model that does not tell objects apart.
        DataError: if a picture cannot be read or a result not be written.
    """
    if names and predictor.panoptic is None:
        raise ConfigError("--names: the model does not tell objects apart; expected task: panoptic; remove it")
    annotations: list[dict[str, Any]] = []
    for path, name in images:
        prediction = predictor(path)
        if custom_color:
            colors = pictures.with_custom_colors(prediction.palette, custom_color)
            prediction = replace(prediction, palette=colors)
        target = name.with_suffix(".png")
        if isinstance(prediction, PanopticPrediction):
            annotations.append(_save_panoptic(prediction, Path(save_dir), target, opacity, names))
            found = ", ".join(f"{count} {thing}" for thing, count in prediction.counts().items()) or "no objects"
        else:
            _save(prediction, prediction.palette, Path(save_dir), target, opacity)
            found = ", ".join(f"{kind} {share:.1%}" for kind, share in list(prediction.shares().items())[:4])
        say(f"{path}: {found}")
    if annotations:
        save_annotations(Path(save_dir) / f"{PANOPTIC}.json", annotations, prediction)
    return len(images)


def _save_panoptic(
    prediction: PanopticPrediction, save_dir: Path, name: Path, opacity: float, names: bool
) -> dict[str, Any]:
    """Writes pictures and maps; the entry for the JSON file."""
    targets = {folder: save_dir / folder / name for folder in (OVERLAY, PALETTE, IDS, PANOPTIC)}
    with file_errors(save_dir):
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        write_png(targets[OVERLAY], prediction.overlay(opacity, names=names))
        write_png(targets[PALETTE], prediction.colorized())
        write_png(targets[IDS], prediction.label.astype(np.uint8))
        write_ids(targets[PANOPTIC], prediction.ids)
    return prediction.annotation(name.stem, name.as_posix())


def _save(prediction: Prediction, colors: np.ndarray, save_dir: Path, name: Path, opacity: float) -> None:
    targets = {folder: save_dir / folder / name for folder in (OVERLAY, PALETTE, IDS)}
    with file_errors(save_dir):
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        write_png(targets[OVERLAY], pictures.overlay(prediction.image, prediction.label, colors, opacity=opacity))
        pictures.save_label(targets[PALETTE], prediction.label, colors)
        write_png(targets[IDS], prediction.label.astype(np.uint8))


def _listed(path: Path) -> Iterator[tuple[Path, Path]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected UTF-8 text, a path per line") from error
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: is empty; expected a path per line")
    for number, line in enumerate(lines, 1):
        whole = line.strip()
        if not whole:
            continue
        candidates = [whole, *(whole.split(separator)[0].strip() for separator in (",", "\t", " "))]
        existing = [path.parent / name for name in candidates if (path.parent / name).is_file()]
        if not existing:
            raise DataError(f"{path}:{number}: {path.parent / whole} does not exist; expected a picture")
        is_below = not Path(whole).is_absolute() and ".." not in Path(whole).parts
        yield existing[0], existing[0].relative_to(path.parent) if is_below else Path(existing[0].name)
