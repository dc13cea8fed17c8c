"""Segmentation models in PaddlePaddle, each proven equal to its PyTorch original.

Importing this package does not import paddle: `paddleseg_ext.threads.configure()` has to run first,
because paddle fixes its thread count when it is imported.
"""

__version__ = "0.1.0"
