"""Metrics in numpy, equal to the official evaluators; importing them does not import paddle.

`ConfusionMatrix` for semantic segmentation, `PanopticQuality` for panoptic segmentation of any data set,
`CocoInstanceAP` for objects as COCO measures them, `PanopticEvaluator` for all three, and for Cityscapes `InstanceAP`,
`CityscapesIoU` (with iIoU) and `CityscapesEvaluator`, which computes all from one pass.
"""

from paddleseg_ext.metrics.cityscapes import CityscapesEvaluator, CityscapesResult
from paddleseg_ext.metrics.coco_instance import CocoInstanceAP, CocoInstanceResult, LabelMask
from paddleseg_ext.metrics.confusion import ConfusionMatrix, SegmentationResult
from paddleseg_ext.metrics.instance import InstanceAP, InstanceMask, InstanceResult
from paddleseg_ext.metrics.instance_iou import CityscapesIoU, CityscapesIoUResult
from paddleseg_ext.metrics.panoptic import PanopticQuality, PanopticResult
from paddleseg_ext.metrics.panoptic_evaluator import PanopticEvaluation, PanopticEvaluator
from paddleseg_ext.metrics.segments import Category, Segment

__all__ = [
    "Category",
    "CityscapesEvaluator",
    "CityscapesIoU",
    "CityscapesIoUResult",
    "CityscapesResult",
    "CocoInstanceAP",
    "CocoInstanceResult",
    "ConfusionMatrix",
    "InstanceAP",
    "InstanceMask",
    "InstanceResult",
    "LabelMask",
    "PanopticEvaluation",
    "PanopticEvaluator",
    "PanopticQuality",
    "PanopticResult",
    "Segment",
    "SegmentationResult",
]
