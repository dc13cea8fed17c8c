"""Time of the metrics against the official tools, in one run, on the same images: `python benchmarks/metrics.py`.

Generated maps of 1024 x 2048 with 20 to 60 objects each, groups, void and ragged outlines. "In memory" gives both
sides decoded images; "from files" lets both read PNG files. The official AP tool takes one PNG per predicted object;
its cache of ground-truth objects is filled beforehand. The figures of both sides are compared with ==.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddleseg_ext.data.classes import CITYSCAPES_LABELS
from paddleseg_ext.data.image_io import read_instances, read_label
from paddleseg_ext.metrics import CityscapesIoU, ConfusionMatrix, InstanceAP, InstanceMask, PanopticQuality, Segment
from paddleseg_ext.metrics.cityscapes import CATEGORIES, THINGS, VOID_IDS, CityscapesEvaluator, panoptic_segments
from paddleseg_ext.metrics.panoptic import read_ids

HEIGHT, WIDTH = 1024, 2048
GOAL_IN_MEMORY, GOAL_FROM_FILES = 8, 2
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


def paint_object(rng: np.random.Generator, instance: np.ndarray, ident: int) -> None:
    """Paints a ragged ellipse."""
    height, width = int(rng.integers(8, 300)), int(rng.integers(8, 300))
    y, x = int(rng.integers(300, HEIGHT - height)), int(rng.integers(0, WIDTH - width))
    v, u = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ragged = 0.1 * np.sin(9 * np.arctan2(v, u) + rng.random() * 6) + 0.03 * rng.standard_normal((height, 1))
    instance[y : y + height, x : x + width][u**2 + v**2 < 0.85 + ragged] = ident


def make_scene(rng: np.random.Generator, number: int) -> Scene:
    """Stuff in bands with objects on it; the prediction is the truth, each segment moved, some missing."""
    rows = np.arange(HEIGHT)[:, None] + 40 * np.sin(np.arange(WIDTH) / 97.0 + rng.random() * 6)[None]
    instance = np.array([23, 21, 11, 8, 7, 4, 1], np.int32)[np.digitize(rows, [40, 180, 420, 500, 900, 1000])]
    for k in range(int(rng.integers(20, 61))):
        label = int(rng.choice(list(OBJECTS), p=np.array(list(OBJECTS.values())) / sum(OBJECTS.values())))
        paint_object(rng, instance, label if rng.random() < 0.1 else label * 1000 + k)
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


class Images:
    """The scenes as the files that each tool wants, and as the arrays that ours take."""

    def __init__(self, folder: Path, scenes: list[Scene]) -> None:
        self.folder, self.scenes = folder, scenes
        for name in ("gt", "semantic", "truth", "predicted", "masks"):
            (folder / name).mkdir()
        self.arrays: dict[str, np.ndarray] = {}
        for s in scenes:
            self.write(f"gt/{s.name}_gtFine_instanceIds.png", s.instance.astype(np.uint16), s.instance)
            self.write(f"gt/{s.name}_gtFine_labelIds.png", s.label)
            self.write(f"gt/{s.name}_gtFine_labelTrainIds.png", TRAIN_IDS[s.label])
            self.write(f"semantic/{s.name}.png", s.semantic)
            self.write(f"semantic/{s.name}_trainIds.png", TRAIN_IDS[s.semantic])
            for kind, ids in (("truth", s.truth), ("predicted", s.pred)):
                rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
                self.write(f"{kind}/{s.name}.png", rgb, ids)
            for segment in s.things:
                mask = s.pred == segment.id
                self.write(f"masks/{s.name}_{segment.id}.png", mask.astype(np.uint8) * 255, mask)
            lines = [f"{s.name}_{x.id}.png {x.category_id} {x.score!r}\n" for x in s.things]
            (folder / "masks" / f"{s.name}.txt").write_text("".join(lines))

    def write(self, name: str, pixels: np.ndarray, array: np.ndarray | None = None) -> None:
        """Writes a PNG and keeps its array."""
        Image.fromarray(pixels).save(self.folder / name, compress_level=3)
        self.arrays[name] = pixels if array is None else array

    def paths(self, pattern: str) -> list[str]:
        """Path of a file of each scene, "{}" being its name."""
        return [str(self.folder / pattern.format(scene.name)) for scene in self.scenes]

    def get(self, name: str, reader: Callable[[Path], np.ndarray] | None) -> np.ndarray:
        """An array: read from its file, or from memory if there is no reader."""
        return reader(self.folder / name) if reader else self.arrays[name]


@contextlib.contextmanager
def preloaded(folder: Path) -> Iterator[None]:
    """Makes PIL's `Image.open` give decoded images, so that the official tools read no files."""
    opened, cache = Image.open, {}
    for path in folder.rglob("*.png"):
        cache[str(path)] = opened(path)
        cache[str(path)].load()
    Image.open = lambda path: cache[str(path)]
    try:
        yield
    finally:
        Image.open = opened


