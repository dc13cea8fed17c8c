"""Records MichaelFan01/STDC-Seg@59ff37f into `stdc1` and `stdc2`.

    python parity/upstream/record_stdc_seg.py --checkout PATH

PATH is your own checkout of the repository at that commit; its classes compute every number. Three of its
dependencies are stood in for: the compiled in-place activated batch norm by the same formula in torch operations,
`torchvision`, which the model only imports, and the CUDA tensor types, since everything runs on the CPU. Upstream's
boundary targets are float32, thresholds included; in the float64 runs the fuse kernel, a parameter, is rounded to
float32 where they are convolved with it, and they are cast to float64 before the binary cross-entropy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402

from parity import cases, chain  # noqa: E402
from parity.case import Case, Schedule, Side  # noqa: E402
from parity.cases.stdc import CROP_SIZE, DRAWS, NUM_CLASSES, SCALES, UPSTREAM, data_sample, min_kept  # noqa: E402
from parity.torch_side import TorchSide  # noqa: E402
from parity.traces import Recording, Run, Trace  # noqa: E402

BACKBONES = {"stdc1": "STDCNet813", "stdc2": "STDCNet1446"}
OUTPUTS = ("semantic", "aux16", "aux32", "detail8")
RUNS = {
    "65x129/float64": Run((65, 129), 0, "float64"),
    "64x96/float64": Run((64, 96), 1, "float64"),
}


class InPlaceABNSync(nn.Module):
    """Batch norm scaled by |weight| + eps, eps a C float; what upstream's compiled operator computes."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, activation: str = "none") -> None:
        super().__init__()
        self.eps, self.momentum = float(np.float32(eps)), momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            count = x.numel() // x.shape[1]
            mean = x.mean(dim=(0, 2, 3))
            var = (x - mean[:, None, None]).square().mean(dim=(0, 2, 3))
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = (self.weight.abs() + self.eps) * torch.rsqrt(var + self.eps)
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


def import_upstream(checkout: Path) -> types.SimpleNamespace:
    """Upstream's model, losses and optimizer, imported from a checkout."""
    norm = types.ModuleType("modules.bn")
    norm.InPlaceABNSync = InPlaceABNSync
    vision = types.ModuleType("torchvision")
    vision.transforms = types.ModuleType("torchvision.transforms")
    sys.modules.update({"torchvision": vision, "torchvision.transforms": vision.transforms, "modules.bn": norm})
    sys.path.insert(0, str(checkout))
    torch.cuda.FloatTensor = torch.FloatTensor
    torch.Tensor.cuda = lambda self, *_, **__: self
    bce, conv2d = nn.functional.binary_cross_entropy_with_logits, nn.functional.conv2d
    nn.functional.binary_cross_entropy_with_logits = lambda logits, target: bce(logits, target.to(logits.dtype))
    nn.functional.conv2d = lambda x, weight, *others, **named: conv2d(x, weight.to(x.dtype), *others, **named)
    import transform
    from cityscapes import CityScapes
    from loss.detail_loss import DetailAggregateLoss
    from loss.loss import OhemCELoss
    from models.model_stages import BiSeNet
    from optimizer_loss import Optimizer

    labels = json.loads((checkout / "cityscapes_info.json").read_text())
    return types.SimpleNamespace(
        BiSeNet=BiSeNet,
        CityScapes=CityScapes,
        DetailAggregateLoss=DetailAggregateLoss,
        OhemCELoss=OhemCELoss,
        Optimizer=Optimizer,
        transform=transform,
        label_map={label["id"]: label["trainId"] for label in labels},
    )


class Losses(nn.Module):
    """Upstream's loss objects, called as its training loop calls them, with a name for each term."""

    def __init__(self, upstream: types.SimpleNamespace, n_min: int) -> None:
        super().__init__()
        self.ohem = upstream.OhemCELoss(thresh=0.7, n_min=n_min, ignore_lb=255)
        self.loss_detail = upstream.DetailAggregateLoss()

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        label = targets["label"]
        terms = {
            f"loss_{out}": self.ohem(outputs[key], label)
            for out, key in (("seg", "semantic"), ("aux16", "aux16"), ("aux32", "aux32"))
        }
        terms["loss_detail_bce"], terms["loss_detail_dice"] = self.loss_detail(outputs["detail8"], label)
        return terms


