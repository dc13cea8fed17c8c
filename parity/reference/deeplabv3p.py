"""DeepLabv3+ in torch, three times: as bowenc0221, as PaddlePaddle/models and as detectron2 build it.

Paper: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018,
arXiv 1802.02611.
Stands for: bowenc0221/panoptic-deeplab@cf8e20b segmentation/model/{decoder,meta_arch}/ and model/loss/criterion.py;
PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/{models,train}.py (Apache-2.0); and
facebookresearch/detectron2@02b5c4e projects/DeepLab and detectron2/layers/aspp.py (Apache-2.0). Key names are
upstream's; those of PaddlePaddle/models, which are paths of variables, are translated to bowenc0221's by the rules in
parity/fluid.py.

Deviations, none of which changes a number of training or evaluation: outputs and loss terms are named; no
initialisation of its own; the losses of detectron2 are computed outside of the head.

N batch, C channels, H W image, h w feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from parity.reference.d2_resnet import ConvNorm2d, ResNet
from parity.reference.xception import Norm, Xception65, group_norm

FLUID_FLOOR = float(np.float32(0.1))  # PaddlePaddle/models holds it in a float32 array

# --- bowenc0221 and PaddlePaddle/models -----------------------------------------------------------------------------


def _conv(in_channels: int, out_channels: int, kernel: int, norm: Norm, *, dilation: int = 1, groups: int = 1) -> Any:
    """Convolution, norm, ReLU; the size stays."""
    padding = (kernel // 2) * dilation
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(conv, norm(out_channels), nn.ReLU())


def _separable(in_channels: int, out_channels: int, kernel: int, norm: Norm, *, dilation: int = 1) -> nn.Sequential:
    """Depthwise convolution, norm, ReLU, pointwise convolution, norm, ReLU."""
    depthwise = _conv(in_channels, in_channels, kernel, norm, dilation=dilation, groups=in_channels)
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(depthwise, pointwise, norm(out_channels), nn.ReLU())


def _resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


class ImagePooling(nn.Module):
    """Global mean, 1x1 convolution, norm if there is one, ReLU, spread over the map again."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm | None) -> None:
        super().__init__()
        layers = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, out_channels, 1, bias=False)]
        layers += [norm(out_channels)] if norm else []
        self.aspp_pooling = nn.Sequential(*layers, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _resize(self.aspp_pooling(x), x)


class ASPP(nn.Module):
    """1x1, three dilated 3x3, image pooling; concatenated, 1x1, dropout.

    Args:
        norm: channels -> layer.
        fluid: separable 3x3 convolutions, a norm in the image pooling, which is first in the concatenation, dropout
            0.1 instead of 0.5.
    """

    def __init__(self, norm: Norm, *, fluid: bool) -> None:
        super().__init__()
        self.fluid = fluid
        self.convs = nn.ModuleList([_conv(2048, 256, 1, norm)])
        for dilation in (6, 12, 18):
            layer = (_separable if fluid else _conv)(2048, 256, 3, norm, dilation=dilation)
            self.convs.append(layer)
        self.convs.append(ImagePooling(2048, 256, norm if fluid else None))
        projection = nn.Conv2d(5 * 256, 256, 1, bias=False)
        self.project = nn.Sequential(projection, norm(256), nn.ReLU(), nn.Dropout(0.1 if fluid else 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [conv(x) for conv in self.convs]
        if self.fluid:
            parts = parts[-1:] + parts[:-1]
        return self.project(torch.cat(parts, dim=1))


class Decoder(nn.Module):
    """Pyramid, projection of the low-level feature, two separable 3x3 convolutions, classifier."""

    def __init__(self, num_classes: int, norm: Norm, *, fluid: bool) -> None:
        super().__init__()
        self.aspp = ASPP(norm, fluid=fluid)
        self.project = _conv(256, 48, 1, norm)
        self.fuse = nn.Sequential(_separable(256 + 48, 256, 3, norm), _separable(256, 256, 3, norm))
        self.classifier = nn.Conv2d(256, num_classes, 1)

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        deep = self.aspp(features["res5"])
        low = self.project(features["res2"])
        return self.classifier(self.fuse(torch.cat([_resize(deep, low), low], dim=1)))


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ on an Xception-65 of output stride 16.

    Args:
        num_classes: K.
        norm: "bn" or "gn".
        fluid: PaddlePaddle/models' variant; False: bowenc0221's. Batch norms of the former have an epsilon of 1e-3 in
            the backbone, all others of 1e-5.
    """

    def __init__(self, num_classes: int = 19, *, norm: str = "bn", fluid: bool = False) -> None:
        super().__init__()
        make = group_norm if norm == "gn" else nn.BatchNorm2d
        self.backbone = Xception65(make, output_stride=16)
        self.decoder = Decoder(num_classes, make, fluid=fluid)
        if fluid:
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = 1e-3

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """`semantic`: (N, K, H, W) logits of (N, 3, H, W) images."""
        return {"semantic": _resize(self.decoder(self.backbone(image)), image)}


class RegularCE(nn.Module):
    """bowenc0221's loss: the mean cross-entropy of the pixels with a label (NaN if there is none)."""

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """`loss_semantic`, a scalar."""
        return {"loss_semantic": F.cross_entropy(outputs["semantic"], targets["label"], ignore_index=255)}


class FluidLoss(nn.Module):
    """PaddlePaddle/models' loss: the mean over all pixels, ignored ones as 0, over max(labelled share, FLUID_FLOOR)."""

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """`loss_semantic`, a scalar."""
        logits, label = outputs["semantic"], targets["label"]
        log_prob = torch.log_softmax(logits, dim=1)
        known = label < logits.shape[1]
        chosen = log_prob.gather(1, torch.where(known, label, 0)[:, None])[:, 0]
        loss = torch.where(known, -chosen, 0.0)
        share = known.to(loss.dtype).mean()
        return {"loss_semantic": loss.mean() / share.clamp(min=FLUID_FLOOR)}


def bowenc_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay 1e-4 on convolution weights; 0 on norms and on the only bias, the classifier's, with twice the rate.

    Upstream: bowenc0221/panoptic-deeplab@cf8e20b segmentation/solver/build.py and config/default.py
    """
    norms, weights = _split(model)
    return [
        {"params": norms, "weight_decay": 0.0},
        {"params": weights, "weight_decay": 1e-4},
        {"params": [model.decoder.classifier.bias], "weight_decay": 0.0, "lr_mult": 2.0},
    ]


def fluid_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay 4e-5 on convolution weights and the classifier's bias; none on norms and depthwise kernels.

    Upstream: PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+/{models,train}.py
    """
    norms, weights = _split(model)
    depthwise = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    return [
        {"params": norms + [w for w in weights if id(w) in depthwise], "weight_decay": 0.0},
        {"params": [w for w in weights if id(w) not in depthwise], "weight_decay": 4e-5},
        {"params": [model.decoder.classifier.bias], "weight_decay": 4e-5},
    ]


def _split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of norms, and weights of convolutions."""
    kinds = (nn.BatchNorm2d, nn.GroupNorm)
    norms = [p for module in model.modules() if isinstance(module, kinds) for p in module.parameters()]
    return norms, [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]


# --- detectron2 -----------------------------------------------------------------------------------------------------


class Detectron2ASPP(nn.Module):
    """The pyramid with a bias and no norm in its image pooling, which may be a pooling of fixed windows.

    Args:
        pool_size: (height, width) of the windows; None: global.
        dropout: on the result.
    """

    def __init__(self, in_channels: int, out_channels: int, *, pool_size: Sequence[int] | None, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.convs = nn.ModuleList([ConvNorm2d(in_channels, out_channels, 1, bias=False, norm="BN", relu=True)])
        for dilation in (6, 12, 18):
            self.convs.append(
                ConvNorm2d(
                    in_channels,
                    out_channels,
                    3,
                    padding=dilation,
                    dilation=dilation,
                    bias=False,
                    norm="BN",
                    relu=True,
                )
            )
        pool = nn.AvgPool2d(tuple(pool_size), stride=1) if pool_size else nn.AdaptiveAvgPool2d(1)
        self.convs.append(nn.Sequential(pool, ConvNorm2d(in_channels, out_channels, 1, relu=True)))
        self.project = ConvNorm2d(5 * out_channels, out_channels, 1, bias=False, norm="BN", relu=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [conv(x) for conv in self.convs]
        parts[-1] = F.interpolate(parts[-1], size=x.shape[2:], mode="bilinear", align_corners=False)
        out = self.project(torch.cat(parts, dim=1))
        return F.dropout(out, self.dropout, training=self.training) if self.dropout else out


class DeepLabV3PlusHead(nn.Module):
    """Pyramid of `res5`, `res2` reduced to 48 channels, two 3x3 convolutions, predictor; logits at stride 4."""

    def __init__(self, num_classes: int, *, pool_size: Sequence[int] | None, dropout: float) -> None:
        super().__init__()
        fuse = [ConvNorm2d(width, 256, 3, padding=1, bias=False, norm="BN", relu=True) for width in (48 + 256, 256)]
        project = ConvNorm2d(256, 48, 1, bias=False, norm="BN", relu=True)
        pyramid = Detectron2ASPP(2048, 256, pool_size=pool_size, dropout=dropout)
        self.decoder = nn.ModuleDict(
            {
                "res2": nn.ModuleDict({"project_conv": project, "fuse_conv": nn.Sequential(*fuse)}),
                "res5": nn.ModuleDict({"project_conv": pyramid}),
            }
        )
        self.predictor = ConvNorm2d(256, num_classes, 1)

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        deep = self.decoder["res5"]["project_conv"](features["res5"])
        low = self.decoder["res2"]["project_conv"](features["res2"])
        deep = F.interpolate(deep, size=low.shape[2:], mode="bilinear", align_corners=False)
        return self.predictor(self.decoder["res2"]["fuse_conv"](torch.cat([low, deep], dim=1)))


class Detectron2DeepLabV3Plus(nn.Module):
    """DeepLabv3+ on R-103 of output stride 16.

    Args:
        num_classes: K.
        crop_size: (height, width) of the training crops, which fixes the windows of the image pooling; None: global.
        dropout: of the pyramid; upstream's recipe has 0.1.
    """

    def __init__(self, num_classes: int = 19, *, crop_size: Sequence[int] | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        self.backbone = ResNet(
            101,
            stem="deeplab",
            norm="BN",
            stride_in_1x1=False,
            res5_dilation=2,
            res5_multi_grid=(1, 2, 4),
            out_features=("res2", "res5"),
        )
        pool_size = tuple(side // 16 for side in crop_size) if crop_size else None
        self.sem_seg_head = DeepLabV3PlusHead(num_classes, pool_size=pool_size, dropout=dropout)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """`semantic`: (N, K, H, W) logits of (N, 3, H, W) images."""
        logits = self.sem_seg_head(self.backbone(image))
        logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        return {"semantic": logits[:, :, : image.shape[2], : image.shape[3]]}


class HardPixelLoss(nn.Module):
    """detectron2's loss: the mean over the largest fifth of the batch's pixel losses, ignored pixels counted as 0."""

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """`loss_sem_seg`, a scalar."""
        pixels = F.cross_entropy(outputs["semantic"], targets["label"], ignore_index=255, reduction="none").flatten()
        return {"loss_sem_seg": pixels.topk(int(0.2 * pixels.numel())).values.mean()}


def detectron2_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay 1e-4 on weights and biases of convolutions, 0 on norms.

    Upstream: facebookresearch/detectron2@02b5c4e detectron2/solver/build.py
    """
    norms, weights = _split(model)
    biases = [m.bias for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    return [{"params": norms, "weight_decay": 0.0}, {"params": weights + biases, "weight_decay": 1e-4}]


# --- schedules ------------------------------------------------------------------------------------------------------


def poly(iteration: int, *, base_lr: float, iters: int, power: float = 0.9) -> float:
    """base_lr * (1 - iteration/iters)**power: the rate of PaddlePaddle/models, without a warm-up."""
    return base_lr * (1.0 - iteration / iters) ** power


def warmup_poly(iteration: int, *, base_lr: float, iters: int, warmup_iters: int, factor: float = 1e-3) -> float:
    """The same, times a factor that grows from `factor` to 1 in the first `warmup_iters` steps; the others' rate."""
    warmup = 1.0
    if iteration < warmup_iters:
        warmup = factor + (1.0 - factor) * iteration / warmup_iters
    return warmup * poly(iteration, base_lr=base_lr, iters=iters)
