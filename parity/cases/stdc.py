"""STDC1-Seg and STDC2-Seg against MichaelFan01/STDC-Seg@59ff37f (MIT), in upstream's recipe.

The input is 8k+1 pixels high and wide, where every resize ratio is exact in float32 too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity import fill, inputs
from parity.case import Case, Probe, Schedule, Side
from parity.cases import engine, figures

UPSTREAM = "MichaelFan01/STDC-Seg@59ff37f"
NUM_CLASSES = 19
SCALES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5)
BATCH = 4  # of two images, a batch norm over 1x1 maps makes +1 and -1: its gradients would be rounding noise

PARAM_GROUPS = (
    {"name": r"^cp\.backbone\.", "kind": "norm", "trainable": False},
    {"name": r"^(ffm|conv_out\w*)\.", "kind": "norm", "lr_mult": 10.0, "weight_decay_mult": 0.0},
    {"name": r"^(ffm|conv_out\w*)\.", "lr_mult": 10.0},
    {"kind": "norm", "weight_decay_mult": 0.0},
)


def probes(seed: int, size: tuple[int, int]) -> dict[str, Probe]:
    """Outputs for the corners of the losses.

    `confident`: most pixels are easy, so that OHEM falls back to the n_min largest losses; `mixed`: a third is hard and
    the rest anything between, so that the threshold selects, and any other would select otherwise; `ignored`: no pixel
    has a label.
    """
    label = inputs.labels(BATCH, NUM_CLASSES).make("probe.label", size, seed)
    ignored = np.full_like(label, 255)
    return {
        "confident": Probe(_logits(label, size, seed, share_hard=0.02, least=9.0), {"label": label}),
        "mixed": Probe(_logits(label, size, seed, share_hard=0.33, least=0.0), {"label": label}),
        "ignored": Probe(_logits(label, size, seed, share_hard=0.33, least=0.0), {"label": ignored}),
    }


def _logits(
    label: np.ndarray, size: tuple[int, int], seed: int, *, share_hard: float, least: float
) -> dict[str, np.ndarray]:
    """Random logits, to which easy pixels add `least` to 9 at their true class."""
    random = np.random.RandomState(fill.seed_of("probe.logits", size, seed))
    outputs = {}
    for name in ("semantic", "aux16", "aux32"):
        logits = random.standard_normal((label.shape[0], NUM_CLASSES, *size))
        easy = random.uniform(size=label.shape) >= share_hard
        truth = (label[:, None] == np.arange(NUM_CLASSES)[:, None, None]) & easy[:, None]
        added = random.uniform(least, 9.0, label.shape)[:, None] * truth
        outputs[name] = (np.round((logits + added) * 256) / 256).astype(np.float32)
    detail = random.standard_normal((label.shape[0], 1, -(-size[0] // 8), -(-size[1] // 8)))
    outputs["detail8"] = (np.round(detail * 256) / 256).astype(np.float32)
    return outputs


# brightness, contrast, saturation; mirrored; scale; where in the room it has the crop lies (x, y)
DRAWS = (
    ((1.0, 1.0, 1.0), False, 1.0, (0.0, 0.0)),
    ((0.5, 1.5, 0.7), True, 1.5, (0.999, 0.5)),
    ((1.5, 0.5, 1.3), False, 0.5, (0.3, 0.8)),  # too small for the crop: resized up
    ((0.83, 1.21, 0.5), True, 0.125, (0.6, 0.1)),
    ((1.2, 0.9, 1.5), True, 0.875, (0.5, 0.999)),
)
CROP_SIZE = (96, 64)  # (width, height)


def data_sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, (72, 110, 3) uint8, and its Cityscapes label ids, (72, 110) uint8 in 0..33."""
    size = (72, 110)
    image = inputs.image(1).make("data.image", size, seed)[0].transpose(1, 2, 0)
    ids = inputs.labels(1, num_classes=34, ignore=0).make("data.label", size, seed)[0]
    return np.clip(np.round(128 + 60 * image), 0, 255).astype(np.uint8), ids.astype(np.uint8)


def _data(seed: int) -> dict[str, np.ndarray]:
    """What the recipe's transforms make of the sample with each of `DRAWS`."""
    from paddleseg_ext.data import classes
    from paddleseg_ext.data import transforms as t

    image, label_ids = data_sample(seed)
    label = classes.cityscapes_train_ids()[label_ids].astype(np.uint8)
    pipeline = t.Compose(
        [
            t.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5),
            t.HorizontalFlip(),
            t.RandomScale(scales=SCALES),
            t.ResizeUpRandomCrop(crop_size=CROP_SIZE),
            t.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )
    points = {}
    for index, (color, mirrored, scale, (x, y)) in enumerate(DRAWS):
        draws = [
            dict(zip(("brightness", "contrast", "saturation"), color)),
            {"flip": mirrored},
            {"scale": scale},
            {"x": x, "y": y},
            {},
        ]
        sample = pipeline.replay({"image": image, "label": label, "meta": {}}, draws)
        points[f"{index}/image"] = sample["image"].transpose(2, 0, 1)
        points[f"{index}/label"] = sample["label"].astype(np.int64)
    return points


