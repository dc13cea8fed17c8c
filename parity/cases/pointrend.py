"""SemanticFPN and PointRend against facebookresearch/detectron2@02b5c4e (Apache-2.0), in upstream's recipes.

- `semantic_fpn_r50`: R-50 with frozen batch norms, stem and res2 frozen, as in configs/Misc;
- `pointrend_r50`: R-50 with batch norms that learn, which `MODEL.RESNETS.NORM: BN` gives;
- `pointrend_r101`: R-101 with frozen batch norms, upstream's Cityscapes recipe.

The stage `data` compares the transforms of each case's configuration with upstream's of PointRend for Cityscapes, which
SemanticFPN has here, too. Sizes are multiples of 32, and at the extra sizes the models pad the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity import fill, inputs
from parity.case import Case, Probe, Schedule, Side
from parity.cases import engine, figures, pipelines

UPSTREAM = "facebookresearch/detectron2@02b5c4e"
NUM_CLASSES = 19
NUM_POINTS = 64  # 48 of 192 candidates, and 16 more
SUBDIVISION_NUM_POINTS = 300
BACKBONES: dict[str, dict[str, Any]] = {
    "semantic_fpn_r50": {"depth": 50, "norm": "FrozenBN", "freeze_at": 2},
    "pointrend_r50": {"depth": 50, "norm": "BN"},
    "pointrend_r101": {"depth": 101, "norm": "FrozenBN"},
}
RECIPES = {
    "semantic_fpn_r50": "configs/semantic_fpn/semantic_fpn_r50_cityscapes_1024x512_65k.yml",
    "pointrend_r50": "configs/pointrend/pointrend_r50_cityscapes_1024x512_65k.yml",
    "pointrend_r101": "configs/pointrend/pointrend_r101_cityscapes_1024x512_65k.yml",
}
PARAM_GROUPS = ({"kind": "norm", "weight_decay_mult": 0.0},)


@dataclass(frozen=True)
class draws:  # noqa: N801
    """Where training looks for points: (N, D, 2) float32 in [0, 1); the last ones lie on edges and centres of pixels.

    Attributes:
        batch: N.
    """

    batch: int

    def make(self, name: str, size: tuple[int, int], seed: int = 0) -> np.ndarray:
        """The draws."""
        number = NUM_POINTS * 3 + NUM_POINTS - NUM_POINTS * 3 // 4
        random = np.random.RandomState(fill.seed_of(name, (self.batch, number), seed))
        values = np.floor(random.uniform(size=(self.batch, number, 2)) * 2**24) / 2**24
        values[:, -8:] = random.randint(0, 64, (self.batch, 8, 2)) / 64
        return values.astype(np.float32)


def milestones(schedule: Schedule) -> list[int]:
    """Where the rate drops: at 40000 and 55000 of 65000 iterations, and likewise in shorter runs."""
    return [schedule.iters * 8 // 13, schedule.iters * 11 // 13]


def probes(seed: int, size: tuple[int, int], *, batch: int, points: bool) -> dict[str, Probe]:
    """Outputs for the corners of the losses: `mixed` labels, and `few`, where one pixel in twenty has one."""
    label = inputs.labels(batch, NUM_CLASSES).make("probe.label", size, seed)
    random = np.random.RandomState(fill.seed_of("probe.logits", size, seed))

    def logits(*shape: int) -> np.ndarray:
        return (np.round(4 * random.standard_normal((batch, NUM_CLASSES, *shape)) * 256) / 256).astype(np.float32)

    outputs = {"semantic": logits(*size)}
    if points:
        outputs["points"] = logits(NUM_POINTS)
        outputs["point_coords"] = draws(batch).make("probe.coords", size, seed)[:, -NUM_POINTS:]
    few = np.where(random.uniform(size=label.shape) < 0.05, label, 255)
    return {"mixed": Probe(outputs, {"label": label}), "few": Probe(outputs, {"label": few})}


# --- the two sides ----------------------------------------------------------------------------------------------------


def _reference(name: str) -> Side:
    points = name.startswith("pointrend")

    def model() -> Any:
        from parity.reference.d2_resnet import ResNet
        from parity.reference.pointrend import PointRend
        from parity.reference.semantic_fpn import SemanticSegmentor

        backbone = ResNet(**BACKBONES[name])
        if not points:
            return SemanticSegmentor(NUM_CLASSES, backbone)
        numbers = {"num_points": NUM_POINTS, "subdivision_num_points": SUBDIVISION_NUM_POINTS}
        return PointRend(NUM_CLASSES, backbone, **numbers)

    def losses(targets: Mapping[str, np.ndarray]) -> Any:
        from parity.reference.pointrend import PointRendLosses
        from parity.reference.semantic_fpn import SemanticLosses

        return PointRendLosses() if points else SemanticLosses()

    def rate(iteration: int, schedule: Schedule) -> float:
        from parity.reference.optim import warmup_multistep

        drops = milestones(schedule)
        return warmup_multistep(
            iteration,
            base_lr=0.01,
            warmup_iters=schedule.warmup_iters,
            warmup_factor=1e-3,
            milestones=drops,
            gamma=0.1,
        )

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Any:
        from parity.reference.optim import ScheduledSGD
        from parity.reference.semantic_fpn import parameter_groups

        return ScheduledSGD(
            parameter_groups(model),
            schedule=lambda i: rate(i, schedule),
            momentum=0.9,
            weight_decay=1e-4,
            start=schedule.start,
        )

    def postprocess(outputs: Mapping[str, Any]) -> dict[str, Any]:
        from parity.reference.pointrend import uncertain_points
        from parity.reference.semantic_fpn import upsample

        steps = [n for n in ("stride4", "stride2") if n in outputs]
        sets = {f"points_{n}": uncertain_points(upsample(outputs[n], 2), SUBDIVISION_NUM_POINTS)[0] for n in steps}
        return {"pred": outputs["semantic"].argmax(1), **sets}

    return Side(model, losses, optimizer, rate, postprocess=postprocess)


def _port(name: str) -> Side:
    points = name.startswith("pointrend")

    def model() -> Any:
        from paddleseg_ext.models import PointRend, SemanticFPN, backbones

        backbone = backbones.ResNet(**BACKBONES[name])
        if not points:
            return SemanticFPN(NUM_CLASSES, backbone)
        numbers = {"num_points": NUM_POINTS, "subdivision_num_points": SUBDIVISION_NUM_POINTS}
        return PointRend(NUM_CLASSES, backbone, keep_steps=True, **numbers)

    def losses(targets: Mapping[str, np.ndarray]) -> Any:
        from paddleseg_ext.losses import build_losses

        coarse = {"type": "CrossEntropy", "output": "semantic", "name": "loss_sem_seg"}
        fine = {"type": "PointCrossEntropy", "output": "points", "name": "loss_sem_seg_point"}
        return build_losses([coarse, fine] if points else [coarse])

    def steps(schedule: Schedule) -> Any:
        from paddleseg_ext.optim import StepDecay

        return StepDecay(
            learning_rate=0.01,
            iters=schedule.iters,
            milestones=milestones(schedule),
            warmup_iters=schedule.warmup_iters,
            warmup_start_lr=1e-5,
        )

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Any:
        from paddleseg_ext.optim import build_optimizer

        config = {"type": "Momentum", "momentum": 0.9, "weight_decay": 1e-4, "param_groups": PARAM_GROUPS}
        return build_optimizer(config, steps(schedule), model=model, losses=losses)

    def rate(iteration: int, schedule: Schedule) -> float:
        return steps(schedule)(iteration)

    def postprocess(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        import paddle.nn.functional as F

        from paddleseg_ext.models.layers.points import uncertain_points

        result = {"pred": outputs["semantic"].argmax(1).numpy()}
        for step in ("stride4", "stride2"):
            if step in outputs:
                logits = F.interpolate(outputs[step], scale_factor=2, mode="bilinear", align_corners=False)
                result[f"points_{step}"] = uncertain_points(logits, SUBDIVISION_NUM_POINTS)[0].numpy()
        return result

    return Side(
        model,
        losses,
        optimizer,
        rate,
        postprocess=postprocess,
        data=lambda seed: pipelines.detectron2(RECIPES[name], seed),
        metrics=figures.SEMANTIC,
        train_step=engine.train_step,
        initial=True,
    )


def _case(
    name: str, *, batch: int = 2, steps: int = 3, extra_sizes: tuple[tuple[int, int], ...] = ((60, 100), (96, 64))
) -> Case:
    points = name.startswith("pointrend")
    # generated weights do not bear the full rate for long: early in the warm-up
    step = Schedule(steps=steps, start=60, iters=65000, warmup_iters=1000)
    across = Schedule(steps=4, start=20, iters=26, warmup_iters=2)  # the second drop
    specs: dict[str, Any] = {"image": inputs.image(batch), "label": inputs.labels(batch, NUM_CLASSES)}
    if points:
        specs["draws"] = draws(batch)
    return Case(
        name=name,
        reference=_reference(name),
        port=_port(name),
        inputs=specs,
        feed=("image", "draws") if points else ("image",),
        size=(64, 64),
        probes=lambda seed, size: probes(seed, size, batch=batch, points=points),
        step=step,
        trajectory=replace(step, steps=steps + 1) if points else across,
        upstream=UPSTREAM,
        extra_sizes=extra_sizes,
    )


CASES = (_case("semantic_fpn_r50"), _case("pointrend_r50", batch=4), _case("pointrend_r101", steps=2))
