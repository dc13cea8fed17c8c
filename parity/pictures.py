"""A picture per case: what went in, what each side predicts, and where they differ. Numpy and OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

_BAR = 28


def read(path: Path) -> np.ndarray | None:
    """An image file as (H, W, 3) uint8 RGB, or None if it cannot be decoded."""
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or more pixels than it takes
        return None
    return None if image is None else np.ascontiguousarray(image[..., ::-1])


def write(path: Path, image: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 RGB as PNG."""
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes())


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at (H, W), averaged where it shrinks."""
    shrinks = size[0] < image.shape[0]
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def palette(count: int) -> np.ndarray:
    """(count, 3) uint8 colours, neighbours far apart in hue."""
    hue = (np.arange(count) * 0.61803398875) % 1.0
    value = 255 - 60 * (np.arange(count) % 3)
    hsv = np.stack([hue * 179, np.full(count, 190), value], axis=-1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


def panel(image: np.ndarray, reference: np.ndarray, port: np.ndarray, *, title: str) -> np.ndarray:
    """Four tiles with captions: input, reference, port, difference.

    Args:
        image: (H, W, 3) uint8 RGB.
        reference: (H, W) class ids.
        port: (H, W) class ids.
        title: of the case.
    """
    colours = palette(int(max(reference.max(), port.max())) + 1)
    different = reference != port
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2 + 96
    grey[different] = (255, 0, 0)
    caption = f"{int(different.sum())} of {different.size} pixels differ"
    tiles = [
        _tile(image, f"{title}: input"),
        _tile(cv2.addWeighted(image, 0.35, colours[reference], 0.65, 0), "reference (torch)"),
        _tile(cv2.addWeighted(image, 0.35, colours[port], 0.65, 0), "port (paddle)"),
        _tile(grey, caption),
    ]
    gap = np.full((tiles[0].shape[0], 8, 3), 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)


def _tile(image: np.ndarray, caption: str) -> np.ndarray:
    bar = np.full((_BAR, image.shape[1], 3), 255, np.uint8)
    scale = min(
        0.5, 0.5 * (image.shape[1] - 8) / max(1, cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0])
    )
    cv2.putText(bar, caption, (4, _BAR - 9), cv2.FONT_HERSHEY_SIMPLEX, scale, (20, 20, 20), 1, cv2.LINE_AA)
    return np.concatenate([bar, image])
