"""Records facebookresearch/detectron2@02b5c4e, its own models and those of its projects, into `parity/upstream`.

    python parity/upstream/record_detectron2.py --checkout PATH [--project NAME] [--case NAME] [--out FOLDER]

PATH is your own checkout of the repository at that commit; its classes compute every number. It has to be importable
only: nothing is compiled. Its Python dependencies are not this project's, for recording install them beside it: `pip
install fvcore iopath yacs omegaconf cloudpickle tabulate termcolor pycocotools`. Stood in for are torchvision, whose
operators the recorded models never call, and `rgb2id` of panopticapi. In the float64 runs `torch.float` and
`Tensor.float` mean double, since upstream names float32 here and there.

What is recorded of a project is in a module of its own, `parity/upstream/detectron2_<project>.py`, named in PROJECTS.
It is imported after `import_detectron2`, so that it can import detectron2 at its top, and has

- `sides() -> dict[str, Side]`: case name -> upstream as the torch side of that case: `model`, `losses`, `optimizer`,
  `rate`, as in `parity.case.Side`, with the names of outputs and terms that the case's reference uses;
- optionally `data() -> dict[str, Run]`: case name -> what upstream's data pipeline makes of the case's samples;
- optionally `check() -> None`: raises where `sides` puts upstream's pieces together otherwise than upstream does.

Each case is recorded in float64 at its own size with inputs of seed 0, and at the first of its `extra_sizes` with
inputs of seed 1; see `chain.replay`.
`Proxy`, `replaced` and `solver` below are for these modules.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import PIL  # noqa: E402
import torch  # noqa: E402

from parity import cases, chain  # noqa: E402
from parity.case import Case, Schedule, Side  # noqa: E402
from parity.torch_side import TorchSide  # noqa: E402
from parity.traces import Recording, Run  # noqa: E402

UPSTREAM = "facebookresearch/detectron2@02b5c4e"
PROJECTS = ("pointrend", "deeplab", "panoptic")


def import_detectron2(checkout: Path) -> None:
    """Makes `import detectron2` and `detectron2.projects.<name>` work from a checkout that was never built."""

    def absent(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("an operator of torchvision, which no recorded model should call")

    def rgb2id(color: np.ndarray) -> np.ndarray:
        return (color.astype(np.int64) * (1, 256, 256 * 256)).sum(axis=-1)

    boxes = _stand_in("torchvision.ops.boxes", nms=absent, batched_nms=absent)
    operators = {"roi_align": absent, "nms": absent, "deform_conv2d": absent, "RoIPool": torch.nn.Module}
    vision = _stand_in("torchvision.ops", boxes=boxes, **operators)
    _stand_in("torchvision", ops=vision, __version__="0.0")
    utils = _stand_in("panopticapi.utils", rgb2id=rgb2id)
    _stand_in("panopticapi", utils=utils)
    warnings.filterwarnings("ignore", module="detectron2|fvcore|iopath|torch")
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")  # a run may start in the middle
    sys.path.insert(0, str(checkout))
    importlib.import_module("detectron2.modeling")


def _stand_in(name: str, **attributes: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    return module


class Proxy:
    """Stands for a module in upstream's code: some of its functions replaced, the others its own.

    Args:
        module: such as `torch.nn.functional`.
        replacements: functions by name.
    """

    def __init__(self, module: Any, **replacements: Any) -> None:
        self._module = module
        self.__dict__.update(replacements)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextlib.contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Sets attributes of a module or object for as long as it is entered."""
    own = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(owner, name, value)


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """`torch.float` and `Tensor.float` mean float64."""
    with replaced(torch, float=torch.float64), replaced(torch.Tensor, float=torch.Tensor.double):
        yield


class Stepper:
    """Upstream's optimizer and scheduler as the harness drives them; the scheduler moves on before the next step.

    Args:
        optim: the torch optimizer.
        scheduler: upstream's, at the iteration of the first step.
    """

    def __init__(self, optim: torch.optim.Optimizer, scheduler: Any) -> None:
        self.optim, self.scheduler, self._taken = optim, scheduler, False

    def zero_grad(self) -> None:
        """Clears the gradients."""
        self.optim.zero_grad()

    def step(self) -> None:
        """One step, after which the groups still hold its rates."""
        if self._taken:
            self.scheduler.step()
        self.optim.step()
        self._taken = True


