"""From what a network says about an image to segments: numpy in, numpy out; importing it does not import paddle."""

from paddleseg_ext.postprocess.panoptic_deeplab import all_segments, argmax_classes, panoptic_deeplab

__all__ = ["all_segments", "argmax_classes", "panoptic_deeplab"]
