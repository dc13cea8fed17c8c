"""Sizes and strides of Xception-65's features."""

from __future__ import annotations

import paddle
import pytest

from paddleseg_ext.errors import ConfigError
from paddleseg_ext.models.backbones import Xception65


@pytest.mark.parametrize(("output_stride", "sizes"), [(8, (9, 5, 5, 5)), (16, (9, 5, 3, 3)), (32, (9, 5, 3, 2))])
def test_features_have_the_sizes_of_their_strides(output_stride: int, sizes: tuple[int, ...]) -> None:
    backbone = Xception65(output_stride=output_stride, middle_blocks=1)
    backbone.eval()
    features = backbone(paddle.zeros([1, 3, 33, 33]))
    assert {name: value.shape for name, value in features.items()} == {
        name: [1, channels, size, size] for (name, channels), size in zip(Xception65.channels.items(), sizes)
    }
    assert [-(-33 // stride) for stride in backbone.strides.values()] == list(sizes)


def test_an_output_stride_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="output_stride 4"):
        Xception65(output_stride=4)
