"""A side that computes in float32 for a while, and in float64 again."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch

from parity.case import Side
from parity.paddle_side import PaddleSide
from parity.torch_side import TorchSide

pytestmark = pytest.mark.parity
THIRD = 1.0 / 3.0  # not a float32


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.full((2,), THIRD, dtype=torch.float64), persistent=False)


class Port(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", paddle.full([2], THIRD, dtype="float64"), persistable=False)


@pytest.mark.parametrize(
    "side", [TorchSide(Side(model=Reference)), PaddleSide(Side(model=Port))], ids=["torch", "paddle"]
)
def test_a_buffer_of_no_state_dict_comes_back_from_float32_with_all_its_digits(side):
    side.cast("float32")
    assert "float32" in str(side.model.shift.dtype)
    side.cast("float64")
    assert np.array_equal(side.model.shift.numpy(), np.full(2, THIRD))
