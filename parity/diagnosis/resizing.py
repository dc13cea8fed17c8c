"""The other library's resize in a port's data pipeline: Pillow averages where an image shrinks, OpenCV does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
_MODES = {"INTER_NEAREST": "NEAREST", "INTER_LINEAR": "BILINEAR", "INTER_CUBIC": "BICUBIC", "INTER_LANCZOS4": "LANCZOS"}


def explain(make: Callable[[], Arrays], agrees: Callable[[Arrays], bool]) -> str:
    """Whether a pipeline makes upstream's arrays with the other library's resize, as a sentence; "" if not.

    Args:
        make: () -> what the port's pipeline makes.
        agrees: (arrays) -> whether they are upstream's.
    """
    for own, other, replaced in (
        ("OpenCV", "Pillow (PIL)", _pillow_for_cv2),
        ("Pillow", "OpenCV (cv2)", _cv2_for_pillow),
    ):
        try:
            with replaced():
                made = make()
        except Exception:  # what it resizes is nothing for the other library
            continue
        if agrees(made):
            return (
                f"the port resizes by {own} and upstream by {other}: with that resize, all arrays agree with upstream's"
            )
    return ""


@contextmanager
def _pillow_for_cv2() -> Iterator[None]:
    import cv2
    from PIL import Image

    own = cv2.resize
    modes = {getattr(cv2, name): getattr(Image.Resampling, mode) for name, mode in _MODES.items()}

    def resize(
        src: np.ndarray, dsize: Any = None, dst: Any = None, fx: float = 0, fy: float = 0, interpolation: int = 1
    ) -> np.ndarray:
        size = tuple(dsize) if dsize else (round(src.shape[1] * fx), round(src.shape[0] * fy))
        if src.dtype == np.uint8:
            return np.array(Image.fromarray(src).resize(size, modes[interpolation]))
        planes = np.moveaxis(src.astype(np.float32).reshape(*src.shape[:2], -1), -1, 0)
        resized = [np.array(Image.fromarray(plane).resize(size, modes[interpolation])) for plane in planes]
        return np.stack(resized, -1).reshape(size[1], size[0], *src.shape[2:]).astype(src.dtype)

    cv2.resize = resize
    try:
        yield
    finally:
        cv2.resize = own


@contextmanager
def _cv2_for_pillow() -> Iterator[None]:
    import cv2
    from PIL import Image

    own = Image.Image.resize
    modes = {getattr(Image.Resampling, mode): getattr(cv2, name) for name, mode in _MODES.items()}

    def resize(image: Any, size: Any, resample: Any = Image.Resampling.BICUBIC, *others: Any, **more: Any) -> Any:
        return Image.fromarray(cv2.resize(np.array(image), tuple(size), interpolation=modes[resample]))

    Image.Image.resize = resize
    try:
        yield
    finally:
        Image.Image.resize = own