# The official tools


def official(name: str) -> Any:
    """A module of cityscapesScripts."""
    return importlib.import_module(f"cityscapesscripts.evaluation.{name}")


def official_iou(images: Images, *, with_instances: bool) -> float:
    """Mean IoU, or mean iIoU."""
    tool = official("evalPixelLevelSemanticLabeling")

    tool.args.evalInstLevelScore, tool.args.JSONOutput, tool.args.quiet = with_instances, False, True
    preds, labels = images.paths("semantic/{}.png"), images.paths("gt/{}_gtFine_labelIds.png")
    result = tool.evaluateImgLists(preds, labels, tool.args)
    return tool.getScoreAverage(result["classInstScores" if with_instances else "classScores"], tool.args)


@functools.lru_cache(maxsize=1)
def official_objects(images: Images) -> dict[str, Any]:
    """The ground-truth objects that the official AP tool caches."""
    tool = official("evalInstanceLevelSemanticLabeling")

    tool.setInstanceLabels(tool.args)
    tool.args.quiet, tool.args.predictionPath = True, str(images.folder)
    return tool.instances2dict(images.paths("gt/{}_gtFine_instanceIds.png"), False)


def official_ap(images: Images) -> float:
    """Mean AP."""
    tool = official("evalInstanceLevelSemanticLabeling")

    objects = official_objects(images)
    lists, labels = images.paths("masks/{}.txt"), images.paths("gt/{}_gtFine_instanceIds.png")
    matches = tool.matchGtWithPreds(lists, labels, objects, tool.args)
    return float(tool.computeAverages(tool.evaluateMatches(matches, tool.args), tool.args)["allAp"])


