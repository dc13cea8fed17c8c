"""The operators that the port's side computes anew in float64: Paddle's own functions, without Paddle's rounding.

Paddle's operator in float32 says what is meant (every argument, every corner), torch in float64 says how exact it is.
"""

from __future__ import annotations

import itertools

import numpy as np
import paddle
import paddle.nn.functional as PF
import pytest
import torch
import torch.nn.functional as TF
from paddle import _C_ops
from paddle.nn.functional import interpolate

from parity.paddle_float64 import exact_operators

pytestmark = pytest.mark.parity

SIZES = [(1, 1), (2, 3), (5, 9), (7, 4), (16, 8)]
TARGETS = [(1, 1), (2, 2), (5, 9), (9, 5), (13, 17), (32, 24), (3, 11)]
RANDOM = np.random.RandomState(0)


def image(size, channels=3):
    return np.float32(np.round(RANDOM.standard_normal((2, channels, *size)) * 64) / 64)


def exact(operator, x, **arguments):
    """Value and gradient of a function of `paddle.nn.functional` inside `exact_operators`, in float64."""
    tensor = paddle.to_tensor(x.astype(np.float64), stop_gradient=False)
    with exact_operators():
        out = getattr(PF, operator)(tensor, **arguments)
        (out * out).sum().backward()
    return out.numpy(), tensor.grad.numpy()


def single(operator, x, **arguments):
    """The same by Paddle's own operator in float32."""
    tensor = paddle.to_tensor(x, stop_gradient=False)
    out = getattr(PF, operator)(tensor, **arguments)
    (out * out).sum().backward()
    return out.numpy(), tensor.grad.numpy()


def torch_double(operator, x, *arguments, **keywords):
    """The same by torch in float64."""
    tensor = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    out = getattr(TF, operator)(tensor, *arguments, **keywords)
    (out * out).sum().backward()
    return out.detach().numpy(), tensor.grad.numpy()


def assert_close(found, expected, tolerance):
    for ours, theirs in zip(found, expected):
        assert ours.shape == theirs.shape and ours.dtype == np.float64
        scale = np.sqrt(np.mean(np.float64(theirs) ** 2))
        assert np.max(np.abs(ours - theirs)) <= tolerance * max(scale, 1e-6)


# --- resizing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_resizing_is_what_paddle_does_in_float32_and_torch_in_float64(size, align_corners, mode):
    x = image(size)
    for target in TARGETS:
        found = exact("interpolate", x, size=target, mode=mode, align_corners=align_corners)
        own = single("interpolate", x, size=target, mode=mode, align_corners=align_corners)
        assert_close(found, own, 2e-5)  # Paddle's float32 ratio is good to 1e-5 of a pixel here
        if 1 not in target or align_corners:
            truth = torch_double("interpolate", x, target, mode=mode, align_corners=align_corners)
            assert_close(found, truth, 1e-13)


def test_an_output_of_one_pixel_is_paddles_and_not_torchs():
    """Paddle takes the first pixel, torch the middle: a difference that the harness has to show, not to repair."""
    x = image((4, 6), 1)
    found, _ = exact("interpolate", x, size=[1, 1], mode="bilinear", align_corners=False)
    own, _ = single("interpolate", x, size=[1, 1], mode="bilinear", align_corners=False)
    truth, _ = torch_double("interpolate", x, (1, 1), mode="bilinear", align_corners=False)
    assert np.array_equal(found, own) and np.array_equal(found.ravel(), x[:, 0, 0, 0])
    assert np.allclose(truth.ravel(), x[:, 0, 1:3, 2:4].mean((1, 2)))


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.35, 0.7, 1.1, 1.3, 1.7, 2.3, 2.9, 1 / 3, 2 / 3, 4 / 3])
def test_a_factor_gives_the_output_size_that_paddle_gives(factor):
    for size in range(4, 60):
        if int(size * factor) < 1:
            continue
        x = paddle.zeros([1, 1, size, 4])
        own = PF.interpolate(x, scale_factor=[factor, 1.0], mode="bilinear").shape
        with exact_operators():
            assert PF.interpolate(x.astype("float64"), scale_factor=[factor, 1.0], mode="bilinear").shape == own


