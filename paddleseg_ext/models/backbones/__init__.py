"""Backbones: image in, list of features out, finest first."""

from paddleseg_ext.models.backbones.hrnet import HRNet, HRNetW18, HRNetW48
from paddleseg_ext.models.backbones.resnet import ResNet, ResNet50, ResNet52, ResNet101, ResNet103
from paddleseg_ext.models.backbones.stdcnet import STDC1, STDC2, STDCNet
from paddleseg_ext.models.backbones.xception import Xception65

__all__ = [
    "STDC1",
    "STDC2",
    "HRNet",
    "HRNetW18",
    "HRNetW48",
    "ResNet",
    "ResNet50",
    "ResNet52",
    "ResNet101",
    "ResNet103",
    "STDCNet",
    "Xception65",
]
