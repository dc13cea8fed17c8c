"""One key, `norm_type`, for the normalisation of a whole model: batch norm or group norm."""

from __future__ import annotations

from dataclasses import dataclass

from paddle import nn

from paddleseg_ext.errors import ConfigError

NORM_TYPES = ("bn", "gn")


@dataclass(frozen=True)
class NormType:
    """Makes normalisation layers: `NormType("gn")(channels)`.

    Attributes:
        name: "bn" or "gn".
        bn_epsilon: of the batch norms.
        bn_momentum: of the batch norms, in Paddle's sense (the share that the running statistics keep).
        gn_epsilon: of the group norms.
    """

    name: str = "bn"
    bn_epsilon: float = 1e-5
    bn_momentum: float = 0.9
    gn_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.name not in NORM_TYPES:
            raise ConfigError(f"norm_type: {self.name!r}; expected {' or '.join(NORM_TYPES)}; name one of them")

    def __call__(self, channels: int) -> nn.Layer:
        """A layer for this many channels."""
        if self.name == "gn":
            return nn.GroupNorm(num_groups(channels), channels, epsilon=self.gn_epsilon)
        return nn.BatchNorm2D(channels, momentum=self.bn_momentum, epsilon=self.bn_epsilon)


def num_groups(channels: int, preferred: int = 32, *, reach: int = 10) -> int:
    """The divisor of `channels` nearest to `preferred`; of two equally near ones, the larger.

    728 channels have 28 groups, 48 have 24, and 304 have 38: the more common rule "the largest divisor up to 32" gives
    the last one 19, and other numbers from the same weights, without an error.

    Args:
        channels: C.
        preferred: groups if they divide C.
        reach: how far from `preferred` to look, exclusive.

    Raises:
        ConfigError: if no number of groups within reach divides `channels`.

    Upstream: PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/models.py
    """
    for distance in range(reach):
        for groups in (preferred + distance, preferred - distance):
            if groups > 0 and channels % groups == 0:
                return groups
    raise ConfigError(
        f"group norm: no divisor of {channels} channels within {reach - 1} of {preferred}; "
        "expected one; use norm_type: bn or other channel counts"
    )
