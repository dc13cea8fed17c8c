"""Losses, bound by name: `{type, output, target, weight, name, ...}` in YAML."""

from paddleseg_ext.losses.cross_entropy import CrossEntropy, OhemCrossEntropy, TopKCrossEntropy
from paddleseg_ext.losses.detail import DetailAggregateLoss
from paddleseg_ext.losses.dice import DiceLoss
from paddleseg_ext.losses.panoptic import CenterLoss, OffsetLoss
from paddleseg_ext.losses.point import PointCrossEntropy
from paddleseg_ext.losses.terms import Losses, LossTerm, build_losses
from paddleseg_ext.losses.valid_fraction import ValidFractionCrossEntropy

__all__ = [
    "CenterLoss",
    "CrossEntropy",
    "DetailAggregateLoss",
    "DiceLoss",
    "LossTerm",
    "Losses",
    "OffsetLoss",
    "OhemCrossEntropy",
    "PointCrossEntropy",
    "TopKCrossEntropy",
    "ValidFractionCrossEntropy",
    "build_losses",
]
