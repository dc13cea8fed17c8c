"""Records DeepLabv3+ of PaddlePaddle/models, release/1.6, into `deeplabv3p_xception65_gn`.

    python parity/upstream/record_paddle_models.py --checkout PATH

PATH is your own checkout of the repository; its PaddleCV/deeplabv3+ has to be that of release/1.6 (a95d493). The code
is for Paddle 1.x, which no longer installs, so it runs on a stand-in for `fluid`, `fluid_standin.py`. What is recorded
is therefore what upstream's code composes:

- models.py is executed: which operators follow each other, with which sizes, strides, dilations, groups and names;
- of train.py, the function `loss` and the statements that make `area`, `loss_mean`, `lr` and `opt` are executed: which
  pixels count, what the sum is divided by, which regularizer and schedule each parameter has;
- reader.py is executed as it is, with given random numbers and pictures.

What an operator computes is not upstream's: convolution, group norm (epsilon 1e-5), bilinear resizing (corners
aligned), softmax, the Momentum update and the polynomial decay follow Paddle 1.6's documentation, in torch. Dropout is
off: its keep probability is set to 1.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from parity import cases, chain  # noqa: E402
from parity.case import Case, Schedule, Side  # noqa: E402
from parity.cases.deeplabv3p import CROP_SIZE, DRAWS, FLUID, NUM_CLASSES, data_sample  # noqa: E402
from parity.torch_side import TorchSide  # noqa: E402
from parity.traces import Recording, Run, Trace  # noqa: E402
from parity.upstream.fluid_standin import Program, fluid_module  # noqa: E402

CASE = "deeplabv3p_xception65_gn"
BLOBS = {  # what git calls the files' contents in release/1.6
    "models.py": "2be61e300c0da1dd1d855653297a02fb2f922c75",
    "train.py": "e0a1f10b8d3caecf504b95230d4fa8ac9e2e9fd9",
    "reader.py": "810b5d2d6840e295f98ff6a388bd45e89d9fa938",
}
RUNS = {
    "17x305/float64": Run((17, 305), 0, "float64"),
    "305x17/float64": Run((305, 17), 1, "float64"),
}


def import_upstream(folder: Path, program: Program) -> types.SimpleNamespace:
    """Upstream's modules `models` and `reader`, and the pieces of its script train.py.

    Args:
        folder: PaddleCV/deeplabv3+ of a checkout.
        program: what the stand-in's operators belong to.
    """
    fluid = fluid_module(program)
    paddle = types.ModuleType("paddle")
    paddle.fluid = fluid
    sys.modules.update({"paddle": paddle, "paddle.fluid": fluid})
    sys.path.insert(0, str(folder))
    import models
    import reader

    models.default_norm_type = "gn"
    models.label_number = NUM_CLASSES
    models.dropout_keep_prop = 1.0
    program.scope = lambda: models.name_scope
    return types.SimpleNamespace(models=models, reader=reader, fluid=fluid, train=_read_train(folder / "train.py"))


def _read_train(path: Path) -> dict[str, Any]:
    """Of train.py: `loss` (its function), `statements` (name -> assignment that makes it), `defaults` of its flags."""
    tree = ast.parse(path.read_text())
    statements, defaults, function = {}, {}, None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "loss":
            function = node
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                statements[ast.unparse(target)] = node
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "add_arg":
            defaults[ast.literal_eval(node.args[0])] = ast.literal_eval(node.args[2])
    return {"loss": function, "statements": statements, "defaults": defaults}


def run_train(upstream: types.SimpleNamespace, names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Executes train.py's statements that make some names, in this order.

    Args:
        upstream: of `import_upstream`.
        names: as they stand left of the equals sign.
        given: what they use beside each other.
    """
    train = upstream.train
    space = {"fluid": upstream.fluid, "np": np, "num_classes": NUM_CLASSES, **given}
    code = [train["loss"], *(train["statements"][name] for name in names)]
    exec(compile(ast.fix_missing_locations(ast.Module(code, [])), "train.py", "exec"), space)
    return space


class Network(torch.nn.Module):
    """Upstream's models.py as a module: its operators are found under the reference's names.

    The first pass, on a small image, makes them.
    """

    def __init__(self, upstream: types.SimpleNamespace, program: Program, order: Sequence[str]) -> None:
        super().__init__()
        self._upstream, self._program = upstream, program
        program.begin()
        with torch.no_grad():
            self.forward(torch.zeros(1, 3, 33, 33))
        program.register(self, order)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """`semantic`: logits."""
        self._upstream.models.clean()
        logits = self._upstream.models.deeplabv3p(image)
        self._upstream.models.clean()
        return {"semantic": logits}


class _Optimizer:
    """What train.py makes of `lr` and `opt`: Momentum, with each parameter's own regularizer or the optimizer's."""

    def __init__(self, upstream: types.SimpleNamespace, model: torch.nn.Module, schedule: Schedule) -> None:
        space = run_train(
            upstream,
            ["weight_decay", "lr", "opt"],
            {"base_lr": upstream.train["defaults"]["base_lr"], "total_step": schedule.iters},
        )
        momentum, self._iteration = space["opt"], schedule.start
        self.rate = momentum.learning_rate
        groups = [
            {"params": [parameter], "weight_decay": momentum.decay_of(model.decays[name])}
            for name, parameter in model.named_parameters()
        ]
        self.optim = torch.optim.SGD(groups, lr=self.rate(schedule.start), momentum=momentum.momentum)

    def step(self) -> None:
        """Updates at this iteration's rate."""
        for group in self.optim.param_groups:
            group["lr"] = self.rate(self._iteration)
        self.optim.step()
        self._iteration += 1


