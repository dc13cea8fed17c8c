"""Panoptic-DeepLab: detectron2's heads on R-52, Xception-65 and HRNet-W48, in detectron2's recipe.

R-52 is facebookresearch/detectron2's own, projects/Panoptic-DeepLab; the other two backbones, and their recipes, are
bowenc0221/panoptic-deeplab's tools_d2. Dropout in the ASPP is 0 here, since upstream's is a function call that cannot
be replayed. The window of the ASPP's average is that of 64x32 crops, so that both a larger map and a fixed window are
there; the wide size is one where each dilation of the ASPP reaches from pixel to pixel.

Adam divides by the gradient's own size, so that a step is as large as the learning rate whatever the gradient: the
replayed steps are those at the beginning of the warm-up, where the rate is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity import fill, inputs
from parity.case import Case, Probe, Schedule, Side
from parity.cases import engine, figures
from parity.cases import panoptic_samples as samples

DETECTRON2 = "facebookresearch/detectron2@02b5c4e"
TOOLS_D2 = "bowenc0221/panoptic-deeplab@cf8e20b"
NUM_CLASSES = 19
BATCH = 2
TRAIN_SIZE = (64, 32)  # (width, height)
LEARNING_RATE = 1e-3
LARGEST = {"semantic": 16.0, "center": 1.0, "offset": 32.0}  # magnitudes that post-processing is made for
POSTPROCESS = {"thing_ids": samples.THING_IDS, "stuff_area": 64, "top_k": 20}


@dataclass(frozen=True)
class Recipe:
    """What distinguishes the five models.

    Attributes:
        backbone: "ResNet52", "Xception65" or "HRNetW48".
        separable: the variant with depthwise separable convolutions.
        features: that the decoders project -> channels, finest first.
        dilations: of the ASPP.
        size_divisibility: of the padding.
    """

    backbone: str
    separable: bool = False
    features: tuple[tuple[str, int], ...] = (("res2", 32), ("res3", 64))
    dilations: tuple[int, int, int] = (6, 12, 18)
    size_divisibility: int = 0


_ALL_FOUR = (("res2", 32), ("res3", 64), ("res4", 128))
RECIPES = {
    "panoptic_deeplab_r52": Recipe("ResNet52"),
    "panoptic_deeplab_r52_dsconv": Recipe("ResNet52", separable=True),
    "panoptic_deeplab_xception65": Recipe("Xception65", size_divisibility=32),
    "panoptic_deeplab_hrnet48": Recipe("HRNetW48", False, _ALL_FOUR, (3, 6, 9), 32),
    "panoptic_deeplab_hrnet48_dsconv": Recipe("HRNetW48", True, _ALL_FOUR, (3, 6, 9), 32),
}


# --- targets that are made up ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """(N, H, W) float32: regions, each with one of some values."""

    values: tuple[float, ...]

    def make(self, name: str, size: tuple[int, int], seed: int = 0) -> np.ndarray:
        """The weights at `size` = (H, W)."""
        regions = inputs.labels(BATCH, len(self.values), ignore=0).make(name, size, seed)
        return np.asarray(self.values, np.float32)[regions]


@dataclass(frozen=True)
class Field:
    """(N, C, H, W) float32: an image times a factor, within limits."""

    channels: int
    scale: float
    low: float = -np.inf
    high: float = np.inf

    def make(self, name: str, size: tuple[int, int], seed: int = 0) -> np.ndarray:
        """The field at `size` = (H, W)."""
        image = inputs.image(BATCH, self.channels).make(name, size, seed)
        return np.clip(self.scale * image, self.low, self.high).astype(np.float32)


TARGETS = {
    "label": inputs.labels(BATCH, NUM_CLASSES),
    "semantic_weights": Weights((1.0, 1.0, 3.0)),
    "center": Field(1, 0.5, 0.0, 1.0),
    "center_weights": Weights((0.0, 1.0, 1.0)),
    "offset": Field(2, 20.0),
    "offset_weights": Weights((0.0, 1.0)),
}


def probes(seed: int, size: tuple[int, int]) -> dict[str, Probe]:
    """Outputs for the corners of the losses.

    `mixed`: easy and hard pixels; `semantic_only`: nothing has a weight for the instance head, as where there is
    nothing but crowds and void; `ignored`: no pixel has a label either.
    """
    targets = {name: spec.make(f"probe.{name}", size, seed) for name, spec in TARGETS.items()}
    random = np.random.RandomState(fill.seed_of("probe.logits", size, seed))
    logits = random.standard_normal((BATCH, NUM_CLASSES, *size))
    truth = targets["label"][:, None] == np.arange(NUM_CLASSES)[:, None, None]
    logits += truth * random.uniform(-3.0, 9.0, targets["label"].shape)[:, None]
    outputs = {
        "semantic": (np.round(logits * 256) / 256).astype(np.float32),
        "center": Field(1, 0.5).make("probe.center_output", size, seed),
        "offset": Field(2, 20.0).make("probe.offset_output", size, seed),
    }
    nothing = {name: np.zeros_like(targets[name]) for name in ("center_weights", "offset_weights")}
    ignored = {**targets, **nothing, "label": np.full_like(targets["label"], 255)}
    return {
        "mixed": Probe(outputs, targets),
        "semantic_only": Probe(outputs, {**targets, **nothing}),
        "ignored": Probe(outputs, ignored),
    }


# --- the torch side -------------------------------------------------------------------------------------------------


def _reference_backbone(recipe: Recipe) -> tuple[Any, dict[str, int]]:
    """The backbone, and the channels of its features."""
    if recipe.backbone == "ResNet52":
        from parity.reference.d2_resnet import ResNet

        deeplab = {"stem": "deeplab", "norm": "BN", "stride_in_1x1": False}
        features = ("res2", "res3", "res5")
        built = ResNet(50, **deeplab, res5_dilation=2, res5_multi_grid=(1, 2, 4), out_features=features)
        return built, {"res2": 256, "res3": 512, "res5": 2048}
    if recipe.backbone == "Xception65":
        from parity.reference.xception import Xception65

        return Xception65(output_stride=16), {"res2": 256, "res3": 728, "res5": 2048}
    from parity.reference.hrnet import HighResolutionNet

    return HighResolutionNet(48), {"res2": 48, "res3": 96, "res4": 192, "res5": 384}


def _reference(recipe: Recipe) -> Side:
    def model() -> Any:
        from parity.reference.panoptic_deeplab import DecoderSettings, PanopticDeepLab

        backbone, channels = _reference_backbone(recipe)
        stride = 32 if recipe.backbone == "HRNetW48" else 16
        settings = DecoderSettings(
            channels,
            dict(recipe.features),
            recipe.dilations,
            pool_size=(TRAIN_SIZE[1] // stride, TRAIN_SIZE[0] // stride),
            dropout=0.0,
            separable=recipe.separable,
        )
        return PanopticDeepLab(backbone, settings, num_classes=NUM_CLASSES, size_divisibility=recipe.size_divisibility)

    def losses(targets: Mapping[str, np.ndarray]) -> Any:
        from parity.reference.panoptic_deeplab import PanopticLosses

        return PanopticLosses(top_k=0.2)

    def rate(iteration: int, schedule: Schedule) -> float:
        from parity.reference.deeplabv3p import warmup_poly

        return warmup_poly(iteration, base_lr=LEARNING_RATE, iters=schedule.iters, warmup_iters=schedule.warmup_iters)

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Any:
        from parity.reference.optim import ScheduledAdam

        groups = [{"params": list(model.parameters())}]
        return ScheduledAdam(groups, schedule=lambda i: rate(i, schedule), start=schedule.start)

    return Side(model, losses, optimizer, rate, postprocess=_reference_postprocess)


def _reference_postprocess(outputs: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from parity.reference.panoptic_deeplab import Settings, panoptic_segmentation

    def segment(semantic: Any, center: Any, offset: Any, **settings: Any) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
        divisor = 1000
        maps = [torch.as_tensor(value) for value in (semantic, center, offset)]
        ids, instances = panoptic_segmentation(*maps, Settings(**settings))
        return ids.numpy(), [(i.category * divisor + i.number, i.category, i.score) for i in instances]

    return _segmented(outputs, segment)


# --- the Paddle side ------------------------------------------------------------------------------------------------


def model_arguments(recipe: Recipe) -> dict[str, Any]:
    """Arguments of `PanopticDeepLab` that follow from the recipe."""
    return {
        "project_features": tuple(name for name, _ in recipe.features),
        "project_channels": tuple(channels for _, channels in recipe.features),
        "aspp_dilations": recipe.dilations,
        "separable": recipe.separable,
        "size_divisibility": recipe.size_divisibility,
    }


LOSSES = (
    {
        "type": "TopKCrossEntropy",
        "output": "semantic",
        "weights": "semantic_weights",
        "name": "loss_sem_seg",
        "top_k": 0.2,
    },
    {"type": "CenterLoss", "output": "center", "target": "center", "weights": "center_weights", "weight": 200.0},
    {"type": "OffsetLoss", "output": "offset", "target": "offset", "weights": "offset_weights", "weight": 0.01},
)


def _port(recipe: Recipe) -> Side:
    def model() -> Any:
        from paddleseg_ext.models import PanopticDeepLab, backbones

        backbone = getattr(backbones, recipe.backbone)()
        return PanopticDeepLab(
            NUM_CLASSES, backbone, train_size=TRAIN_SIZE, aspp_dropout=0.0, **model_arguments(recipe)
        )

    def losses(targets: Mapping[str, np.ndarray]) -> Any:
        from paddleseg_ext.losses import build_losses

        return build_losses(LOSSES)

    def decay(schedule: Schedule) -> Any:
        from paddleseg_ext.optim import WarmupPolynomialDecay

        return WarmupPolynomialDecay(
            learning_rate=LEARNING_RATE, power=0.9, iters=schedule.iters, warmup_iters=schedule.warmup_iters
        )

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Any:
        from paddleseg_ext.optim import build_optimizer

        return build_optimizer({"type": "Adam"}, decay(schedule), model=model, losses=losses)

    def rate(iteration: int, schedule: Schedule) -> float:
        return decay(schedule)(iteration)

    return Side(
        model,
        losses,
        optimizer,
        rate,
        postprocess=_port_postprocess,
        data=samples.data,
        metrics=figures.PANOPTIC,
        train_step=engine.train_step,
        initial=True,
    )


def _port_postprocess(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return _segmented({name: value.numpy() for name, value in outputs.items()}, samples.segment)


def _segmented(outputs: Mapping[str, Any], segment: Any) -> dict[str, np.ndarray]:
    """Panoptic ids and instances of the model's outputs, and of those that are made up."""
    points = {}
    for index in range(len(outputs["semantic"])):
        maps = [_at_most(limit, outputs[name][index]) for name, limit in LARGEST.items()]
        points.update(samples.as_points(f"image{index}", *segment(*maps, **POSTPROCESS), discrete=True))
    for name, (*maps, settings) in samples.edge_cases().items():
        points.update(samples.as_points(name, *segment(*maps, **settings), discrete=True))
    return points


