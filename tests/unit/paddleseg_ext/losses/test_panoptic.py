"""The losses of Panoptic-DeepLab's instance head, and weights per pixel by the name of a target."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import paddle

from paddleseg_ext.config import Config, import_components, validate
from paddleseg_ext.errors import ConfigError
from paddleseg_ext.losses import CenterLoss, OffsetLoss, build_losses

WEIGHTS = np.array([[[1.0, 0.0], [1.0, 1.0]]])
CENTER = np.array([[[[0.5, 9.0], [1.0, 0.0]]]])
CENTER_TARGET = np.array([[[[0.0, 0.0], [1.0, 0.5]]]])
OFFSET = np.array([[[[1.0, 9.0], [2.0, 3.0]], [[-1.0, 9.0], [0.0, 1.0]]]])
OFFSET_TARGET = np.array([[[[0.0, 0.0], [2.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]]])
TERMS = [
    {"type": "TopKCrossEntropy", "output": "semantic", "weights": "semantic_weights", "top_k": 0.5},
    {"type": "CenterLoss", "output": "center", "target": "center", "weights": "center_weights", "weight": 200.0},
    {"type": "OffsetLoss", "output": "offset", "target": "offset", "weights": "offset_weights", "weight": 0.01},
]


def tensors(*arrays):
    return [paddle.to_tensor(array) for array in arrays]


def test_the_center_loss_is_the_mean_square_over_weighted_pixels():
    # squares 0.25, (81 without weight), 0, 0.25; three pixels have a weight
    assert float(CenterLoss()(*tensors(CENTER, CENTER_TARGET, WEIGHTS))) == pytest.approx(0.5 / 3, rel=1e-12)


def test_the_offset_loss_sums_both_axes_and_counts_each_pixel_once():
    # |1-0| + |-1-1| = 3, (18 without weight), 0, |3-1| + |1-0| = 3; three pixels have a weight
    assert float(OffsetLoss()(*tensors(OFFSET, OFFSET_TARGET, WEIGHTS))) == pytest.approx(2.0, rel=1e-12)


def test_a_weight_of_two_counts_twice():
    weights = np.array([[[2.0, 0.0], [0.0, 1.0]]])
    assert float(CenterLoss()(*tensors(CENTER, CENTER_TARGET, weights))) == pytest.approx(0.75 / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "output", "target"), [(CenterLoss(), CENTER, CENTER_TARGET), (OffsetLoss(), OFFSET, OFFSET_TARGET)]
)
def test_without_any_weight_the_loss_and_its_gradient_are_0(loss, output, target):
    output = paddle.to_tensor(output, stop_gradient=False)
    value = loss(output, *tensors(target, np.zeros_like(WEIGHTS)))
    value.backward()
    assert float(value) == 0.0
    assert (output.grad.numpy() == 0).all()


def test_float32_targets_keep_the_precision_of_the_output():
    value = CenterLoss()(*tensors(CENTER, CENTER_TARGET.astype("float32"), WEIGHTS.astype("float32")))
    assert value.dtype == paddle.float64


def test_a_term_gets_the_weights_that_it_names():
    logits = np.log(np.array([[[[0.5, 0.25], [0.5, 0.5]], [[0.5, 0.75], [0.5, 0.5]]]]))
    outputs = dict(zip(("semantic", "center", "offset"), tensors(logits, CENTER, OFFSET)))
    label, semantic_weights = np.array([[[0, 0], [1, 255]]]), np.array([[[3.0, 1.0], [1.0, 7.0]]])
    names = ("label", "semantic_weights", "center", "center_weights", "offset", "offset_weights")
    arrays = (label, semantic_weights, CENTER_TARGET, WEIGHTS, OFFSET_TARGET, WEIGHTS)
    terms = build_losses(TERMS)(outputs, dict(zip(names, tensors(*arrays))))
    # losses 3 ln 2, ln 4, ln 2, 0 (ignored): the larger half is 3 ln 2 and 2 ln 2
    assert float(terms["loss_semantic"]) == pytest.approx(2.5 * np.log(2.0), rel=1e-12)
    assert float(terms["loss_center"]) == pytest.approx(200 * 0.5 / 3, rel=1e-12)
    assert float(terms["loss_offset"]) == pytest.approx(0.02, rel=1e-12)


def test_weights_that_are_not_in_the_batch_are_named():
    losses = build_losses(TERMS[1:2])
    with pytest.raises(ConfigError, match=r"loss_center needs 'center_weights'; available: center"):
        losses({"center": paddle.to_tensor(CENTER)}, {"center": paddle.to_tensor(CENTER_TARGET)})


def test_a_loss_that_takes_no_weights_refuses_them():
    with pytest.raises(ConfigError, match=r"loss_semantic: CrossEntropy takes no weights per pixel"):
        build_losses([{"type": "CrossEntropy", "output": "semantic", "weights": "semantic_weights"}])


def test_a_loss_that_needs_weights_asks_for_them():
    with pytest.raises(ConfigError, match=r"loss_center: CenterLoss needs weights per pixel; add weights"):
        build_losses([{"type": "CenterLoss", "output": "center", "target": "center"}])


def test_a_configuration_can_name_weights():
    import_components()
    validate(Config.from_dict({"batch_size": 1, "iters": 1, "losses": TERMS}))
    with pytest.raises(ConfigError, match=r"losses.*weightsx.*Did you mean 'weights'\?"):
        wrong = [{**TERMS[0], "weightsx": "semantic_weights"}]
        validate(Config.from_dict({"batch_size": 1, "iters": 1, "losses": wrong}))
