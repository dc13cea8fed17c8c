"""Data sets, each a list of files with class names; `dataset[i]` is a raw sample."""

from paddleseg_ext.data.datasets.ade20k import ADE20K
from paddleseg_ext.data.datasets.base import Pair, SegmentationDataset
from paddleseg_ext.data.datasets.cityscapes import Cityscapes
from paddleseg_ext.data.datasets.cityscapes_panoptic import CityscapesPanoptic
from paddleseg_ext.data.datasets.coco_panoptic import COCOPanoptic
from paddleseg_ext.data.datasets.list_file import Dataset
from paddleseg_ext.data.datasets.panoptic import PanopticDataset
from paddleseg_ext.data.datasets.voc import PascalVOC

__all__ = [
    "ADE20K",
    "COCOPanoptic",
    "Cityscapes",
    "CityscapesPanoptic",
    "Dataset",
    "Pair",
    "PanopticDataset",
    "PascalVOC",
    "SegmentationDataset",
]
