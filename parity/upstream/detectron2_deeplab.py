"""DeepLabv3+ of detectron2's project DeepLab, for `record_detectron2.py`; imported once detectron2 can be.

The model is built from upstream's configuration file of R-103. What is set otherwise: batch norm for its synchronised
form, which refuses a CPU, no dropout, pictures that are normalised already, and crops as small as the case's. `check`
compares the loss computed here with that of upstream's own training pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.semantic_seg import SemanticSegmentor
from detectron2.projects.deeplab import add_deeplab_config, build_lr_scheduler
from detectron2.projects.deeplab.loss import DeepLabCE
from detectron2.solver import build_optimizer

from parity import cases
from parity.case import Schedule, Side
from parity.cases.deeplabv3p import CROP, NUM_CLASSES
from parity.traces import Run
from parity.upstream.detectron2_data import record_data
from parity.upstream.record_detectron2 import Stepper, double_precision

CASE = "deeplabv3p_r103"
FILE = "deeplab_v3_plus_R_103_os16_mg124_poly_90k_bs16.yaml"
FOLDER = Path(detectron2.__file__).parents[1] / "projects" / "DeepLab" / "configs" / "Cityscapes-SemanticSegmentation"


def upstreams_own() -> Any:
    """Upstream's configuration file."""
    cfg = get_cfg()
    add_deeplab_config(cfg)
    cfg.merge_from_file(str(FOLDER / FILE))
    return cfg


def configuration(schedule: Schedule | None = None) -> Any:
    """Upstream's configuration, and that of a stretch of training."""
    cfg = upstreams_own()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DROPOUT = 0.0
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    cfg.INPUT.CROP.SIZE = list(CROP)
    if schedule is not None:
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = schedule.iters, schedule.warmup_iters
    return cfg


class Segmentor(SemanticSegmentor):
    """Upstream's model with the interface of the reference: a tensor in, named logits out.

    The head is told that it evaluates, which makes it return its logits at the image's size; its layers stay in
    whatever mode they are in.
    """

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        self.sem_seg_head.training = False
        logits, _ = self.sem_seg_head(self.backbone(image))
        return {"semantic": logits[:, :, : image.shape[2], : image.shape[3]]}


def build() -> Segmentor:
    """The model, built by upstream from its configuration."""
    model = build_model(configuration())
    model.__class__ = Segmentor
    return model


class Losses:
    """Upstream's loss object, as its head makes it, on logits that are at the image's size already."""

    def __init__(self) -> None:
        head = configuration().MODEL.SEM_SEG_HEAD
        self._loss = DeepLabCE(ignore_label=head.IGNORE_VALUE, top_k_percent_pixels=0.2)
        self._weight = head.LOSS_WEIGHT

    def __call__(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        return {"loss_sem_seg": self._loss(outputs["semantic"], targets["label"]) * self._weight}


def _optimizer(model: Any, losses: Any, schedule: Schedule) -> Stepper:
    cfg = configuration(schedule)
    optim = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optim)
    for _ in range(schedule.start):
        scheduler.step()
    return Stepper(optim, scheduler)


def _rate(iteration: int, schedule: Schedule) -> float:
    cfg = configuration(schedule)
    scheduler = build_lr_scheduler(cfg, torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=cfg.SOLVER.BASE_LR))
    scheduler.last_epoch = iteration
    return scheduler.get_lr()[0]


def sides() -> dict[str, Side]:
    """Upstream as the torch side of the case."""
    return {CASE: Side(build, lambda targets: Losses(), _optimizer, _rate)}


def data() -> dict[str, Run]:
    """What upstream's mapper and model make of a sample by this configuration."""
    return {CASE: record_data("DeepLab", upstreams_own())}


def check() -> None:
    """Upstream's own training pass gives the loss that `Losses` computes.

    Raises:
        AssertionError: if it does not.
    """
    case = cases.get(CASE)
    arrays = {key: torch.from_numpy(value) for key, value in case.make_inputs(0, case.extra_sizes[0]).items()}
    with double_precision(), torch.no_grad():
        model = build().double().train()
        ours = Losses()(model(arrays["image"].double()), arrays)
        model.train()
        batch = [{"image": one.double(), "sem_seg": label} for one, label in zip(arrays["image"], arrays["label"])]
        theirs = SemanticSegmentor.forward(model, batch)
    for name, value in theirs.items():
        difference = float(abs(ours[name] - value))
        assert difference <= 1e-12, f"{name} differs by {difference} from upstream's own"