@pytest.mark.parametrize("size", SIZES)
def test_resizing_with_align_mode_1_is_what_paddle_does_in_float32(size):
    x = image(size)
    for target in TARGETS:
        arguments = {"size": target, "mode": "bilinear", "align_corners": False, "align_mode": 1}
        assert_close(exact("interpolate", x, **arguments), single("interpolate", x, **arguments), 2e-5)


def test_align_modes_differ_and_align_corners_ignores_them():
    x = image((5, 9))
    arguments = {"size": [13, 17], "mode": "bilinear"}
    modes = [exact("interpolate", x, align_corners=False, align_mode=mode, **arguments)[0] for mode in (0, 1)]
    assert np.abs(modes[0] - modes[1]).max() > 0.1
    corners = [exact("interpolate", x, align_corners=True, align_mode=mode, **arguments)[0] for mode in (0, 1)]
    assert np.array_equal(*corners)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("factor", [2, 4.0, 0.5, 1.5, [2.0, 1.0], [0.75, 3.0], 1.7])
def test_resizing_by_a_factor_is_what_paddle_does_in_float32(factor, align_corners):
    for size in SIZES[1:]:
        arguments = {"scale_factor": factor, "mode": "bilinear", "align_corners": align_corners}
        x = image(size)
        assert_close(exact("interpolate", x, **arguments), single("interpolate", x, **arguments), 2e-5)


@pytest.mark.parametrize("factor", [2.0, 0.5, 1.5, 1.7])
def test_resizing_by_a_factor_is_what_torch_does(factor):
    for size in ((5, 9), (16, 8)):
        x = image(size)
        found = exact("interpolate", x, scale_factor=factor, mode="bilinear")
        assert_close(found, torch_double("interpolate", x, None, factor, mode="bilinear"), 1e-13)


@pytest.mark.parametrize("size", [[13, 17], (13, 17), paddle.to_tensor([13, 17]), [paddle.to_tensor(13), 17]])
def test_the_size_can_be_given_in_every_form_that_paddle_takes(size):
    x = image((5, 9))
    found = exact("interpolate", x, size=size, mode="bilinear", align_corners=True)
    assert_close(found, torch_double("interpolate", x, (13, 17), mode="bilinear", align_corners=True), 1e-13)