def min_kept(targets: Mapping[str, np.ndarray]) -> int:
    """Upstream's n_min, 1/16 of the pixels of the batch."""
    return targets["label"].size // 16


def _reference(backbone: str) -> Side:
    def model() -> Any:
        from parity.reference.stdc import BiSeNet

        return BiSeNet(backbone=backbone, n_classes=NUM_CLASSES, use_boundary_8=True)

    def losses(targets: Mapping[str, np.ndarray]) -> Any:
        from parity.reference.stdc import STDCLosses

        return STDCLosses(n_min=min_kept(targets))

    def rate(iteration: int, schedule: Schedule) -> float:
        from parity.reference.optim import warmup_poly

        return warmup_poly(
            iteration,
            base_lr=0.01,
            warmup_iters=schedule.warmup_iters,
            warmup_start_lr=1e-5,
            max_iters=schedule.iters,
            power=0.9,
        )

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Any:
        from parity.reference.optim import ScheduledSGD
        from parity.reference.stdc import parameter_groups

        groups = parameter_groups(model, losses)
        return ScheduledSGD(
            groups, schedule=lambda i: rate(i, schedule), momentum=0.9, weight_decay=5e-4, start=schedule.start
        )

    return Side(model, losses, optimizer, rate, postprocess=lambda outputs: {"pred": outputs["semantic"].argmax(1)})


def _port(backbone: str) -> Side:
    def model() -> Any:
        from paddleseg_ext.models import STDCSeg, backbones

        return STDCSeg(
            NUM_CLASSES,
            getattr(backbones, backbone)(classifier=True, alias_stages=True),
            abs_gamma=True,
            unused_heads=True,
            aux_in_eval=True,
        )

    def losses(targets: Mapping[str, np.ndarray]) -> Any:
        from paddleseg_ext.losses import build_losses

        ohem = {"type": "OhemCrossEntropy", "thresh": 0.7, "min_kept": min_kept(targets)}
        return build_losses(
            [
                {**ohem, "output": "semantic", "name": "loss_seg"},
                {**ohem, "output": "aux16", "name": "loss_aux16"},
                {**ohem, "output": "aux32", "name": "loss_aux32"},
                {"type": "DetailAggregateLoss", "output": "detail8", "name": "loss_detail", "decay_fuse_kernel": True},
            ]
        )

    def polynomial(schedule: Schedule) -> Any:
        from paddleseg_ext.optim import PolynomialDecay

        return PolynomialDecay(
            learning_rate=0.01,
            power=0.9,
            iters=schedule.iters,
            warmup_iters=schedule.warmup_iters,
            warmup_start_lr=1e-5,
            warmup="multiplicative",
        )

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Any:
        from paddleseg_ext.optim import build_optimizer

        config = {"type": "Momentum", "momentum": 0.9, "weight_decay": 5e-4, "param_groups": PARAM_GROUPS}
        return build_optimizer(config, polynomial(schedule), model=model, losses=losses)

    def rate(iteration: int, schedule: Schedule) -> float:
        return polynomial(schedule)(iteration)

    def postprocess(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"pred": outputs["semantic"].argmax(1).numpy()}

    return Side(
        model,
        losses,
        optimizer,
        rate,
        postprocess=postprocess,
        data=_data,
        metrics=figures.SEMANTIC,
        train_step=engine.train_step,
        initial=True,
    )


def _case(name: str, reference: str, port: str) -> Case:
    return Case(
        name=name,
        reference=_reference(reference),
        port=_port(port),
        inputs={"image": inputs.image(BATCH), "label": inputs.labels(BATCH, NUM_CLASSES)},
        size=(65, 129),
        probes=probes,
        step=Schedule(steps=3, start=600, iters=60000, warmup_iters=1000),
        trajectory=Schedule(steps=5, start=0, iters=7, warmup_iters=2),  # a whole run in small
        upstream=UPSTREAM,
        extra_sizes=((64, 96), (97, 129)),
    )


CASES = (_case("stdc1", "STDCNet813", "STDC1"), _case("stdc2", "STDCNet1446", "STDC2"))
