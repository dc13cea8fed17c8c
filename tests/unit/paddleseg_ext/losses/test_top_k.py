from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import paddle

from paddleseg_ext.losses import TopKCrossEntropy, build_losses

LOGITS = np.random.RandomState(0).standard_normal((2, 3, 4, 5))
LABEL = np.random.RandomState(1).randint(0, 3, (2, 4, 5))
LABEL[0, :2] = 255


def pixel_losses() -> np.ndarray:
    """Cross-entropy by its definition; 0 where the label is ignored."""
    prob = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    out = np.zeros(LABEL.shape)
    for n, y, x in np.ndindex(*LABEL.shape):
        if LABEL[n, y, x] != 255:
            out[n, y, x] = -np.log(prob[n, LABEL[n, y, x], y, x])
    return out


def value(loss: TopKCrossEntropy, *extra: np.ndarray) -> float:
    return float(loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABEL), *map(paddle.to_tensor, extra)))


def test_ignored_pixels_stay_in_the_mean_over_all() -> None:
    assert value(TopKCrossEntropy()) == pytest.approx(pixel_losses().sum() / 40, rel=1e-12)


@pytest.mark.parametrize(("share", "count"), [(0.2, 8), (0.26, 10), (0.9, 36)])
def test_the_share_is_rounded_down_to_pixels(share: float, count: int) -> None:
    expected = np.sort(pixel_losses().ravel())[::-1][:count].mean()
    assert value(TopKCrossEntropy(top_k=share)) == pytest.approx(expected, rel=1e-12)


def test_pixel_and_class_weights_multiply_before_the_selection() -> None:
    pixel_weight = np.random.RandomState(2).uniform(0, 3, LABEL.shape)
    by_class = np.array([1.0, 5.0, 0.5])[np.where(LABEL == 255, 0, LABEL)]
    expected = np.sort((pixel_losses() * pixel_weight * by_class).ravel())[::-1][:8].mean()
    loss = TopKCrossEntropy(top_k=0.2, class_weight=(1.0, 5.0, 0.5))
    assert value(loss, pixel_weight) == pytest.approx(expected, rel=1e-7)


def test_without_labels_the_loss_and_its_gradient_are_0() -> None:
    logits = paddle.to_tensor(LOGITS, stop_gradient=False)
    loss = TopKCrossEntropy(top_k=0.3)(logits, paddle.full([2, 4, 5], 255, "int64"))
    loss.backward()
    assert float(loss) == 0.0
    assert (logits.grad.numpy() == 0).all()


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="top_k"):
        TopKCrossEntropy(top_k=share)


def test_configurations_know_it() -> None:
    losses = build_losses([{"type": "TopKCrossEntropy", "output": "semantic", "top_k": 0.2}])
    terms = losses({"semantic": paddle.to_tensor(LOGITS)}, {"label": paddle.to_tensor(LABEL)})
    assert list(terms) == ["loss_semantic"]
