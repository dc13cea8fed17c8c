"""Made-up predictions, and what the official evaluators say of them.

`parity/upstream/record_metrics.py` writes the predictions as files, runs the official tools and stores their figures
in `parity/upstream/metrics.json`. The `metrics` stage compares the figures of the port's own metrics with them, bit by
bit. Predictions depend on the seed alone. They hold what evaluators disagree about: groups, void, classes that are
missing on one side, small objects, equal scores, segments that overlap void or a group.

H W image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from parity.errors import CaseError

RECORDING = Path(__file__).parent / "upstream" / "metrics.json"
SIZE = (64, 96)
NO_FIGURE = -1.0  # stands for NaN and None: a class that does not occur

# Cityscapes label ids
STUFF = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23)
THINGS = (24, 25, 26, 27, 28, 31, 32, 33)
IGNORED = (1, 3, 4, 9, 14, 29, 30)  # of which 29 and 30 have instances
# ids of COCO's panoptic classes, some of them; the last of either never occurs
COCO_THINGS = (1, 3, 17, 44, 62, 90)
COCO_STUFF = (92, 118, 149, 187, 200)


class Segment(NamedTuple):
    """One region of a map.

    Attributes:
        id: value of its pixels.
        category: its class.
        score: of a predicted object.
        crowd: whether it is a group; in the truth only.
    """

    id: int
    category: int
    score: float = 1.0
    crowd: bool = False


class CityscapesImage(NamedTuple):
    """An image of Cityscapes, predicted.

    Attributes:
        name: as Cityscapes names it.
        instance: (H, W) int32 ids of the truth: label * 1000 + number, or the label alone.
        pred: (H, W) int32 segment ids; 0 is void.
        segments: of `pred`, classes as label ids.
        semantic: (H, W) uint8 predicted label ids, of evaluated classes.
    """

    name: str
    instance: np.ndarray
    pred: np.ndarray
    segments: tuple[Segment, ...]
    semantic: np.ndarray


class CocoImage(NamedTuple):
    """An image of COCO's panoptic task, predicted.

    Attributes:
        label: (H, W) int32 segment ids of the truth; 0 is void.
        label_segments: of `label`.
        pred: (H, W) int32 segment ids.
        segments: of `pred`.
    """

    label: np.ndarray
    label_segments: tuple[Segment, ...]
    pred: np.ndarray
    segments: tuple[Segment, ...]


def cityscapes(seed: int = 0, num_images: int = 6) -> list[CityscapesImage]:
    """A small data set in Cityscapes' label ids."""
    images = []
    for number in range(num_images):
        random = np.random.RandomState(1000 * seed + number)
        label, regions = _regions(random, STUFF + IGNORED[:5], THINGS + IGNORED[5:])
        instance = np.zeros(SIZE, np.int32)
        for index, (category, crowd) in enumerate(regions):
            whole = category < 24 or crowd
            instance[label == index] = category if whole else 1000 * category + index
        pred, segments = _predicted(random, label, [category for category, _ in regions], STUFF + THINGS)
        semantic = np.where(instance < 1000, instance, instance // 1000)
        wrong = (random.uniform(size=SIZE) < 0.2) | np.isin(semantic, IGNORED)  # which no network predicts
        semantic = np.where(wrong, random.choice(STUFF + THINGS, SIZE), semantic).astype(np.uint8)
        name = f"toytown_{number:06d}_000019"
        images.append(CityscapesImage(name, instance, pred, segments, semantic))
    return images


def coco(seed: int = 0, num_images: int = 6) -> list[CocoImage]:
    """A small data set in COCO's panoptic format."""
    images = []
    for number in range(num_images):
        random = np.random.RandomState(1000 * seed + 500 + number)
        label, regions = _regions(random, (*COCO_STUFF[:-1], 0), COCO_THINGS[:-1])
        ids = np.zeros(SIZE, np.int32)
        truth = []
        for index, (category, crowd) in enumerate(regions):
            if category and (label == index).any():
                ident = 70000 - 613 * index
                ids[label == index] = ident
                truth.append(Segment(ident, category, crowd=crowd))
        categories = COCO_STUFF[:-1] + COCO_THINGS[:-1]
        pred, segments = _predicted(random, label, [category for category, _ in regions], categories)
        images.append(CocoImage(ids, tuple(truth), pred, segments))
    return images


def _regions(
    random: np.random.RandomState, stuff: tuple[int, ...], things: tuple[int, ...]
) -> tuple[np.ndarray, list[tuple[int, bool]]]:
    """(H, W) index of the region of each pixel, and (class, whether it is a group) of each region."""
    rows, columns = SIZE[0] // 16, SIZE[1] // 24
    blocks = np.arange(rows * columns).reshape(rows, columns)
    regions = [(int(random.choice(stuff)), False) for _ in range(rows * columns)]
    order = [category for category, _ in regions]
    blocks = np.array([order.index(category) for category in order])[blocks]  # one region for each class of stuff
    label = np.kron(blocks, np.ones((16, 24), np.int64))
    for _ in range(random.randint(8, 20)):
        label[_box(random, 30)] = len(regions)
        regions.append((int(random.choice(things)), bool(random.uniform() < 0.2)))
    return label, regions


def _predicted(
    random: np.random.RandomState, label: np.ndarray, classes: list[int], known: tuple[int, ...]
) -> tuple[np.ndarray, tuple[Segment, ...]]:
    """Regions of the truth, most of them: moved a little, some of another class; and a few that are invented."""
    masks = [(np.roll(label == i, tuple(random.randint(-2, 3, 2)), (0, 1)), classes[i]) for i in np.unique(label)]
    for _ in range(random.randint(1, 5)):
        mask = np.zeros(SIZE, bool)
        mask[_box(random, 20)] = True
        masks.append((mask, int(random.choice(known))))
    pred, segments = np.zeros(SIZE, np.int32), {}
    for index, (mask, category) in enumerate(masks, 1):
        if random.uniform() < 0.1:
            continue
        if category not in known or random.uniform() < 0.1:
            category = int(random.choice(known))
        ident = 300 * index + int(random.randint(200))
        pred[mask] = ident
        segments[ident] = Segment(ident, category, float(random.randint(1, 6)) / 5)
    return pred, tuple(segments[ident] for ident in np.unique(pred).tolist() if ident)


def _box(random: np.random.RandomState, largest: int) -> tuple[slice, slice]:
    height, width = random.randint(3, largest, 2)
    y, x = random.randint(0, SIZE[0] - 3), random.randint(0, SIZE[1] - 3)
    return slice(y, y + height), slice(x, x + width)


def points(figures: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Figures as points of a trace; what has no figure (None, NaN) is `NO_FIGURE`.

    Args:
        figures: name -> number, or sequence of numbers; counts are integers.
    """
    found = {}
    for name, value in figures.items():
        array = np.array(value if np.ndim(value) else [value], object)
        counts = all(isinstance(number, (int, np.integer)) for number in array.ravel())
        array = np.array([np.nan if number is None else number for number in array.ravel()], np.float64)
        array = np.where(np.isnan(array), NO_FIGURE, array)
        found[name] = array.astype(np.int64) if counts else array
    return found


def recorded(name: str, path: Path = RECORDING) -> dict[str, Any]:
    """What an official evaluator said: `{tool, figures}`.

    Args:
        name: "cityscapes_semantic", "cityscapes_panoptic" or "coco_panoptic".
        path: of the recording.

    Raises:
        CaseError: if there is no such recording.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["evaluations"]
    except (OSError, ValueError, KeyError) as error:
        raise CaseError(f"{path}: cannot be read ({error}); run parity/upstream/record_metrics.py") from error
    if name not in found:
        raise CaseError(f"{path}: has no evaluation {name!r}; it has {', '.join(found)}")
    return found[name]
