"""STDC-Seg in torch: the model, its losses and its parameter groups.

Paper: Fan et al., Rethinking BiSeNet For Real-time Semantic Segmentation, CVPR 2021, arXiv 2104.13188.
Stands for: MichaelFan01/STDC-Seg@59ff37f (MIT) nets/stdcnet.py, models/model_stages.py, modules/bn.py, loss/,
optimizer_loss.py. Its state dict loads strictly: key names are upstream's, aliases and unused layers included.

Deviations, none of which changes a number of training or evaluation:
- outputs and loss terms are named; flags for which upstream's forward returns None are an error;
- no initialisation of its own, no in-place ReLU, no stride-8 detail target (computed upstream, never used);
- in eval mode, upstream's normalisation gives its weight and bias a gradient of 0; here it is the true one.

N batch, C channels, H W image, h w feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EPSILON = float(np.float32(1e-5))  # what upstream's C++ kernel makes of 1e-5: its argument is a float


class AbsGammaBatchNorm2d(nn.Module):
    """Batch norm with scale |weight| + eps: the in-place activated batch norm of upstream's heads, not activated.

    The sign of `weight` does not reach the output; its gradient is that of the scale times sign(weight), 0 at 0. The
    same eps is added to the variance. There is no `num_batches_tracked`.

    Args:
        num_features: C.
        eps: added to the variance and to |weight|.
        momentum: weight of the batch's statistics in the running ones; their variance is the unbiased one.
    """

    def __init__(self, num_features: int, *, eps: float = EPSILON, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.numel() == x.shape[1]:
            raise ValueError(
                f"AbsGammaBatchNorm2d: one value per channel in training, input {tuple(x.shape)}; "
                "the unbiased variance needs two or more; use a batch of at least 2"
            )
        gamma = self.weight.abs() + self.eps
        running = (self.running_mean, self.running_var)
        return F.batch_norm(x, *running, gamma, self.bias, self.training, self.momentum, self.eps)


# --- backbone -------------------------------------------------------------------------------------------------------


class ConvX(nn.Module):
    """Convolution without bias, batch norm, ReLU; the kernel is centred."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class CatBottleneck(nn.Module):
    """Four convolutions in a row, each thinner than the last, and all of their outputs concatenated.

    At stride 2 a depthwise convolution halves the size after the first of them, whose own output is average pooled
    for the concatenation (padding counted).

    Args:
        in_channels: of the input.
        out_channels: of the concatenation: a half, a quarter, an eighth and an eighth.
        stride: 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        half, quarter, eighth = out_channels // 2, out_channels // 4, out_channels // 8
        self.stride = stride
        first = ConvX(in_channels, half, kernel_size=1)
        self.conv_list = nn.ModuleList([first, ConvX(half, quarter), ConvX(quarter, eighth), ConvX(eighth, eighth)])
        if stride == 2:
            depthwise = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
            self.avd_layer = nn.Sequential(depthwise, nn.BatchNorm2d(half))
            self.skip = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = self.conv_list
        x = wide = first(x)
        if self.stride == 2:
            x, wide = self.avd_layer(x), self.skip(x)
        parts = [wide]
        for conv in rest:
            x = conv(x)
            parts.append(x)
        return torch.cat(parts, dim=1)


class STDCNet(nn.Module):
    """The backbone: two strided convolutions, then three stages of bottlenecks.

    `features` holds all of it; `x2` .. `x32` register slices of it a second time, so each of their tensors has two keys
    in the state dict, and the x* key, which comes later, wins when loading. `conv_last`, `fc`, `bn` and `linear`
    belong to the image classifier that the backbone was pretrained as; they are never run here.

    Args:
        layers: bottlenecks of the stages at stride 8, 16 and 32.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        blocks: list[nn.Module] = [ConvX(3, 32, stride=2), ConvX(32, 64, stride=2)]
        bounds = [2]
        channels = 64
        for depth, width in zip(layers, (256, 512, 1024)):
            for index in range(depth):
                blocks.append(CatBottleneck(channels, width, stride=1 if index else 2))
                channels = width
            bounds.append(len(blocks))
        self.features = nn.Sequential(*blocks)
        self.conv_last = ConvX(1024, 1024, kernel_size=1)
        self.fc = nn.Linear(1024, 1024, bias=False)
        self.bn = nn.BatchNorm1d(1024)
        self.linear = nn.Linear(1024, 1000, bias=False)
        # A slice of a Sequential keeps the names of its members: x8.0.2, x8.0.3, ...
        self.x2 = nn.Sequential(self.features[:1])
        self.x4 = nn.Sequential(self.features[1:2])
        self.x8 = nn.Sequential(self.features[bounds[0] : bounds[1]])
        self.x16 = nn.Sequential(self.features[bounds[1] : bounds[2]])
        self.x32 = nn.Sequential(self.features[bounds[2] :])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features at strides 2, 4, 8, 16 and 32, with 32, 64, 256, 512 and 1024 channels."""
        features = []
        for stage in (self.x2, self.x4, self.x8, self.x16, self.x32):
            x = stage(x)
            features.append(x)
        return tuple(features)


class STDCNet813(STDCNet):
    """STDC1, the backbone of STDC1-Seg."""

    def __init__(self) -> None:
        super().__init__((2, 2, 2))


class STDCNet1446(STDCNet):
    """STDC2, the backbone of STDC2-Seg."""

    def __init__(self) -> None:
        super().__init__((4, 5, 3))


BACKBONES = {"STDCNet813": STDCNet813, "STDCNet1446": STDCNet1446}

# --- heads ----------------------------------------------------------------------------------------------------------


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch norm with an absolute scale, ReLU; the kernel is centred."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = AbsGammaBatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class BiSeNetOutput(nn.Module):
    """A head: 3x3 ConvBNReLU, then a 1x1 convolution without bias. Its logits are not resized."""

    def __init__(self, in_channels: int, mid_channels: int, *, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, mid_channels)
        self.conv_out = nn.Conv2d(mid_channels, out_channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_out(self.conv(x))


class AttentionRefinementModule(nn.Module):
    """3x3 ConvBNReLU, each channel scaled by a sigmoid of the normalised 1x1 convolution of its global mean."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, out_channels)
        self.conv_atten = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn_atten = AbsGammaBatchNorm2d(out_channels)
        self.sigmoid_atten = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        feature = self.conv(x)
        return feature * self.sigmoid_atten(self.bn_atten(self.conv_atten(_global_mean(feature))))


