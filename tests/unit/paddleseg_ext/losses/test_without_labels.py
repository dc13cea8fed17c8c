"""A batch whose pixels are all ignored teaches nothing and breaks nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleseg_ext.losses import CrossEntropy, DetailAggregateLoss, DiceLoss, OhemCrossEntropy, TopKCrossEntropy

LOSSES = {
    "cross-entropy": CrossEntropy(),
    "cross-entropy with class weights": CrossEntropy(class_weight=(1.0, 0.0, 5.0)),
    "OHEM, 4 pixels": OhemCrossEntropy(min_kept=4),
    "OHEM, a sixteenth": OhemCrossEntropy(min_kept_ratio=1 / 16),
    "OHEM without threshold": OhemCrossEntropy(thresh=None, min_kept=4),
    "top 20 %": TopKCrossEntropy(top_k=0.2),
    "all pixels": TopKCrossEntropy(),
    "dice": DiceLoss(),
}


def loss_and_gradient(loss: Any, label: np.ndarray, *, scale: float = 1.0) -> tuple[float, np.ndarray]:
    logits = paddle.to_tensor(scale * np.random.RandomState(0).standard_normal((2, 3, 6, 8)).astype("f4"))
    logits.stop_gradient = False
    value = loss(logits, paddle.to_tensor(label))
    value.backward()
    return float(value), logits.grad.numpy()


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_and_its_gradient_are_exactly_0(name: str, scale: float) -> None:
    value, gradient = loss_and_gradient(LOSSES[name], np.full((2, 6, 8), 255), scale=scale)
    assert value == 0.0
    assert (gradient == 0.0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_gradient_and_the_others_have(name: str) -> None:
    label = np.random.RandomState(1).choice([0, 2], (2, 6, 8))
    label[:, ::2] = 255
    value, gradient = loss_and_gradient(LOSSES[name], label)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert (gradient[:, :, ::2] == 0.0).all()
    assert np.abs(gradient).max() > 0.0


def test_the_loss_on_boundaries_stays_finite() -> None:
    # by upstream's rule 255 is an id like any other, whose border with the zero padding is a boundary
    logits = paddle.zeros([1, 1, 16, 16])
    logits.stop_gradient = False
    terms = DetailAggregateLoss()(logits, paddle.full([1, 16, 16], 255, dtype="int64"))
    sum(terms.values()).backward()
    assert all(np.isfinite(float(term)) for term in terms.values())
    assert np.isfinite(logits.grad.numpy()).all()
