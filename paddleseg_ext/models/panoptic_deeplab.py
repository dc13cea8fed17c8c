"""Panoptic-DeepLab: semantic logits, a heat map of instance centers, and each pixel's offset to its center.

Paper: Cheng et al., Panoptic-DeepLab: A Simple, Strong, and Fast Baseline for Bottom-Up Panoptic Segmentation,
CVPR 2020, arXiv 1911.10194.
Upstream: facebookresearch/detectron2@02b5c4e projects/Panoptic-DeepLab (Apache-2.0); on Xception-65 and HRNet-W48,
bowenc0221/panoptic-deeplab@cf8e20b tools_d2, which puts detectron2's heads on its own backbones. Layer names are
upstream's.
Proven by: parity/cases/panoptic_deeplab.py.

Deviation: predictions are at the image's size in training too, at which upstream needs sizes that 4 divides.

N batch, C channels, H W image, h w feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.errors import ConfigError
from paddleseg_ext.models.layers.aspp import Detectron2ASPP
from paddleseg_ext.models.layers.conv import ConvNorm2D
from paddleseg_ext.models.layers.init import normal_fill, xavier_fill
from paddleseg_ext.models.layers.separable import DepthwiseSeparableConv2D
from paddleseg_ext.models.pretrained import load_pretrained
from paddleseg_ext.registry import MODELS

STRIDE = 4  # of the decoders' output
DEEPEST = "res5"


def _two_convs(in_channels: int, mid_channels: int, out_channels: int, *, separable: bool) -> nn.Layer:
    """Two 3x3 convolutions or, with the same receptive field, one separable 5x5; each with norm and ReLU."""
    if separable:
        return DepthwiseSeparableConv2D(in_channels, out_channels, 5)
    convs = [
        ConvNorm2D(in_channels, mid_channels, 3, padding=1, bias=False, norm="BN", relu=True),
        ConvNorm2D(mid_channels, out_channels, 3, padding=1, bias=False, norm="BN", relu=True),
    ]
    for conv in convs:
        xavier_fill(conv)
    return nn.Sequential(*convs)


def _predictor(in_channels: int, out_channels: int) -> nn.Conv2D:
    conv = nn.Conv2D(in_channels, out_channels, 1)
    normal_fill(conv, std=0.001)
    return conv


class Decoder(nn.Layer):
    """ASPP on the deepest feature, then step by step enlarged and fused with finer ones, down to stride 4.

    Args:
        channels: of each backbone feature, by name.
        project: finer feature -> channels to which a 1x1 convolution brings it, finest first.
        out_channels: of each fusion.
        aspp_channels: of the ASPP.
        separable: ASPP and fusions have depthwise separable convolutions.
        aspp: further arguments of `Detectron2ASPP`.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        project: Mapping[str, int],
        *,
        out_channels: int,
        aspp_channels: int,
        separable: bool,
        aspp: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.finer = tuple(project)
        steps = {}
        for name, width in project.items():
            conv = ConvNorm2D(channels[name], width, 1, bias=False, norm="BN", relu=True)
            xavier_fill(conv)
            coarser = aspp_channels if name == self.finer[-1] else out_channels
            fuse = _two_convs(width + coarser, out_channels, out_channels, separable=separable)
            steps[name] = nn.LayerDict({"project_conv": conv, "fuse_conv": fuse})
        pyramid = Detectron2ASPP(channels[DEEPEST], aspp_channels, separable=separable, **aspp)
        self.decoder = nn.LayerDict({**steps, DEEPEST: nn.LayerDict({"project_conv": pyramid})})

    def decode(self, features: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
        """(N, out_channels, h, w) at the size of the finest feature."""
        out = self.decoder[DEEPEST]["project_conv"](features[DEEPEST])
        for name in reversed(self.finer):
            step = self.decoder[name]
            fine = step["project_conv"](features[name])
            out = F.interpolate(out, fine.shape[2:], mode="bilinear", align_corners=False)
            out = step["fuse_conv"](paddle.concat([fine, out], axis=1))
        return out


class SemanticHead(Decoder):
    """Decoder, two convolutions, and logits of K classes.

    Args:
        channels: see `Decoder`, as are `project` and what is in `decoder`.
        project: see above.
        num_classes: K.
        head_channels: of the convolutions between decoder and logits.
        decoder: further arguments of `Decoder`.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        project: Mapping[str, int],
        *,
        num_classes: int,
        head_channels: int,
        decoder: Mapping[str, Any],
    ) -> None:
        super().__init__(channels, project, **decoder)
        width = decoder["out_channels"]
        self.head = _two_convs(width, width, head_channels, separable=decoder["separable"])
        self.predictor = _predictor(head_channels, num_classes)

    def forward(self, features: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
        """Logits, (N, K, h, w)."""
        return self.predictor(self.head(self.decode(features)))


class InstanceHead(Decoder):
    """Decoder, and on it the centers' heat map and the offsets. The centers' convolutions are never separable.

    Args:
        channels: see `Decoder`, as are `project` and what is in `decoder`.
        project: see above.
        head_channels: of the convolutions between decoder and either prediction.
        decoder: further arguments of `Decoder`.
    """

    def __init__(
        self, channels: Mapping[str, int], project: Mapping[str, int], *, head_channels: int, decoder: Mapping[str, Any]
    ) -> None:
        super().__init__(channels, project, **decoder)
        width = decoder["out_channels"]
        self.center_head = _two_convs(width, width, head_channels, separable=False)
        self.center_predictor = _predictor(head_channels, 1)
        self.offset_head = _two_convs(width, width, head_channels, separable=decoder["separable"])
        self.offset_predictor = _predictor(head_channels, 2)

    def forward(self, features: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Heat map (N, 1, h, w), not activated, and offsets (N, 2, h, w) as (y, x) in pixels of h, w."""
        x = self.decode(features)
        center = self.center_predictor(self.center_head(x))
        return center, self.offset_predictor(self.offset_head(x))


@MODELS.register
class PanopticDeepLab(nn.Layer):
    """Panoptic-DeepLab with detectron2's heads.

    Args:
        num_classes: K, things and stuff.
        backbone: gives its features as `res2` ... `res5`, as `ResNet52`, `Xception65` and `HRNetW48` do. Those of a
            backbone that gives a list, such as `STDC1`, are called `res1`, `res2` and so on.
        project_features: which features finer than `res5` the decoders use, finest first; the first has stride 4.
        project_channels: to which the decoders bring each of them.
        aspp_dilations: 6, 12, 18 where `res5` has stride 16; 3, 6, 9 where it has 32.
        aspp_channels: of the ASPP in both decoders.
        aspp_dropout: share of its result that is dropped in training.
        train_size: (width, height) of the training crops: the ASPP then pools in windows of that size, as upstream
            does whenever it crops; images have to be multiples of it. None: it pools globally.
        decoder_channels: of the semantic and of the instance decoder.
        head_channels: of the convolutions before the semantic and before the instance predictions.
        separable: depthwise separable convolutions in ASPP, decoders and heads, except for the centers.
        size_divisibility: images are padded with zeros, at the bottom and on the right, to a multiple of it. 0: not.
        pretrained: weight file of the whole model to load (strictly), or None.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        *,
        project_features: tuple[str, ...] = ("res2", "res3"),
        project_channels: tuple[int, ...] = (32, 64),
        aspp_dilations: tuple[int, int, int] = (6, 12, 18),
        aspp_channels: int = 256,
        aspp_dropout: float = 0.1,
        train_size: tuple[int, int] | None = None,
        decoder_channels: tuple[int, int] = (256, 128),
        head_channels: tuple[int, int] = (256, 32),
        separable: bool = False,
        size_divisibility: int = 0,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        channels = _by_name(backbone.channels)
        _check_features(channels, project_features, project_channels)
        project = dict(zip(project_features, project_channels))
        aspp = {"dilations": aspp_dilations, "dropout": aspp_dropout, "pool_size": _pool_size(train_size, backbone)}
        decoder = {"aspp_channels": aspp_channels, "separable": separable, "aspp": aspp}
        self.size_divisibility = size_divisibility
        self.backbone = backbone
        self.sem_seg_head = SemanticHead(
            channels,
            project,
            num_classes=num_classes,
            head_channels=head_channels[0],
            decoder={**decoder, "out_channels": decoder_channels[0]},
        )
        self.ins_embed_head = InstanceHead(
            channels, project, head_channels=head_channels[1], decoder={**decoder, "out_channels": decoder_channels[1]}
        )
        if pretrained:
            load_pretrained(self, pretrained)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Predictions by name, in training and in evaluation.

        Args:
            image: (N, 3, H, W), normalised.

        Returns:
            semantic: (N, K, H, W) logits.
            center: (N, 1, H, W), the heat map of instance centers, about 0 to 1, not activated.
            offset: (N, 2, H, W), from each pixel to its center, (y, x) in pixels of the image.
        """
        height, width = image.shape[2:]
        features = _by_name(self.backbone(self._pad(image)))
        semantic = self.sem_seg_head(features)
        center, offset = self.ins_embed_head(features)
        maps = {"semantic": _enlarge(semantic), "center": _enlarge(center), "offset": _enlarge(offset) * STRIDE}
        return {name: value[:, :, :height, :width] for name, value in maps.items()}

    def _pad(self, image: paddle.Tensor) -> paddle.Tensor:
        if not self.size_divisibility:
            return image
        bottom, right = (-size % self.size_divisibility for size in image.shape[2:])
        return F.pad(image, [0, right, 0, bottom]) if bottom or right else image


def _enlarge(x: paddle.Tensor) -> paddle.Tensor:
    return F.interpolate(x, scale_factor=STRIDE, mode="bilinear", align_corners=False)


def _by_name(values: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(values, Mapping):
        return dict(values)
    return {f"res{stage}": value for stage, value in enumerate(values, start=1)}


def _check_features(channels: Mapping[str, int], features: Sequence[str], widths: Sequence[int]) -> None:
    missing = [name for name in (*features, DEEPEST) if name not in channels]
    if missing:
        raise ConfigError(
            f"project_features: the backbone has no feature {missing[0]!r}; expected some of {', '.join(channels)}"
        )
    if not features or len(features) != len(widths):
        raise ConfigError(
            f"project_channels: {list(widths)} for the features {list(features)}; expected one number for each feature"
        )


def _pool_size(train_size: Sequence[int] | None, backbone: nn.Layer) -> tuple[int, int] | None:
    """(height, width) of the pooling window for training crops of (width, height)."""
    if train_size is None:
        return None
    strides = getattr(backbone, "strides", None)
    if strides is None:
        raise ConfigError(
            f"train_size: {type(backbone).__name__} does not tell the strides of its features; "
            "expected a backbone that does; use null, with which the ASPP pools globally"
        )
    (width, height), stride = train_size, strides[DEEPEST]
    if width % stride or height % stride:
        raise ConfigError(f"train_size: {width}x{height}; expected multiples of {stride}, the stride of {DEEPEST}")
    return height // stride, width // stride
