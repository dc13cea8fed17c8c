"""Records DeepLabv3+ of bowenc0221/panoptic-deeplab@cf8e20b into `deeplabv3p_xception65_bn`.

    python parity/upstream/record_panoptic_deeplab.py --checkout PATH

PATH is your own checkout of the repository at that commit; its classes compute every number: the model that its builder
makes, its loss, its optimizer and its learning-rate schedule, and its dataset of files with its transforms, from its
default configuration with the Xception-65 backbone. Stood in for is what its packages import and none of this calls:
pretrained weights from the network, and names that numpy and torchvision have removed since; and of torchvision, which
need not be installed, the two functions that upstream's transforms call, `to_tensor` and `normalize`, by what
torchvision documents of them. Its dataset refuses to be of another size than Cityscapes; it is told that one image is.
Its random numbers are the case's.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from parity import cases, chain  # noqa: E402
from parity.case import Case, Schedule, Side  # noqa: E402
from parity.cases.deeplabv3p import BOWENC, BOWENC_CROP, BOWENC_DRAWS, NUM_CLASSES, data_sample  # noqa: E402
from parity.torch_side import TorchSide  # noqa: E402
from parity.traces import Recording, Run, Trace  # noqa: E402

CASE = "deeplabv3p_xception65_bn"
RUNS = {
    "17x305/float64": Run((17, 305), 0, "float64"),
    "305x17/float64": Run((305, 17), 1, "float64"),
}


class _Anything(types.ModuleType):
    """A module that is imported and never used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **keywords: None


def import_upstream(checkout: Path) -> types.SimpleNamespace:
    """Upstream's configuration, model builder, optimizer, schedule and data, imported from a checkout."""
    functions = ("torchvision.transforms", "torchvision.transforms.functional")
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils", *functions, "segmentation.utils"):
        sys.modules[name] = _Anything(name)
    sys.modules["torchvision.transforms"].functional = sys.modules["torchvision.transforms.functional"]
    sys.modules["torchvision.transforms.functional"].__dict__.update(to_tensor=to_tensor, normalize=normalize)
    sys.modules["segmentation.utils"].AverageMeter = _Meter
    sys.modules["segmentation.utils"].__path__ = [str(checkout / "segmentation" / "utils")]
    for alias, kind in (("int", int), ("float", float), ("bool", bool)):
        if alias not in vars(np):
            setattr(np, alias, kind)
    sys.path.insert(0, str(checkout))
    package = types.ModuleType("segmentation")  # its own __init__ imports nothing that is needed
    package.__path__ = [str(checkout / "segmentation")]
    sys.modules["segmentation"] = package
    from segmentation.config import config
    from segmentation.data.build import build_dataset_from_cfg
    from segmentation.data.datasets import cityscapes
    from segmentation.model.build import build_segmentation_model_from_cfg
    from segmentation.solver.build import build_lr_scheduler, build_optimizer

    return types.SimpleNamespace(
        config=config,
        build_model=build_segmentation_model_from_cfg,
        build_optimizer=build_optimizer,
        build_lr_scheduler=build_lr_scheduler,
        build_dataset=build_dataset_from_cfg,
        cityscapes=cityscapes,
    )


def to_tensor(picture: np.ndarray) -> torch.Tensor:
    """torchvision's: (H, W, C) uint8 to (C, H, W) float32 in [0, 1]."""
    assert picture.dtype == np.uint8
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float().div(255)