def _at_most(limit: float, values: Any) -> np.ndarray:
    """The values, divided by a power of two if any is larger than the limit: no digit changes.

    Those of made-up weights may be 1e19, where all distances between pixels and centers are equal but for rounding.
    """
    array = np.asarray(values)
    _, exponent = np.frexp(np.abs(array).max() / limit)
    return array * 2.0 ** -max(int(exponent), 0)


def _case(name: str, recipe: Recipe) -> Case:
    narrow = recipe.backbone == "Xception65"  # whose depthwise channels hardly vary on a map of 2x8, before batch norms
    return Case(
        name=name,
        reference=_reference(recipe),
        port=_port(recipe),
        inputs={"image": inputs.image(BATCH), **TARGETS},
        size=(64, 128) if narrow else (32, 128),
        probes=probes,
        step=Schedule(steps=1, start=20, iters=90000, warmup_iters=1000),
        trajectory=Schedule(steps=2, start=20, iters=90000, warmup_iters=1000),
        upstream=DETECTRON2 if recipe.backbone == "ResNet52" else TOOLS_D2,
        extra_sizes=((32, 256), (96, 128)) if narrow else ((17, 307), (64, 64)),
        calibrate=True,
    )


CASES = tuple(_case(name, recipe) for name, recipe in RECIPES.items())
