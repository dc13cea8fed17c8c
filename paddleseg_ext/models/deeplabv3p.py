"""DeepLabv3+: a pyramid of dilated convolutions, and a decoder that joins it with low-level features.

Paper: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018,
arXiv 1802.02611.
Upstream: PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/models.py (Apache-2.0), whose layers have other names;
bowenc0221/panoptic-deeplab@cf8e20b segmentation/model/decoder/deeplabv3plus.py, whose names `DeepLabV3Plus` has; and
facebookresearch/detectron2@02b5c4e projects/DeepLab (Apache-2.0), whose names `Detectron2DeepLabV3Plus` has.
Proven by: parity/cases/deeplabv3p.py.

Deviations: the decoder of `DeepLabV3Plus` starts from the initial values of PaddlePaddle/models in all variants; logits
of `Detectron2DeepLabV3Plus` are at the image's size in training too, where upstream needs sizes that 4 divides.

N batch, C channels, H W image, h w feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.models.layers.aspp import ASPP, Detectron2ASPP
from paddleseg_ext.models.layers.conv import ConvNorm2D
from paddleseg_ext.models.layers.init import default_fill, normal_fill, xavier_fill
from paddleseg_ext.models.layers.norm_type import NormType
from paddleseg_ext.models.layers.separable import DepthwiseSeparableConv2D, Norm, conv_norm_relu, separable_conv
from paddleseg_ext.models.pretrained import load_pretrained
from paddleseg_ext.registry import MODELS


class DeepLabV3PlusDecoder(nn.Layer):
    """Pyramid of `res5`, joined with `res2`, two separable convolutions and the classifier.

    Args:
        num_classes: K.
        in_channels: channels of `res2` and `res5`, by name.
        channels: of the pyramid and of the decoder.
        low_level_channels: that `res2` is reduced to.
        aspp: the pyramid.
        norm: channels -> layer.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Mapping[str, int],
        *,
        channels: int,
        low_level_channels: int,
        aspp: ASPP,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.aspp = aspp
        self.project = conv_norm_relu(in_channels["res2"], low_level_channels, 1, norm=norm)
        self.fuse = nn.Sequential(
            separable_conv(channels + low_level_channels, channels, 3, norm=norm),
            separable_conv(channels, channels, 3, norm=norm),
        )
        self.classifier = nn.Conv2D(channels, num_classes, 1)

    def forward(self, features: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
        """Logits at the size of `res2`, (N, K, h, w)."""
        pyramid = self.aspp(features["res5"])
        low_level = self.project(features["res2"])
        pyramid = F.interpolate(pyramid, low_level.shape[2:], mode="bilinear", align_corners=True)
        return self.classifier(self.fuse(paddle.concat([pyramid, low_level], axis=1)))


@MODELS.register
class DeepLabV3Plus(nn.Layer):
    """DeepLabv3+ with separable convolutions in the decoder, on an Xception.

    The defaults are those of PaddlePaddle/models; bowenc0221/panoptic-deeplab has `separable_aspp`, `pool_norm` and
    `pool_first` off and `dropout` 0.5.

    Args:
        num_classes: K.
        backbone: gives `res2` and `res5`, and has `channels`; `norm_type` and `bn_momentum` of all norms are its.
        dilations: of the pyramid's 3x3 convolutions, for an output stride of 16.
        separable_aspp: these convolutions are depthwise separable.
        pool_norm: the pyramid's image pooling has a norm.
        pool_first: the image pooling comes first in the pyramid's concatenation, and else last.
        dropout: share of the pyramid's output that is dropped in training.
        channels: of the pyramid and of the decoder.
        low_level_channels: that `res2` is reduced to.
        pretrained: weight file of the whole model to load (strictly), or None.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        *,
        dilations: Sequence[int] = (6, 12, 18),
        separable_aspp: bool = True,
        pool_norm: bool = True,
        pool_first: bool = True,
        dropout: float = 0.1,
        channels: int = 256,
        low_level_channels: int = 48,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        norm = NormType(backbone.norm_type, bn_momentum=backbone.bn_momentum)
        aspp = ASPP(
            backbone.channels["res5"],
            channels,
            dilations=dilations,
            norm=norm,
            separable=separable_aspp,
            pool_norm=pool_norm,
            pool_first=pool_first,
            dropout=dropout,
        )
        self.backbone = backbone
        self.decoder = DeepLabV3PlusDecoder(
            num_classes,
            backbone.channels,
            channels=channels,
            low_level_channels=low_level_channels,
            aspp=aspp,
            norm=norm,
        )
        self._init_decoder()
        if pretrained:
            load_pretrained(self, pretrained)

    def _init_decoder(self) -> None:
        """As upstream's decoder of the same norm starts."""
        classifier = self.decoder.classifier
        convs = [layer for layer in self.decoder.sublayers() if isinstance(layer, nn.Conv2D)]
        if self.backbone.norm_type == "gn":
            for conv in convs:
                std = 0.01 if conv is classifier else 0.33 if conv._groups > 1 else 0.06
                nn.initializer.TruncatedNormal(std=std, a=-2 * std, b=2 * std)(conv.weight)
            nn.initializer.Constant(0.0)(classifier.bias)
        else:
            default_fill(classifier)  # of which the bias stays
            for conv in convs:
                nn.initializer.Normal(std=0.001)(conv.weight)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """`semantic`: (N, K, H, W) logits.

        Args:
            image: (N, 3, H, W), normalised.
        """
        logits = self.decoder(self.backbone(image))
        return {"semantic": F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=True)}