def upstream_side(upstream: types.SimpleNamespace, program: Program, order: Sequence[str]) -> Side:
    """Upstream as a side of the case.

    Args:
        upstream: of `import_upstream`.
        program: likewise.
        order: the reference's parameters, in whose order the state dict is: a program has none.
    """

    def terms(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        program.dtype = outputs["semantic"].dtype
        given = {"logit": outputs["semantic"], "label": targets["label"].clone()}
        loss = run_train(upstream, ["(loss, mask)", "area", "loss_mean"], given)["loss_mean"]
        return {"loss_semantic": loss.reshape([])}  # of one element, as all results of Paddle 1.6

    def rate(iteration: int, schedule: Schedule) -> float:
        given = {"base_lr": upstream.train["defaults"]["base_lr"], "total_step": schedule.iters}
        return run_train(upstream, ["lr"], given)["lr"](iteration)

    return Side(
        model=lambda: Network(upstream, program, order),
        losses=lambda targets: terms,
        optimizer=lambda model, losses, schedule: _Optimizer(upstream, model, schedule),
        rate=rate,
    )


class _ScriptedRandom:
    """Stands for `numpy.random` in upstream's reader: given numbers in order, and positions as shares of the room."""

    def __init__(self, numbers: Sequence[float], shares: Sequence[float]) -> None:
        self._numbers, self._shares = list(numbers), list(shares)

    def rand(self, *shape: int) -> np.float64:
        """The next number in [0, 1]."""
        return np.float64(self._numbers.pop(0))

    def randint(self, low: int, high: int) -> int:
        """The number that lies at the next share of the way."""
        return low + int(self._shares.pop(0) * (high - low))

    def shuffle(self, items: list[Any]) -> None:
        """Nothing: the order of a list of one picture."""


class _Numpy:
    """numpy with another `random`."""

    def __init__(self, random: _ScriptedRandom) -> None:
        self.random = random

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def record_data(reader: types.ModuleType, seed: int = 0) -> Run:
    """What upstream's reader makes of the case's sample with each of its draws."""
    image, label = data_sample(seed)
    files = {"image": image[:, :, ::-1], "label": np.repeat(label[:, :, None], 3, axis=2)}
    reader.cv2 = types.SimpleNamespace(imread=files.get, resize=cv2.resize, INTER_NEAREST=cv2.INTER_NEAREST)
    trace = Trace()
    for index, (reversed_, scale, (x, y)) in enumerate(DRAWS):
        low, high = (1, reader.default_config["max_resize"]) if scale >= 1 else (reader.default_config["min_resize"], 1)
        numbers = [float(scale >= 1), float(reversed_), (scale - low) / (high - low)]
        reader.np = _Numpy(_ScriptedRandom(numbers, [y, x]))
        dataset = object.__new__(reader.CityscapeDataset)
        dataset.config = {**reader.default_config, "crop_size": CROP_SIZE}
        dataset.label_files, dataset.img_files, dataset.index = ["label"], ["image"], 0
        images, labels, _ = next(dataset.get_batch_generator(1, 1, use_multiprocessing=False))
        trace.add(f"{index}/image", images[0])
        trace.add(f"{index}/label", labels[0].astype(np.int64))
    run = Run(image.shape[:2], seed, "float32")
    run.add(trace)
    return run


def record(case: Case, folder: Path, out: Path) -> None:
    """Runs everything and writes the recording of the case."""
    program = Program()
    upstream = import_upstream(folder, program)
    order = list(TorchSide(case.reference).shapes())
    side = upstream_side(upstream, program, order)
    runs = {chain.DATA_RUN: record_data(upstream.reader), chain.INITIAL_RUN: chain.initial_run(side, case.size)}
    for name, plan in RUNS.items():
        torch_side = TorchSide(side, dtype=plan.dtype)
        run = Run(plan.size, plan.seed, plan.dtype)
        run.add(chain.replay(torch_side, case, run))
        runs[name] = run
        print(f"{case.name} {name}: {len(run.points)} points")
    versions = {**TorchSide.versions(torch_side), "opencv": cv2.__version__}
    Recording(case.name, FLUID, versions, torch_side.shapes(), runs).save(out / case.name)


def _blob(path: Path) -> str:
    """What git calls the contents of a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkout", type=Path, required=True, help="your checkout of PaddlePaddle/models")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the recording")
    options = parser.parse_args()
    folder = options.checkout / "PaddleCV" / "deeplabv3+"
    for name, blob in BLOBS.items():
        if not (folder / name).exists() or _blob(folder / name) != blob:
            print(f"error: {folder / name}: not that of {FLUID}; check out release/1.6", file=sys.stderr)
            return 2
    record(cases.get(CASE), folder, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
