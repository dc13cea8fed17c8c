"""Necks: from a backbone's features to those that heads take."""

from paddleseg_ext.models.necks.fpn import FPN

__all__ = ["FPN"]
