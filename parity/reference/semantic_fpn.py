"""SemanticFPN in torch: feature pyramid, semantic head, loss.

Paper: Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446.
Stands for: facebookresearch/detectron2@02b5c4e detectron2/modeling/backbone/fpn.py and
detectron2/modeling/meta_arch/semantic_seg.py (Apache-2.0). Its state dict loads strictly: key names are upstream's.

Deviations, none of which changes a number of training or evaluation:
- a batch is one tensor, already normalised, and comes back as named outputs and named loss terms;
- in training the logits are upsampled by the model, and cut to the image; upstream's loss upsamples them, and ignores
  the pixels beyond the image;
- no initialisation of its own; the pyramid has no p6, which semantic segmentation never uses.

N batch, C channels, H W image, h w feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from parity.reference.d2_resnet import ConvNorm2d, ResNet

LEVELS = {"p2": ("res2", 256), "p3": ("res3", 512), "p4": ("res4", 1024), "p5": ("res5", 2048)}
DIVISOR = 32


class FPN(nn.Module):
    """The pyramid over a ResNet: p2 (stride 4) to p5 (stride 32), 256 channels each."""

    def __init__(self, bottom_up: ResNet, out_channels: int = 256) -> None:
        super().__init__()
        for level, (_, in_channels) in LEVELS.items():
            self.add_module(f"fpn_lateral{level[1]}", ConvNorm2d(in_channels, out_channels, 1))
            self.add_module(f"fpn_output{level[1]}", ConvNorm2d(out_channels, out_channels, 3, padding=1))
        self.bottom_up = bottom_up

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.bottom_up(image)
        pyramid: dict[str, torch.Tensor] = {}
        merged = None
        for level in reversed(LEVELS):
            lateral = self.get_submodule(f"fpn_lateral{level[1]}")(features[LEVELS[level][0]])
            merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2.0, mode="nearest")
            pyramid[level] = self.get_submodule(f"fpn_output{level[1]}")(merged)
        return pyramid


class SemSegFPNHead(nn.Module):
    """Per level as many (3x3 convolution, GroupNorm, ReLU, x2) as bring it to stride 4; their sum is classified."""

    def __init__(self, num_classes: int, in_channels: int = 256, conv_dims: int = 128) -> None:
        super().__init__()
        for level, doublings in {"p2": 0, "p3": 1, "p4": 2, "p5": 3}.items():
            steps: list[nn.Module] = []
            for step in range(max(doublings, 1)):
                channels = conv_dims if step else in_channels
                steps.append(ConvNorm2d(channels, conv_dims, 3, padding=1, bias=False, norm="GN", relu=True))
                if doublings > 0:
                    steps.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.add_module(level, nn.Sequential(*steps))
        self.predictor = ConvNorm2d(conv_dims, num_classes, 1)

    def forward(self, pyramid: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(N, K, h, w) at stride 4."""
        return self.predictor(sum(self.get_submodule(level)(pyramid[level]) for level in LEVELS))


def pad(x: torch.Tensor, value: float = 0.0) -> torch.Tensor:
    """`x`, (..., H, W), with values below and at the right until both sides are multiples of 32."""
    return F.pad(x, (0, -x.shape[-1] % DIVISOR, 0, -x.shape[-2] % DIVISOR), value=value)


def upsample(logits: torch.Tensor, factor: float) -> torch.Tensor:
    """Bilinear, as upstream's heads do it."""
    return F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)


class SemanticSegmentor(nn.Module):
    """The model: image (N, 3, H, W) to {"semantic": (N, K, H, W)}."""

    def __init__(self, num_classes: int, backbone: ResNet) -> None:
        super().__init__()
        self.backbone = FPN(backbone)
        self.sem_seg_head = SemSegFPNHead(num_classes)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = image.shape[2:]
        logits = upsample(self.sem_seg_head(self.backbone(pad(image))), 4)
        return {"semantic": logits[:, :, :height, :width]}


class SemanticLosses(nn.Module):
    """Upstream's loss: the mean cross-entropy over the pixels that are not ignored."""

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        return {"loss_sem_seg": F.cross_entropy(outputs["semantic"], targets["label"], ignore_index=255)}


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Upstream's groups: norms without weight decay, everything else, biases too, with 1e-4."""
    norms, others = [], []
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        (norms if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)) else others).extend(own)
    return [{"params": others}, {"params": norms, "weight_decay": 0.0}]
