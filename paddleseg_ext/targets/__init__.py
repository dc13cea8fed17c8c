"""What losses consume beside the label: numpy in, numpy out; importing it does not import paddle."""

from paddleseg_ext.targets.panoptic_deeplab import panoptic_deeplab_targets

__all__ = ["panoptic_deeplab_targets"]
