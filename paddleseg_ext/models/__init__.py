"""Models: `model(image) -> dict of named outputs`, one file each."""

from paddleseg_ext.models.stdc import STDCSeg

__all__ = ["STDCSeg"]
