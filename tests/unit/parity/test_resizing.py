"""Which library a pipeline resizes by is found by trying the other one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from parity.diagnosis import resizing

IMAGE = np.random.RandomState(0).randint(0, 255, (40, 60, 3), np.uint8)
SIZE = (31, 20)  # (width, height), smaller: there both differ


def by_cv2(mode="INTER_LINEAR", image=IMAGE):
    return {"image": cv2.resize(image, SIZE, interpolation=getattr(cv2, mode))}


def by_pillow(mode="BILINEAR", image=IMAGE):
    return {"image": np.array(Image.fromarray(image).resize(SIZE, getattr(Image.Resampling, mode)))}


def equal(upstream):
    return lambda made: np.array_equal(made["image"], upstream["image"])


@pytest.mark.parametrize(("opencv", "pillow"), [("INTER_LINEAR", "BILINEAR"), ("INTER_CUBIC", "BICUBIC")])
def test_the_other_librarys_resize_is_named(opencv, pillow):
    theirs, ours = by_pillow(pillow), by_cv2(opencv)
    assert not np.array_equal(theirs["image"], ours["image"])
    said = resizing.explain(lambda: by_cv2(opencv), equal(theirs))
    assert said.startswith("the port resizes by OpenCV and upstream by Pillow (PIL)")
    said = resizing.explain(lambda: by_pillow(pillow), equal(ours))
    assert said.startswith("the port resizes by Pillow and upstream by OpenCV (cv2)")


def test_floats_are_resized_plane_by_plane():
    floats = IMAGE.astype(np.float32)
    planes = [
        np.array(Image.fromarray(plane).resize(SIZE, Image.Resampling.BILINEAR)) for plane in floats.transpose(2, 0, 1)
    ]
    assert resizing.explain(lambda: by_cv2(image=floats), equal({"image": np.stack(planes, -1)}))


def test_nothing_is_said_of_another_mistake_and_both_libraries_are_as_before():
    own, plain = cv2.resize, Image.Image.resize
    assert resizing.explain(lambda: by_cv2("INTER_CUBIC"), equal(by_pillow("BILINEAR"))) == ""
    assert resizing.explain(lambda: {"image": IMAGE}, equal(by_cv2())) == ""
    assert cv2.resize is own and Image.Image.resize is plain
