"""Points on feature maps: where a prediction is uncertain, and what a map holds there.

Upstream: facebookresearch/detectron2@02b5c4e projects/PointRend/point_rend/point_features.py (Apache-2.0).

N batch, C channels, K classes, H W map, P points. Coordinates are (x, y) in [0, 1], from the outer edge of the first
pixel to that of the last.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F


def sample_points(features: paddle.Tensor, coords: paddle.Tensor) -> paddle.Tensor:
    """Bilinear samples, (N, C, P); beyond the centres of the outer pixels a map fades to 0.

    Args:
        features: (N, C, H, W).
        coords: (N, P, 2).
    """
    grid = 2.0 * coords.unsqueeze(2) - 1.0
    sampled = F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.squeeze(3)


def sample_labels(label: paddle.Tensor, coords: paddle.Tensor) -> paddle.Tensor:
    """The label of the nearest pixel, (N, P); halves go to the even pixel, and beyond the map is 0.

    Paddle's own nearest grid_sample rounds halves away from zero, torch's to the even number.

    Args:
        label: (N, H, W) integers.
        coords: (N, P, 2).
    """
    height, width = label.shape[1:]
    x = _nearest(coords[:, :, 0], width)
    y = _nearest(coords[:, :, 1], height)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = paddle.where(inside, y * width + x, paddle.zeros_like(x))
    found = paddle.take_along_axis(label.flatten(1), index, axis=1)
    return paddle.where(inside, found, paddle.zeros_like(found))


def _nearest(coord: paddle.Tensor, size: int) -> paddle.Tensor:
    """Index of the nearest pixel, by torch's arithmetic: of (c + 1) * size - 1, halved, where c is in [-1, 1]."""
    position = ((2.0 * coord - 1.0 + 1.0) * float(size) - 1.0) / 2.0
    low = paddle.floor(position)
    part = position - low
    low = low.astype("int64")
    up = (part > 0.5) | ((part == 0.5) & (low % 2 == 1))
    return low + up.astype("int64")


def uncertainty(logits: paddle.Tensor) -> paddle.Tensor:
    """The second largest logit minus the largest, (N, ...): at most 0, and largest where it is least certain.

    Args:
        logits: (N, K, ...).
    """
    top = paddle.topk(logits, 2, axis=1)[0]
    return top[:, 1] - top[:, 0]


def uncertain_points(logits: paddle.Tensor, num_points: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The pixels of least certain logits.

    Args:
        logits: (N, K, H, W).
        num_points: P; all pixels if there are fewer.

    Returns:
        (N, P) ascending indices of pixels in row-major order of the map, and their centres (N, P, 2).
    """
    height, width = logits.shape[2:]
    count = min(height * width, num_points)
    index = paddle.sort(paddle.topk(uncertainty(logits).flatten(1), count, axis=1)[1], axis=1)
    steps = [paddle.full([], 1.0 / size, logits.dtype) for size in (width, height)]
    x = (index % width).astype(logits.dtype) * steps[0] + steps[0] / 2.0
    y = (index // width).astype(logits.dtype) * steps[1] + steps[1] / 2.0
    return index, paddle.stack([x, y], axis=2)


def training_points(
    logits: paddle.Tensor, draws: paddle.Tensor, *, num_candidates: int, num_important: int
) -> paddle.Tensor:
    """The least certain of random candidates, and after them random points.

    The uncertainty is that of the logits sampled at a candidate: between two pixels that are certain of different
    classes it is largest, which samples of the pixels' own uncertainties would miss.

    Args:
        logits: (N, K, H, W); no gradient flows to it.
        draws: (N, D, 2) uniform in [0, 1): first the candidates, then the other points.
        num_candidates: how many of the draws are candidates.
        num_important: how many candidates are taken.

    Returns:
        (N, num_important + D - num_candidates, 2) coordinates.
    """
    with paddle.no_grad():
        candidates = draws[:, :num_candidates]
        scores = uncertainty(sample_points(logits, candidates))
        index = paddle.topk(scores, num_important, axis=1)[1].unsqueeze(2)
        chosen = paddle.take_along_axis(candidates, index.expand([-1, -1, 2]), axis=1)
        return paddle.concat([chosen, draws[:, num_candidates:]], axis=1).detach()
