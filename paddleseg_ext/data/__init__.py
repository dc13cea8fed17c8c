"""Data: datasets, transforms and loaders. numpy, OpenCV and Pillow only; importing it does not import paddle."""

from paddleseg_ext.data.datasets import ADE20K, Cityscapes, Dataset, PascalVOC, SegmentationDataset
from paddleseg_ext.data.loader import EvalLoader, TrainLoader
from paddleseg_ext.data.transforms import Compose, Sample, Transform

__all__ = [
    "ADE20K",
    "Cityscapes",
    "Compose",
    "Dataset",
    "EvalLoader",
    "PascalVOC",
    "Sample",
    "SegmentationDataset",
    "TrainLoader",
    "Transform",
]
