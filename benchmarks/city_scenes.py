"""Generated street scenes with predictions for `metrics.py`, as arrays and as the files that the official tools read.

Bands of stuff with 20 to 60 ragged objects, groups and void; the prediction is the truth, each segment moved, some
missing. The sizes of objects and their classes resemble Cityscapes'.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from paddleseg_ext.data.classes import CITYSCAPES_LABELS
from paddleseg_ext.metrics import Segment
from paddleseg_ext.metrics.cityscapes import THINGS, panoptic_segments
from paddleseg_ext.metrics.map_files import Reader, read_ahead

HEIGHT, WIDTH = 1024, 2048
TRAIN_IDS = np.array([label.train_id for label in CITYSCAPES_LABELS], np.uint8)
THING_IDS = [category.id for category in THINGS]
# Objects of each class in Cityscapes' validation set, by label id; the two void ones are guessed
OBJECTS = {24: 3419, 25: 544, 26: 4667, 27: 93, 28: 98, 29: 20, 30: 20, 31: 23, 32: 149, 33: 1175}


class Scene(NamedTuple):
    """A generated image in label ids.

    Attributes:
        name: as Cityscapes names it.
        instance: (H, W) int32 instance ids.
        truth: (H, W) int32 panoptic ids of the ground truth.
        truth_segments: of `truth`.
        pred: (H, W) int32 predicted panoptic ids.
        segments: of `pred`.
    """

    name: str
    instance: np.ndarray
    truth: np.ndarray
    truth_segments: list[Segment]
    pred: np.ndarray
    segments: list[Segment]

    @property
    def label(self) -> np.ndarray:
        """(H, W) uint8 label ids of the ground truth."""
        return np.where(self.instance < 1000, self.instance, self.instance // 1000).astype(np.uint8)

    @property
    def semantic(self) -> np.ndarray:
        """(H, W) uint8 predicted label ids; road where no segment is."""
        classes = np.full(256, 7, np.uint8)
        classes[[segment.id for segment in self.segments]] = [segment.category_id for segment in self.segments]
        return classes[self.pred]

    @property
    def things(self) -> list[Segment]:
        """Predicted objects."""
        return [segment for segment in self.segments if segment.category_id in THING_IDS]


def make_scenes(count: int, *, size: tuple[int, int] = (HEIGHT, WIDTH), seed: int = 0) -> list[Scene]:
    """Scenes of a size (height, width) from 512 x 512 on."""
    rng = np.random.default_rng(seed)
    return [_make_scene(rng, number, size) for number in range(count)]


def _make_scene(rng: np.random.Generator, number: int, size: tuple[int, int]) -> Scene:
    height, width = size
    rows = np.arange(height)[:, None] + 40 * np.sin(np.arange(width) / 97.0 + rng.random() * 6)[None]
    edges = np.array([40, 180, 420, 500, 900, 1000]) * height / HEIGHT
    instance = np.array([23, 21, 11, 8, 7, 4, 1], np.int32)[np.digitize(rows, edges)]
    for k in range(int(rng.integers(20, 61))):
        label = int(rng.choice(list(OBJECTS), p=np.array(list(OBJECTS.values())) / sum(OBJECTS.values())))
        _paint_object(rng, instance, label if rng.random() < 0.1 else label * 1000 + k)
    pred, segments = np.zeros_like(instance), []
    for k, ident in enumerate(np.unique(instance).tolist(), 1):
        label = ident if ident < 1000 else ident // 1000
        if TRAIN_IDS[label] != 255 and rng.random() > 0.07:
            pred[np.roll(instance == ident, tuple(rng.integers(-4, 5, 2)), (0, 1))] = k
            segments.append(Segment(k, label, score=float(rng.integers(1, 11)) / 10))
    drawn = set(np.unique(pred).tolist())
    truth_segments = panoptic_segments(*np.unique(instance, return_counts=True))
    truth = np.where(np.isin(instance, [segment.id for segment in truth_segments]), instance, 0)
    segments = [segment for segment in segments if segment.id in drawn]
    return Scene(f"toytown_{number:06d}_000019", instance, truth, truth_segments, pred, segments)


def _paint_object(rng: np.random.Generator, instance: np.ndarray, ident: int) -> None:
    """Paints a ragged ellipse."""
    height, width = int(rng.integers(8, 300)), int(rng.integers(8, 300))
    top = 300 * instance.shape[0] // HEIGHT
    y, x = int(rng.integers(top, instance.shape[0] - height)), int(rng.integers(0, instance.shape[1] - width))
    v, u = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ragged = 0.1 * np.sin(9 * np.arctan2(v, u) + rng.random() * 6) + 0.03 * rng.standard_normal((height, 1))
    instance[y : y + height, x : x + width][u**2 + v**2 < 0.85 + ragged] = ident


class SceneFiles:
    """The scenes as the files that each tool wants, and as the arrays that ours take."""

    def __init__(self, folder: Path, scenes: list[Scene]) -> None:
        self.folder, self.scenes = folder, scenes
        for name in ("gt", "semantic", "truth", "predicted", "masks"):
            (folder / name).mkdir()
        self._arrays: dict[str, np.ndarray] = {}
        for s in scenes:
            self._write(f"gt/{s.name}_gtFine_instanceIds.png", s.instance.astype(np.uint16), s.instance)
            self._write(f"gt/{s.name}_gtFine_labelIds.png", s.label)
            self._write(f"gt/{s.name}_gtFine_labelTrainIds.png", TRAIN_IDS[s.label])
            self._write(f"semantic/{s.name}.png", s.semantic)
            self._write(f"semantic/{s.name}_trainIds.png", TRAIN_IDS[s.semantic])
            for kind, ids in (("truth", s.truth), ("predicted", s.pred)):
                rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
                self._write(f"{kind}/{s.name}.png", rgb, ids)
            for segment in s.things:
                mask = s.pred == segment.id
                self._write(f"masks/{s.name}_{segment.id}.png", mask.astype(np.uint8) * 255, mask)
            lines = [f"{s.name}_{x.id}.png {x.category_id} {x.score!r}\n" for x in s.things]
            (folder / "masks" / f"{s.name}.txt").write_text("".join(lines))

    def _write(self, name: str, pixels: np.ndarray, array: np.ndarray | None = None) -> None:
        """Writes a PNG and keeps its array."""
        Image.fromarray(pixels).save(self.folder / name, compress_level=3)
        self._arrays[name] = pixels if array is None else array

    def paths(self, pattern: str) -> list[str]:
        """Path of a file of each scene, "{}" being its name."""
        return [str(self.folder / pattern.format(scene.name)) for scene in self.scenes]

    def maps(
        self, files_of: Callable[[Scene], Sequence[tuple[Reader, str]]], threads: int
    ) -> Iterator[tuple[Scene, list[np.ndarray]]]:
        """Each scene with some of its maps.

        Args:
            files_of: reader and file of each map.
            threads: that read; 0 takes the maps from memory.
        """
        if threads == 0:
            yield from ((scene, [self._arrays[name] for _, name in files_of(scene)]) for scene in self.scenes)
            return
        files = ([(reader, self.folder / name) for reader, name in files_of(scene)] for scene in self.scenes)
        yield from zip(self.scenes, read_ahead(files, threads=threads))

    @contextlib.contextmanager
    def preloaded(self) -> Iterator[None]:
        """Makes PIL's `Image.open` give decoded images, so that the official tools read no files."""
        opened, cache = Image.open, {}
        for path in self.folder.rglob("*.png"):
            cache[str(path)] = opened(path)
            cache[str(path)].load()
        Image.open = lambda path: cache[str(path)]
        try:
            yield
        finally:
            Image.open = opened
