"""PointRend for semantic segmentation: coarse logits, refined at the points that need it.

Paper: Kirillov et al., PointRend: Image Segmentation as Rendering, CVPR 2020, arXiv 1912.08193.
Upstream: facebookresearch/detectron2@02b5c4e projects/PointRend/point_rend/{semantic_seg,point_head}.py (Apache-2.0);
layer names are upstream's. Its released weights are for Cityscapes, in R-101.
Deviations: images are normalised by the data pipeline; in training the logits come at the image's own size; several
`in_features` also work in evaluation, where upstream concatenates them along the wrong axis.

N batch, C channels, H W image, h w feature map, K classes, P points; coordinates as in models/layers/points.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.models.layers.init import msra_fill, normal_fill
from paddleseg_ext.models.layers.padding import pad_to_multiple
from paddleseg_ext.models.layers.points import sample_points, training_points, uncertain_points
from paddleseg_ext.models.necks.fpn import FPN
from paddleseg_ext.models.pretrained import load_pretrained
from paddleseg_ext.models.semantic_fpn import SemSegFPNHead
from paddleseg_ext.registry import MODELS


class StandardPointHead(nn.Layer):
    """A perceptron that is run at every point: 1x1 convolutions over the list of points.

    Args:
        in_channels: C of the fine features.
        num_classes: K.
        fc_channels: width of the hidden layers.
        num_fc: number of hidden layers.
        coarse_pred_each_layer: whether every layer sees the coarse logits, or only the first.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        fc_channels: int = 256,
        num_fc: int = 3,
        coarse_pred_each_layer: bool = False,
    ) -> None:
        super().__init__()
        self.num_fc = num_fc
        self.coarse_pred_each_layer = coarse_pred_each_layer
        width = in_channels + num_classes
        for index in range(num_fc):
            fc = nn.Conv1D(width, fc_channels, 1)
            msra_fill(fc)
            self.add_sublayer(f"fc{index + 1}", fc)
            width = fc_channels + (num_classes if coarse_pred_each_layer else 0)
        self.predictor = nn.Conv1D(width, num_classes, 1)
        normal_fill(self.predictor, std=0.001)

    def forward(self, fine: paddle.Tensor, coarse: paddle.Tensor) -> paddle.Tensor:
        """(N, K, P) logits.

        Args:
            fine: (N, C, P) features.
            coarse: (N, K, P) coarse logits.
        """
        x = paddle.concat([fine, coarse], axis=1)
        for index in range(self.num_fc):
            x = F.relu(getattr(self, f"fc{index + 1}")(x))
            if self.coarse_pred_each_layer:
                x = paddle.concat([x, coarse], axis=1)
        return self.predictor(x)


class PointRendSemSegHead(nn.Layer):
    """A coarse head, and the point head that corrects it."""

    def __init__(self, coarse_head: SemSegFPNHead, point_head: StandardPointHead, in_features: Sequence[str]) -> None:
        super().__init__()
        self.coarse_sem_seg_head = coarse_head
        self.point_head = point_head
        self.in_features = tuple(in_features)

    def forward(
        self, features: dict[str, paddle.Tensor], coarse: paddle.Tensor, coords: paddle.Tensor
    ) -> paddle.Tensor:
        """(N, K, P) logits at points.

        Args:
            features: of the pyramid.
            coarse: (N, K, h, w) logits of the coarse head.
            coords: (N, P, 2).
        """
        fine = paddle.concat([sample_points(features[name], coords) for name in self.in_features], axis=1)
        return self.point_head(fine, sample_points(coarse, coords))


