"""From a panoptic map to what Panoptic-DeepLab learns; the last step before or after `Normalize`."""

from __future__ import annotations

from paddleseg_ext.data.transforms.base import IGNORE, Draws, Sample, Transform, check
from paddleseg_ext.errors import DataError
from paddleseg_ext.registry import TRANSFORMS
from paddleseg_ext.targets.panoptic_deeplab import panoptic_deeplab_targets


@TRANSFORMS.register
class PanopticDeepLabTarget(Transform):
    """Replaces the panoptic map by `label`, `center`, `offset` and their weights.

    It goes behind all geometry: centres, and what is small, are those of the crop. Rules and shapes are in
    targets/panoptic_deeplab.py.

    Args:
        sigma: standard deviation of a centre's Gaussian, in pixels.
        small_instance_area: things with fewer pixels are small.
        small_instance_weight: factor on the semantic loss of their pixels.
        ignore_stuff_in_offset: whether offsets of stuff, which are 0, are left out.
        ignore_crowd_in_semantic: whether crowds are void for the semantic branch.

    Upstream: facebookresearch/detectron2@02b5c4e projects/Panoptic-DeepLab/panoptic_deeplab/target_generator.py
    """

    def __init__(
        self,
        sigma: int = 8,
        small_instance_area: int = 4096,
        small_instance_weight: float = 3.0,
        ignore_stuff_in_offset: bool = True,
        ignore_crowd_in_semantic: bool = False,
    ) -> None:
        check(sigma >= 1, self, f"sigma is {sigma}; expected 1 or more pixels")
        check(small_instance_area >= 0, self, f"small_instance_area is {small_instance_area}; expected 0 or more")
        check(small_instance_weight >= 0, self, f"small_instance_weight is {small_instance_weight}; expected 0 or more")
        self.settings = {
            "sigma": sigma,
            "small_instance_area": small_instance_area,
            "small_instance_weight": small_instance_weight,
            "ignore_stuff_in_offset": ignore_stuff_in_offset,
            "ignore_crowd_in_semantic": ignore_crowd_in_semantic,
        }

    def apply(self, sample: Sample, draws: Draws) -> Sample:
        """A sample without `panoptic` and `segments`, with the targets.

        Raises:
            DataError: if the data set is no panoptic one.
        """
        if "panoptic" not in sample:
            raise DataError(
                "PanopticDeepLabTarget: the sample has no panoptic map; expected a data set with one; write "
                "type: CityscapesPanoptic or COCOPanoptic"
            )
        rest = {key: value for key, value in sample.items() if key not in ("panoptic", "segments")}
        targets = panoptic_deeplab_targets(
            sample["panoptic"],
            sample["segments"],
            thing_ids=sample["meta"]["thing_ids"],
            ignore_index=IGNORE,
            **self.settings,
        )
        return {**rest, **targets}