class ContextPath(nn.Module):
    """The backbone, and its two deepest features refined, summed on the way up and brought to strides 16 and 8."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.backbone = BACKBONES[backbone]()
        self.arm16 = AttentionRefinementModule(512, 128)
        self.arm32 = AttentionRefinementModule(1024, 128)
        self.conv_head32 = ConvBNReLU(128, 128)
        self.conv_head16 = ConvBNReLU(128, 128)
        self.conv_avg = ConvBNReLU(1024, 128, kernel_size=1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Backbone features at strides 2, 4, 8 and 16, then context at strides 8 and 16 (128 channels each)."""
        res2, res4, res8, res16, res32 = self.backbone(image)
        context = _nearest(self.conv_avg(_global_mean(res32)), res32)
        context16 = self.conv_head32(_nearest(self.arm32(res32) + context, res16))
        context8 = self.conv_head16(_nearest(self.arm16(res16) + context16, res8))
        return res2, res4, res8, res16, context8, context16


class FeatureFusionModule(nn.Module):
    """Features and context concatenated, mixed by a 1x1 ConvBNReLU, and re-weighted per channel around 1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(in_channels, out_channels, kernel_size=1)
        self.conv1 = nn.Conv2d(out_channels, out_channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(out_channels // 4, out_channels, 1, bias=False)
        self.relu = nn.ReLU()
        self.sigmoid = nn.Sigmoid()

    def forward(self, feature: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        mixed = self.convblk(torch.cat([feature, context], dim=1))
        attention = self.sigmoid(self.conv2(self.relu(self.conv1(_global_mean(mixed)))))
        return mixed * attention + mixed


class BiSeNet(nn.Module):
    """STDC-Seg. All seven heads always run, and move their running statistics, whether their output is used or not.

    Args:
        backbone: "STDCNet813" or "STDCNet1446".
        n_classes: K.
        use_boundary_2: return the detail logits of stride 2; needs the two below.
        use_boundary_4: of stride 4; needs the one below.
        use_boundary_8: of stride 8. Upstream's published recipes use this one alone.
        use_boundary_16: has no effect; upstream reads it nowhere.
    """

    def __init__(
        self,
        backbone: str = "STDCNet813",
        n_classes: int = 19,
        *,
        use_boundary_2: bool = False,
        use_boundary_4: bool = False,
        use_boundary_8: bool = False,
        use_boundary_16: bool = False,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"BiSeNet: backbone {backbone!r}; expected {' or '.join(BACKBONES)}; name one of them")
        if (use_boundary_2 and not use_boundary_4) or (use_boundary_4 and not use_boundary_8):
            raise ValueError(
                f"BiSeNet: use_boundary_2, _4, _8 = {use_boundary_2}, {use_boundary_4}, {use_boundary_8}; "
                "upstream's forward returns None for these; use none, 8 alone, 4 and 8, or all three"
            )
        self.use_boundary_2 = use_boundary_2
        self.use_boundary_4 = use_boundary_4
        self.use_boundary_8 = use_boundary_8
        self.use_boundary_16 = use_boundary_16
        self.cp = ContextPath(backbone)
        self.ffm = FeatureFusionModule(256 + 128, 256)
        self.conv_out = BiSeNetOutput(256, 256, out_channels=n_classes)
        self.conv_out16 = BiSeNetOutput(128, 64, out_channels=n_classes)
        self.conv_out32 = BiSeNetOutput(128, 64, out_channels=n_classes)
        self.conv_out_sp16 = BiSeNetOutput(512, 64, out_channels=1)
        self.conv_out_sp8 = BiSeNetOutput(256, 64, out_channels=1)
        self.conv_out_sp4 = BiSeNetOutput(64, 64, out_channels=1)
        self.conv_out_sp2 = BiSeNetOutput(32, 64, out_channels=1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """All outputs, in training and in evaluation.

        Args:
            image: (N, 3, H, W), normalised RGB.

        Returns:
            semantic, aux16, aux32: (N, K, H, W) logits; by upstream's names, aux16 comes from the context at stride 8
                and aux32 from that at stride 16.
            detail2, detail4, detail8: (N, 1, h, w) logits at their own stride, those that the flags ask for.
        """
        res2, res4, res8, res16, context8, context16 = self.cp(image)
        detail2 = self.conv_out_sp2(res2)
        detail4 = self.conv_out_sp4(res4)
        detail8 = self.conv_out_sp8(res8)
        self.conv_out_sp16(res16)
        fused = self.ffm(res8, context8)
        size = image.shape[2:]
        outputs = {
            "semantic": _bilinear(self.conv_out(fused), size),
            "aux16": _bilinear(self.conv_out16(context8), size),
            "aux32": _bilinear(self.conv_out32(context16), size),
        }
        if self.use_boundary_2:
            outputs["detail2"] = detail2
        if self.use_boundary_4:
            outputs["detail4"] = detail4
        if self.use_boundary_8:
            outputs["detail8"] = detail8
        return outputs


def _global_mean(x: torch.Tensor) -> torch.Tensor:
    """(N, C, 1, 1)."""
    return F.avg_pool2d(x, x.shape[2:])


def _nearest(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, like.shape[2:], mode="nearest")


def _bilinear(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


# --- losses ---------------------------------------------------------------------------------------------------------


class OhemCELoss(nn.Module):
    """Cross-entropy of the hard pixels: those above -ln(thresh), or else the `n_min` hardest.

    Ignored pixels stay in the list with a loss of 0, so they count among the `n_min`.

    Args:
        n_min: pixels of the batch to keep at least; upstream's recipe takes a sixteenth of N*H*W.
        thresh: a pixel is hard when its class gets a lower probability than this; -ln(thresh) is a float32 number.
        ignore: label without a loss.
    """

    def __init__(self, *, n_min: int, thresh: float = 0.7, ignore: int = 255) -> None:
        super().__init__()
        if n_min < 1:
            raise ValueError(f"OhemCELoss: n_min {n_min}; expected at least 1; use about a sixteenth of the pixels")
        self.n_min = n_min
        self.ignore = ignore
        self.threshold = -float(torch.tensor(thresh, dtype=torch.float32).log())

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """A scalar.

        Args:
            logits: (N, K, H, W).
            label: (N, H, W) int64.

        Raises:
            ValueError: if there are not more than `n_min` pixels.
        """
        pixels = F.cross_entropy(logits, label, ignore_index=self.ignore, reduction="none").flatten()
        if self.n_min >= pixels.numel():
            raise ValueError(
                f"OhemCELoss: n_min {self.n_min} with {pixels.numel()} pixels in the batch; "
                "expected more pixels than n_min; lower n_min"
            )
        pixels = pixels.sort(descending=True).values
        if pixels[self.n_min] > self.threshold:
            return pixels[pixels > self.threshold].mean()
        return pixels[: self.n_min].mean()


class DetailAggregateLoss(nn.Module):
    """Binary cross-entropy and Dice loss of detail logits against boundaries of the label map.

    `fuse_kernel` is a parameter that gets a gradient of exactly 0: what an optimizer does to it is weight decay, and
    the smaller it gets, the fewer boundaries reach the target.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fuse_kernel = nn.Parameter(torch.tensor([0.6, 0.3, 0.1], dtype=torch.float32).reshape(1, 3, 1, 1))

    def target(self, label: torch.Tensor) -> torch.Tensor:
        """The boundary target, (N, 1, H, W) float32 of 0 and 1.

        The label ids themselves, 255 included, go through a Laplacian at strides 1, 2 and 4, with zeros around them;
        a positive response is a boundary. A pixel is in the target when its boundaries, weighted by `fuse_kernel`,
        sum to more than 0.1 in float32: a boundary at stride 4 alone is 0.1 there and does not.

        Args:
            label: (N, H, W) integer ids.
        """
        ids = label.to(torch.float32)[:, None]
        laplacian = ids.new_full((1, 1, 3, 3), -1.0)
        laplacian[..., 1, 1] = 8.0
        maps = []
        for stride in (1, 2, 4):
            response = F.conv2d(ids, laplacian, stride=stride, padding=1)
            maps.append(_nearest((response > 0.1).to(torch.float32), ids))
        fused = F.conv2d(torch.cat(maps, dim=1), self.fuse_kernel.to(torch.float32))
        edge = fused > 0.1
        return fused.masked_fill(edge, 1.0).masked_fill(~edge, 0.0)  # stays attached to fuse_kernel, gradient 0

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy (mean over pixels) and Dice loss (mean over images), two scalars.

        Args:
            logits: (N, 1, h, w); resized to (H, W) when w differs from W (h is not looked at).
            label: (N, H, W) integer ids.
        """
        target = self.target(label).to(logits.dtype)
        if logits.shape[3] != target.shape[3]:
            logits = _bilinear(logits, target.shape[2:])
        bce = F.binary_cross_entropy_with_logits(logits, target)
        prob, truth = logits.sigmoid().flatten(1), target.flatten(1)
        overlap = (prob * truth).sum(1)
        dice = 1.0 - (2.0 * overlap + 1.0) / (prob.sum(1) + truth.sum(1) + 1.0)
        return bce, dice.mean()


class STDCLosses(nn.Module):
    """The terms of upstream's training loop, all of weight 1; their sum is the loss.

    Args:
        n_min: of the three cross-entropies, as are `thresh` and `ignore`; see `OhemCELoss`.
    """

    def __init__(self, *, n_min: int, thresh: float = 0.7, ignore: int = 255) -> None:
        super().__init__()
        self.loss_seg = OhemCELoss(n_min=n_min, thresh=thresh, ignore=ignore)
        self.loss_aux16 = OhemCELoss(n_min=n_min, thresh=thresh, ignore=ignore)
        self.loss_aux32 = OhemCELoss(n_min=n_min, thresh=thresh, ignore=ignore)
        self.loss_detail = DetailAggregateLoss()

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Scalars loss_seg, loss_aux16, loss_aux32 and, if there are detail outputs, loss_detail_bce, loss_detail_dice.

        Args:
            outputs: of `BiSeNet`.
            targets: `label`, (N, H, W) int64.
        """
        label = targets["label"]
        terms = {
            "loss_seg": self.loss_seg(outputs["semantic"], label),
            "loss_aux16": self.loss_aux16(outputs["aux16"], label),
            "loss_aux32": self.loss_aux32(outputs["aux32"], label),
        }
        for name in sorted(outputs.keys() & {"detail2", "detail4", "detail8"}):
            for kind, value in zip(("bce", "dice"), self.loss_detail(outputs[name], label)):
                key = f"loss_detail_{kind}"
                terms[key] = terms[key] + value if key in terms else value
        return terms


