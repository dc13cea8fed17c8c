"""SemanticFPN and PointRend: sizes, refinement, and what does not depend on the batch."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.models import PointRend, SemanticFPN
from paddleseg_ext.models.layers.padding import pad_to_multiple
from paddleseg_ext.models.necks import FPN


class Pyramid(nn.Layer):
    """A backbone of four convolutions, 1x1 with strides 4 to 32."""

    channels = {"a": 4, "b": 6, "c": 8, "d": 8}  # noqa: RUF012
    strides = {"a": 4, "b": 8, "c": 16, "d": 32}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        for name, width in self.channels.items():
            self.add_sublayer(name, nn.Conv2D(3, width, 4, stride=self.strides[name]))

    def forward(self, image):
        return {name: getattr(self, name)(image) for name in self.channels}


@pytest.fixture
def image():
    return paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 40, 72)).astype("float32"))


def pointrend(**arguments):
    paddle.seed(0)
    net = PointRend(5, Pyramid(), fpn_channels=8, head_channels=32, num_points=8, **arguments)
    nn.initializer.Normal(std=1.0)(net.sem_seg_head.point_head.predictor.weight)
    return net


def test_padding_adds_rows_below_and_columns_at_the_right():
    x = paddle.ones([1, 2, 3, 5])
    padded = pad_to_multiple(x, 4, value=7.0).numpy()
    assert padded.shape == (1, 2, 4, 8)
    assert (padded[:, :, :3, :5] == 1).all() and padded.sum() == 30 + 7 * 2 * (32 - 15)
    assert pad_to_multiple(x, 1) is x


def test_semantic_fpn_gives_logits_of_the_images_size_in_both_modes(image):
    net = SemanticFPN(5, Pyramid(), fpn_channels=8, head_channels=32)
    for mode in (net.train, net.eval):
        mode()
        assert {name: value.shape for name, value in net(image).items()} == {"semantic": [2, 5, 40, 72]}


def test_a_pyramid_needs_strides_that_double():
    backbone = Pyramid()
    backbone.strides = {"a": 4, "b": 8, "c": 8, "d": 8}
    with pytest.raises(ValueError, match=r"strides \[4, 8, 8, 8\]"):
        FPN(backbone)


def test_training_gives_coarse_logits_and_points(image):
    net = pointrend()
    assert net.num_draws == 24 + 2
    outputs = net(image, paddle.rand([2, 26, 2]))
    assert {name: value.shape for name, value in outputs.items()} == {
        "semantic": [2, 5, 40, 72], "points": [2, 5, 8], "point_coords": [2, 8, 2],
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"draws of shape \[2, 25, 2\]; expected \[2, 26, 2\]"):
        net(image, paddle.rand([2, 25, 2]))


def test_points_are_drawn_from_paddles_generator_by_default(image):
    net = pointrend()
    runs = []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        runs.append(net(image)["point_coords"].numpy())
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any()


def test_each_subdivision_replaces_only_the_least_certain_pixels(image):
    net = pointrend(subdivision_num_points=10, keep_steps=True)
    net.eval()
    outputs = net(image)
    assert (outputs["stride4"].shape, outputs["stride2"].shape) == ([2, 5, 16, 24], [2, 5, 32, 48])
    doubled = nn.functional.interpolate(outputs["stride4"], scale_factor=2, mode="bilinear", align_corners=False)
    changed = (outputs["stride2"] != doubled).any(axis=1).numpy()
    top = np.sort(doubled.numpy(), axis=1)
    lead = (top[:, -1] - top[:, -2]).reshape(2, -1)
    for n in range(2):
        assert set(np.flatnonzero(changed[n])) == set(np.argsort(lead[n])[:10])


def test_enough_points_predict_every_pixel_by_the_point_head(image):
    net = pointrend(subdivision_num_points=10**6)
    net.eval()
    few = pointrend(subdivision_num_points=1)
    few.eval()
    assert ((net(image)["semantic"] != few(image)["semantic"]).any(axis=1).numpy().mean()) > 0.99


def test_images_of_a_batch_are_refined_independently(image):
    net = pointrend(subdivision_num_points=20)
    net.eval()
    together = net(image)["semantic"].numpy()
    alone = np.concatenate([net(image[n : n + 1])["semantic"].numpy() for n in range(2)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_several_levels_can_feed_the_point_head_in_evaluation(image):
    net = pointrend(in_features=("p2", "p3"), coarse_pred_each_layer=True)
    net.eval()
    assert net(image)["semantic"].shape == [2, 5, 40, 72]
    assert net.sem_seg_head.point_head.fc1.weight.shape == [256, 21, 1]
    assert net.sem_seg_head.point_head.predictor.weight.shape == [5, 261, 1]


@pytest.mark.parametrize("arguments", [{"importance_sample_ratio": 1.5}, {"subdivision_num_points": 0}])
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match="PointRend: "):
        pointrend(**arguments)
