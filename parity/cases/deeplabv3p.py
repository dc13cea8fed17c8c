"""DeepLabv3+ on Xception-65 and on R-103, against the three repositories that it comes from.

- `deeplabv3p_xception65_gn`: PaddlePaddle/models, release/1.6, PaddleCV/deeplabv3+, group norm. That code needs a
  Paddle 1.x, which no longer installs. The recording executes its models.py, its reader.py and, of its script train.py,
  the statements that make loss, regularizers, schedule and optimizer, on a stand-in for `fluid`: what upstream composes
  is verified, what each of Paddle's operators computes was only read. So was the dropout rate.
- `deeplabv3p_xception65_bn`: bowenc0221/panoptic-deeplab, batch norm; its own classes throughout.
- `deeplabv3p_r103`: facebookresearch/detectron2, projects/DeepLab; its own classes throughout.

The images are low and wide, so that the feature map of stride 16 is 2x20: convolutions that dilate by 18 need 19
columns to see anything but padding. With 54 million parameters in float64 one optimizer step is recorded in full; that
momentum carries over from step to step shows in the losses of the trajectory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity import fill, inputs
from parity.case import Case, Probe, Schedule, Side
from parity.cases import engine, figures, pipelines

FLUID = "PaddlePaddle/models@release/1.6"
BOWENC = "bowenc0221/panoptic-deeplab@cf8e20b"
DETECTRON2 = "facebookresearch/detectron2@02b5c4e"
NUM_CLASSES = 19
BATCH = 2
CROP = (32, 160)  # (height, width) of R-103's training crops: at 32x320 its image pooling has 1x11 windows

FLUID_GROUPS = ({"kind": "norm", "weight_decay_mult": 0.0}, {"kind": "depthwise", "weight_decay_mult": 0.0})
BOWENC_GROUPS = (
    {"kind": "norm", "weight_decay_mult": 0.0},
    {"kind": "bias", "weight_decay_mult": 0.0, "lr_mult": 2.0},
)
DETECTRON2_GROUPS = ({"kind": "norm", "weight_decay_mult": 0.0},)


def probes(seed: int, size: tuple[int, int]) -> dict[str, Probe]:
    """Outputs for the corners of the losses.

    `mixed`: easy and hard pixels; `few`: a twentieth of the pixels has a label, fewer than the fluid loss's floor;
    `ignored`: none has.
    """
    label = inputs.labels(BATCH, NUM_CLASSES).make("probe.label", size, seed)
    random = np.random.RandomState(fill.seed_of("probe.logits", size, seed))
    logits = random.standard_normal((BATCH, NUM_CLASSES, *size))
    truth = label[:, None] == np.arange(NUM_CLASSES)[:, None, None]
    logits += truth * random.uniform(-3.0, 9.0, label.shape)[:, None]
    outputs = {"semantic": (np.round(logits * 256) / 256).astype(np.float32)}
    few = np.where(random.uniform(size=label.shape) < 0.05, label, 255)
    return {
        "mixed": Probe(outputs, {"label": label}),
        "few": Probe(outputs, {"label": few}),
        "ignored": Probe(outputs, {"label": np.full_like(label, 255)}),
    }


def probes_with_labels(seed: int, size: tuple[int, int]) -> dict[str, Probe]:
    """The same without `ignored`, of which bowenc0221's loss makes NaN and the port 0."""
    return {name: probe for name, probe in probes(seed, size).items() if name != "ignored"}


# --- how each recipe trains -----------------------------------------------------------------------------------------


def _reference(model: Any, losses: str, groups: str, rate: Any) -> Side:
    """The torch side; names are of `parity.reference.deeplabv3p`."""

    def build_losses(targets: Mapping[str, np.ndarray]) -> Any:
        from parity.reference import deeplabv3p

        return getattr(deeplabv3p, losses)()

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Any:
        from parity.reference import deeplabv3p
        from parity.reference.optim import ScheduledSGD

        return ScheduledSGD(
            getattr(deeplabv3p, groups)(model), schedule=lambda i: rate(i, schedule), momentum=0.9, start=schedule.start
        )

    def postprocess(outputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"pred": outputs["semantic"].argmax(1)}

    return Side(model, build_losses, optimizer, rate, postprocess=postprocess)


