"""Models: `model(image) -> dict of named outputs`, one file each."""

from paddleseg_ext.models.deeplabv3p import DeepLabV3Plus, Detectron2DeepLabV3Plus
from paddleseg_ext.models.panoptic_deeplab import PanopticDeepLab
from paddleseg_ext.models.pointrend import PointRend
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.stdc import STDCSeg

__all__ = ["DeepLabV3Plus", "Detectron2DeepLabV3Plus", "PanopticDeepLab", "PointRend", "STDCSeg", "SemanticFPN"]