def official_pq(images: Images) -> float:
    """Mean PQ, in one process."""
    tool = official("evalPanopticSemanticLabeling")

    def annotation(scene: Scene, segments: list[Segment]) -> dict[str, Any]:
        entries = [
            {"id": s.id, "category_id": s.category_id, "iscrowd": int(s.is_crowd), "area": s.area} for s in segments
        ]
        return {"image_id": scene.name, "file_name": f"{scene.name}.png", "segments_info": entries}

    pairs = [(annotation(s, s.truth_segments), annotation(s, s.segments)) for s in images.scenes]
    categories = {c.id: {"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in CATEGORIES}
    folders = [str(images.folder / name) for name in ("truth", "predicted")]
    return tool.pq_compute_single_core(0, pairs, *folders, categories).pq_average(categories, None)[0]["pq"]


# Ours


def our_iou(images: Images, read: bool) -> float:
    """Mean IoU."""
    matrix, reader = ConfusionMatrix(19), read_label if read else None
    for s in images.scenes:
        pred = images.get(f"semantic/{s.name}_trainIds.png", reader)
        matrix.update(pred, images.get(f"gt/{s.name}_gtFine_labelTrainIds.png", reader))
    return matrix.result().miou


def our_iiou(images: Images, read: bool) -> float:
    """Mean iIoU."""
    metric = CityscapesIoU()
    for s in images.scenes:
        instance = images.get(f"gt/{s.name}_gtFine_instanceIds.png", read_instances if read else None)
        metric.update(images.get(f"semantic/{s.name}.png", read_label if read else None), instance)
    return metric.result().miiou


def our_ap_of_masks(images: Images, read: bool) -> float:
    """Mean AP, from one mask per object."""
    metric, reader = InstanceAP(THINGS, VOID_IDS), read_label if read else None
    for s in images.scenes:
        instance = images.get(f"gt/{s.name}_gtFine_instanceIds.png", read_instances if read else None)
        masks = [
            InstanceMask(x.category_id, x.score, images.get(f"masks/{s.name}_{x.id}.png", reader)) for x in s.things
        ]
        metric.update_masks(masks, instance)
    return metric.result().mean_ap


def our_ap_of_maps(images: Images, read: bool) -> float:
    """Mean AP, from the panoptic map."""
    metric = InstanceAP(THINGS, VOID_IDS)
    for s in images.scenes:
        instance = images.get(f"gt/{s.name}_gtFine_instanceIds.png", read_instances if read else None)
        metric.update(images.get(f"predicted/{s.name}.png", read_ids if read else None), s.segments, instance)
    return metric.result().mean_ap


def our_pq(images: Images, read: bool) -> float:
    """Mean PQ."""
    metric, reader = PanopticQuality(CATEGORIES), read_ids if read else None
    for s in images.scenes:
        pred, truth = (images.get(f"{kind}/{s.name}.png", reader) for kind in ("predicted", "truth"))
        metric.update(pred, s.segments, truth, s.truth_segments)
    return metric.result().all.pq


def our_evaluator(images: Images, read: bool) -> float:
    """Mean PQ, with AP, IoU and iIoU from the same pass."""
    evaluator = CityscapesEvaluator(train_ids=False)
    for s in images.scenes:
        instance = images.get(f"gt/{s.name}_gtFine_instanceIds.png", read_instances if read else None)
        evaluator.update(images.get(f"predicted/{s.name}.png", read_ids if read else None), s.segments, instance)
    return evaluator.result().panoptic.all.pq


ROWS = (
    ("mIoU", lambda images: official_iou(images, with_instances=False), our_iou),
    ("IoU and iIoU", lambda images: official_iou(images, with_instances=True), our_iiou),
    ("AP, a mask per object", official_ap, our_ap_of_masks),
    ("AP, a map of segments", official_ap, our_ap_of_maps),
    ("PQ", official_pq, our_pq),
)


def timed(run: Callable[[], float], repeats: int) -> tuple[float, float]:
    """The best of some times in seconds, and the figure."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            figure = run()
        best = min(best, time.perf_counter() - start)
    return best, figure


def measure(images: Images, repeats: int, read: bool) -> Iterator[tuple[str, float, float, bool]]:
    """Name, official and our seconds, and whether the figures are equal, of each metric."""
    spent = 0.0
    for name, their_run, our_run in ROWS:
        theirs, expected = timed(functools.partial(their_run, images), repeats)
        mine, found = timed(functools.partial(our_run, images, read), repeats)
        spent += theirs if name in ("IoU and iIoU", "AP, a map of segments", "PQ") else 0.0
        yield name, theirs, mine, found == expected
    mine, found = timed(functools.partial(our_evaluator, images, read), repeats)
    yield "all of these from one map", spent, mine, found == expected


def main() -> None:
    """Makes the images, runs both sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, default=4, help="number of images; each takes some 200 MB")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the fastest counts")
    args = parser.parse_args()
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # which cityscapesScripts 2.3.0 calls and numpy 2.4 has removed
    rng = np.random.default_rng(0)
    scenes = [make_scene(rng, number) for number in range(args.images)]
    table = Table(title=f"ms per image of {HEIGHT} x {WIDTH}, {args.images} images, best of {args.repeats}")
    for column in ("metric", "from", "official", "ours", "ratio", "goal", "equal"):
        table.add_column(column, justify="left" if column in ("metric", "from") else "right")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = Images(Path(folder), scenes)
        for read, goal in ((False, GOAL_IN_MEMORY), (True, GOAL_FROM_FILES)):
            with contextlib.nullcontext() if read else preloaded(images.folder):
                for name, theirs, ours, equal in measure(images, args.repeats, read):
                    cells = (f"{1000 * seconds / args.images:.1f}" for seconds in (theirs, ours))
                    place = "files" if read else "memory"
                    table.add_row(name, place, *cells, f"{theirs / ours:.1f}x", f"{goal}x", "yes" if equal else "NO")
            table.add_section()
    Console().print(table)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"python {sys.version.split()[0]}, numpy {np.__version__}, {load}")


if __name__ == "__main__":
    main()
