"""SemanticFPN and PointRend of detectron2, for `record_detectron2.py`; imported once detectron2 can be.

Upstream's SemanticSegmentor runs as it is. It takes a list of pictures and, in training, returns only losses; so what
goes into its cross-entropies is picked up on the way. Its normalisation is set to mean 0 and deviation 1, its random
numbers to the case's. The points of a subdivision are put into the order of the map, which has no effect: upstream's
own order of near-ties is rounding. `check` compares the loss terms put together here with those of upstream's own
training pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import detectron2
import detectron2.modeling.meta_arch.semantic_seg as segmentor
import detectron2.projects.point_rend.point_features as point_features
import detectron2.projects.point_rend.semantic_seg as pointrend
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.solver import build_optimizer
from torch import nn

from parity import cases
from parity.case import Schedule, Side
from parity.cases.pointrend import (
    BACKBONES,
    NUM_CLASSES,
    NUM_POINTS,
    SUBDIVISION_NUM_POINTS,
    milestones,
)
from parity.traces import Run
from parity.upstream.detectron2_data import Script, record_data
from parity.upstream.record_detectron2 import Proxy, double_precision, replaced, solver

CHECKOUT = Path(detectron2.__file__).resolve().parents[1]
POINTREND = "projects/PointRend/configs/SemanticSegmentation/pointrend_semantic_R_101_FPN_1x_cityscapes.yaml"
SEMANTIC_FPN = "configs/Misc/semantic_R_50_FPN_1x.yaml"


def upstreams_own(file: str) -> Any:
    """A configuration file of upstream's."""
    cfg = get_cfg()
    add_pointrend_config(cfg)
    cfg.merge_from_file(str(CHECKOUT / file))
    return cfg


def configuration(name: str, schedule: Schedule | None = None) -> Any:
    """Upstream's configuration of a case, and of a run of it."""
    cfg = upstreams_own(POINTREND if name.startswith("pointrend") else SEMANTIC_FPN)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    cfg.MODEL.RESNETS.DEPTH = BACKBONES[name]["depth"]
    cfg.MODEL.RESNETS.NORM = BACKBONES[name]["norm"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.POINT_HEAD.TRAIN_NUM_POINTS = NUM_POINTS
    cfg.MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS = SUBDIVISION_NUM_POINTS
    cfg.SOLVER.BASE_LR = 0.01  # of the Cityscapes recipe; the one for COCO has 0.02
    if schedule is not None:
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = schedule.iters, tuple(milestones(schedule))
        cfg.SOLVER.WARMUP_ITERS = schedule.warmup_iters
    return cfg


class Segmentor(segmentor.SemanticSegmentor):
    """Upstream's model with the interface of the reference: tensors in, named logits out."""

    def forward(self, image: torch.Tensor, draws: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        entering: dict[str, list[torch.Tensor]] = {"cross_entropy": [], "interpolate": [], "coords": []}
        height, width = image.shape[2:]
        batch = [{"image": one, "height": height, "width": width} for one in image]
        if self.training:
            nothing = torch.full((height, width), 255, dtype=torch.long)
            batch = [{**one, "sem_seg": nothing} for one in batch]
        results = self.run(batch, draws, entering)
        if self.training:
            outputs = dict(zip(("semantic", "points"), entering["cross_entropy"]))
            outputs["semantic"] = outputs["semantic"][:, :, :height, :width]
            return {**outputs, **dict(zip(("point_coords",), entering["coords"]))}
        outputs = {"semantic": torch.stack([one["sem_seg"] for one in results])}
        return {**outputs, **dict(zip(("stride4", "stride2"), entering["interpolate"]))}

    def run(self, batch: Any, draws: torch.Tensor | None, entering: dict[str, list[torch.Tensor]]) -> Any:
        """Upstream's forward pass; `entering` collects what its functions are given."""
        sizes = [3 * NUM_POINTS, NUM_POINTS - 3 * NUM_POINTS // 4]
        script = Script([] if draws is None else [d.contiguous() for d in draws.detach().split(sizes, dim=1)])
        own_coords = point_features.get_uncertain_point_coords_with_randomness
        own_grid = point_features.get_uncertain_point_coords_on_grid

        def coordinates(*arguments: Any) -> torch.Tensor:
            coords = own_coords(*arguments)
            entering["coords"].append(coords)
            return coords

        def on_grid(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            indices, coords = own_grid(*arguments)
            indices, order = indices.sort(dim=1)
            return indices, coords.gather(1, order.unsqueeze(2).expand_as(coords))

        def picked(function: Any) -> Any:
            def call(value: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
                entering[function.__name__].append(value)
                return function(value, *arguments, **options)

            return call

        losses = Proxy(F, cross_entropy=picked(F.cross_entropy))
        both = Proxy(F, cross_entropy=picked(F.cross_entropy), interpolate=picked(F.interpolate))
        with (
            replaced(segmentor, F=losses),
            replaced(pointrend, F=both, get_uncertain_point_coords_with_randomness=coordinates),
            replaced(pointrend, get_uncertain_point_coords_on_grid=on_grid),
            replaced(point_features, torch=Proxy(torch, rand=script)),
        ):
            return super().forward(batch)


def build(name: str) -> Segmentor:
    """The model of a case, built by upstream from its configuration."""
    model = build_model(configuration(name))
    model.__class__ = Segmentor
    return model


class Losses(nn.Module):
    """Upstream's cross-entropies of the logits that its model gave them, with its own point targets."""

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        label = targets["label"]
        terms = {"loss_sem_seg": F.cross_entropy(outputs["semantic"], label, reduction="mean", ignore_index=255)}
        if "points" in outputs:
            padded = segmentor.ImageList.from_tensors(list(label), 32, 255).tensor
            nearest = point_features.point_sample(
                padded.unsqueeze(1).to(torch.float), outputs["point_coords"], mode="nearest", align_corners=False
            )
            terms["loss_sem_seg_point"] = F.cross_entropy(
                outputs["points"], nearest.squeeze(1).to(torch.long), reduction="mean", ignore_index=255
            )
        return terms


def sides() -> dict[str, Side]:
    """Upstream as the torch side of each case."""

    def side(name: str) -> Side:
        optimizer, rate = solver(lambda schedule: configuration(name, schedule), build_optimizer)
        return Side(lambda: build(name), lambda targets: Losses(), optimizer, rate)

    return {name: side(name) for name in BACKBONES}


def check() -> None:
    """Upstream's own training pass gives the terms that `Losses` puts together.

    Raises:
        AssertionError: if it does not.
    """
    for name in ("semantic_fpn_r50", "pointrend_r50"):
        case = cases.get(name)
        arrays = {key: torch.from_numpy(value) for key, value in case.make_inputs(0, case.extra_sizes[0]).items()}
        with double_precision(), torch.no_grad():
            model = build(name).double().train()
            image, label = arrays["image"].double(), arrays["label"]
            draws = arrays["draws"].double() if "draws" in arrays else None
            ours = Losses()(model(image, draws), {"label": label})
            batch = [{"image": one, "sem_seg": target} for one, target in zip(image, label)]
            theirs = model.run(batch, draws, {"cross_entropy": [], "interpolate": [], "coords": []})
        for term, value in theirs.items():
            difference = float(abs(ours[term] - value))
            assert difference <= 1e-12, f"{name}: {term} differs by {difference} from upstream's own"


def data() -> dict[str, Run]:
    """What upstream's mapper and model make of a sample, by its recipe for Cityscapes, which all cases have here."""
    return dict.fromkeys(BACKBONES, record_data("PointRend", upstreams_own(POINTREND)))
