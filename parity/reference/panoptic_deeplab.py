"""Panoptic-DeepLab in torch: the model, its losses and its post-processing.

Paper: Cheng et al., Panoptic-DeepLab, CVPR 2020, arXiv 1911.10194.
Stands for: facebookresearch/detectron2@02b5c4e projects/{Panoptic-DeepLab,DeepLab} and detectron2/layers/aspp.py
(Apache-2.0), and for bowenc0221/panoptic-deeplab@cf8e20b tools_d2, which are the same heads on other backbones. Its
state dict loads strictly: key names are upstream's.

Deviations, none of which changes a number of training or evaluation:
- outputs and loss terms are named, and outputs are at the image's size in training too;
- the image comes normalised; no initialisation of its own;
- post-processing is written out as what it means: loops over pixels and centers.

N batch, C channels, H W image, h w feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from parity.reference.d2_resnet import ConvNorm2d

# --- layers ---------------------------------------------------------------------------------------------------------


def _conv(in_channels: int, out_channels: int, kernel_size: int = 3, *, dilation: int = 1, groups: int = 1):
    """Convolution without bias that keeps the size, batch norm, ReLU."""
    return ConvNorm2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
        norm="BN",
        relu=True,
    )


class DepthwiseSeparableConv2d(nn.Module):
    """Depthwise and pointwise convolution, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = _conv(in_channels, in_channels, kernel_size, dilation=dilation, groups=in_channels)
        self.pointwise = _conv(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


def _two(in_channels: int, out_channels: int, last_channels: int, *, separable: bool) -> nn.Module:
    """Two 3x3 convolutions, or a separable 5x5 one."""
    if separable:
        return DepthwiseSeparableConv2d(in_channels, last_channels, 5)
    return nn.Sequential(_conv(in_channels, out_channels), _conv(out_channels, last_channels))


class ASPP(nn.Module):
    """1x1 and three dilated 3x3 convolutions beside an average; all concatenated and projected.

    Args:
        in_channels: C.
        out_channels: of each of the five parts, and of the result.
        dilations: of the 3x3 convolutions.
        pool_size: (height, width) of the average's window; None averages over everything.
        dropout: after the projection.
        separable: the dilated convolutions are depthwise separable.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int],
        *,
        pool_size: tuple[int, int] | None,
        dropout: float,
        separable: bool,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        dilated = DepthwiseSeparableConv2d if separable else _conv
        average = nn.AdaptiveAvgPool2d(1) if pool_size is None else nn.AvgPool2d(pool_size, stride=1)
        self.convs = nn.ModuleList(
            [
                _conv(in_channels, out_channels, 1),
                *(dilated(in_channels, out_channels, 3, dilation=dilation) for dilation in dilations),
                nn.Sequential(average, ConvNorm2d(in_channels, out_channels, 1, relu=True)),
            ]
        )
        self.project = _conv(5 * out_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [conv(x) for conv in self.convs]
        parts[-1] = _resize(parts[-1], x.shape[2:])
        return F.dropout(self.project(torch.cat(parts, dim=1)), self.dropout, training=self.training)


def _resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


# --- heads ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecoderSettings:
    """What both heads' decoders share.

    Attributes:
        channels: backbone feature -> C.
        project: finer feature -> channels it is projected to, finest first.
        dilations: of the ASPP.
        pool_size: of the ASPP.
        dropout: of the ASPP.
        separable: ASPP, fusions and heads.
    """

    channels: Mapping[str, int]
    project: Mapping[str, int]
    dilations: Sequence[int] = (6, 12, 18)
    pool_size: tuple[int, int] | None = None
    dropout: float = 0.1
    separable: bool = False


class Decoder(nn.Module):
    """ASPP on res5, then for each finer feature: enlarge, concatenate behind the projected feature, fuse."""

    def __init__(self, settings: DecoderSettings, width: int) -> None:
        super().__init__()
        self.decoder = nn.ModuleDict()
        names, aspp_channels = list(settings.project), 256
        for index, name in enumerate(names):
            projected = settings.project[name]
            from_below = aspp_channels if index == len(names) - 1 else width
            fuse = _two(projected + from_below, width, width, separable=settings.separable)
            project = _conv(settings.channels[name], projected, 1)
            self.decoder[name] = nn.ModuleDict({"project_conv": project, "fuse_conv": fuse})
        aspp = ASPP(
            settings.channels["res5"],
            aspp_channels,
            settings.dilations,
            pool_size=settings.pool_size,
            dropout=settings.dropout,
            separable=settings.separable,
        )
        self.decoder["res5"] = nn.ModuleDict({"project_conv": aspp})

    def decode(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        names = list(self.decoder)
        x = self.decoder["res5"]["project_conv"](features["res5"])
        for name in names[-2::-1]:
            own = self.decoder[name]["project_conv"](features[name])
            x = self.decoder[name]["fuse_conv"](torch.cat([own, _resize(x, own.shape[2:])], dim=1))
        return x


class SemanticHead(Decoder):
    """Logits of K classes at stride 4."""

    def __init__(self, settings: DecoderSettings, num_classes: int) -> None:
        super().__init__(settings, 256)
        self.head = _two(256, 256, 256, separable=settings.separable)
        self.predictor = nn.Conv2d(256, num_classes, 1)

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.predictor(self.head(self.decode(features)))


class InstanceHead(Decoder):
    """Centers and offsets at stride 4; only the offsets' convolutions can be separable."""

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__(settings, 128)
        self.center_head = _two(128, 128, 32, separable=False)
        self.center_predictor = nn.Conv2d(32, 1, 1)
        self.offset_head = _two(128, 128, 32, separable=settings.separable)
        self.offset_predictor = nn.Conv2d(32, 2, 1)

    def forward(self, features: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.decode(features)
        center = self.center_predictor(self.center_head(x))
        return center, self.offset_predictor(self.offset_head(x))


class PanopticDeepLab(nn.Module):
    """The whole model.

    Args:
        backbone: image -> features by name.
        settings: of the decoders.
        num_classes: K.
        size_divisibility: the image is padded at the bottom and on the right to a multiple of it; 0 for none.
    """

    def __init__(
        self, backbone: nn.Module, settings: DecoderSettings, *, num_classes: int = 19, size_divisibility: int = 0
    ) -> None:
        super().__init__()
        self.size_divisibility = size_divisibility
        self.backbone = backbone
        self.sem_seg_head = SemanticHead(settings, num_classes)
        self.ins_embed_head = InstanceHead(settings)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """`semantic` (N, K, H, W), `center` (N, 1, H, W) and `offset` (N, 2, H, W), (y, x) in pixels of the image."""
        height, width = image.shape[2:]
        if self.size_divisibility:
            multiple = self.size_divisibility
            image = F.pad(image, [0, -width % multiple, 0, -height % multiple])
        features = self.backbone(image)
        semantic = self.sem_seg_head(features)
        center, offset = self.ins_embed_head(features)

        def at_image(x: torch.Tensor) -> torch.Tensor:
            x = F.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=False)
            return x[:, :, :height, :width]

        return {"semantic": at_image(semantic), "center": at_image(center), "offset": 4 * at_image(offset)}


# --- losses ---------------------------------------------------------------------------------------------------------


class PanopticLosses(nn.Module):
    """The three terms of training, weighted 1, 200 and 0.01; their sum is the loss.

    Args:
        top_k: share of the batch's pixels, ignored ones among them, whose semantic losses count: the largest ones.
    """

    def __init__(self, *, top_k: float = 0.2) -> None:
        super().__init__()
        self.top_k = top_k

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Scalars loss_sem_seg, loss_center and loss_offset.

        Args:
            outputs: of `PanopticDeepLab`.
            targets: `label`, `semantic_weights`, `center_weights`, `offset_weights` (N, H, W); `center` (N, 1, H, W);
                `offset` (N, 2, H, W).
        """
        pixels = F.cross_entropy(outputs["semantic"], targets["label"], ignore_index=255, reduction="none")
        pixels = (pixels * targets["semantic_weights"]).flatten()
        if self.top_k < 1.0:
            pixels = pixels.sort(descending=True).values[: int(self.top_k * pixels.numel())]
        squared = (outputs["center"] - targets["center"]).square()[:, 0]
        absolute = (outputs["offset"] - targets["offset"]).abs().sum(1)
        return {
            "loss_sem_seg": pixels.mean(),
            "loss_center": 200.0 * _mean(squared, targets["center_weights"]),
            "loss_offset": 0.01 * _mean(absolute, targets["offset_weights"]),
        }


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    total = weights.sum()
    weighted = (values * weights).sum()
    return weighted / total if total > 0 else 0.0 * weighted


# --- post-processing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instance:
    """One thing: its class, its number among those of the class, its score and its mask (H, W)."""

    category: int
    number: int
    score: float
    mask: torch.Tensor


@dataclass(frozen=True)
class Settings:
    """Of post-processing; the defaults are upstream's for Cityscapes."""

    thing_ids: Sequence[int] = tuple(range(11, 19))
    label_divisor: int = 1000
    stuff_area: int = 2048
    void_label: int = -1
    threshold: float = 0.1
    nms_kernel: int = 7
    top_k: int = 200


def find_centers(heat: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(I, 2) coordinates (y, x), row by row.

    A center is a largest value of its window, and above the threshold. If there are `top_k` or more, those that are
    larger than the `top_k`-th remain: at most `top_k` - 1, and none of its equals.

    Args:
        heat: (H, W).
        settings: threshold, window and top_k are used.
    """
    if settings.top_k > heat.numel():
        raise ValueError(f"find_centers: top_k {settings.top_k} of {heat.numel()} pixels; expected at most as many")
    kept = torch.where(heat > settings.threshold, heat, torch.full_like(heat, -1.0))
    largest = F.max_pool2d(kept[None, None], settings.nms_kernel, 1, (settings.nms_kernel - 1) // 2)[0, 0]
    peaks = torch.where(kept == largest, kept, torch.full_like(heat, -1.0))
    least = peaks.flatten().sort(descending=True).values[settings.top_k - 1].clamp(min=0.0)
    return (peaks > least).nonzero()


def panoptic_segmentation(
    semantic: torch.Tensor, center: torch.Tensor, offset: torch.Tensor, settings: Settings
) -> tuple[torch.Tensor, list[Instance]]:
    """Panoptic ids of one image, (H, W) int64, and its instances in the order of their ids.

    Args:
        semantic: (K, H, W) logits.
        center: (1, H, W).
        offset: (2, H, W), (y, x) in pixels.
        settings: all are used.
    """
    classes = semantic.argmax(0)
    things = torch.isin(classes, torch.tensor(sorted(settings.thing_ids)))
    owner = torch.zeros_like(classes)
    centers = find_centers(center[0], settings)
    if len(centers):
        height, width = classes.shape
        rows = torch.arange(height, dtype=offset.dtype)[:, None] + offset[0]
        columns = torch.arange(width, dtype=offset.dtype)[None] + offset[1]
        distances = [((rows - y).square() + (columns - x).square()).sqrt() for y, x in centers.to(offset.dtype)]
        owner = torch.where(things, torch.stack(distances).argmin(0) + 1, owner)
    ids = torch.full_like(classes, settings.void_label)
    counts: dict[int, int] = {}
    for instance in range(1, len(centers) + 1):
        mask = owner == instance
        if mask.any():
            category = int(torch.bincount(classes[mask]).argmax())  # of equally frequent classes, the smallest
            counts[category] = counts.get(category, 0) + 1
            ids[mask] = category * settings.label_divisor + counts[category]
    for category in classes.unique().tolist():
        mask = (classes == category) & (owner == 0)
        if category not in settings.thing_ids and int(mask.sum()) >= settings.stuff_area:
            ids[mask] = category * settings.label_divisor
    return ids, _instances(ids, semantic.softmax(0), center[0], settings)


def _instances(ids: torch.Tensor, prob: torch.Tensor, heat: torch.Tensor, settings: Settings) -> list[Instance]:
    """The things of a panoptic map; a score is the mean probability of the class times the heat at the mask's mean."""
    found = []
    for value in ids.unique().tolist():
        category, number = divmod(value, settings.label_divisor)
        if value != settings.void_label and category in settings.thing_ids:
            mask = ids == value
            y, x = mask.nonzero().float().mean(0).tolist()
            score = prob[category][mask].mean() * heat[int(y), int(x)]
            found.append(Instance(category, number, float(score), mask))
    return found
