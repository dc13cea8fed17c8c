"""Settings of layers, and of functions that are called between layers: each is planted in a toy port and told."""

from __future__ import annotations

import pytest

from parity import Case, inputs, run
from parity.case import Side

pytestmark = pytest.mark.parity


def torch_model(make, call):
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Toy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.g, self.z = nn.Conv2d(3, 8, 3, padding=1), make and make(nn), nn.Conv2d(8, 5, 1)

        def forward(self, x):
            x = self.a(x)
            return self.z(self.g(x) if make else call(x, F, torch))

    return Toy()


def paddle_model(make, call):
    import paddle
    import paddle.nn.functional as F
    from paddle import nn

    class Toy(nn.Layer):
        def __init__(self):
            super().__init__()
            self.a, self.g, self.z = nn.Conv2D(3, 8, 3, padding=1), make and make(nn), nn.Conv2D(8, 5, 1)

        def forward(self, x):
            x = self.a(x)
            return self.z(self.g(x) if make else call(x, F, paddle))

    return Toy()


def cause_of(*, layers=(None, None), calls=(None, None)):
    sides = Side(lambda: torch_model(layers[0], calls[0])), Side(lambda: paddle_model(layers[1], calls[1]))
    image = {"image": inputs.image(2)}
    case = Case(name="toy", reference=sides[0], port=sides[1], inputs=image, size=(12, 16))
    result = run(case, float32=False, stages=["forward"])
    return result.first[0].cause if result.first else "passed"


LAYERS = {
    "align_corners False, reference True": (
        lambda nn: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        lambda nn: nn.Upsample(scale_factor=2, mode="bilinear"),
    ),
    "mode nearest, reference bilinear": (
        lambda nn: nn.Upsample(scale_factor=2, mode="bilinear"),
        lambda nn: nn.Upsample(scale_factor=2, mode="nearest"),
    ),
    "align_mode 1, reference 0": (
        lambda nn: nn.Upsample(size=(24, 32), mode="bilinear"),
        lambda nn: nn.Upsample(scale_factor=2, mode="bilinear", align_mode=1),
    ),
    "scale_factor (3.0, 3.0), reference (2.0, 2.0)": (
        lambda nn: nn.Upsample(scale_factor=2),
        lambda nn: nn.Upsample(scale_factor=3),
    ),
    "approximate True, reference False": (lambda nn: nn.GELU(), lambda nn: nn.GELU(approximate=True)),
    "epsilon 0.001, reference 1e-05": (
        lambda nn: nn.InstanceNorm2d(8, affine=True),
        lambda nn: nn.InstanceNorm2D(8, epsilon=1e-3),
    ),
    "output_padding (0, 0), reference (1, 1)": (
        lambda nn: nn.ConvTranspose2d(8, 8, 3, 2, 1, 1),
        lambda nn: nn.Conv2DTranspose(8, 8, 3, 2, 1, 0),
    ),
    "padding (2, 2), reference (1, 1); dilation (2, 2), reference (1, 1)": (
        lambda nn: nn.ConvTranspose2d(8, 8, 3, 2, 1, 1),
        lambda nn: nn.Conv2DTranspose(8, 8, 3, 2, 2, 1, dilation=2),
    ),
    "output_size (4, 3), reference (3, 4)": (
        lambda nn: nn.AdaptiveAvgPool2d((3, 4)),
        lambda nn: nn.AdaptiveAvgPool2D((4, 3)),
    ),
    "alpha 0.5, reference 1": (lambda nn: nn.ELU(), lambda nn: nn.ELU(0.5)),
    "negative_slope 0.01, reference 0.2": (lambda nn: nn.LeakyReLU(0.2), lambda nn: nn.LeakyReLU()),
    "beta 1, reference 2": (lambda nn: nn.Softplus(beta=2), lambda nn: nn.Softplus()),
    "axis -1, reference 1": (lambda nn: nn.Softmax(dim=1), lambda nn: nn.Softmax()),
    "alpha 0.001, reference 0.0001": (
        lambda nn: nn.LocalResponseNorm(5),
        lambda nn: nn.LocalResponseNorm(5, alpha=1e-3),
    ),
}
ALIKE = {
    "a size for a factor": (
        lambda nn: nn.Upsample(size=(24, 32), mode="bilinear"),
        lambda nn: nn.Upsample(scale_factor=2, mode="bilinear"),
    ),
    "an axis from behind": (lambda nn: nn.Softmax(1), lambda nn: nn.Softmax(-3)),
    "one number for two": (lambda nn: nn.AdaptiveAvgPool2d(3), lambda nn: nn.AdaptiveAvgPool2D((3, 3))),
    "another class": (
        lambda nn: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        lambda nn: nn.UpsamplingBilinear2D(scale_factor=2),
    ),
}
CALLS = {
    "average pool .* counts_padding False, reference True; with exclusive=False": (
        lambda x, f, torch: f.avg_pool2d(x, 3, 1, 1),
        lambda x, f, paddle: f.avg_pool2d(x, 3, 1, 1),
    ),
    "gelu .* approximate True, reference False": (
        lambda x, f, torch: f.gelu(x),
        lambda x, f, paddle: f.gelu(x, approximate=True),
    ),
    "hardsigmoid .* slope 0.2, reference 0.166667": (
        lambda x, f, torch: f.hardsigmoid(x),
        lambda x, f, paddle: f.hardsigmoid(x, slope=0.2),
    ),
    r"resize .* size \(30, 20\), reference \(20, 30\)": (
        lambda x, f, torch: f.interpolate(x, size=(20, 30), mode="bilinear"),
        lambda x, f, paddle: f.interpolate(x, size=(30, 20), mode="bilinear"),
    ),
    "topk .* largest False, reference True": (
        lambda x, f, torch: torch.topk(x.flatten(2), 96).values.reshape(2, 8, 12, 8),
        lambda x, f, paddle: paddle.topk(x.flatten(2), 96, largest=False)[0].reshape([2, 8, 12, 8]),
    ),
    r"pad .* pad \(2, 0, 1, 0\), reference \(1, 0, 2, 0\)": (
        lambda x, f, torch: f.pad(x, (1, 0, 2, 0)),
        lambda x, f, paddle: f.pad(x, [2, 0, 1, 0]),
    ),
    r"max pool .* padding \(0, 0\), reference \(1, 1\)": (
        lambda x, f, torch: f.max_pool2d(x, 3, 1, 1),
        lambda x, f, paddle: f.max_pool2d(x, 3, 1),
    ),
}


@pytest.mark.parametrize("said", LAYERS)
def test_a_setting_of_a_layer_is_told_and_shown_to_be_the_cause(said):
    found = cause_of(layers=LAYERS[said])
    assert found.startswith(f"g is set differently: {said}; with ")
    assert "the difference falls" in found or "the layer agrees to" in found


@pytest.mark.parametrize("name", ALIKE)
def test_one_thing_said_in_two_ways_agrees(name):
    assert cause_of(layers=ALIKE[name]) == "passed"


@pytest.mark.parametrize("said", CALLS)
def test_an_argument_of_a_function_is_told_and_shown_to_be_the_cause(said):
    import re

    found = cause_of(calls=CALLS[said])
    assert re.search(f"the {said}", found), found
    assert "the difference falls" in found or "it agrees to" in found
