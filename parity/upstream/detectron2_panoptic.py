"""Panoptic-DeepLab for `record_detectron2`: the model on R-52, its targets and its post-processing.

`record_tools_d2` adds the models on bowenc0221/panoptic-deeplab's backbones, which are the same but for the
configuration. What is set otherwise than in upstream's configuration files: batch norm for its synchronised form, which
refuses a CPU, no dropout, and crops as small as the case's.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.projects.deeplab.loss import DeepLabCE
from detectron2.projects.panoptic_deeplab import (
    PanopticDeepLab,
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
    add_panoptic_deeplab_config,
)
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.structures import ImageList
from torch import nn

from parity.case import Schedule, Side
from parity.cases import panoptic_deeplab as cases
from parity.cases import panoptic_samples as samples
from parity.traces import Run, Trace
from parity.upstream.record_detectron2 import Stepper, double_precision

FOLDER = (
    Path(detectron2.__file__).parents[1]
    / "projects"
    / "Panoptic-DeepLab"
    / "configs"
    / "Cityscapes-PanopticSegmentation"
)
R52 = "panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024"
FILES = {"panoptic_deeplab_r52": f"{R52}.yaml", "panoptic_deeplab_r52_dsconv": f"{R52}_dsconv.yaml"}


def configuration(path: Path, schedule: Schedule | None = None) -> Any:
    """Upstream's configuration of a file, and of a stretch of training."""
    cfg = get_cfg()
    add_panoptic_deeplab_config(cfg)
    cfg.merge_from_file(str(path))
    for section in (cfg.MODEL.RESNETS, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.INS_EMBED_HEAD):
        section.NORM = "BN"
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DROPOUT = cfg.MODEL.INS_EMBED_HEAD.ASPP_DROPOUT = 0.0
    cfg.INPUT.CROP.SIZE = cases.TRAIN_SIZE[::-1]
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]  # the case's image is normalised
    if schedule is not None:
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = schedule.iters, schedule.warmup_iters
    return cfg


class Model(PanopticDeepLab):
    """Upstream's model up to its heads' predictions, which its own forward pass turns into losses or segments.

    The heads are told that they evaluate, which makes them return their predictions at the image's size; their layers
    stay in whatever mode they are in.
    """

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        divisibility = self.size_divisibility if self.size_divisibility > 0 else self.backbone.size_divisibility
        images = ImageList.from_tensors(list(image), divisibility)
        features = self.backbone(images.tensor)
        self.sem_seg_head.training = self.ins_embed_head.training = False
        semantic, _ = self.sem_seg_head(features)
        center, offset, _, _ = self.ins_embed_head(features)
        height, width = images.image_sizes[0]
        maps = {"semantic": semantic, "center": center, "offset": offset}
        return {name: value[:, :, :height, :width] for name, value in maps.items()}