def upstream_side(upstream: types.SimpleNamespace, backbone: str) -> Side:
    """Upstream as a side of a case."""

    def optimizer(model: Any, losses: Any, schedule: Schedule) -> Any:
        built = upstream.Optimizer(
            model=model,
            loss=losses.loss_detail,
            lr0=1e-2,
            momentum=0.9,
            wd=5e-4,
            warmup_steps=schedule.warmup_iters,
            warmup_start_lr=1e-5,
            max_iter=schedule.iters,
            power=0.9,
        )
        built.it = schedule.start
        return built

    def rate(iteration: int, schedule: Schedule) -> float:
        model = upstream.BiSeNet(backbone=backbone, n_classes=NUM_CLASSES, use_boundary_8=True)
        built = optimizer(model, types.SimpleNamespace(loss_detail=upstream.DetailAggregateLoss()), schedule)
        built.it = iteration
        return built.get_lr()

    return Side(
        model=lambda: upstream.BiSeNet(backbone=backbone, n_classes=NUM_CLASSES, use_boundary_8=True),
        losses=lambda targets: Losses(upstream, min_kept(targets)),
        optimizer=optimizer,
        rate=rate,
        outputs=lambda result: dict(zip(OUTPUTS, result)),
    )


class ScriptedRandom:
    """Stands for the module `random` in upstream's transforms: returns given draws, in order."""

    def __init__(self, uniform: Sequence[float], choice: float, random: Sequence[float]) -> None:
        self._uniform, self._choice, self._random = list(uniform), choice, list(random)

    def uniform(self, low: float, high: float) -> float:
        """The next factor."""
        return self._uniform.pop(0)

    def choice(self, options: Sequence[float]) -> float:
        """The scale, which has to be one of upstream's."""
        return options[options.index(self._choice)]

    def random(self) -> float:
        """The next number in [0, 1)."""
        return self._random.pop(0)


def record_data(upstream: types.SimpleNamespace, seed: int = 0) -> Run:
    """What upstream's transforms and label map make of the case's sample with each of its draws."""
    image, label_ids = data_sample(seed)
    own = upstream.transform
    pipeline = own.Compose(
        [
            own.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5),
            own.HorizontalFlip(),
            own.RandomScale(SCALES),
            own.RandomCrop(CROP_SIZE),
        ]
    )
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    trace = Trace()
    for index, (color, mirrored, scale, position) in enumerate(DRAWS):
        own.random = ScriptedRandom(color, scale, [0.0 if mirrored else 1.0, *position])
        out = pipeline({"im": Image.fromarray(image), "lb": Image.fromarray(label_ids)})
        tensor = torch.from_numpy(np.array(out["im"]).transpose(2, 0, 1)).float().div(255)
        label = np.array(out["lb"]).astype(np.int64)
        label = upstream.CityScapes.convert_labels(types.SimpleNamespace(lb_map=upstream.label_map), label)
        trace.add(f"{index}/image", tensor.sub(mean).div(std).numpy())
        trace.add(f"{index}/label", label)
    run = Run(image.shape[:2], seed, "float32")
    run.add(trace)
    return run


def record(case: Case, side: Side, data: Run, folder: Path) -> None:
    """Runs everything and writes the recording of one case."""
    runs, state_dict = {chain.DATA_RUN: data, chain.INITIAL_RUN: chain.initial_run(side, case.size)}, {}
    for name, plan in RUNS.items():
        torch_side = TorchSide(side, dtype=plan.dtype)
        run = Run(plan.size, plan.seed, plan.dtype)
        run.add(chain.replay(torch_side, case, run))
        runs[name], state_dict = run, torch_side.shapes()
        print(f"{case.name} {name}: {len(run.points)} points")
    versions = {**TorchSide.versions(torch_side), "pillow": Image.__version__}
    Recording(case.name, UPSTREAM, versions, state_dict, runs).save(folder / case.name)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkout", type=Path, required=True, help="your checkout of MichaelFan01/STDC-Seg")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the recordings")
    options = parser.parse_args()
    if not (options.checkout / "models" / "model_stages.py").exists():
        print(
            f"error: {options.checkout}: no models/model_stages.py there; expected a checkout of {UPSTREAM}",
            file=sys.stderr,
        )
        return 2
    commit = subprocess.run(
        ["git", "-C", str(options.checkout), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout
    if not commit.startswith(UPSTREAM.partition("@")[2]):
        print(f"error: {options.checkout}: at {commit.strip() or 'no commit'}; expected {UPSTREAM}", file=sys.stderr)
        return 2
    upstream = import_upstream(options.checkout)
    data = record_data(upstream)
    for name, backbone in BACKBONES.items():
        record(cases.get(name), upstream_side(upstream, backbone), data, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
