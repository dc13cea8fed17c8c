"""Losses, bound by name: `{type, output, target, weight, name, ...}` in YAML."""

from paddleseg_ext.losses.cross_entropy import CrossEntropy, OhemCrossEntropy, TopKCrossEntropy
from paddleseg_ext.losses.detail import DetailAggregateLoss
from paddleseg_ext.losses.dice import DiceLoss
from paddleseg_ext.losses.terms import Losses, LossTerm, build_losses

__all__ = [
    "CrossEntropy",
    "DetailAggregateLoss",
    "DiceLoss",
    "LossTerm",
    "Losses",
    "OhemCrossEntropy",
    "TopKCrossEntropy",
    "build_losses",
]