def solver(cfg: Any, optimizer: Any) -> tuple[Any, Any]:
    """The functions `optimizer` and `rate` of a Side.

    Args:
        cfg: (Schedule) -> detectron2's configuration of that run: SOLVER's MAX_ITER, STEPS, WARMUP_ITERS and so on.
        optimizer: (cfg, model) -> the torch optimizer, as upstream's train script builds it.
    """
    from detectron2.solver import build_lr_scheduler

    def build(model: Any, losses: Any, schedule: Schedule) -> Stepper:
        config = cfg(schedule)
        optim = optimizer(config, model)
        scheduler = build_lr_scheduler(config, optim)
        for _ in range(schedule.start):
            scheduler.step()
        return Stepper(optim, scheduler)

    def rate(iteration: int, schedule: Schedule) -> float:
        config = cfg(schedule)
        optim = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=config.SOLVER.BASE_LR)
        scheduler = build_lr_scheduler(config, optim)
        return config.SOLVER.BASE_LR * scheduler._multiplier(iteration / config.SOLVER.MAX_ITER)

    return build, rate


def record(case: Case, side: Side, data: Run | None, folder: Path) -> None:
    """Runs everything and writes the recording of one case."""
    runs, state_dict = {} if data is None else {chain.DATA_RUN: data}, {}
    runs[chain.INITIAL_RUN] = chain.initial_run(side, case.size)
    for seed, size in enumerate((case.size, *case.extra_sizes[:1])):
        run = Run(size, seed, "float64")
        with double_precision():
            torch_side = TorchSide(side, dtype=run.dtype)
            run.add(chain.replay(torch_side, case, run))
        runs[f"{size[0]}x{size[1]}/{run.dtype}"], state_dict = run, torch_side.shapes()
        print(f"{case.name} {size[0]}x{size[1]}: {len(run.points)} points", flush=True)
    versions = {**TorchSide.versions(torch_side), "pillow": PIL.__version__}
    Recording(case.name, UPSTREAM, versions, state_dict, runs).save(folder / case.name)


def project_parts(projects: Sequence[str]) -> tuple[dict[str, Side], dict[str, Run]]:
    """Sides and recorded data of some projects, by case; each project is checked."""
    sides: dict[str, Side] = {}
    data: dict[str, Run] = {}
    for project in projects:
        module = importlib.import_module(f"parity.upstream.detectron2_{project}")
        sides.update(module.sides())
        data.update(module.data() if hasattr(module, "data") else {})
        if hasattr(module, "check"):
            module.check()
    return sides, data


def _refusal(checkout: Path) -> str:
    """Why the checkout does not do, or ""."""
    if not (checkout / "detectron2" / "modeling").is_dir():
        return f"{checkout}: no detectron2/modeling there; expected a checkout of {UPSTREAM}"
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if not commit.startswith(UPSTREAM.partition("@")[2]):
        return f"{checkout}: at {commit or 'no commit'}; expected {UPSTREAM}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkout", type=Path, required=True, help="your checkout of facebookresearch/detectron2")
    parser.add_argument("--project", action="append", choices=PROJECTS, help="record only the cases of this one")
    parser.add_argument("--case", action="append", help="record only this case; can be given several times")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the recordings")
    options = parser.parse_args(arguments)
    refusal = _refusal(options.checkout)
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    import_detectron2(options.checkout.resolve())
    sides, data = project_parts(options.project or PROJECTS)
    wanted = _wanted(sides, options.case)
    if not wanted:
        print(f"error: --case {' '.join(options.case)}: expected some of {', '.join(sides)}", file=sys.stderr)
        return 2
    for name in wanted:
        record(cases.get(name), sides[name], data.get(name), options.out)
    return 0


def _wanted(sides: Mapping[str, Side], names: Sequence[str] | None) -> list[str]:
    """The cases to record; [] if a name is unknown."""
    return list(sides) if names is None else ([] if set(names) - set(sides) else list(names))


if __name__ == "__main__":
    sys.modules["parity.upstream.record_detectron2"] = sys.modules["__main__"]
    sys.exit(main())
