"""Which number of groups a group norm gets, and what else one key decides."""

from __future__ import annotations

import pytest
from paddle import nn

from paddleseg_ext.errors import ConfigError
from paddleseg_ext.models.layers.norm_type import NormType, num_groups


@pytest.mark.parametrize(("channels", "groups"), [(32, 32), (256, 32), (2048, 32), (728, 28), (48, 24), (304, 38)])
def test_groups_are_the_divisor_nearest_to_32_and_of_two_the_larger(channels: int, groups: int) -> None:
    assert num_groups(channels) == groups  # by hand, over the channel counts of DeepLabv3+


def test_304_channels_do_not_get_the_19_groups_of_the_common_rule() -> None:
    assert max(groups for groups in range(1, 33) if 304 % groups == 0) == 19
    assert NormType("gn")(304)._num_groups == 38


def test_channels_that_no_near_number_divides_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 channels"):
        num_groups(8)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="'ln'"):
        NormType("ln")


def test_batch_norms_get_their_epsilon_and_momentum() -> None:
    layer = NormType("bn", bn_epsilon=1e-3, bn_momentum=0.9997)(64)
    assert isinstance(layer, nn.BatchNorm2D)
    assert (layer._epsilon, layer._momentum) == (1e-3, 0.9997)


def test_group_norms_keep_their_own_epsilon() -> None:
    assert NormType("gn", bn_epsilon=1e-3)(64)._epsilon == 1e-5
