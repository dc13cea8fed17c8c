"""A generated city in the exact layout of Cityscapes, for trying everything without downloading anything.

The scenes are painted, small, and the same for the same seed; training and validation streets come from different
cities. They follow Cityscapes' rules: label ids, training ids, instance ids (class id, or class id * 1000 + k; only
the class id for a far group), the bonnet of the camera's own car and the picture's border without a class.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddleseg_ext.data import image_io
from paddleseg_ext.data.classes import cityscapes_train_ids
from paddleseg_ext.data.datasets.cityscapes import IMAGE_SUFFIX, INSTANCE_SUFFIX, LABEL_ID_SUFFIX, TRAIN_ID_SUFFIX
from paddleseg_ext.data.demo.street import Scene, render
from paddleseg_ext.data.prepare import write_lists
from paddleseg_ext.data.workers import ordered_map
from paddleseg_ext.errors import ConfigError, DataError

DEFAULT_ROOT = "data/demo_city"
MARKER = "demo.json"
VERSION = 2  # of the pictures; another version paints other pixels
CITIES = {
    "train": ("democity", "minitown", "toyville"),
    "val": ("blockburg", "cardstadt"),
    "test": ("papersund",),
}


@dataclass(frozen=True)
class DemoSettings:
    """What determines a generated city.

    Attributes:
        num_train: scenes with labels for training.
        num_val: scenes with labels for validation.
        num_test: scenes without labels.
        height: of the pictures.
        width: of the pictures.
        seed: another seed gives other scenes.
        version: of the painter.
    """

    num_train: int = 200
    num_val: int = 40
    num_test: int = 4
    height: int = 128
    width: int = 256
    seed: int = 0
    version: int = VERSION

    def count(self, split: str) -> int:
        """Scenes of a split."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}[split]


class _Job(NamedTuple):
    split: str
    number: int


def make_demo(
    root: str | os.PathLike[str] = DEFAULT_ROOT,
    settings: DemoSettings | None = None,
    *,
    num_workers: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Generates the city, unless it is already there. The folder appears whole or not at all.

    Args:
        root: where; like the root of Cityscapes.
        settings: how many scenes, how large, which seed; the default takes about half a minute on one core.
        num_workers: processes that paint; 0 paints here.
        force: whether to replace a city that was generated with other settings.
        progress: called with the number of scenes done, and of all.

    Returns:
        The root.

    Raises:
        DataError: if the folder holds something else; it is never touched then.
    """
    root, settings = Path(root), settings or DemoSettings()
    _check_settings(settings)
    with image_io.file_errors(root):
        if not _is_there(root, settings, force):
            _make(root, settings, num_workers, force, progress)
    return root


def _make(
    root: Path,
    settings: DemoSettings,
    num_workers: int,
    force: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Builds the city aside and moves it into place."""
    root.parent.mkdir(parents=True, exist_ok=True)
    building = root.with_name(f".{root.name}.{os.getpid()}.part")
    shutil.rmtree(building, ignore_errors=True)
    try:
        _build(building, settings, num_workers, progress)
        if root.is_dir() and _is_replaceable(root, force):
            shutil.rmtree(root)
        try:
            os.rename(building, root)
        except OSError:
            if not _is_there(root, settings, force=False):  # another process may have finished first
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def scene(settings: DemoSettings, split: str, number: int) -> Scene:
    """One scene of the city, as it is written to disk."""
    entropy = [settings.seed, list(CITIES).index(split), number, settings.version]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    return render(rng, (settings.height, settings.width))


def _build(root: Path, settings: DemoSettings, num_workers: int, progress: Callable[[int, int], None] | None) -> None:
    jobs = [_Job(split, number) for split in CITIES for number in range(settings.count(split))]
    for job in jobs:
        for kind in ("leftImg8bit", "gtFine") if job.split != "test" else ("leftImg8bit",):
            (root / kind / job.split / _city(job)).mkdir(parents=True, exist_ok=True)
    done = ordered_map(_write_scene, jobs, state=(root, settings), num_workers=num_workers)
    for number, _ in enumerate(done, 1):
        if progress:
            progress(number, len(jobs))
    write_lists(root, separator=",")
    (root / MARKER).write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")


def _write_scene(state: tuple[Path, DemoSettings], job: _Job) -> None:
    root, settings = state
    painted = scene(settings, job.split, job.number)
    stem = f"{job.split}/{_city(job)}/{_city(job)}_{job.number // len(CITIES[job.split]):06d}_000019"
    image_io.write_png(root / "leftImg8bit" / f"{stem}{IMAGE_SUFFIX}", painted.image)
    if job.split != "test":
        train_ids = cityscapes_train_ids()[painted.label_ids].astype(np.uint8)
        image_io.write_png(root / "gtFine" / f"{stem}{LABEL_ID_SUFFIX}", painted.label_ids)
        image_io.write_png(root / "gtFine" / f"{stem}{TRAIN_ID_SUFFIX}", train_ids)
        image_io.write_png(root / "gtFine" / f"{stem}{INSTANCE_SUFFIX}", painted.instance_ids)


def _city(job: _Job) -> str:
    return CITIES[job.split][job.number % len(CITIES[job.split])]


def _is_there(root: Path, settings: DemoSettings, force: bool) -> bool:
    """Whether exactly this city exists already."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not root.is_dir():
        raise DataError(f"{root}: is a file; expected a folder, or nothing yet; choose another place")
    found = _settings_of(root)
    if found == asdict(settings):
        return True
    if not _is_replaceable(root, force):
        raise DataError(
            f"{root}: a city generated with other settings ({found}); expected {asdict(settings)}; "
            "choose another folder, or --force to replace it"
        )
    return False


def _is_replaceable(root: Path, force: bool) -> bool:
    """Whether the folder may be deleted: it is empty, or a generated city and that is what the user wants."""
    if not any(root.iterdir()):
        return True
    if _settings_of(root) is None:
        raise DataError(
            f"{root}: the folder is not empty and no generated city (it has no {MARKER}); nothing was changed; "
            "choose another folder"
        )
    return force


def _settings_of(root: Path) -> dict | None:
    try:
        found = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _check_settings(settings: DemoSettings) -> None:
    if min(settings.height, settings.width) < 32:
        raise ConfigError(f"size {settings.height} x {settings.width}: too small; expected at least 32 pixels")
    if min(settings.num_train, settings.num_val, settings.num_test, settings.seed) < 0:
        raise ConfigError(f"{settings}: expected counts and a seed of 0 or more")
