"""Weighted means, Dice, and the binding of losses to outputs and targets, against numpy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_ext.errors import ConfigError
from paddleseg_ext.losses import CrossEntropy, DiceLoss, build_losses

LOGITS = np.random.RandomState(0).standard_normal((2, 3, 4, 5))
LABEL = np.random.RandomState(1).randint(0, 3, (2, 4, 5))
LABEL[0, :2] = 255
PROB = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def labelled_pixels() -> list[tuple[float, int]]:
    """(cross-entropy, class) of each pixel that is not ignored."""
    places = [place for place in np.ndindex(*LABEL.shape) if LABEL[place] != 255]
    return [(-np.log(PROB[n, LABEL[n, y, x], y, x]), int(LABEL[n, y, x])) for n, y, x in places]


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    expected = np.mean([loss for loss, _ in labelled_pixels()])
    found = CrossEntropy()(paddle.to_tensor(LOGITS), paddle.to_tensor(LABEL))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_with_class_weights_the_sum_is_divided_by_the_sum_of_the_pixels_weights() -> None:
    weights = (0.5, 3.0, 1.0)
    pixels = labelled_pixels()
    expected = sum(weights[k] * loss for loss, k in pixels) / sum(weights[k] for _, k in pixels)
    found = CrossEntropy(class_weight=weights)(paddle.to_tensor(LOGITS), paddle.to_tensor(LABEL))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_dice_is_that_of_the_squared_denominator_over_labelled_pixels() -> None:
    values = []
    for n in range(2):
        for k in range(3):
            overlap = prob_square = count = 0.0
            for y, x in np.ndindex(4, 5):
                if LABEL[n, y, x] != 255:
                    p, t = PROB[n, k, y, x], float(LABEL[n, y, x] == k)
                    overlap, prob_square, count = overlap + p * t, prob_square + p * p, count + t
            values.append((2 * overlap + 1.0) / (prob_square + count + 1.0))
    found = DiceLoss()(paddle.to_tensor(LOGITS), paddle.to_tensor(LABEL))
    assert float(found) == pytest.approx(1.0 - np.mean(values), rel=1e-12)


def test_terms_are_weighted_named_and_summed_over_their_outputs() -> None:
    losses = build_losses(
        [
            {"type": "CrossEntropy", "output": "semantic", "name": "loss_seg"},
            {"type": "CrossEntropy", "output": ["aux0", "aux1"], "weight": 0.4, "name": "loss_aux"},
        ]
    )
    outputs = {name: paddle.to_tensor(LOGITS * factor) for name, factor in (("semantic", 1), ("aux0", 2), ("aux1", 3))}
    label = paddle.to_tensor(LABEL)
    terms = losses(outputs, {"label": label})
    plain = {name: float(CrossEntropy()(logits, label)) for name, logits in outputs.items()}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(
        {"loss_seg": plain["semantic"], "loss_aux": 0.4 * (plain["aux0"] + plain["aux1"])}, rel=1e-12
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [({"output": "semantics"}, "semantics.*semantic"), ({"output": "semantic", "target": "labels"}, "labels.*label")],
)
def test_an_output_or_target_that_is_not_there_is_named_with_those_that_are(spec: dict, message: str) -> None:
    losses = build_losses([{"type": "CrossEntropy", **spec}])
    with pytest.raises(ConfigError, match=message):
        losses({"semantic": paddle.to_tensor(LOGITS)}, {"label": paddle.to_tensor(LABEL)})
