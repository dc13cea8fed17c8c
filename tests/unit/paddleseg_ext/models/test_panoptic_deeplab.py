"""Panoptic-DeepLab: sizes, what is separable, padding, and backbones that do not fit."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddleseg_ext.errors import ConfigError
from paddleseg_ext.models import PanopticDeepLab
from paddleseg_ext.models.layers.separable import DepthwiseSeparableConv2D

SMALL = {"aspp_channels": 8, "decoder_channels": (8, 6), "head_channels": (8, 4), "project_channels": (4, 4)}


class Features(nn.Layer):
    """A backbone of convolutions with strides 4, 8 and 16."""

    channels = {"res2": 4, "res3": 6, "res5": 8}  # noqa: RUF012
    strides = {"res2": 4, "res3": 8, "res5": 16}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        for name, width in self.channels.items():
            stride = self.strides[name]
            self.add_sublayer(name, nn.Conv2D(3, width, 2 * stride - 1, stride=stride, padding=stride - 1))
        self.seen = None

    def forward(self, image):
        self.seen = image
        return {name: getattr(self, name)(image) for name in self.channels}


class FeatureList(Features):
    """The same features in a list, after one of stride 2 that nobody uses, and with one of stride 16 in between."""

    channels = (3, 4, 6, 8, 8)
    strides = None

    def __init__(self):
        nn.Layer.__init__(self)
        self.convs = nn.LayerList([nn.Conv2D(3, width, 3, padding=1) for width in self.channels])

    def forward(self, image):
        return [F.avg_pool2d(conv(image), 2 ** (i + 1)) for i, conv in enumerate(self.convs)]


@pytest.fixture
def image():
    return paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype("float32"))


def model(backbone=None, **arguments):
    paddle.seed(0)
    return PanopticDeepLab(5, backbone or Features(), **{**SMALL, **arguments})


def shapes(outputs):
    return {name: tuple(value.shape) for name, value in outputs.items()}


@pytest.mark.parametrize("size", [(64, 96), (63, 97), (65, 90)])
def test_predictions_have_the_images_size_in_both_modes(size):
    net, image = model(), paddle.randn([2, 3, *size])
    for mode in (net.train, net.eval):
        mode()
        assert shapes(net(image)) == {"semantic": (2, 5, *size), "center": (2, 1, *size), "offset": (2, 2, *size)}


def test_offsets_are_enlarged_and_multiplied_by_the_stride(image):
    net = model().eval()
    nn.initializer.Constant(0.0)(net.ins_embed_head.offset_predictor.weight)
    net.ins_embed_head.offset_predictor.bias.set_value(np.array([1.5, -2.0], "float32"))
    offset = net(image)["offset"].numpy()
    np.testing.assert_allclose(offset[:, 0], 6.0, rtol=1e-6)
    np.testing.assert_allclose(offset[:, 1], -8.0, rtol=1e-6)


def test_the_separable_variant_keeps_the_centers_dense():
    separable = {
        path for path, layer in model(separable=True).named_sublayers() if isinstance(layer, DepthwiseSeparableConv2D)
    }
    decoders = {
        f"{head}.decoder.{name}.fuse_conv" for head in ("sem_seg_head", "ins_embed_head") for name in ("res2", "res3")
    }
    pyramids = {
        f"{head}.decoder.res5.project_conv.convs.{i}" for head in ("sem_seg_head", "ins_embed_head") for i in (1, 2, 3)
    }
    assert separable == decoders | pyramids | {"sem_seg_head.head", "ins_embed_head.offset_head"}


def test_padding_adds_zeros_below_and_at_the_right():
    net = model(size_divisibility=32).eval()
    image = paddle.ones([1, 3, 33, 64])
    assert shapes(net(image))["semantic"] == (1, 5, 33, 64)
    seen = net.backbone.seen.numpy()
    assert seen.shape == (1, 3, 64, 64)
    assert (seen[:, :, :33] == 1).all() and (seen[:, :, 33:] == 0).all()


def test_the_pooling_window_is_that_of_a_training_crop(image):
    net = model(train_size=(48, 32))  # width, height
    pools = [layer for layer in net.sublayers() if isinstance(layer, nn.AvgPool2D)]
    assert [pool.ksize for pool in pools] == [(2, 3), (2, 3)]
    assert shapes(net(image))["center"] == (2, 1, 64, 96)
    with pytest.raises(ValueError, match="multiples of the pooling window 2x3"):
        net(image[:, :, :48])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_size": (48, 40)}, r"train_size: 48x40; expected multiples of 16"),
        ({"project_features": ("res2", "res4")}, r"no feature 'res4'; expected some of res2, res3, res5"),
        ({"project_channels": (4,)}, r"project_channels: \[4\] for the features \['res2', 'res3'\]"),
        ({"backbone": FeatureList(), "train_size": (64, 32)}, r"FeatureList does not tell the strides"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        model(**arguments)


def test_a_backbone_that_gives_a_list_will_do():
    net = model(FeatureList(), aspp_dilations=(1, 2, 3)).eval()
    assert shapes(net(paddle.randn([1, 3, 64, 96])))["offset"] == (1, 2, 64, 96)


def test_names_are_upstreams():
    names = {name.rpartition(".")[0] for name in model().state_dict()}
    assert {
        "sem_seg_head.decoder.res2.project_conv.norm",
        "sem_seg_head.decoder.res3.fuse_conv.1",
        "sem_seg_head.decoder.res5.project_conv.convs.4.1",
        "sem_seg_head.decoder.res5.project_conv.project",
        "sem_seg_head.head.0.norm",
        "sem_seg_head.predictor",
        "ins_embed_head.center_head.1",
        "ins_embed_head.center_predictor",
        "ins_embed_head.offset_head.0",
        "ins_embed_head.offset_predictor",
    } <= names