def _port(model: Any, loss: dict[str, Any], config: dict[str, Any], schedule_of: Any, data: Any = None) -> Side:
    """The Paddle side: a loss's entry, the `optimizer` of a configuration, and (Schedule) -> our schedule."""

    def losses(targets: Mapping[str, np.ndarray]) -> Any:
        from paddleseg_ext.losses import build_losses

        return build_losses([{"output": "semantic", **loss}])

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Any:
        from paddleseg_ext.optim import build_optimizer

        built = build_optimizer(
            {"type": "Momentum", "momentum": 0.9, **config}, schedule_of(schedule), model=model, losses=losses
        )
        return built

    return Side(
        model,
        losses,
        optimizer,
        lambda iteration, schedule: schedule_of(schedule)(iteration),
        postprocess=lambda outputs: {"pred": outputs["semantic"].argmax(1).numpy()},
        data=data,
        metrics=figures.SEMANTIC,
        train_step=engine.train_step,
        initial=True,
    )


def _fluid_rate(iteration: int, schedule: Schedule) -> float:
    from parity.reference.deeplabv3p import poly

    return poly(iteration, base_lr=0.001, iters=schedule.iters)


def _warmup_rate(iteration: int, schedule: Schedule) -> float:
    from parity.reference.deeplabv3p import warmup_poly

    return warmup_poly(iteration, base_lr=0.01, iters=schedule.iters, warmup_iters=schedule.warmup_iters)


def _fluid_schedule(schedule: Schedule) -> Any:
    from paddleseg_ext.optim import PolynomialDecay

    return PolynomialDecay(learning_rate=0.001, power=0.9, iters=schedule.iters)


def _warmup_schedule(schedule: Schedule) -> Any:
    from paddleseg_ext.optim import WarmupPolynomialDecay

    return WarmupPolynomialDecay(
        learning_rate=0.01, power=0.9, iters=schedule.iters, warmup_iters=schedule.warmup_iters, warmup_factor=1e-3
    )


# --- data of the fluid recipe ---------------------------------------------------------------------------------------

FLUID_RECIPE = "configs/deeplabv3p/deeplabv3p_xception65_gn_cityscapes_769x769_500k.yml"
CROP_SIZE = 65
# channels reversed; scale; where in the room it has the window lies (x, y)
DRAWS = (
    (False, 1.0, (0.0, 0.0)),
    (True, 2.7, (0.99, 0.4)),
    (False, 0.8, (0.5, 0.7)),  # the window, 81, is higher than the picture and narrower
    (True, 0.5, (0.3, 0.3)),  # larger than the picture in both directions
)


def data_sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, (72, 110, 3) uint8 RGB, and its train ids, (72, 110) uint8 in 0..18 or 255."""
    size = (72, 110)
    image = inputs.image(1).make("data.image", size, seed)[0].transpose(1, 2, 0)
    label = inputs.labels(1, NUM_CLASSES).make("data.label", size, seed)[0]
    return np.clip(np.round(128 + 60 * image), 0, 255).astype(np.uint8), label.astype(np.uint8)


def _fluid_data(seed: int) -> dict[str, np.ndarray]:
    """What the recipe's transforms make of the sample with each of `DRAWS`."""
    image, label = data_sample(seed)
    pipeline = pipelines.transforms(FLUID_RECIPE, {"RandomScaledCrop": {"crop_size": [CROP_SIZE, CROP_SIZE]}})
    made = {}
    for index, (reversed_, scale, (x, y)) in enumerate(DRAWS):
        draws = [{"reverse": reversed_}, {"scale": scale, "x": x, "y": y}, {}]
        made.update(pipelines.points(index, pipeline.replay({"image": image, "label": label, "meta": {}}, draws)))
    return made


# --- data of the other recipes --------------------------------------------------------------------------------------

BOWENC_RECIPE = "configs/deeplabv3p/deeplabv3p_xception65_bn_cityscapes_1025x513_90k.yml"
BOWENC_CROP = (73, 57)  # (width, height)
# where in the grid of scales; where the picture lies in what is padded (y, x); where the window lies (y, x); mirrored
BOWENC_DRAWS = (
    (0.34, (), (0.3, 0.99), False),  # 1.0
    (0.0, (0.4, 0.8), (0.5, 0.5), True),  # 0.5: the picture, 36 x 55, is smaller than the window
    (0.13, (0.99, 0.2), (0.7, 0.6), False),  # 0.7: 50 x 77, lower and wider
    (0.54, (), (0.9, 0.1), True),  # 1.3: 94 x 143, from 93.6
    (0.99, (), (0.0, 0.7), False),  # 2.0
)
R103_RECIPE = "configs/deeplabv3p/deeplabv3p_r103_cityscapes_1024x512_90k.yml"


