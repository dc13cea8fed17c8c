"""Small Cityscapes-like data sets with every edge case, and the official evaluators run on them."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data.classes import CITYSCAPES_LABELS
from paddleseg_ext.metrics import Segment

HEIGHT, WIDTH = 48, 64
STUFF_IDS = (1, 3, 4, 7, 8, 9, 11, 14, 17, 21, 23)
THING_IDS = (24, 25, 26, 27, 28, 29, 30, 31, 32, 33)
EVALUATED_IDS = tuple(label.id for label in CITYSCAPES_LABELS if label.train_id != 255)


class FuzzImage(NamedTuple):
    """A generated image.

    Attributes:
        name: as Cityscapes names it.
        instance: (H, W) int32 instance ids, with groups, void, small objects and caravans.
        pred: (H, W) int32 segment ids.
        segments: of `pred`, in label ids; many scores are equal.
        masks: (label id, score, (H, W) bool) that overlap, some of other classes.
        semantic: (H, W) uint8 predicted label ids, some of them void.
    """

    name: str
    instance: np.ndarray
    pred: np.ndarray
    segments: list[Segment]
    masks: list[tuple[int, float, np.ndarray]]
    semantic: np.ndarray


def random_box(rng: np.random.Generator, largest: int) -> tuple[slice, slice]:
    height, width = rng.integers(2, largest, 2)
    y, x = rng.integers(0, HEIGHT - 2), rng.integers(0, WIDTH - 2)
    return slice(y, y + height), slice(x, x + width)


def random_instances(rng: np.random.Generator) -> np.ndarray:
    blocks = rng.choice(STUFF_IDS, (3, 4))
    instance = np.kron(blocks, np.ones((HEIGHT // 3, WIDTH // 4), int)).astype(np.int32)
    for number in range(int(rng.integers(3, 14))):
        label = int(rng.choice(THING_IDS))
        instance[random_box(rng, 30)] = label if rng.random() < 0.25 else label * 1000 + number
    return instance


def random_panoptic(rng: np.random.Generator, instance: np.ndarray) -> tuple[np.ndarray, list[Segment]]:
    """Segments of the truth, some shifted, of another class, missing, or invented."""
    pred = np.zeros_like(instance)
    categories: dict[int, int] = {}
    sources = [instance == ident for ident in np.unique(instance)]
    for _ in range(int(rng.integers(0, 6))):
        box = np.zeros(instance.shape, bool)
        box[random_box(rng, 25)] = True
        sources.append(box)
    for number, mask in enumerate(sources, 1):
        if rng.random() < 0.1:
            continue
        ids = np.unique(instance[mask])
        label = int(ids[0]) if ids[0] < 1000 else int(ids[0]) // 1000
        if label not in EVALUATED_IDS or rng.random() < 0.15:
            label = int(rng.choice(EVALUATED_IDS))
        ident = int(rng.integers(1, 200)) + 256 * number
        pred[np.roll(mask, tuple(rng.integers(-2, 3, 2)), (0, 1))] = ident
        categories[ident] = label
    ids = [int(ident) for ident in np.unique(pred) if ident]
    return pred, [Segment(ident, categories[ident], score=float(rng.integers(1, 6)) / 5) for ident in ids]


def random_masks(rng: np.random.Generator, instance: np.ndarray) -> list[tuple[int, float, np.ndarray]]:
    masks = []
    for ident in np.unique(instance[instance >= 24]):
        for _ in range(int(rng.integers(0, 4))):  # several on one object
            label = int(ident) if ident < 1000 else int(ident) // 1000
            if rng.random() < 0.2:
                label = int(rng.choice(THING_IDS))
            mask = np.roll(instance == ident, tuple(rng.integers(-1, 2, 2)), (0, 1))
            masks.append((label, float(rng.integers(1, 6)) / 5, mask))
    for _ in range(int(rng.integers(0, 5))):
        mask = np.zeros(instance.shape, bool)
        mask[random_box(rng, 30)] = rng.random() < 0.9  # or empty
        masks.append((int(rng.choice(THING_IDS)), float(rng.random()), mask))
    return masks


def make_fuzz_images(seed: int, num_images: int = 6) -> list[FuzzImage]:
    rng = np.random.default_rng(seed)
    images = []
    for number in range(num_images):
        instance = random_instances(rng)
        pred, segments = random_panoptic(rng, instance)
        labels = np.where(instance < 1000, instance, instance // 1000)
        noise = rng.random(labels.shape) < 0.3
        semantic = np.where(noise, rng.integers(0, 34, labels.shape), labels).astype(np.uint8)
        masks = random_masks(rng, instance)
        images.append(FuzzImage(f"toytown_{number:06d}_000019", instance, pred, segments, masks, semantic))
    return images


@pytest.fixture
def fuzz_images() -> Callable[..., list[FuzzImage]]:
    """`fuzz_images(seed)` is a data set."""
    return make_fuzz_images


def official(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of cityscapesScripts, with what newer numpy has removed."""
    pytest.importorskip("cityscapesscripts")
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    return importlib.import_module(f"cityscapesscripts.evaluation.{name}")


