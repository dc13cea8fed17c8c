"""A camera on a street, and a canvas that paints colours and label ids at once.

World coordinates in metres: X to the right of the street's axis, Y up from the ground, Z ahead of the camera.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from paddleseg_ext.data.classes import CITYSCAPES_LABELS

Color = tuple[float, float, float]
Point = tuple[float, float, float]

LABEL_ID = {label.name: label.id for label in CITYSCAPES_LABELS}
HAS_INSTANCES = {label.name for label in CITYSCAPES_LABELS if label.has_instances}
CIRCLE = [(math.cos(k * math.pi / 8), math.sin(k * math.pi / 8)) for k in range(16)]
_SHIFT = 4  # fixed-point bits of polygon corners


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the street.

    Attributes:
        size: (H, W) of the canvas in pixels.
        focal: focal length in pixels.
        horizon: row of the horizon.
        center: column where a straight street would vanish.
        height: of the lens above the ground, in metres.
        lane: of the lens to the right of the street's axis, in metres.
        slope: sideways run of the street per metre ahead.
        bend: curvature of the street, in 1 / metre.
    """

    size: tuple[int, int]
    focal: float
    horizon: float
    center: float
    height: float
    lane: float = 0.0
    slope: float = 0.0
    bend: float = 0.0

    def shift(self, z: float | np.ndarray) -> float | np.ndarray:
        """How far the street has moved sideways at distance `z`, in metres."""
        return self.slope * z + self.bend * z * z

    def project(self, points: Sequence[Point], *, rigid_z: float | None = None) -> np.ndarray:
        """(P, 2) pixel positions (column, row) of world points.

        Args:
            points: P world points.
            rigid_z: distance at which the street's sideways shift is taken, for things that do not bend with it;
                None bends each point.
        """
        x, y, z = np.array(points, np.float64).T
        x = x + self.shift(z if rigid_z is None else rigid_z) - self.lane
        scale = self.focal / z
        out = np.empty((len(points), 2))
        out[:, 0] = self.center + scale * x
        out[:, 1] = self.horizon - scale * (y - self.height)
        return out

    @property
    def nearest(self) -> float:
        """Distance at which the ground enters the picture."""
        return self.focal * self.height / (self.size[0] - self.horizon)


class Canvas:
    """Colours and ids that are painted together, far things first.

    Args:
        camera: how world points are seen.
        haze: colour of the distance.
        visibility: distance in metres at which haze has taken 63 % of a colour.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) int32; class id, or class id * 1000 + k for the k-th object of a class with instances.
    """

    def __init__(self, camera: Camera, *, haze: Color, visibility: float) -> None:
        self.camera = camera
        self.haze = haze
        self.visibility = visibility
        self.image = np.zeros((*camera.size, 3), np.uint8)
        self.ids = np.full(camera.size, LABEL_ID["sky"], np.int32)
        self._counts: Counter[str] = Counter()

    def new_id(self, name: str) -> int:
        """Id of the next object of a class; the class id itself where objects are not told apart."""
        if name not in HAS_INSTANCES:
            return LABEL_ID[name]
        self._counts[name] += 1
        return LABEL_ID[name] * 1000 + self._counts[name] - 1

    def paint(self, points: Sequence[Point], color: Color, ident: int, *, rigid_z: float | None = None) -> None:
        """Fills a polygon of world points; its colour fades with the distance."""
        z = sum(point[2] for point in points) / len(points)
        self.fill(self.camera.project(points, rigid_z=rigid_z), self.faded(color, z), ident)

    def fill(self, pixels: np.ndarray, color: Color, ident: int) -> None:
        """Fills a polygon of (column, row) positions."""
        corners = _fixed(pixels)
        cv2.fillPoly(self.image, [corners], tuple(min(max(c, 0.0), 255.0) for c in color), shift=_SHIFT)
        cv2.fillPoly(self.ids, [corners], ident, shift=_SHIFT)

    def disc(self, center: Point, radius: tuple[float, float], color: Color, ident: int, *, rigid_z: float) -> None:
        """Fills an ellipse that faces the camera; `radius` is (across, up) in metres."""
        x, y, z = center
        points = [(x + radius[0] * across, y + radius[1] * up, z) for across, up in CIRCLE]
        self.paint(points, color, ident, rigid_z=rigid_z)

    def shade(self, points: Sequence[Point], factor: float, *, rigid_z: float | None = None) -> None:
        """Darkens (factor < 1) a polygon of world points; ids stay."""
        corners = _fixed(self.camera.project(points, rigid_z=rigid_z))
        height, width = self.camera.size
        left, top = np.clip(corners.min(0) >> _SHIFT, 0, (width, height))
        right, bottom = np.clip((corners.max(0) >> _SHIFT) + 1, 0, (width, height))
        if left >= right or top >= bottom:
            return
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [corners - (np.array([left, top]) << _SHIFT).astype(np.int32)], 1, shift=_SHIFT)
        region = self.image[top:bottom, left:right]
        darker = cv2.convertScaleAbs(region, alpha=factor)
        np.copyto(region, darker, where=mask[:, :, None].astype(bool))

    def faded(self, color: Color, z: float) -> Color:
        """A colour as seen from `z` metres away."""
        share = 1 - math.exp(-max(z - 8, 0) / self.visibility)
        return tuple((1 - share) * channel + share * haze for channel, haze in zip(color, self.haze))


def shaded(color: Color, factor: float) -> Color:
    """A colour made darker (factor < 1) or lighter."""
    return tuple(min(channel * factor, 255.0) for channel in color)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    limit = 1 << 14  # far outside any canvas; keeps fixed-point numbers small
    return np.rint(np.minimum(np.maximum(pixels, -limit), limit) * (1 << _SHIFT)).astype(np.int32)
