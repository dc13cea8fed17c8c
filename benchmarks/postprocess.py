"""Panoptic-DeepLab's targets and post-processing against the plain formula: `python benchmarks/postprocess.py`.

The peers are the published rules written down in torch and numpy as they read: the distance of every pixel to every
centre, a mask of the whole image for every instance. Ids, classes and targets of both sides are compared with ==.
Images of 1024 x 2048; the plain formula takes a minute for one of them.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddleseg_ext.postprocess import panoptic_deeplab
from paddleseg_ext.segments import Segment
from paddleseg_ext.targets import panoptic_deeplab_targets

HEIGHT, WIDTH, NUM_CLASSES, THINGS = 1024, 2048, 19, range(11, 19)
OBJECTS = (30, 120)
GOAL = 10


class Image(NamedTuple):
    """A made-up street: its segments, and what a network might say about it.

    Attributes:
        panoptic: (H, W) int32 ids.
        segments: what they mean.
        maps: semantic (19, H, W), center (1, H, W), offset (2, H, W), float32.
    """

    panoptic: np.ndarray
    segments: list[Segment]
    maps: tuple[np.ndarray, np.ndarray, np.ndarray]


def make_image(num_objects: int) -> Image:
    """Bands of stuff with ellipses on them; the maps are the targets with noise."""
    rng = np.random.default_rng(num_objects)
    panoptic = np.repeat(1 + np.arange(HEIGHT) * 11 // HEIGHT, WIDTH).reshape(HEIGHT, WIDTH).astype(np.int32)
    segments = [Segment(k + 1, k) for k in range(11)]
    for number in range(num_objects):
        size = tuple(int(side) for side in rng.integers(8, 90, 2))
        place = (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
        cv2.ellipse(panoptic, place, size, 0, 0, 360, 11000 + number, -1)
        segments.append(Segment(11000 + number, int(rng.choice(THINGS))))
    targets = panoptic_deeplab_targets(panoptic, segments, thing_ids=THINGS)
    classes = np.arange(NUM_CLASSES)[:, None, None]
    semantic = (targets["label"] == classes) * np.float32(5) + rng.standard_normal((NUM_CLASSES, 1, WIDTH)) * 0.5
    offset = targets["offset"] + rng.standard_normal(targets["offset"].shape) * 2
    maps = (semantic.astype(np.float32), targets["center"] * np.float32(0.9), offset.astype(np.float32))
    return Image(panoptic, segments, maps)


def plain_centers(heat: torch.Tensor, kernel: int = 7, top_k: int = 200) -> torch.Tensor:
    """Centres, row by row."""
    heat = F.threshold(heat, 0.1, -1)
    heat = torch.where(heat == F.max_pool2d(heat, kernel, 1, kernel // 2), heat, -1)[0]
    last = heat.flatten().topk(top_k)[0][-1].clamp(min=0)
    return torch.nonzero(heat > last)


def plain_postprocess(maps: tuple[np.ndarray, ...]) -> tuple[np.ndarray, list[tuple[int, float]]]:
    """Ids, and scores by id: every pixel with every centre, every instance with the whole image."""
    semantic, heat, offset = map(torch.from_numpy, maps)
    label, prob = semantic.argmax(dim=0), semantic.softmax(dim=0)
    is_thing = torch.isin(label, torch.tensor(list(THINGS)))
    centers = plain_centers(heat)
    grid = torch.stack(torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij"))
    there = (grid + offset).flatten(1).T
    parts = [torch.norm(centers[:, None] - some, dim=-1).argmin(dim=0) for some in there.split(2**18)]
    owner = (torch.cat(parts).reshape(HEIGHT, WIDTH) + 1) * is_thing
    ids, counts, scores = torch.full_like(label, -1), Counter(), []
    for number in owner.unique():
        mask = owner == number
        if number > 0:
            k = int(label[mask].mode()[0])
            counts[k] += 1
            ids[mask] = k * 1000 + counts[k]
            y, x = (int(axis.double().mean()) for axis in torch.nonzero(mask).T)
            scores.append((k * 1000 + counts[k], float(prob[k][mask].mean() * heat[0, y, x])))
    for k in label.unique().tolist():
        mask = (label == k) & (owner == 0)
        if k not in THINGS and mask.sum() >= 2048:
            ids[mask] = k * 1000
    return ids.numpy(), sorted(scores)


def plain_targets(image: Image, sigma: int = 8) -> dict[str, np.ndarray]:
    """Targets: every segment with the whole image."""
    panoptic = image.panoptic
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    label, weights = np.full(panoptic.shape, 255), np.ones(panoptic.shape, np.float32)
    center, offset = np.zeros((1, HEIGHT, WIDTH), np.float32), np.zeros((2, HEIGHT, WIDTH), np.float32)
    center_weights, offset_weights = np.zeros_like(weights), np.zeros_like(weights)
    reach = np.arange(-3 * sigma - 1, 3 * sigma + 2)
    patch = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * sigma**2))
    for segment in image.segments:
        label[panoptic == segment.id] = segment.category_id
        center_weights[panoptic == segment.id] = 1
        rows, cols = np.where(panoptic == segment.id)
        if segment.category_id not in THINGS or not len(rows):
            continue
        offset_weights[panoptic == segment.id] = 1
        weights[panoptic == segment.id] = 3 if len(rows) < 4096 else 1
        cy, cx = rows.mean(), cols.mean()
        offset[0][rows, cols], offset[1][rows, cols] = cy - y[rows, cols], cx - x[rows, cols]
        inside_y, inside_x = (
            (place + reach >= 0) & (place + reach < side) for place, side in ((round(cy), HEIGHT), (round(cx), WIDTH))
        )
        at = np.ix_((round(cy) + reach)[inside_y], (round(cx) + reach)[inside_x])
        center[0][at] = np.maximum(center[0][at], patch[np.ix_(inside_y, inside_x)])
    return {
        "label": label,
        "semantic_weights": weights,
        "center": center,
        "center_weights": center_weights,
        "offset": offset,
        "offset_weights": offset_weights,
    }


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The best of some times in seconds, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
    return best, result


def postprocess_row(image: Image, repeats: int) -> tuple[float, float, bool]:
    """Seconds of the plain formula and ours, and whether ids are equal and scores close."""
    theirs, (ids, scores) = timed(functools.partial(plain_postprocess, image.maps), repeats)
    mine, (our_ids, things) = timed(functools.partial(panoptic_deeplab, *image.maps, thing_ids=THINGS), repeats)
    equal = np.array_equal(ids, our_ids) and [ident for ident, _ in scores] == [s.id for s in things]
    return theirs, mine, equal and np.allclose([score for _, score in scores], [s.score for s in things], rtol=1e-4)


def targets_row(image: Image, repeats: int) -> tuple[float, float, bool]:
    """Seconds of the plain formula and ours, and whether all targets are equal."""
    theirs, plain = timed(functools.partial(plain_targets, image), repeats)
    run = functools.partial(panoptic_deeplab_targets, image.panoptic, image.segments, thing_ids=THINGS)
    mine, ours = timed(run, repeats)
    return theirs, mine, all(np.array_equal(plain[name], array) for name, array in ours.items())


def main() -> None:
    """Runs both sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--objects", type=int, nargs="+", default=OBJECTS, help="objects of each image")
    parser.add_argument("--repeats", type=int, default=1, help="runs of which the fastest counts")
    parser.add_argument("--num_threads", type=int, default=os.cpu_count(), help="of torch; ours has one thread")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    cv2.setNumThreads(1)
    table = Table(title=f"ms per image of {HEIGHT} x {WIDTH}, best of {args.repeats}")
    for column in ("what", "objects", "plain formula", "ours", "ratio", "goal", "equal"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, row in (("post-processing (torch)", postprocess_row), ("targets (numpy)", targets_row)):
        for count in args.objects:
            theirs, ours, equal = row(make_image(count), args.repeats)
            cells = (f"{1000 * seconds:.0f}" for seconds in (theirs, ours))
            goal = f"{GOAL}x" if count >= 100 and row is postprocess_row else ""
            table.add_row(name, str(count), *cells, f"{theirs / ours:.1f}x", goal, "yes" if equal else "NO")
        table.add_section()
    Console().print(table)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"torch {torch.__version__} with {args.num_threads} threads, numpy {np.__version__}, {load}")


if __name__ == "__main__":
    main()