class Losses:
    """The heads' own loss functions, on predictions that are at the image's size already."""

    def __init__(self, cfg: Any) -> None:
        head, ins_head = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.INS_EMBED_HEAD
        loss = DeepLabCE(ignore_label=head.IGNORE_VALUE, top_k_percent_pixels=head.LOSS_TOP_K)
        self.semantic = types.SimpleNamespace(common_stride=1, loss=loss, loss_weight=head.LOSS_WEIGHT)
        self.instance = types.SimpleNamespace(
            common_stride=1,
            center_loss=nn.MSELoss(reduction="none"),
            offset_loss=nn.L1Loss(reduction="none"),
            center_loss_weight=ins_head.CENTER_LOSS_WEIGHT,
            offset_loss_weight=ins_head.OFFSET_LOSS_WEIGHT,
        )

    def __call__(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        weights = {key: targets[f"{key}_weights"][:, None] for key in ("center", "offset")}
        own = PanopticDeepLabInsEmbedHead
        return {
            **PanopticDeepLabSemSegHead.losses(
                self.semantic, outputs["semantic"], targets["label"], targets["semantic_weights"]
            ),
            **own.center_losses(self.instance, outputs["center"], targets["center"], weights["center"]),
            **own.offset_losses(self.instance, outputs["offset"], targets["offset"], weights["offset"]),
        }


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """As upstream's train_net.py does for SOLVER.OPTIMIZER "ADAM"."""
    params = get_default_optimizer_params(
        model, weight_decay=cfg.SOLVER.WEIGHT_DECAY, weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM
    )
    return maybe_add_gradient_clipping(cfg, torch.optim.Adam)(params, cfg.SOLVER.BASE_LR)


def side(path: Path) -> Side:
    """Upstream, as configured by a file, as the torch side of a case."""

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Stepper:
        cfg = configuration(path, schedule)
        optim = build_optimizer(cfg, model)
        scheduler = build_lr_scheduler(cfg, optim)
        scheduler.last_epoch = schedule.start
        for group, value in zip(optim.param_groups, scheduler.get_lr()):
            group["lr"] = value
        return Stepper(optim, scheduler)

    def rate(iteration: int, schedule: Schedule) -> float:
        cfg = configuration(path, schedule)
        optim = torch.optim.Adam([nn.Parameter(torch.zeros(()))], cfg.SOLVER.BASE_LR)
        scheduler = build_lr_scheduler(cfg, optim)
        scheduler.last_epoch = iteration
        return scheduler.get_lr()[0]

    return Side(
        model=lambda: Model(configuration(path)),
        losses=lambda targets: Losses(configuration(path)),
        optimizer=optimizer,
        rate=rate,
    )


def sides() -> dict[str, Side]:
    """The cases on R-52."""
    return {name: side(FOLDER / file) for name, file in FILES.items()}


# --- targets and post-processing ------------------------------------------------------------------------------------


def data() -> dict[str, Run]:
    """Targets of upstream's generator, and what its model makes of given predictions."""
    with double_precision():
        return dict.fromkeys(FILES, record_data())


def record_data(seed: int = 0) -> Run:
    """The run for all cases: they have these in common."""
    panoptic, segments = samples.panoptic_map(seed)
    trace = Trace()
    for name, settings in samples.TARGET_SETTINGS.items():
        generate = PanopticDeepLabTargetGenerator(
            ignore_label=255, thing_ids=samples.THING_IDS, small_instance_weight=3, **settings
        )
        made = {key: value.numpy() for key, value in generate(panoptic, segments).items() if key != "center_points"}
        trace.add(f"targets/{name}/label", made["sem_seg"])
        trace.add(f"targets/{name}/semantic_weights", made["sem_seg_weights"])
        trace.add(f"targets/{name}/center", made["center"][None])
        trace.add(f"targets/{name}/center_weights", made["center_weights"][0])
        trace.add(f"targets/{name}/offset", made["offset"])
        trace.add(f"targets/{name}/offset_weights", made["offset_weights"][0])
    for name, (*maps, settings) in samples.edge_cases().items():
        for point, value in samples.as_points(f"segments/{name}", *segment(*maps, **settings)).items():
            trace.add(point, value)
    run = Run(panoptic.shape, seed, "float64")
    run.add(trace)
    return run


def segment(
    semantic: np.ndarray,
    center: np.ndarray,
    offset: np.ndarray,
    *,
    thing_ids: tuple[int, ...],
    stuff_area: int,
    top_k: int,
    threshold: float = 0.1,
    nms_kernel: int = 7,
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Panoptic ids and instances, by upstream's own forward pass around heads that return these predictions."""
    maps = [torch.from_numpy(value)[None].clone() for value in (semantic, center, offset)]
    model = types.SimpleNamespace(
        device="cpu", training=False, predict_instances=True, benchmark_network_speed=False, size_divisibility=0,
        pixel_mean=0.0, pixel_std=1.0, stuff_area=stuff_area, top_k=top_k, threshold=threshold, nms_kernel=nms_kernel,
    )  # fmt: skip
    model.backbone = lambda image: {}
    model.backbone.size_divisibility = 0
    model.sem_seg_head = lambda features, targets, weights: (maps[0], {})
    model.ins_embed_head = lambda features, *targets: (maps[1], maps[2], {}, {})
    things = {thing: thing for thing in thing_ids}
    model.meta = types.SimpleNamespace(thing_dataset_id_to_contiguous_id=things, label_divisor=samples.LABEL_DIVISOR)
    height, width = semantic.shape[1:]
    image = {"image": torch.zeros(3, height, width), "height": height, "width": width}
    with torch.no_grad():
        result = PanopticDeepLab.forward(model, [image])[0]
    ids, found = result["panoptic_seg"][0], result.get("instances")
    instances = []
    for index in range(0 if found is None else len(found)):
        own = ids[found.pred_masks[index]].unique()
        instances.append((int(own.item()), int(found.pred_classes[index]), float(found.scores[index])))
    return ids.numpy(), instances


# --- whether the pieces are put together as upstream does -----------------------------------------------------------


def check() -> None:
    """Compares with upstream's own forward pass, from a batch of its data pipeline to losses and to logits.

    Raises:
        AssertionError: if they differ.
    """
    meta = MetadataCatalog.get("cityscapes_fine_panoptic_train")
    things = sorted(meta.thing_dataset_id_to_contiguous_id.values())
    assert things == list(samples.THING_IDS) and meta.label_divisor == samples.LABEL_DIVISOR
    for path in (FOLDER / file for file in FILES.values()):
        torch.manual_seed(0)
        model, real = Model(configuration(path)), build_model(configuration(path))
        real.load_state_dict(model.state_dict())
        case = next(case for case in cases.CASES if case.name in FILES)
        inputs = {name: torch.from_numpy(value) for name, value in case.make_inputs(size=(32, 64)).items()}
        names = {"image": "image", "label": "sem_seg", "semantic_weights": "sem_seg_weights", "offset": "offset"}
        batch = [{key: inputs[name][n] for name, key in names.items()} for n in range(cases.BATCH)]
        for n, sample in enumerate(batch):
            sample.update(center=inputs["center"][n, 0], center_weights=inputs["center_weights"][n][None])
            sample.update(offset_weights=inputs["offset_weights"][n][None], height=32, width=64)
        own = Losses(configuration(path))(model.train()(inputs["image"]), inputs)
        for name, value in real.train()(batch).items():
            assert torch.allclose(own[name], value, rtol=1e-5), f"{path.name}: {name}: {own[name]} is not {value}"
        logits = model.eval()(inputs["image"])["semantic"]
        for n, result in enumerate(real.eval()(batch)):
            assert torch.allclose(logits[n], result["sem_seg"], rtol=1e-5), f"{path.name}: sem_seg"
