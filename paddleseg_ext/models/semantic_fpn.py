"""SemanticFPN: the semantic branch of panoptic feature pyramid networks.

Paper: Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446.
Upstream: facebookresearch/detectron2@02b5c4e detectron2/modeling/meta_arch/semantic_seg.py (Apache-2.0); layer names
are upstream's. Its released weights are for COCO's stuff classes, in R-50.
Deviation: images are normalised by the data pipeline, and in training the logits come at the image's own size, where
upstream keeps the padded one, whose further pixels its loss ignores.

N batch, C channels, H W image, h w feature map, K classes.
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.models.layers.conv import ConvNorm2D
from paddleseg_ext.models.layers.init import msra_fill
from paddleseg_ext.models.layers.padding import pad_to_multiple
from paddleseg_ext.models.necks.fpn import FPN
from paddleseg_ext.models.pretrained import load_pretrained
from paddleseg_ext.registry import MODELS


class SemSegFPNHead(nn.Layer):
    """Brings each level of a pyramid to a common stride by 3x3 convolutions and upsampling, and adds them up.

    Args:
        channels: name of each level -> C of the input.
        strides: name of each level -> stride.
        num_classes: K.
        mid_channels: C of the convolutions.
        common_stride: of the logits.
        norm: of the convolutions, as in `build_norm`.
    """

    def __init__(
        self,
        channels: dict[str, int],
        strides: dict[str, int],
        *,
        num_classes: int,
        mid_channels: int = 128,
        common_stride: int = 4,
        norm: str | None = "GN",
    ) -> None:
        super().__init__()
        self.common_stride = common_stride
        self.in_features = tuple(channels)
        for name in self.in_features:
            doublings = int(math.log2(strides[name] // common_stride))
            layers: list[nn.Layer] = []
            for index in range(max(1, doublings)):
                in_channels = channels[name] if index == 0 else mid_channels
                conv = ConvNorm2D(in_channels, mid_channels, 3, padding=1, bias=norm is None, norm=norm, relu=True)
                msra_fill(conv)
                layers.append(conv)
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.add_sublayer(name, nn.Sequential(*layers))
        self.predictor = ConvNorm2D(mid_channels, num_classes, 1)
        msra_fill(self.predictor)

    def forward(self, features: dict[str, paddle.Tensor]) -> paddle.Tensor:
        """(N, K, h, w) logits at the common stride."""
        total = None
        for name in self.in_features:
            level = getattr(self, name)(features[name])
            total = level if total is None else total + level
        return self.predictor(total)


@MODELS.register
class SemanticFPN(nn.Layer):
    """Backbone, feature pyramid and its semantic head.

    Args:
        num_classes: K.
        backbone: such as `ResNet50`: a dict of features of strides 4, 8, 16 and 32.
        fpn_channels: C of the pyramid.
        head_channels: C of the head.
        norm: of the head, as in `build_norm`.
        pretrained: weight file of the whole model to load (strictly), or None.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        *,
        fpn_channels: int = 256,
        head_channels: int = 128,
        norm: str | None = "GN",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = FPN(backbone, out_channels=fpn_channels)
        self.sem_seg_head = SemSegFPNHead(
            self.backbone.channels,
            self.backbone.strides,
            num_classes=num_classes,
            mid_channels=head_channels,
            norm=norm,
        )
        self.size_divisor = max(self.backbone.strides.values())
        if pretrained:
            load_pretrained(self, pretrained)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Logits by name.

        Args:
            image: (N, 3, H, W), normalised, of any size.

        Returns:
            semantic: (N, K, H, W).
        """
        height, width = image.shape[2:]
        logits = self.sem_seg_head(self.backbone(pad_to_multiple(image, self.size_divisor)))
        stride = self.sem_seg_head.common_stride
        logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
        return {"semantic": logits[:, :, :height, :width]}
