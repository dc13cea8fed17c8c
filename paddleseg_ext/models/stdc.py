"""STDC-Seg: a BiSeNet head without spatial path on an STDCNet, guided by a detail head in training.

Paper: Fan et al., Rethinking BiSeNet For Real-time Semantic Segmentation, CVPR 2021, arXiv 2104.13188.
Upstream: MichaelFan01/STDC-Seg@59ff37f models/model_stages.py (code MIT); layer names are upstream's.
Proven by: parity/cases/stdc.py.

Deviations are switches of `STDCSeg`; with `abs_gamma`, `unused_heads`, `aux_in_eval` and the backbone's `classifier`
and `alias_stages` on, numbers, parameters and key names are upstream's.

N batch, C channels, H W image, h w feature map, K classes.
"""

from __future__ import annotations

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.models.backbones.stdcnet import STDCNet
from paddleseg_ext.models.pretrained import load_pretrained
from paddleseg_ext.registry import MODELS


class AbsGammaBatchNorm2D(nn.BatchNorm2D):
    """Batch norm whose scale is |weight| + 1e-5, as in the in-place activated batch norm that upstream's heads use.

    The sign of `weight` does not reach the output, and its gradient is multiplied by that sign. The added constant
    is the float32 number nearest to 1e-5 in every precision, since upstream's kernel takes a C float.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        gamma = paddle.abs(self.weight)
        gamma = gamma + paddle.full_like(gamma, float(np.float32(1e-5)))
        return F.batch_norm(
            x, self._mean, self._variance, gamma, self.bias, self.training, self._momentum, self._epsilon
        )


class ConvBNReLU(nn.Layer):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, padding: int = 1, abs_gamma: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(in_channels, out_channels, kernel_size, padding=padding, bias_attr=False)
        self.bn = (AbsGammaBatchNorm2D if abs_gamma else nn.BatchNorm2D)(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.relu(self.bn(self.conv(x)))


class AttentionRefinementModule(nn.Layer):
    """Channel attention from the global average: conv, then scaled by sigmoid(bn(conv(mean)))."""

    def __init__(self, in_channels: int, out_channels: int, *, abs_gamma: bool) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, out_channels, abs_gamma=abs_gamma)
        self.conv_atten = nn.Conv2D(out_channels, out_channels, 1, bias_attr=False)
        self.bn_atten = (AbsGammaBatchNorm2D if abs_gamma else nn.BatchNorm2D)(out_channels)
        self.sigmoid_atten = nn.Sigmoid()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        feature = self.conv(x)
        attention = self.sigmoid_atten(self.bn_atten(self.conv_atten(_global_mean(feature))))
        return feature * attention


class ContextPath(nn.Layer):
    """Backbone, and its stride-32 and stride-16 features refined and carried up to strides 16 and 8."""

    def __init__(self, backbone: STDCNet, *, abs_gamma: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.arm16 = AttentionRefinementModule(512, 128, abs_gamma=abs_gamma)
        self.arm32 = AttentionRefinementModule(1024, 128, abs_gamma=abs_gamma)
        self.conv_head32 = ConvBNReLU(128, 128, abs_gamma=abs_gamma)
        self.conv_head16 = ConvBNReLU(128, 128, abs_gamma=abs_gamma)
        self.conv_avg = ConvBNReLU(1024, 128, kernel_size=1, padding=0, abs_gamma=abs_gamma)

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        """Backbone features at strides 2, 4, 8, 16, then the context at strides 8 and 16, (N, 128, h, w)."""
        feat2, feat4, feat8, feat16, feat32 = self.backbone(image)
        average = self.conv_avg(_global_mean(feat32))
        context32 = self.arm32(feat32) + average
        context16 = self.conv_head32(F.interpolate(context32, feat16.shape[2:], mode="nearest"))
        refined16 = self.arm16(feat16) + context16
        context8 = self.conv_head16(F.interpolate(refined16, feat8.shape[2:], mode="nearest"))
        return feat2, feat4, feat8, feat16, context8, context16


class FeatureFusionModule(nn.Layer):
    """Concatenates stride-8 features with their context; squeeze-and-excite attention without norm."""

    def __init__(self, in_channels: int, out_channels: int, *, abs_gamma: bool) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(in_channels, out_channels, kernel_size=1, padding=0, abs_gamma=abs_gamma)
        self.conv1 = nn.Conv2D(out_channels, out_channels // 4, 1, bias_attr=False)
        self.conv2 = nn.Conv2D(out_channels // 4, out_channels, 1, bias_attr=False)
        self.relu = nn.ReLU()
        self.sigmoid = nn.Sigmoid()

    def forward(self, spatial: paddle.Tensor, context: paddle.Tensor) -> paddle.Tensor:
        feature = self.convblk(paddle.concat([spatial, context], axis=1))
        attention = self.sigmoid(self.conv2(self.relu(self.conv1(_global_mean(feature)))))
        return feature * attention + feature


class BiSeNetOutput(nn.Layer):
    """Segmentation or detail head: 3x3 ConvBNReLU and a 1x1 convolution without bias."""

    def __init__(self, in_channels: int, mid_channels: int, num_classes: int, *, abs_gamma: bool) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, mid_channels, abs_gamma=abs_gamma)
        self.conv_out = nn.Conv2D(mid_channels, num_classes, 1, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv_out(self.conv(x))


@MODELS.register
class STDCSeg(nn.Layer):
    """STDC1-Seg or STDC2-Seg, by its backbone.

    Args:
        num_classes: K.
        backbone: `STDC1` or `STDC2`.
        use_boundary_2: return the detail logits of the stride-2 features as `detail2`; likewise 4, 8 and 16.
            Upstream trains with stride 8 alone. It never returns those of stride 16.
        use_boundary_4: see above.
        use_boundary_8: see above.
        use_boundary_16: see above.
        abs_gamma: normalise in the heads with |gamma| + 1e-5, as upstream does; False is the paper's batch norm.
        unused_heads: hold and run the detail heads that are not returned, as upstream does: they get no gradient,
            but their running statistics move.
        aux_in_eval: return the auxiliary and detail outputs in evaluation too, as upstream does.
        pretrained: weight file of the whole model to load (strictly), or None.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: STDCNet,
        *,
        use_boundary_2: bool = False,
        use_boundary_4: bool = False,
        use_boundary_8: bool = True,
        use_boundary_16: bool = False,
        abs_gamma: bool = False,
        unused_heads: bool = False,
        aux_in_eval: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.cp = ContextPath(backbone, abs_gamma=abs_gamma)
        self.ffm = FeatureFusionModule(256 + 128, 256, abs_gamma=abs_gamma)
        self.conv_out = BiSeNetOutput(256, 256, num_classes, abs_gamma=abs_gamma)
        self.conv_out16 = BiSeNetOutput(128, 64, num_classes, abs_gamma=abs_gamma)
        self.conv_out32 = BiSeNetOutput(128, 64, num_classes, abs_gamma=abs_gamma)
        used = {2: use_boundary_2, 4: use_boundary_4, 8: use_boundary_8, 16: use_boundary_16}
        self.detail_strides = tuple(stride for stride, wanted in used.items() if wanted)
        self.aux_in_eval = aux_in_eval
        channels = dict(zip((2, 4, 8, 16), backbone.channels))
        for stride in used if unused_heads else self.detail_strides:
            self.add_sublayer(f"conv_out_sp{stride}", BiSeNetOutput(channels[stride], 64, 1, abs_gamma=abs_gamma))
        self._init_heads()
        if pretrained:
            load_pretrained(self, pretrained)

    def _init_heads(self) -> None:
        for name, layer in self.named_sublayers():
            if isinstance(layer, nn.Conv2D) and not name.startswith("cp.backbone."):
                fan_in = int(np.prod(layer.weight.shape[1:]))
                nn.initializer.Normal(std=1.0 / math.sqrt(fan_in))(layer.weight)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Logits by name.

        Args:
            image: (N, 3, H, W), normalised.

        Returns:
            semantic: (N, K, H, W). In training, or with `aux_in_eval`, also
            aux16, aux32: (N, K, H, W), from the context at stride 8 and 16;
            detail2/4/8/16: (N, 1, h, w), as asked for, not upsampled.
        """
        *features, context8, context16 = self.cp(image)
        outputs: dict[str, paddle.Tensor] = {}
        if self.training or self.aux_in_eval:
            for stride, feature in zip((2, 4, 8, 16), features):
                head = getattr(self, f"conv_out_sp{stride}", None)
                if head is not None:
                    outputs[f"detail{stride}"] = head(feature)
        outputs["semantic"] = self.conv_out(self.ffm(features[2], context8))
        if self.training or self.aux_in_eval:
            outputs["aux16"] = self.conv_out16(context8)
            outputs["aux32"] = self.conv_out32(context16)
        for name in ("semantic", "aux16", "aux32"):
            if name in outputs:
                outputs[name] = F.interpolate(outputs[name], image.shape[2:], mode="bilinear", align_corners=True)
        wanted = ["semantic", "aux16", "aux32", *(f"detail{stride}" for stride in self.detail_strides)]
        return {name: outputs[name] for name in wanted if name in outputs}


def _global_mean(x: paddle.Tensor) -> paddle.Tensor:
    return paddle.mean(x, axis=[2, 3], keepdim=True)
