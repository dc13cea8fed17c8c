"""Cross-entropy of logits that are far apart: Paddle's own ends at 64 per pixel on a CPU, torch's and ours do not."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch

from paddleseg_ext.losses import CrossEntropy, OhemCrossEntropy, TopKCrossEntropy

pytestmark = pytest.mark.parity

RANDOM = np.random.RandomState(0)
LABEL = RANDOM.randint(0, 5, (2, 9, 11))
LABEL[:, :2] = 255
LOGITS = RANDOM.standard_normal((2, 5, 9, 11)) * 60.0  # a few hundred pixels of which some lose 200 and more


def mean(pixels):
    return pixels[torch.tensor(LABEL.ravel()) != 255].mean()


def hardest(share):
    return lambda pixels: pixels.sort(descending=True).values[: int(share * pixels.numel())].mean()


@pytest.mark.parametrize(
    ("loss", "reduce"),
    [
        (CrossEntropy(), mean),
        (TopKCrossEntropy(top_k=0.2), hardest(0.2)),
        (OhemCrossEntropy(thresh=None, min_kept_ratio=0.1), hardest(0.1)),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_loss_of_extreme_logits_is_torchs(loss, reduce, dtype):
    theirs = torch.tensor(LOGITS.astype(dtype), requires_grad=True)
    pixels = torch.nn.functional.cross_entropy(theirs, torch.tensor(LABEL), ignore_index=255, reduction="none")
    assert pixels.max() > 200
    expected = reduce(pixels.flatten())
    expected.backward()
    ours = paddle.to_tensor(LOGITS.astype(dtype), stop_gradient=False)
    found = loss(ours, paddle.to_tensor(LABEL))
    found.backward()
    limit = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(float(found), expected.item(), rtol=limit)
    np.testing.assert_allclose(
        ours.grad.numpy(), theirs.grad.numpy(), rtol=0, atol=limit * theirs.grad.abs().max().item()
    )


def test_ignored_pixels_alone_lose_nothing():
    ignored = np.full_like(LABEL, 255)
    assert float(CrossEntropy()(paddle.to_tensor(LOGITS), paddle.to_tensor(ignored))) == 0.0