def write_instances(folder: Path, images: list[FuzzImage]) -> list[str]:
    """Writes instance and label ids as Cityscapes does; the paths of the instance ids."""
    city = folder / "gtFine" / "val" / "toytown"
    city.mkdir(parents=True, exist_ok=True)
    paths = []
    for image in images:
        labels = np.where(image.instance < 1000, image.instance, image.instance // 1000).astype(np.uint8)
        Image.fromarray(labels).save(city / f"{image.name}_gtFine_labelIds.png")
        paths.append(str(city / f"{image.name}_gtFine_instanceIds.png"))
        Image.fromarray(image.instance.astype(np.uint16)).save(paths[-1])
    return paths


@pytest.fixture
def official_pixel_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[FuzzImage]], dict]:
    """What evalPixelLevelSemanticLabeling of cityscapesScripts returns, and the means it prints."""
    module = official("evalPixelLevelSemanticLabeling", monkeypatch)

    def evaluate(images: list[FuzzImage]) -> dict:
        instances = write_instances(tmp_path, images)
        labels = [path.replace("instanceIds", "labelIds") for path in instances]
        preds = []
        for image in images:
            preds.append(str(tmp_path / f"{image.name}_pred.png"))
            Image.fromarray(image.semantic).save(preds[-1])
        module.args.evalInstLevelScore, module.args.JSONOutput, module.args.quiet = True, False, True
        result = module.evaluateImgLists(preds, labels, module.args)
        for key in ("classScores", "classInstScores", "categoryScores", "categoryInstScores"):
            result[f"mean_{key}"] = module.getScoreAverage(result[key], module.args)
        return result

    return evaluate


@pytest.fixture
def official_instance_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict | None]:
    """What evalInstanceLevelSemanticLabeling of cityscapesScripts returns, or None where it fails."""
    module = official("evalInstanceLevelSemanticLabeling", monkeypatch)
    monkeypatch.setattr(module, "writeDict2JSON", lambda data, path: None)  # fails on numpy's integers

    def evaluate(images: list[FuzzImage], masks_of: Callable[[FuzzImage], list]) -> dict | None:
        paths, lists = write_instances(tmp_path, images), []
        args = module.args
        args.gtInstancesFile, args.predictionPath = str(tmp_path / "none.json"), str(tmp_path)
        args.JSONOutput, args.quiet = False, True
        for image in images:
            lists.append(tmp_path / f"{image.name}.txt")
            lines = []
            for number, (label, score, mask) in enumerate(masks_of(image)):
                name = f"{image.name}_{number}.png"
                Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / name)
                lines.append(f"{name} {label} {score!r}\n")
            lists[-1].write_text("".join(lines))
        try:
            return module.evaluateImgLists([str(path) for path in lists], paths, args)
        except IndexError:
            return None

    return evaluate


@pytest.fixture(params=["cityscapesscripts.evaluation.evalPanopticSemanticLabeling", "panopticapi.evaluation"])
def official_panoptic(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict]:
    """A panoptic evaluator with given truth and prediction in COCO's format, in a number of processes."""
    module = pytest.importorskip(request.param)

    def evaluate(truth: dict, predicted: dict, chunks: int = 1) -> dict:
        truth, predicted = json.loads(json.dumps(truth)), json.loads(json.dumps(predicted))
        categories = {entry["id"]: entry for entry in truth["categories"]}
        by_image = {entry["image_id"]: entry for entry in predicted["annotations"]}
        pairs = [(entry, by_image[entry["image_id"]]) for entry in truth["annotations"]]
        stat = module.PQStat()
        for number, chunk in enumerate(np.array_split(np.array(pairs, dtype=object), chunks)):
            part = module.pq_compute_single_core(
                number, chunk, str(tmp_path / "truth"), str(tmp_path / "predicted"), categories
            )
            stat += part
        groups = {"all": None, "things": True, "stuff": False}
        results = {}
        for name, isthing in groups.items():
            try:
                results[name] = stat.pq_average(categories, isthing=isthing)
            except ZeroDivisionError:
                results[name] = ({"pq": math.nan, "sq": math.nan, "rq": math.nan, "n": 0}, {})
        results["stat"] = stat
        return results

    return evaluate


@pytest.fixture
def write_panoptic(tmp_path: Path) -> Callable[[str, str, np.ndarray], str]:
    """Writes a map of ids as a panoptic PNG in the folder "truth" or "predicted"; its file name."""

    def write(folder: str, name: str, ids: np.ndarray) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(tmp_path / folder / f"{name}.png")
        return f"{name}.png"

    return write