class DeepLabV3PlusHead(nn.Layer):
    """detectron2's decoder: the pyramid of the coarsest feature, joined with finer ones one after the other.

    Args:
        in_channels: feature name -> C, finest first; the last goes through the pyramid.
        num_classes: K; None: no predictor, the result is the decoder's feature.
        project_channels: that each feature but the last is reduced to.
        channels: of the pyramid and of each join.
        dilations: of the pyramid's 3x3 convolutions.
        norm: as in `build_norm`.
        pool_size: (height, width) of the pyramid's average pooling; None: global.
        dropout: share of the pyramid's output that is dropped in training.
        separable: the pyramid's 3x3 convolutions are depthwise separable, and one separable 5x5 convolution stands for
            the two 3x3 of each join.
        aspp_channels: of the pyramid if they differ from `channels`.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int | None,
        *,
        project_channels: Sequence[int] = (48,),
        channels: int = 256,
        dilations: Sequence[int] = (6, 12, 18),
        norm: str = "BN",
        pool_size: Sequence[int] | None = None,
        dropout: float = 0.1,
        separable: bool = False,
        aspp_channels: int | None = None,
    ) -> None:
        super().__init__()
        *finer, coarsest = in_channels
        aspp_channels = aspp_channels or channels
        stages = {}
        for name, projected in zip(finer, project_channels):
            joined = projected + (aspp_channels if name == finer[-1] else channels)
            project = ConvNorm2D(in_channels[name], projected, 1, bias=False, norm=norm, relu=True)
            xavier_fill(project)
            stages[name] = nn.LayerDict(
                {"project_conv": project, "fuse_conv": _join(joined, channels, norm, separable)}
            )
        aspp = Detectron2ASPP(
            in_channels[coarsest],
            aspp_channels,
            dilations=dilations,
            norm=norm,
            pool_size=pool_size,
            dropout=dropout,
            separable=separable,
        )
        stages[coarsest] = nn.LayerDict({"project_conv": aspp})
        self.in_features = tuple(in_channels)
        self.decoder = nn.LayerDict(stages)
        self.predictor = None
        if num_classes is not None:
            self.predictor = ConvNorm2D(channels, num_classes, 1)
            normal_fill(self.predictor, std=0.001)

    def forward(self, features: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
        """Logits, or the decoder's feature, at the size of the finest feature."""
        *finer, coarsest = self.in_features
        out = self.decoder[coarsest]["project_conv"](features[coarsest])
        for name in reversed(finer):
            stage = self.decoder[name]
            projected = stage["project_conv"](features[name])
            out = F.interpolate(out, projected.shape[2:], mode="bilinear", align_corners=False)
            out = stage["fuse_conv"](paddle.concat([projected, out], axis=1))
        return out if self.predictor is None else self.predictor(out)


def _join(in_channels: int, channels: int, norm: str, separable: bool) -> nn.Layer:
    if separable:
        return DepthwiseSeparableConv2D(in_channels, channels, 5, norm=norm)
    convs = [
        ConvNorm2D(width, channels, 3, padding=1, bias=False, norm=norm, relu=True) for width in (in_channels, channels)
    ]
    for conv in convs:
        xavier_fill(conv)
    return nn.Sequential(*convs)


@MODELS.register
class Detectron2DeepLabV3Plus(nn.Layer):
    """detectron2's DeepLabv3+ on a DeepLab ResNet: dense 3x3 convolutions throughout.

    Args:
        num_classes: K.
        backbone: gives `res2` and `res5`, and has `channels` and `strides`.
        norm: of the head: "BN" or "GN".
        dilations: of the pyramid's 3x3 convolutions.
        train_size: (width, height) of the training crops: the pyramid then pools in windows of that size, as upstream
            does whenever it crops; images must be multiples of it. None: it pools globally.
        dropout: share of the pyramid's output that is dropped in training.
        channels: of the pyramid and of the decoder.
        low_level_channels: that `res2` is reduced to.
        pretrained: weight file of the whole model to load (strictly), or None.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        *,
        norm: str = "BN",
        dilations: Sequence[int] = (6, 12, 18),
        train_size: Sequence[int] | None = None,
        dropout: float = 0.1,
        channels: int = 256,
        low_level_channels: int = 48,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        stride = backbone.strides["res5"]
        self.common_stride = backbone.strides["res2"]
        self.backbone = backbone
        self.sem_seg_head = DeepLabV3PlusHead(
            {name: backbone.channels[name] for name in ("res2", "res5")},
            num_classes,
            project_channels=(low_level_channels,),
            channels=channels,
            dilations=dilations,
            norm=norm,
            pool_size=None if train_size is None else _pool_size(train_size, stride),
            dropout=dropout,
        )
        if pretrained:
            load_pretrained(self, pretrained)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """`semantic`: (N, K, H, W) logits.

        Args:
            image: (N, 3, H, W), normalised.
        """
        logits = self.sem_seg_head(self.backbone(image))
        logits = F.interpolate(logits, scale_factor=self.common_stride, mode="bilinear", align_corners=False)
        return {"semantic": logits[:, :, : image.shape[2], : image.shape[3]]}


def _pool_size(train_size: Sequence[int], stride: int) -> tuple[int, int]:
    """(height, width) of the pooling window for training crops of (width, height)."""
    width, height = train_size
    if width % stride or height % stride:
        raise ValueError(f"train_size: {width}x{height}; expected multiples of {stride}, the stride of res5")
    return height // stride, width // stride
