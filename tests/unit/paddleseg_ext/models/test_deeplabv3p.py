"""DeepLabv3+: what does not depend on the batch, sizes, and what follows the backbone's norm."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.models import DeepLabV3Plus, Detectron2DeepLabV3Plus
from paddleseg_ext.models.backbones import Xception65


class Features(nn.Layer):
    """A backbone of two convolutions."""

    channels = {"res2": 64, "res5": 128}  # noqa: RUF012
    strides = {"res2": 4, "res5": 16}  # noqa: RUF012
    bn_momentum = 0.75

    def __init__(self, norm_type: str = "gn"):
        super().__init__()
        self.norm_type = norm_type
        self.fine = nn.Conv2D(3, 64, 5, stride=4, padding=2)
        self.coarse = nn.Conv2D(3, 128, 17, stride=16, padding=8)

    def forward(self, image):
        return {"res2": self.fine(image), "res5": self.coarse(image)}


def images(count: int, height: int = 64, width: int = 64) -> paddle.Tensor:
    return paddle.to_tensor(np.random.RandomState(2).standard_normal((count, 3, height, width)).astype(np.float32))


@pytest.mark.parametrize("training", [False, True])
def test_with_group_norm_an_images_logits_do_not_depend_on_the_batch(training: bool) -> None:
    paddle.seed(0)
    model = DeepLabV3Plus(19, Features("gn"), channels=64, dropout=0.0)
    model.train() if training else model.eval()
    batch = images(3)
    together = model(batch)["semantic"].numpy()
    alone = np.concatenate([model(batch[i : i + 1])["semantic"].numpy() for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_xception_with_group_norm_treats_each_image_alone_in_training() -> None:
    paddle.seed(0)
    backbone = Xception65(norm_type="gn", middle_blocks=1)
    batch = images(2, 33, 33)
    together, alone = backbone(batch)["res5"].numpy(), backbone(batch[1:])["res5"].numpy()
    np.testing.assert_allclose(together[1:], alone, rtol=0, atol=1e-4 * np.abs(alone).max())


def test_with_batch_norm_they_do_in_training() -> None:
    paddle.seed(0)
    model = DeepLabV3Plus(19, Features("bn"), channels=64, dropout=0.0)
    batch = images(3)
    together, alone = model(batch)["semantic"].numpy(), model(batch[:2])["semantic"].numpy()
    assert np.abs(together[:2] - alone).max() > 1e-3 * np.abs(alone).max()


def test_norm_and_momentum_of_the_decoder_are_the_backbones() -> None:
    norms = [
        layer for layer in DeepLabV3Plus(19, Features("bn"), channels=64).decoder.sublayers()
        if isinstance(layer, (nn.BatchNorm2D, nn.GroupNorm))
    ]  # fmt: skip
    assert norms and all(isinstance(n, nn.BatchNorm2D) and n._momentum == 0.75 for n in norms)
    norms = [n for n in DeepLabV3Plus(19, Features("gn"), channels=64).sublayers() if isinstance(n, nn.BatchNorm2D)]
    assert not norms


@pytest.mark.parametrize("size", [(65, 97), (64, 72)])
def test_logits_have_the_images_size(size: tuple[int, int]) -> None:
    for model in (DeepLabV3Plus(5, Features(), channels=64), Detectron2DeepLabV3Plus(5, Features(), channels=64)):
        model.eval()
        assert model(images(1, *size))["semantic"].shape == [1, 5, *size]


def test_the_pooling_window_is_the_crop_over_the_stride_as_width_and_height() -> None:
    model = Detectron2DeepLabV3Plus(5, Features(), channels=64, train_size=(96, 64))
    assert model.sem_seg_head.decoder["res5"]["project_conv"].pool_size == (4, 6)


def test_a_crop_that_the_stride_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="100x64"):
        Detectron2DeepLabV3Plus(5, Features(), train_size=(100, 64))