def normalize(image: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """torchvision's: (image - mean) / std, channel by channel, in the image's precision."""
    mean, std = (torch.tensor(values, dtype=image.dtype).view(-1, 1, 1) for values in (mean, std))
    return image.sub(mean).div(std)


class _Meter:
    """Upstream's running average of a loss for its log, which is not recorded."""

    def update(self, value: float, count: int = 1) -> None:
        """Nothing."""


def configuration(upstream: types.SimpleNamespace, schedule: Schedule | None = None) -> Any:
    """Upstream's defaults, for DeepLabv3+ on Xception-65."""
    config = upstream.config.clone()
    config.defrost()
    config.MODEL.META_ARCHITECTURE = "deeplabv3plus"
    config.MODEL.BACKBONE.META = "xception"
    config.MODEL.BACKBONE.NAME = "xception65"
    config.MODEL.BACKBONE.PRETRAINED = False
    config.DATASET.NUM_CLASSES = NUM_CLASSES
    if schedule is not None:
        config.TRAIN.MAX_ITER = schedule.iters
        config.SOLVER.WARMUP_ITERS = schedule.warmup_iters
    return config


class _Optimizer:
    """Upstream's optimizer and schedule, in the order in which its training loop steps them."""

    def __init__(self, upstream: types.SimpleNamespace, model: torch.nn.Module, schedule: Schedule) -> None:
        config = configuration(upstream, schedule)
        self.optim = upstream.build_optimizer(config, model)
        self.scheduler = upstream.build_lr_scheduler(config, self.optim)
        self.jump(schedule.start)

    def jump(self, iteration: int) -> None:
        """Makes the next step that of this iteration."""
        self.scheduler.last_epoch = iteration
        self._iteration = iteration
        for group, rate in zip(self.optim.param_groups, self.scheduler.get_lr()):
            group["lr"] = rate

    def zero_grad(self) -> None:
        """Clears the gradients."""
        self.optim.zero_grad()

    def step(self) -> None:
        """Updates at this iteration's rate."""
        self.jump(self._iteration)
        self.optim.step()
        self._iteration += 1


def upstream_side(upstream: types.SimpleNamespace) -> Side:
    """Upstream as a side of a case."""

    def losses(targets: Any) -> Any:
        loss = upstream.build_model(configuration(upstream)).semantic_loss

        def terms(outputs: Any, targets: Any) -> dict[str, torch.Tensor]:
            return {"loss_semantic": loss(outputs["semantic"], targets["label"])}

        return terms

    def rate(iteration: int, schedule: Schedule) -> float:
        weight = torch.nn.Conv2d(1, 1, 1, bias=False)
        built = _Optimizer(upstream, weight, schedule)
        built.jump(iteration)
        return built.optim.param_groups[0]["lr"]

    return Side(
        model=lambda: _without_loss(upstream.build_model(configuration(upstream))),
        losses=losses,
        optimizer=lambda model, losses, schedule: _Optimizer(upstream, model, schedule),
        rate=rate,
        outputs=dict,
    )


def _without_loss(model: torch.nn.Module) -> torch.nn.Module:
    """The model without its loss layer, which has no parameters and is called from outside."""
    model.semantic_loss = None
    return model


def record_data(upstream: types.SimpleNamespace, seed: int = 0) -> Run:
    """What upstream's dataset makes of the case's sample, in files, with each of its draws."""
    image, label = data_sample(seed)
    config = configuration(upstream)
    config.DATASET.CROP_SIZE = BOWENC_CROP[::-1]
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        for kind, name, pixels in (("leftImg8bit", "", image), ("gtFine", "_labelTrainIds", label)):
            path = Path(folder, kind, config.DATASET.TRAIN_SPLIT, "town", f"town_000000_000000_{kind}{name}.png")
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)
        config.DATASET.ROOT = folder
        with mock.patch.dict(upstream.cityscapes._CITYSCAPES_INFORMATION.splits_to_sizes, train=1):
            dataset = upstream.build_dataset(config, is_train=True)
        for index, (scale, padding, window, mirrored) in enumerate(BOWENC_DRAWS):
            fractions = iter((*padding, *window))

            def first(grid: np.ndarray, fraction: float = scale) -> None:
                grid[0] = grid[int(fraction * len(grid))]

            def between(low: int, high: int, fractions: Any = fractions) -> int:
                return low + int(next(fractions) * (high - low + 1))

            with (
                mock.patch("numpy.random.shuffle", first),
                mock.patch.object(random, "randint", between),
                mock.patch.object(random, "random", lambda mirrored=mirrored: 0.0 if mirrored else 1.0),
            ):
                made = dataset[0]
            assert next(fractions, None) is None, f"draw {index}: upstream drew fewer positions than the case has"
            trace.add(f"{index}/image", made["image"].numpy())
            trace.add(f"{index}/label", made["semantic"].numpy())
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
    versions = {**TorchSide.versions(torch_side), "opencv": cv2.__version__}
    Recording(case.name, BOWENC, versions, state_dict, runs).save(folder / case.name)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkout", type=Path, required=True, help="your checkout of bowenc0221/panoptic-deeplab")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the recordings")
    options = parser.parse_args()
    if not (options.checkout / "segmentation" / "model" / "build.py").exists():
        print(
            f"error: {options.checkout}: no segmentation/model/build.py there; expected a checkout of {BOWENC}",
            file=sys.stderr,
        )
        return 2
    commit = subprocess.run(
        ["git", "-C", str(options.checkout), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout
    if not commit.startswith(BOWENC.partition("@")[2]):
        print(f"error: {options.checkout}: at {commit.strip() or 'no commit'}; expected {BOWENC}", file=sys.stderr)
        return 2
    upstream = import_upstream(options.checkout)
    record(cases.get(CASE), upstream_side(upstream), record_data(upstream), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