@MODELS.register
class PointRend(nn.Layer):
    """SemanticFPN whose logits are refined from stride 4 to the image's size, point by point.

    Args:
        num_classes: K.
        backbone: such as `ResNet101`: a dict of features of strides 4, 8, 16 and 32.
        fpn_channels: C of the pyramid.
        head_channels: C of the coarse head.
        norm: of the coarse head, as in `build_norm`.
        in_features: levels of the pyramid that the point head sees.
        fc_channels: width of the point head.
        num_fc: its hidden layers.
        coarse_pred_each_layer: whether each of them sees the coarse logits.
        num_points: P of training.
        oversample_ratio: candidates per point of training.
        importance_sample_ratio: share of the points that are the least certain candidates; the rest is random.
        subdivision_num_points: pixels that each of the two subdivisions in evaluation refines, the least certain ones.
        keep_steps: in evaluation also return the logits before and between the subdivisions.
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
        in_features: Sequence[str] = ("p2",),
        fc_channels: int = 256,
        num_fc: int = 3,
        coarse_pred_each_layer: bool = False,
        num_points: int = 2048,
        oversample_ratio: int = 3,
        importance_sample_ratio: float = 0.75,
        subdivision_num_points: int = 8192,
        keep_steps: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        _check(num_points, oversample_ratio, importance_sample_ratio, subdivision_num_points)
        self.backbone = FPN(backbone, out_channels=fpn_channels)
        coarse_head = SemSegFPNHead(
            self.backbone.channels,
            self.backbone.strides,
            num_classes=num_classes,
            mid_channels=head_channels,
            norm=norm,
        )
        point_head = StandardPointHead(
            sum(self.backbone.channels[name] for name in in_features),
            num_classes=num_classes,
            fc_channels=fc_channels,
            num_fc=num_fc,
            coarse_pred_each_layer=coarse_pred_each_layer,
        )
        self.sem_seg_head = PointRendSemSegHead(coarse_head, point_head, in_features)
        self.size_divisor = max(self.backbone.strides.values())
        self.num_candidates = num_points * oversample_ratio
        self.num_important = int(importance_sample_ratio * num_points)
        self.num_draws = self.num_candidates + num_points - self.num_important
        self.subdivision_num_points = subdivision_num_points
        self.keep_steps = keep_steps
        if pretrained:
            load_pretrained(self, pretrained)

    def forward(self, image: paddle.Tensor, draws: paddle.Tensor | None = None) -> dict[str, paddle.Tensor]:
        """Logits by name.

        Args:
            image: (N, 3, H, W), normalised, of any size; it is padded to multiples of 32.
            draws: (N, `num_draws`, 2) uniform in [0, 1), where training looks for points; by default drawn here.

        Returns:
            In training
            semantic: (N, K, H, W), the coarse logits, upsampled;
            points: (N, K, P) logits;
            point_coords: (N, P, 2) of them, in the padded image.
            In evaluation
            semantic: (N, K, H, W), refined; and with `keep_steps`
            stride4: (N, K, h, w), the coarse logits, of the padded image;
            stride2: (N, K, 2h, 2w), after the first subdivision.
        """
        height, width = image.shape[2:]
        features = self.backbone(pad_to_multiple(image, self.size_divisor))
        coarse = self.sem_seg_head.coarse_sem_seg_head(features)
        if self.training:
            coords = self._training_points(coarse, draws)
            points = self.sem_seg_head(features, coarse, coords)
            logits = F.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False)
            return {"semantic": logits[:, :, :height, :width], "points": points, "point_coords": coords}
        half = self._subdivide(features, coarse, coarse)
        outputs = {"semantic": self._subdivide(features, coarse, half)[:, :, :height, :width]}
        return {**outputs, "stride4": coarse, "stride2": half} if self.keep_steps else outputs

    def _training_points(self, coarse: paddle.Tensor, draws: paddle.Tensor | None) -> paddle.Tensor:
        shape = [coarse.shape[0], self.num_draws, 2]
        if draws is None:
            draws = paddle.rand(shape, dtype="float32")
        elif list(draws.shape) != shape:
            raise ValueError(f"PointRend: draws of shape {list(draws.shape)}; expected {shape}")
        return training_points(
            coarse, draws.astype(coarse.dtype), num_candidates=self.num_candidates, num_important=self.num_important
        )

    def _subdivide(
        self, features: dict[str, paddle.Tensor], coarse: paddle.Tensor, logits: paddle.Tensor
    ) -> paddle.Tensor:
        """Logits of twice the height and width, the least certain of them predicted by the point head."""
        logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        index, coords = uncertain_points(logits, self.subdivision_num_points)
        points = self.sem_seg_head(features, coarse, coords)
        shape = logits.shape
        index = index.unsqueeze(1).expand([-1, shape[1], -1])
        return paddle.put_along_axis(logits.flatten(2), index, points.astype(logits.dtype), axis=2).reshape(shape)


def _check(num_points: int, oversample_ratio: int, importance_sample_ratio: float, subdivision_num_points: int) -> None:
    if num_points < 1 or oversample_ratio < 1 or subdivision_num_points < 1:
        raise ValueError(
            f"PointRend: num_points {num_points}, oversample_ratio {oversample_ratio}, subdivision_num_points "
            f"{subdivision_num_points}; expected 1 or more"
        )
    if not 0.0 <= importance_sample_ratio <= 1.0:
        raise ValueError(f"PointRend: importance_sample_ratio is {importance_sample_ratio}; expected 0 to 1")