def test_the_functional_layers_and_upsample_are_exact_too():
    x = image((5, 9))
    truth, _ = torch_double("interpolate", x, (13, 17), mode="bilinear", align_corners=True)
    tensor = paddle.to_tensor(x.astype(np.float64))
    with exact_operators():
        found = paddle.nn.Upsample(size=[13, 17], mode="bilinear", align_corners=True)(tensor).numpy()
        pooled = paddle.nn.AvgPool2D(3, stride=2, padding=1, exclusive=False)(tensor).numpy()
        adaptive = paddle.nn.AdaptiveAvgPool2D(2)(tensor).numpy()
    np.testing.assert_allclose(found, truth, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(pooled, torch_double("avg_pool2d", x, 3, 2, 1)[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(adaptive, torch_double("adaptive_avg_pool2d", x, 2)[0], rtol=1e-12, atol=1e-13)


def test_other_modes_are_paddles_own():
    x = paddle.to_tensor(image((5, 9)).astype(np.float64))
    own = PF.interpolate(x, size=[10, 18], mode="nearest")
    with exact_operators():
        assert np.array_equal(PF.interpolate(x, size=[10, 18], mode="nearest").numpy(), own.numpy())


# --- activations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["hardsigmoid", "selu"])
def test_activations_with_rounded_constants_are_paddles_in_float32_and_torchs_in_float64(operator):
    x = 4 * image((7, 5))
    x[0, 0, 0] = [-3.0, 3.0, 0.0, -6.0, 6.0]
    found = exact(operator, x)
    assert_close(found, single(operator, x), 1e-6)
    assert_close(found, torch_double(operator, x), 1e-13)


def test_a_hard_sigmoid_of_another_slope_keeps_it():
    x = image((7, 5))
    assert_close(exact("hardsigmoid", x, slope=0.2), single("hardsigmoid", x, slope=0.2), 1e-6)


# --- pooling --------------------------------------------------------------------------------------------------------

POOLS = [
    {"kernel_size": kernel, "stride": stride, "padding": padding, "exclusive": exclusive}
    for kernel, stride, padding in (
        (2, None, 0),
        (3, 2, 1),
        (3, 1, 1),
        ([3, 2], [1, 2], [1, 0]),
        ([2, 5], [2, 1], [0, 2]),
        (4, 3, [2, 1]),
        (3, 2, [[0, 0], [0, 0], [1, 1], [0, 0]]),
    )
    for exclusive in (True, False)
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_average_pooling_is_what_paddle_does_in_float32(pool, channels):
    for size in ((5, 9), (16, 8), (7, 7)):
        x = image(size, channels)
        assert_close(exact("avg_pool2d", x, **pool), single("avg_pool2d", x, **pool), 1e-6)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_average_pooling_is_what_torch_does_in_float64(pool):
    padding = pool["padding"] if np.ndim(pool["padding"]) < 2 else [1, 0]
    for size in ((5, 9), (16, 8)):
        x = image(size)
        found = exact("avg_pool2d", x, **pool)
        truth = torch_double(
            "avg_pool2d",
            x,
            pool["kernel_size"],
            pool["stride"],
            padding,
            count_include_pad=not pool["exclusive"],
        )
        assert_close(found, truth, 1e-13)


@pytest.mark.parametrize(
    "extra", [{"ceil_mode": True}, {"padding": "SAME"}, {"padding": "VALID"}, {"padding": [1, 0, 0, 2]}]
)
def test_pooling_that_is_not_done_anew_is_paddles_own(extra):
    x = paddle.to_tensor(image((8, 9)).astype(np.float64))
    arguments = {"kernel_size": 3, "stride": 2, "padding": 1, **extra}
    own = PF.avg_pool2d(x, **arguments).numpy()
    with exact_operators():
        assert np.array_equal(PF.avg_pool2d(x, **arguments).numpy(), own)


@pytest.mark.parametrize("output", [1, 2, 3, (2, 5), [3, None], 6])
def test_adaptive_pooling_is_what_paddle_does_in_float32_and_torch_in_float64(output):
    for size in ((5, 9), (16, 8), (7, 7), (6, 12)):
        x = image(size)
        found = exact("adaptive_avg_pool2d", x, output_size=output)
        assert_close(found, single("adaptive_avg_pool2d", x, output_size=output), 1e-6)
        assert_close(found, torch_double("adaptive_avg_pool2d", x, output), 1e-13)


# --- where it applies -----------------------------------------------------------------------------------------------


def own_operators():
    return _C_ops.bilinear_interp, _C_ops.pool2d


def test_it_does_not_matter_how_a_model_calls_them():
    x = paddle.to_tensor(image((5, 9)).astype(np.float64))
    truth, _ = torch_double("interpolate", x.numpy(), (13, 17), mode="bilinear", align_corners=True)
    with exact_operators():
        for found in (
            interpolate(x, [13, 17], mode="bilinear", align_corners=True),  # imported before
            PF.interpolate(input=x, size=[13, 17], mode="bilinear", align_corners=True),  # torch's name
            PF.interpolate(x, [13, 17], None, "bilinear", True),
            PF.upsample(x, [13, 17], mode="bilinear", align_corners=True),
            paddle.nn.UpsamplingBilinear2D([13, 17])(x),
        ):
            np.testing.assert_allclose(found.numpy(), truth, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("recompute", [True, False])
def test_recomputing_the_factor_is_what_torch_does(recompute):
    x = image((5, 9))
    arguments = {"scale_factor": 1.7, "mode": "bilinear", "recompute_scale_factor": recompute}
    assert_close(exact("interpolate", x, **arguments), single("interpolate", x, **arguments), 2e-5)
    assert_close(exact("interpolate", x, **arguments), torch_double("interpolate", x, **arguments), 1e-13)


def test_area_resizing_is_exact_too():
    x = image((8, 12))
    found = exact("interpolate", x, size=[4, 5], mode="area")
    assert_close(found, torch_double("interpolate", x, (4, 5), mode="area"), 1e-13)


def test_outside_the_operators_are_paddles_own():
    before = own_operators()
    with exact_operators():
        assert all(inside is not outside for inside, outside in zip(own_operators(), before))
    assert own_operators() == before


def test_after_an_exception_the_operators_are_paddles_own():
    before = own_operators()
    with pytest.raises(ZeroDivisionError), exact_operators():
        raise ZeroDivisionError
    assert own_operators() == before
    x = paddle.to_tensor(image((5, 9)).astype(np.float64))
    with pytest.raises(ValueError, match="resample"), exact_operators():
        PF.interpolate(x, size=[13, 17], mode="no such mode")
    assert own_operators() == before


def test_entered_twice_they_are_restored_in_order():
    before = own_operators()
    with exact_operators():
        outer = own_operators()
        with exact_operators():
            x = image((5, 9)).astype(np.float64)
            found = PF.interpolate(paddle.to_tensor(x), size=[13, 17], mode="bilinear").numpy()
        assert own_operators() == outer
    assert own_operators() == before
    np.testing.assert_allclose(found, torch_double("interpolate", x, (13, 17), mode="bilinear")[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("interpolate", {"size": [13, 17], "mode": "bilinear", "align_corners": True}),
        ("avg_pool2d", {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("adaptive_avg_pool2d", {"output_size": 2}),
    ],
)
def test_float32_tensors_go_to_paddles_own_operator(name, arguments):
    x = paddle.to_tensor(image((5, 9)))
    own = getattr(PF, name)(x, **arguments).numpy()
    with exact_operators():
        inside = getattr(PF, name)(x, **arguments).numpy()
    assert inside.dtype == np.float32 and np.array_equal(inside, own)


def test_paddles_own_float64_operators_still_need_it():
    """Fails when a later Paddle computes them in full float64: then the module can go."""
    x = image((5, 9)).astype(np.float64)
    truth, _ = torch_double("interpolate", x, (13, 17), mode="bilinear")
    own = PF.interpolate(paddle.to_tensor(x), size=[13, 17], mode="bilinear").numpy()
    assert np.abs(own - truth).max() > 1e-9
    tensor = paddle.to_tensor(x, stop_gradient=False)
    (PF.avg_pool2d(tensor, 3, 2, 1, exclusive=False) ** 2).sum().backward()
    _, gradient = torch_double("avg_pool2d", x, 3, 2, 1)
    assert np.abs(tensor.grad.numpy() - gradient).max() > 1e-9


def test_gradients_are_those_of_finite_differences():
    for align_corners, (height, width) in itertools.product((True, False), ((4, 3),)):
        x = image((height, width), 1).astype(np.float64)
        arguments = {"size": [7, 5], "mode": "bilinear", "align_corners": align_corners}
        _, gradient = exact("interpolate", x, **arguments)
        step = 1e-4
        for index in np.ndindex(1, 1, height, width):
            moved = [x.copy(), x.copy()]
            moved[0][index] += step
            moved[1][index] -= step
            up, down = (float((exact("interpolate", m, **arguments)[0] ** 2).sum()) for m in moved)
            assert (up - down) / (2 * step) == pytest.approx(gradient[index], abs=1e-6)
