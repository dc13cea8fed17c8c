"""PointRend for semantic segmentation in torch.

Paper: Kirillov et al., PointRend: Image Segmentation as Rendering, CVPR 2020, arXiv 1912.08193.
Stands for: facebookresearch/detectron2@02b5c4e, in projects/PointRend/point_rend, semantic_seg.py, point_head.py and
point_features.py (Apache-2.0). Its state dict loads strictly: key names are upstream's.

Deviations, none of which changes a number of training or evaluation: those of `semantic_fpn`, and
- the random numbers of training are an argument, candidates and further points in one tensor;
- in evaluation, the logits before and between the two subdivisions are outputs too;
- the points of a subdivision are in the order of the map, where upstream has the least certain first; each is scattered
  to its own pixel;
- the centres of pixels are computed in the type of the logits, where upstream always uses float32.

N batch, C channels, H W image, h w feature map, K classes, P points; coordinates are (x, y) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from parity.reference.d2_resnet import ResNet
from parity.reference.semantic_fpn import FPN, SemSegFPNHead, pad, upsample

OVERSAMPLE_RATIO = 3
IMPORTANCE_RATIO = 0.75


def point_sample(features: torch.Tensor, coords: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """(N, C, P) samples of (N, C, H, W) at (N, P, 2)."""
    grid = 2.0 * coords[:, :, None] - 1.0
    return F.grid_sample(features, grid, mode=mode, align_corners=False)[..., 0]


def uncertainty(logits: torch.Tensor) -> torch.Tensor:
    """(N, ...) from (N, K, ...): how little the best class leads, negated."""
    best, second = logits.topk(2, dim=1).values.unbind(1)
    return second - best


def uncertain_points(logits: torch.Tensor, num_points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending flat indices (N, P) and centres (N, P, 2) of the pixels that are least certain."""
    height, width = logits.shape[2:]
    scores = uncertainty(logits).flatten(1)
    indices = scores.topk(min(num_points, height * width), dim=1).indices.sort(dim=1).values
    x = (1.0 / width) / 2.0 + (indices % width).to(logits.dtype) * (1.0 / width)
    y = (1.0 / height) / 2.0 + (indices // width).to(logits.dtype) * (1.0 / height)
    return indices, torch.stack([x, y], dim=-1)


class StandardPointHead(nn.Module):
    """Three hidden layers of 256 over a list of points; only the first sees the coarse logits."""

    def __init__(self, num_classes: int, in_channels: int = 256, fc_dim: int = 256) -> None:
        super().__init__()
        self.fc1 = nn.Conv1d(in_channels + num_classes, fc_dim, 1)
        self.fc2 = nn.Conv1d(fc_dim, fc_dim, 1)
        self.fc3 = nn.Conv1d(fc_dim, fc_dim, 1)
        self.predictor = nn.Conv1d(fc_dim, num_classes, 1)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        x = torch.cat([fine, coarse], dim=1)
        for layer in (self.fc1, self.fc2, self.fc3):
            x = F.relu(layer(x))
        return self.predictor(x)


class PointRendSemSegHead(nn.Module):
    """The coarse head, and what refines its logits at points."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.coarse_sem_seg_head = SemSegFPNHead(num_classes)
        self.point_head = StandardPointHead(num_classes)

    def at(self, coords: torch.Tensor, pyramid: Mapping[str, torch.Tensor], coarse: torch.Tensor) -> torch.Tensor:
        """(N, K, P) logits at points, from p2 and the coarse logits."""
        return self.point_head(point_sample(pyramid["p2"], coords), point_sample(coarse, coords))


class PointRend(nn.Module):
    """The model: image (N, 3, H, W), and in training draws (N, D, 2), to named logits.

    Args:
        num_classes: K.
        backbone: a ResNet.
        num_points: P of training.
        subdivision_num_points: pixels that each subdivision refines.
    """

    def __init__(
        self, num_classes: int, backbone: ResNet, *, num_points: int = 2048, subdivision_num_points: int = 8192
    ) -> None:
        super().__init__()
        self.backbone = FPN(backbone)
        self.sem_seg_head = PointRendSemSegHead(num_classes)
        self.num_points = num_points
        self.subdivision_num_points = subdivision_num_points

    def forward(self, image: torch.Tensor, draws: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = image.shape[2:]
        pyramid = self.backbone(pad(image))
        coarse = self.sem_seg_head.coarse_sem_seg_head(pyramid)
        if self.training:
            coords = self._training_points(coarse, draws)
            points = self.sem_seg_head.at(coords, pyramid, coarse)
            semantic = upsample(coarse, 4)[:, :, :height, :width]
            return {"semantic": semantic, "points": points, "point_coords": coords}
        steps = [coarse]
        for _ in range(2):
            logits = upsample(steps[-1], 2)
            indices, coords = uncertain_points(logits, self.subdivision_num_points)
            refined = self.sem_seg_head.at(coords, pyramid, coarse)
            where = indices[:, None].expand_as(refined)
            steps.append(logits.flatten(2).scatter(2, where, refined).unflatten(2, logits.shape[2:]))
        return {"semantic": steps[2][:, :, :height, :width], "stride4": steps[0], "stride2": steps[1]}

    @torch.no_grad()
    def _training_points(self, coarse: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        candidates, further = draws.split_with_sizes(self._split(), dim=1)
        scores = uncertainty(point_sample(coarse, candidates))
        chosen = scores.topk(int(IMPORTANCE_RATIO * self.num_points), dim=1).indices
        return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), further], dim=1)

    def _split(self) -> list[int]:
        return [OVERSAMPLE_RATIO * self.num_points, self.num_points - int(IMPORTANCE_RATIO * self.num_points)]


class PointRendLosses(nn.Module):
    """Cross-entropy of the coarse logits, and of those at the points against the nearest pixels' labels."""

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        label, coords = targets["label"], outputs["point_coords"].detach()
        nearest = point_sample(pad(label, 255)[:, None].to(coords.dtype), coords, mode="nearest")[:, 0].long()
        return {
            "loss_sem_seg": F.cross_entropy(outputs["semantic"], label, ignore_index=255),
            "loss_sem_seg_point": F.cross_entropy(outputs["points"], nearest, ignore_index=255),
        }
