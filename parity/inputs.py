"""Deterministic inputs: images with structure, label maps with regions and ignored pixels.

`N batch, C channels, H W image, K classes`. Everything is numpy and depends on the seed and the size alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity import fill


@dataclass(frozen=True)
class image:  # noqa: N801  (reads as a verb-less constructor in a case: inputs.image(2, 3))
    """Normalised images: (N, C, H, W) float32, about zero mean and unit variance, on a grid of 1/64.

    Attributes:
        batch: N.
        channels: C.
    """

    batch: int = 2
    channels: int = 3

    def make(self, name: str, size: tuple[int, int], seed: int = 0) -> np.ndarray:
        """The images at `size` = (H, W)."""
        height, width = size
        shape = (self.batch, self.channels, height, width)
        random = np.random.RandomState(fill.seed_of(name, shape, seed))
        rows, cols = -(-height // 16) + 1, -(-width // 16) + 1
        coarse = random.standard_normal((self.batch, self.channels, rows, cols))
        smooth = _linear(rows, height) @ coarse @ _linear(cols, width).T
        noisy = 1.2 * smooth + 0.4 * random.standard_normal(shape)
        return (np.round(noisy * 64) / 64).astype(np.float32)


@dataclass(frozen=True)
class labels:  # noqa: N801
    """Label maps: (N, H, W) int64 of Voronoi cells, some of them ignored, and an ignored border on top.

    Attributes:
        batch: N.
        num_classes: K; ids are 0..K-1.
        ignore: id of the ignored pixels.
        cells: Voronoi cells per image.
    """

    batch: int = 2
    num_classes: int = 19
    ignore: int = 255
    cells: int = 24

    def make(self, name: str, size: tuple[int, int], seed: int = 0) -> np.ndarray:
        """The label maps at `size` = (H, W)."""
        height, width = size
        random = np.random.RandomState(fill.seed_of(name, (self.batch, height, width), seed))
        y, x = np.mgrid[0:height, 0:width]
        out = np.empty((self.batch, height, width), np.int64)
        for n in range(self.batch):
            cy = random.randint(0, height, self.cells)
            cx = random.randint(0, width, self.cells)
            ids = random.randint(0, self.num_classes, self.cells)
            ids[:2] = self.ignore
            nearest = np.argmin((y[..., None] - cy) ** 2 + (x[..., None] - cx) ** 2, axis=-1)
            out[n] = ids[nearest]
        out[:, : max(1, height // 32)] = self.ignore
        return out


@dataclass(frozen=True)
class uniform:  # noqa: N801
    """Numbers in (0, 1), such as the draws of a model that samples: (N, *shape) float32, whatever the size.

    They are odd multiples of 1/8192: exact in float32, never the same as the border of a pixel of a power-of-two grid.

    Attributes:
        batch: N.
        shape: of one image's draws, such as (196, 2) for points.
    """

    batch: int = 2
    shape: tuple[int, ...] = ()

    def make(self, name: str, size: tuple[int, int], seed: int = 0) -> np.ndarray:
        """The numbers; `size` is ignored."""
        shape = (self.batch, *self.shape)
        random = np.random.RandomState(fill.seed_of(name, shape, seed))
        return ((2 * random.randint(0, 4096, shape) + 1) / 8192).astype(np.float32)


def _linear(coarse: int, fine: int) -> np.ndarray:
    """(fine, coarse) matrix of linear interpolation with knots every 16 pixels."""
    position = np.arange(fine) / 16.0
    low = np.minimum(position.astype(np.int64), coarse - 2)
    weight = position - low
    matrix = np.zeros((fine, coarse))
    matrix[np.arange(fine), low] = 1 - weight
    matrix[np.arange(fine), low + 1] = weight
    return matrix
