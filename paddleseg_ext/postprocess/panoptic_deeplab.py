"""From Panoptic-DeepLab's three maps to segments, by detectron2's rules.

K classes, H W image, I centres. In order:
1. The class of a pixel is the one with the largest logit, of equal ones the first.
2. A centre is a pixel whose heat is above `threshold` and the largest in its window; all pixels of a plateau are
   centres. With `top_k` centres or more only those strictly above the top_k-th heat stay, so at most top_k - 1, and
   ties at that heat all go. Centres are numbered row by row.
3. Each pixel of a thing belongs to the centre nearest to pixel + offset; of equally near ones to the first.
4. An instance's class is that of most of its pixels, the smallest of equally frequent ones; its pixels of other thing
   classes become that class. Its id is class * label_divisor + n, n counting the instances of its class from 1.
5. A stuff class with `stuff_area` pixels or more has the id class * label_divisor. What is left (smaller stuff, things
   in an image without centres) is void.
6. An instance's score is the mean probability of its class over its pixels, times the heat at the rounded-down mean
   of their coordinates; it can be negative, and above 1.

Upstream: facebookresearch/detectron2@02b5c4e projects/Panoptic-DeepLab, post_processing.py and panoptic_seg.py
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from paddleseg_ext.postprocess.nearest import nearest_center
from paddleseg_ext.segments import VOID, Segment, row_runs

_ROWS, _PIXELS = 32, 2**13  # of the image at once, so that a block of all classes stays in the processor's cache


def panoptic_deeplab(
    semantic: np.ndarray,
    center: np.ndarray,
    offset: np.ndarray,
    *,
    thing_ids: Collection[int],
    label_divisor: int = 1000,
    stuff_area: int = 2048,
    void_label: int = -1,
    threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int | None = 200,
    label: np.ndarray | None = None,
) -> tuple[np.ndarray, list[Segment]]:
    """Panoptic ids of an image, and its instances.

    Args:
        semantic: (K, H, W) logits, float32 or float64.
        center: (1, H, W) heat.
        offset: (2, H, W), (y, x) from each pixel to its centre, in pixels.
        thing_ids: classes whose objects are told apart.
        label_divisor: more than the instances of any class.
        stuff_area: pixels that a stuff class needs to stay.
        void_label: id of pixels without a segment.
        threshold: heat that a centre exceeds.
        nms_kernel: side of the window in which a centre is the largest, odd.
        top_k: limit on the number of centres, see above; None sets none.
        label: (H, W) integers, `argmax_classes(semantic)`, from callers who have it.

    Returns:
        (H, W) int64 ids.
        The things among them, ascending by id: `id`, `category_id` and `score`.
    """
    _check(semantic, center, offset, nms_kernel)
    num_classes, *size = semantic.shape
    label = argmax_classes(semantic) if label is None else label
    is_thing = np.isin(np.arange(num_classes), list(thing_ids))
    centers = find_centers(center[0], threshold=threshold, nms_kernel=nms_kernel, top_k=top_k)

    panoptic = _stuff_ids(label, is_thing, label_divisor, stuff_area, void_label)[label]
    if len(centers) == 0:
        return panoptic, []
    pixels = np.flatnonzero(is_thing[label])
    classes = label.ravel()[pixels]
    owners = _group(pixels, offset, centers)
    found = _vote(owners, classes, len(centers), num_classes, label_divisor)
    panoptic.ravel()[pixels] = found.ids[owners]
    scores = _scores(semantic, center[0], pixels, owners, found)
    segments = [Segment(*row) for row in zip(found.ids.tolist(), found.classes.tolist(), scores.tolist())]
    return panoptic.reshape(size), sorted(segment for segment, n in zip(segments, found.areas) if n)


def all_segments(
    panoptic: np.ndarray, things: Sequence[Segment], *, label_divisor: int = 1000, void_label: int = -1
) -> tuple[np.ndarray, list[Segment]]:
    """The result of `panoptic_deeplab` as metrics and files take it: one segment for each id, and 0 is void.

    Args:
        panoptic: (H, W) ids.
        things: its instances.
        label_divisor: as given there.
        void_label: as given there.

    Returns:
        (H, W) int32 ids, one more than they were, which is how detectron2 makes room for void.
        Things and stuff, ascending by id; stuff has score 1.
    """
    starts, _ = row_runs(panoptic)
    found = np.unique(panoptic.ravel()[starts])
    scores = {segment.id: segment.score for segment in things}
    segments = [
        Segment(ident + 1, ident // label_divisor, scores.get(ident, 1.0))
        for ident in found.tolist()
        if ident != void_label
    ]
    return np.where(panoptic == void_label, VOID, panoptic + 1).astype(np.int32), segments


class _Instances(NamedTuple):
    """One entry for each centre.

    Attributes:
        ids: (I,) int64; of a centre without pixels without meaning, as is its class.
        classes: (I,) int64.
        areas: (I,) int64 pixels.
    """

    ids: np.ndarray
    classes: np.ndarray
    areas: np.ndarray


def argmax_classes(scores: np.ndarray) -> np.ndarray:
    """(H, W) uint8, or int32 beyond 255 classes: the class of the largest of (K, H, W) scores, the first if equal."""
    num_classes, height, width = scores.shape
    label = np.zeros((height, width), np.uint8 if num_classes <= 255 else np.int32)
    for top in range(0, height, _ROWS):
        block, out = scores[:, top : top + _ROWS], label[top : top + _ROWS]
        best = block[0].copy()
        for k in range(1, num_classes):
            larger = block[k] > best
            np.copyto(out, k, where=larger)
            np.maximum(best, block[k], out=best)
    return label


def find_centers(
    heat: np.ndarray, *, threshold: float = 0.1, nms_kernel: int = 7, top_k: int | None = 200
) -> np.ndarray:
    """(I, 2) int64 (y, x) of the centres in an (H, W) heat map, row by row; arguments as in `panoptic_deeplab`."""
    kept = np.where(heat > threshold, heat, heat.dtype.type(-1))
    # beyond the border there is nothing that could be larger
    peaks = kept == cv2.dilate(kept, np.ones((nms_kernel, nms_kernel), np.uint8))
    peaks &= kept > 0
    centers = np.argwhere(peaks)
    if top_k is None or len(centers) < top_k:
        return centers
    values = heat[peaks]
    return centers[values > np.partition(values, len(values) - top_k)[len(values) - top_k]]


def _stuff_ids(
    label: np.ndarray, is_thing: np.ndarray, label_divisor: int, stuff_area: int, void_label: int
) -> np.ndarray:
    """(K,) int64 id that the pixels of each class get unless they belong to an instance."""
    areas = np.bincount(label.ravel(), minlength=len(is_thing))
    ids = np.arange(len(is_thing), dtype=np.int64) * label_divisor
    return np.where(~is_thing & (areas >= stuff_area), ids, void_label)


def _group(pixels: np.ndarray, offset: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """(P,) place of the centre that each pixel belongs to."""
    y, x = np.divmod(pixels, offset.shape[2])
    dy, dx = offset.reshape(2, -1)[:, pixels]
    return nearest_center(y.astype(dy.dtype) + dy, x.astype(dx.dtype) + dx, centers)


def _vote(
    owners: np.ndarray, classes: np.ndarray, num_centers: int, num_classes: int, label_divisor: int
) -> _Instances:
    """Class and id of each instance."""
    keys = owners.astype(np.int64) * num_classes + classes
    votes = np.bincount(keys, minlength=num_centers * num_classes).reshape(num_centers, num_classes)
    areas, winners = votes.sum(axis=1), votes.argmax(axis=1)
    is_first = (winners[:, None] == np.arange(num_classes)) & (areas > 0)[:, None]
    numbers = is_first.cumsum(axis=0)[np.arange(num_centers), winners]
    return _Instances(winners * label_divisor + numbers, winners, areas)


def _scores(
    semantic: np.ndarray, heat: np.ndarray, pixels: np.ndarray, owners: np.ndarray, found: _Instances
) -> np.ndarray:
    """(I,) float64; 0 for a centre without pixels."""
    count = len(found.ids)
    areas = np.maximum(found.areas, 1)
    prob = _probabilities(semantic.reshape(len(semantic), -1), pixels, found.classes[owners])
    y, x = np.divmod(pixels, heat.shape[1])
    mean_y, mean_x = (np.bincount(owners, weights=values, minlength=count) / areas for values in (y, x))
    at_center = heat[mean_y.astype(np.int64), mean_x.astype(np.int64)]
    return np.bincount(owners, weights=prob, minlength=count) / areas * at_center


def _probabilities(logits: np.ndarray, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(P,) softmax of (K, H * W) logits at some pixels, for one class each."""
    prob = np.empty(len(pixels), logits.dtype)
    for start in range(0, len(pixels), _PIXELS):
        part = slice(start, start + _PIXELS)
        block = np.take(logits, pixels[part], axis=1)
        block -= block[classes[part], np.arange(block.shape[1])]
        with np.errstate(over="ignore"):  # a class that is hopeless here has probability 0
            np.exp(block, out=block)
        prob[part] = 1 / block.sum(axis=0)
    return prob


def _check(semantic: np.ndarray, center: np.ndarray, offset: np.ndarray, nms_kernel: int) -> None:
    size = semantic.shape[1:]
    if semantic.ndim != 3 or center.shape != (1, *size) or offset.shape != (2, *size):
        raise ValueError(
            f"panoptic_deeplab: semantic {semantic.shape}, center {center.shape}, offset {offset.shape}; expected "
            "(K, H, W), (1, H, W) and (2, H, W) of one image"
        )
    if nms_kernel < 1 or nms_kernel % 2 == 0:
        raise ValueError(f"panoptic_deeplab: nms_kernel is {nms_kernel}; expected an odd number, 1 or more")
