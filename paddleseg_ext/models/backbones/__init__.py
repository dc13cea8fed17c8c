"""Backbones: image in, list of features out, finest first."""

from paddleseg_ext.models.backbones.stdcnet import STDC1, STDC2, STDCNet

__all__ = ["STDC1", "STDC2", "STDCNet"]