# --- optimizer ------------------------------------------------------------------------------------------------------


def parameter_groups(model: BiSeNet, losses: STDCLosses) -> list[dict[str, Any]]:
    """Upstream's five groups, for `parity.reference.optim.ScheduledSGD`.

    In order: convolutions and linear layers of `cp`; its absolute-scale norms, not decayed; the same two of `ffm` and
    of all heads, at 10 times the learning rate; `fuse_kernel`, decayed. The backbone's plain batch norms are in none
    of them: their scale and shift are frozen, while their running statistics move.
    """
    slow_weights, slow_norms = _weights_and_norms([model.cp])
    fast_weights, fast_norms = _weights_and_norms([child for child in model.children() if child is not model.cp])
    return [
        {"params": slow_weights, "lr_mult": 1.0},
        {"params": slow_norms, "lr_mult": 1.0, "weight_decay": 0.0},
        {"params": fast_weights, "lr_mult": 10.0},
        {"params": fast_norms, "lr_mult": 10.0, "weight_decay": 0.0},
        {"params": [losses.loss_detail.fuse_kernel], "lr_mult": 1.0},
    ]


def _weights_and_norms(parts: Sequence[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights of all convolutions and linear layers (none has a bias), and parameters of all absolute-scale norms."""
    weights, norms = [], []
    for part in parts:
        for module in part.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                weights.append(module.weight)
            elif isinstance(module, AbsGammaBatchNorm2d):
                norms += [module.weight, module.bias]
    return weights, norms