def _bowenc_data(seed: int) -> dict[str, np.ndarray]:
    """What the recipe's transforms draw and make with each of `BOWENC_DRAWS`."""
    image, label = data_sample(seed)
    pipeline = pipelines.transforms(BOWENC_RECIPE, {"RandomPaddingCrop": {"crop_size": list(BOWENC_CROP)}})
    made = {}
    for index, (scale, padding, window, mirrored) in enumerate(BOWENC_DRAWS):
        given = {"image": image, "label": label, "meta": {}}
        rng = pipelines.Fractions((scale, *padding, *window), (0.0 if mirrored else 1.0,))
        made.update(pipelines.points(index, pipeline.replay(given, pipeline.record(given, rng)[1])))
    return made


def _r103_data(seed: int) -> dict[str, np.ndarray]:
    return pipelines.detectron2(R103_RECIPE, seed)


# --- models ---------------------------------------------------------------------------------------------------------


def _reference_xception(norm: str, fluid: bool) -> Any:
    def model() -> Any:
        from parity.reference.deeplabv3p import DeepLabV3Plus

        return DeepLabV3Plus(NUM_CLASSES, norm=norm, fluid=fluid)

    return model


def _port_gn() -> Any:
    from paddleseg_ext.models import DeepLabV3Plus, backbones

    return DeepLabV3Plus(NUM_CLASSES, backbones.Xception65(norm_type="gn"))


def _port_bn() -> Any:
    from paddleseg_ext.models import DeepLabV3Plus, backbones

    return DeepLabV3Plus(
        NUM_CLASSES,
        backbones.Xception65(norm_type="bn"),
        separable_aspp=False,
        pool_norm=False,
        pool_first=False,
        dropout=0.5,
    )


def _reference_r103() -> Any:
    from parity.reference.deeplabv3p import Detectron2DeepLabV3Plus

    return Detectron2DeepLabV3Plus(NUM_CLASSES, crop_size=CROP, dropout=0.0)


def _port_r103() -> Any:
    from paddleseg_ext.models import Detectron2DeepLabV3Plus, backbones

    backbone = backbones.ResNet103(out_features=("res2", "res5"))
    return Detectron2DeepLabV3Plus(NUM_CLASSES, backbone, train_size=CROP[::-1], dropout=0.0)


INPUTS = {"image": inputs.image(BATCH), "label": inputs.labels(BATCH, NUM_CLASSES)}

CASES = (
    Case(
        name="deeplabv3p_xception65_gn",
        reference=_reference(_reference_xception("gn", True), "FluidLoss", "fluid_groups", _fluid_rate),
        port=_port(
            _port_gn,
            {"type": "ValidFractionCrossEntropy", "min_fraction": 0.1},
            {"weight_decay": 4e-5, "param_groups": FLUID_GROUPS},
            _fluid_schedule,
            _fluid_data,
        ),
        inputs=INPUTS,
        size=(17, 305),
        probes=probes,
        step=Schedule(steps=1, start=600, iters=500000),
        trajectory=Schedule(steps=3, start=600, iters=500000),
        upstream=FLUID,
        extra_sizes=((305, 17), (24, 40)),
    ),
    Case(
        name="deeplabv3p_xception65_bn",
        reference=_reference(_reference_xception("bn", False), "RegularCE", "bowenc_groups", _warmup_rate),
        port=_port(
            _port_bn,
            {"type": "CrossEntropy"},
            {"weight_decay": 1e-4, "param_groups": BOWENC_GROUPS},
            _warmup_schedule,
            _bowenc_data,
        ),
        inputs=INPUTS,
        size=(17, 305),
        probes=probes_with_labels,
        step=Schedule(steps=1, start=600, iters=90000, warmup_iters=1000),
        trajectory=Schedule(steps=3, start=600, iters=90000, warmup_iters=1000),
        upstream=BOWENC,
        extra_sizes=((305, 17), (33, 305)),  # smaller, a last bit of the input moves its gradients by 1e-8
    ),
    Case(
        name="deeplabv3p_r103",
        reference=_reference(_reference_r103, "HardPixelLoss", "detectron2_groups", _warmup_rate),
        port=_port(
            _port_r103,
            {"type": "TopKCrossEntropy", "top_k": 0.2, "name": "loss_sem_seg"},
            {"weight_decay": 1e-4, "param_groups": DETECTRON2_GROUPS},
            _warmup_schedule,
            _r103_data,
        ),
        inputs=INPUTS,
        size=(32, 320),
        probes=probes,
        step=Schedule(steps=1, start=600, iters=90000, warmup_iters=1000),
        trajectory=Schedule(steps=3, start=600, iters=90000, warmup_iters=1000),
        upstream=DETECTRON2,
        extra_sizes=((32, 160), (64, 160)),
    ),
)
