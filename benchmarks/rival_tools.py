"""PaDiff and reprod_log, driven through their documented functions on a pair of models; `parity_rivals.py` scores them.

Paddle, torch and the tools are imported when they are used: each tool runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

STEPS = 3  # iterations of the guide's backward check, and of PaDiff where a fault is one of training
MOST = 1e-1  # the highest limit that is tried
HERE = re.compile(r"\((Port[\w.]*)\)\s+<---")  # PaDiff's mark in its tree of the Paddle model
ROUTE = re.compile(r"\bPort\w*?((?:\.\w+)+)")
LOSS = "loss"
MODES = ("evaluation", "training")
OUTSIDE = ("data", "postprocess", "metrics")  # what PaDiff has no functions for


@dataclass(frozen=True)
class Said:
    """What a tool said of a port that it failed.

    Attributes:
        stage: of `parity`, that the tool was at; "" if the port crashed.
        names: of what differs, as `parity` calls it.
        text: the first words.
    """

    stage: str
    names: tuple[str, ...]
    text: str


# --- both models, as somebody who ports one has them -------------------------------------------------------------


class Pair:
    """A reference and its correct port in float32, with the same weights and batch, in which faults can be planted.

    Args:
        case: as `selftest.smaller` returns it.
        seed: of weights and inputs.
    """

    def __init__(self, case: Any, seed: int) -> None:
        from parity.bench import Bench
        from parity.faults import Patient
        from parity.paddle_side import PaddleSide
        from parity.torch_side import TorchSide

        class LooseSide(PaddleSide):
            """Loads as `set_state_dict` does: what is missing or of another shape stays as it is."""

            def load(self, state: Mapping[str, np.ndarray]) -> None:
                own = self.model.state_dict()
                for name, value in state.items():
                    if name in own and tuple(own[name].shape) == value.shape:
                        own[name].set_value(value.astype(own[name].numpy().dtype))

        self.bench = Bench(case, seed=seed)
        self.reference = self.bench.reference = TorchSide(case.reference, dtype="float32")
        self.port = self.bench.port = LooseSide(case.port, dtype="float32")
        self.bench.run_stage("weights")
        self.state = self.bench.plan.forward(self.bench.initial)
        self.inputs, self.targets = self.bench.batch()
        self.patient = Patient(self.bench)
        self.paths = {id(layer): path for path, layer in self.port.model.named_sublayers()}
        self.data = case.port.data(seed) if case.port.data else {}
        _define_alike(self.port.model, self.reference.model)

    @property
    def schedule(self) -> Any:
        """The stretch of training that is replayed."""
        return self.bench.case.step

    def find(self, kind: str, site: str) -> Any:
        """The fault of this kind at this site; None if it has no place here."""
        from parity.faults import KINDS

        self.load()
        return next((fault for fault in KINDS[kind].sites(self.patient) if fault.site == site), None)

    @contextlib.contextmanager
    def planted(self, fault: Any) -> Iterator[None]:
        """Within the block the port makes the mistake, and has been loaded with it; None plants nothing."""
        with contextlib.nullcontext() if fault is None else fault.planted(self.patient):
            self.load()
            yield
        self.load()

    def load(self) -> None:
        """Gives both models their weights; nobody has gradients."""
        self.reference.load(self.bench.initial)
        self.port.load(self.state)
        for parameter in self.reference.model.parameters():
            parameter.grad = None
        for parameter in self.port.model.parameters():
            parameter.clear_gradient(set_to_zero=False)

    def named(self, route: str) -> str:
        """A path of the port as `parity` spells it: a layer that is registered twice has two."""
        layer: Any = self.port.model
        for part in route.split(".") if route else ():
            layer = getattr(layer, part, None)
        return self.paths.get(id(layer), route)

    def losses(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Any, Any]:
        """(reference's total loss of its outputs, the port's, and both objects that compute the terms)."""
        built = [side.side.losses(self.targets) for side in (self.reference, self.port)]
        labels = [side._tensors(self.targets) for side in (self.reference, self.port)]
        totals = [lambda outputs, f=f, t=t: sum(f(outputs, t).values()) for f, t in zip(built, labels)]
        return (*totals, *built)

    def steppers(self, losses: Any, port_losses: Any) -> tuple[Callable[[], None], Callable[[], None]]:
        """(reference's optimizer step, the port's); each clears the gradients as well."""
        own = self.reference.side.optimizer(self.reference.model, losses, self.schedule)
        theirs = self.port.side.optimizer(self.port.model, port_losses, self.schedule)
        iterations = itertools.count(self.schedule.start)

        def reference() -> None:
            own.step()
            own.zero_grad()

        def port() -> None:
            iteration = next(iterations)
            theirs.step(iteration) if hasattr(theirs, "inner") else theirs.step()
            theirs.clear_grad()

        return reference, port


def _define_alike(layer: Any, module: Any) -> None:
    """Puts a layer's children into the order of the reference's, by which PaDiff pairs them."""
    for name, child in module.named_children():
        if name in layer._sub_layers:
            layer._sub_layers[name] = layer._sub_layers.pop(name)
            _define_alike(layer._sub_layers[name], child)


def is_localised(said: Said, fault: Any, expected: str) -> bool:
    """Whether a tool named the right thing; where it is near, the tool has the benefit of the doubt.

    Args:
        said: by the tool.
        fault: that was planted.
        expected: regular expression of the point that the harness has to name.
    """
    if fault.begins == "weights":  # the tools see it in what the layer computes
        return said.stage in ("forward", "forward_train") and bool(set(said.names) & _layers(fault.site))
    trains = (said.stage, fault.begins) == ("step", "trajectory")
    if not (trains or fault.expects(said.stage)) or not said.names:
        return False
    if said.stage == "gradients" and expected == ".*":  # any would do for the harness, whose cause has to name it
        return bool({re.sub(r"\.(weight|bias)$", "", name) for name in said.names} & _layers(fault.site))
    if said.stage == "step" or said.names == (LOSS,):  # of a loss with several terms PaDiff gets the sum
        return True
    place, _, call = fault.site.partition(":")
    if call:
        near = {"" if place == "model" else place}
    elif expected.startswith("output"):
        near = {""}
    else:
        near = {place.rpartition(".")[0]} - {""}
    return any(re.fullmatch(expected, name) or name in near for name in said.names)


def _layers(site: str) -> set[str]:
    """The layers that the names of tensors, or of layers, in a site are of."""
    names = [name.strip() for name in site.split(",")]
    return {*names, *(name.rpartition(".")[0] for name in names)} - {""}


# --- PaDiff ------------------------------------------------------------------------------------------------------


class PaDiff:
    """`padiff.auto_diff`, forward and backward with losses and an optimizer step, in evaluation and in training mode.

    Args:
        pair: both models.
        options: as its documents show them; without any, its defaults.
        adapts: whether `atol` is raised until the correct port passes.
    """

    def __init__(self, pair: Pair, options: Mapping[str, Any], *, adapts: bool) -> None:
        import padiff  # noqa: I001  (it patches what is imported after it)
        import paddle
        import torch

        class Reference(torch.nn.Module):
            def __init__(self, side: Any) -> None:
                super().__init__()
                self.model, self.side = side.model, side

            def forward(self, **inputs: Any) -> Any:
                return self.side._forward(list(inputs.values()))

        class Port(paddle.nn.Layer):
            def __init__(self, side: Any) -> None:
                super().__init__()
                self.model, self.side = side.model, side

            def forward(self, **inputs: Any) -> Any:
                return self.side._forward(list(inputs.values()))

        self.auto_diff, self.version = padiff.auto_diff, padiff.__version__
        self.pair, self.classes = pair, (Reference, Port)
        self.limits: dict[str, float] = {}
        self.options = dict(options)
        for mode, steps in itertools.product(MODES, (1, STEPS)) if adapts else ():
            run = functools.partial(self._run, mode, steps)
            self.limits[_setting(mode, steps)] = _lowest(run, options["atol"])

    def check(self, fault: Any) -> Said | None:
        """What it says of the port as it is now; None if it finds nothing."""
        if fault is not None and fault.begins in OUTSIDE:
            return None
        trains = fault is None or fault.begins in ("step", "trajectory")
        for mode, steps in itertools.product(MODES, (1, STEPS) if fault is None else (STEPS if trains else 1,)):
            said = self._run(mode, steps, self.limits.get(_setting(mode, steps)))
            if said is not None:
                return said
        return None

    def _run(self, mode: str, steps: int, limit: float | None) -> Said | None:
        pair = self.pair
        pair.load()
        reference, port = (c(side) for c, side in zip(self.classes, (pair.reference, pair.port)))
        reference.train(mode == "training")
        port.train() if mode == "training" else port.eval()
        for file in Path(sys.path[0]).glob("*_log/*"):  # it appends to them
            file.unlink()
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                equal = self._call(reference, port, {**self.options, **({"atol": limit} if limit else {})}, steps)
        except Exception as error:  # it passes on what the model or the loss raises
            return Said("", (), f"{type(error).__name__}: {error}".replace("\n", " ")[:200])
        logs = {path.name: path.read_text() for path in Path(sys.path[0]).glob("*_log/*")}
        return None if equal else read_padiff(printed.getvalue(), logs, mode, pair.named)

    def _call(self, reference: Any, port: Any, options: dict[str, Any], steps: int) -> bool:
        import paddle
        import torch

        pair = self.pair
        own, theirs, *built = pair.losses()
        own_step, their_step = pair.steppers(*built)
        arrays = {f"input{index}": value for index, value in enumerate(pair.inputs)}
        torch_inputs = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
        inputs = {name: paddle.to_tensor(value) for name, value in arrays.items()}
        if self.version.startswith("0.2"):
            return self.auto_diff(
                port,
                reference,
                (inputs, torch_inputs),
                auto_weights=False,
                options=options,
                loss_fn=[theirs, own],
                optimizer=[their_step, own_step],
                steps=steps,
            )
        models, fed = (reference, port), (torch_inputs, inputs)
        steppers = [own_step, their_step]
        return self.auto_diff(*models, fed, loss_fns=[own, theirs], optimizers=steppers, auto_init=False, **options)


def _setting(mode: str, steps: int) -> str:
    return mode if steps == 1 else f"{mode}, {steps} steps"


def read_padiff(printed: str, logs: Mapping[str, str], mode: str, named: Callable[[str], str]) -> Said:
    """What PaDiff's messages and log files say.

    Args:
        printed: on standard output.
        logs: name of a file -> its text.
        mode: "evaluation" or "training".
        named: a path under the port's root -> the same as `parity` spells it.
    """
    forward = "forward_train" if mode == "training" else "forward"
    finds = (
        (r"Diff found in `?Forward", forward, lambda: HERE.findall(printed + "".join(logs.values()))),
        (r"Diff found in loss", "loss", lambda: [f"Port.model.{LOSS}"]),
        (r"Diff found in `?Backward", "gradients", lambda: HERE.findall(printed + "".join(logs.values()))),
        (r"(Diff found .*|Err occurs when compare )grads?\b", "gradients", lambda: _routes(logs, "grad", printed)),
        (r"(Diff found .*|Err occurs when compare )(model )?weights?\b", "step", lambda: _routes(logs, "w", printed)),
    )
    for pattern, stage, places in finds:
        found = re.search(pattern, printed)
        if found:
            routes = [re.sub(r"^Port\w*\.?(model\.?)?", "", place) for place in places()]
            tensors = [named(route.rpartition(".")[0]) + "." + route.rpartition(".")[2] for route in routes]
            names = tensors if stage in ("gradients", "step") and "." in "".join(routes) else []
            line = next(line for line in printed.splitlines() if found[0] in line)
            return Said(stage, tuple(dict.fromkeys([*map(named, routes), *names]))[:4], line.strip()[:200])
    return Said("", (), printed.strip().splitlines()[-1][:200] if printed.strip() else "failed")


def _routes(logs: Mapping[str, str], start: str, printed: str) -> list[str]:
    """Parameters in a log of differing ones, the port's; of a message, if there is no log."""
    text = "".join(log for name, log in logs.items() if name.startswith(start) and "diff" in name) or printed
    return [f"Port{route}" for route in ROUTE.findall(text)][:1]


# --- reprod_log --------------------------------------------------------------------------------------------------


class ReprodLog:
    """The five checks of the reproduction guide: forward, data, metric, loss, backward; each stops at a difference.

    The reference's data is what the correct port makes of the samples, since upstream's own is recorded as digests.

    Args:
        pair: both models.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.version = importlib.metadata.version("reprod-log")
        self.limits: dict[str, float] = {}
        for step, _, logged in self._steps():
            self.limits[step] = _lowest(functools.partial(self._differ, step, *logged), 1e-6)

    def check(self, fault: Any) -> Said | None:
        """What the first check that fails says; None if all pass."""
        del fault
        self.pair.load()
        try:
            for step, stage, logged in self._steps():
                said = self._differ(step, *logged, self.limits[step])
                if said is not None:
                    return Said(stage, said.names, said.text)
        except Exception as error:  # the port itself raises
            return Said("", (), f"{type(error).__name__}: {error}".replace("\n", " ")[:200])
        return None

    def _steps(self) -> Iterator[tuple[str, str, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]]:
        """(check, stage of `parity`, what both sides log), in the guide's order."""
        pair = self.pair
        sides = (pair.reference, pair.port)
        traces = [side.observe(pair.inputs, pair.targets, train=False, backward=False) for side in sides]
        for trace in traces:
            if "crash" in trace.meta:
                raise RuntimeError(trace.meta["crash"])
        outputs = [{n: v for n, v in trace.points.items() if n.startswith("output/")} for trace in traces]
        yield "forward", "forward", tuple(outputs)
        if pair.data:
            yield "data", "data", (pair.data, pair.port.side.data(pair.bench.seed))
        plain = [{n.partition("/")[2]: value for n, value in side.items()} for side in outputs]
        if pair.bench.case.why_not("postprocess") is None and "label" in pair.targets:
            yield "metric", "postprocess", tuple(self._metric(side, own) for side, own in zip(sides, plain))
        if pair.port.side.metrics:
            yield "figures", "metrics", self._figures()
        if pair.bench.case.why_not("step") is None:
            yield "loss", "loss", tuple(self._terms(side, own) for side, own in zip(sides, plain))
            yield "backward", "step", tuple(self._train(side) for side in sides)

    def _metric(self, side: Any, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        from paddleseg_ext.metrics import ConfusionMatrix

        trace = side.postprocess(outputs)
        if "crash" in trace.meta:
            raise RuntimeError(trace.meta["crash"])
        label = self.pair.targets["label"]
        if "pred" not in trace.points:
            return {}
        metric = ConfusionMatrix(int(max(trace.points["pred"].max(), label[label != 255].max())) + 1)
        for pred, truth in zip(trace.points["pred"], label):
            metric.update(pred, truth)
        return {"mean IoU": np.array(metric.result().miou)}

    def _figures(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What the official evaluators, and the port's metrics, say of the same predictions."""
        from parity import official

        theirs, own = {}, {}
        for name, figures in self.pair.port.side.metrics.items():
            expected = official.points(official.recorded(name)["figures"])
            theirs.update({f"{name}/{key}": value for key, value in expected.items()})
            own.update({f"{name}/{key}": value for key, value in official.points(figures()).items()})
        return theirs, own

    def _terms(self, side: Any, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        trace = side.evaluate_losses(outputs, self.pair.targets)
        if "crash" in trace.meta:
            raise RuntimeError(trace.meta["crash"])
        return {name: value for name, value in trace.points.items() if not name.startswith("d_")}

    def _train(self, side: Any) -> dict[str, np.ndarray]:
        """Loss and rate of some iterations in evaluation mode on one batch, and the rates of the whole schedule."""
        pair, schedule = self.pair, self.pair.schedule
        pair.load()
        losses = side.side.losses(pair.targets)
        optimizer = side.side.optimizer(side.model, losses, schedule)
        side.model.eval()
        logged = {}
        for step in range(STEPS):
            inputs, targets = [side._tensor(value) for value in pair.inputs], side._tensors(pair.targets)
            if side.side.train_step is not None:
                terms = side.side.train_step(side.model, losses, optimizer, inputs, targets, schedule.start + step)
                total = np.array(sum(terms.values()))
            else:
                loss = sum(losses(side._forward(inputs), targets).values())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad() if hasattr(optimizer, "zero_grad") else optimizer.clear_grad()
                total = side._array(loss)
            logged[f"loss_{step}"] = total.astype(np.float32)
        rates = side.schedule(pair.bench.case.schedule_iterations(), schedule)
        return {**logged, **({"schedule/lr": np.array(list(rates.values()))} if rates else {})}

    def _differ(self, step: str, reference: Mapping[str, Any], port: Mapping[str, Any], limit: float) -> Said | None:
        """Writes both sides' files, and reads the report that compares them."""
        from reprod_log import ReprodDiffHelper, ReprodLogger

        files = [f"{step}_ref.npy", f"{step}_paddle.npy"]
        for file, values in zip(files, (reference, port)):
            logger = ReprodLogger()
            for name, value in values.items():
                logger.add(name, np.asarray(value))
            logger.save(file)
        helper, log = ReprodDiffHelper(), Path(f"{step}_diff.log")
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                helper.compare_info(*(helper.load_info(file) for file in files))
            except Exception as error:
                return Said("", (), f"{type(error).__name__}: {error}")
            try:
                helper.report(diff_method="mean", diff_threshold=limit, path=str(log))
            finally:
                _silence()
        return read_reprod_log(log.read_text())


def _silence() -> None:
    """Takes away the handlers that each report of reprod_log adds."""
    import logging

    for handler in list(logging.getLogger("root").handlers):
        logging.getLogger("root").removeHandler(handler)
        handler.close()


def read_reprod_log(text: str) -> Said | None:
    """What a report of reprod_log says; None if it passes. A loss of an iteration names nothing that a fault is at."""
    if text.rstrip().endswith("diff check passed"):
        return None
    lines = [line.partition(": ")[2] if " INFO" in line or " DEBUG" in line else line for line in text.splitlines()]
    failed = [before.rstrip(": ") for before, line in zip(lines, lines[1:]) if "check passed: False" in line]
    names = tuple(name for name in failed if not re.fullmatch(r"loss_\d+", name))
    return Said("", names, f"{', '.join(failed[:3])}: check passed: False" if failed else lines[-1])


def _lowest(run: Callable[[float], Said | None], first: float) -> float:
    """The lowest limit, in powers of ten from the documented one on, at which the correct port passes."""
    limit = first
    while run(limit) is not None:
        limit = float(f"{limit * 10:.0e}")
        if limit > MOST:
            raise RuntimeError(f"it fails the correct port up to a limit of {MOST}: {run(MOST).text}")
    return limit


TOOLS: dict[str, Callable[[Pair], Any]] = {
    "PaDiff, defaults": lambda pair: PaDiff(pair, {}, adapts=False),
    "PaDiff, strict": lambda pair: PaDiff(pair, {"atol": 1e-4, "rtol": 0, "compare_mode": "strict"}, adapts=True),
    "PaDiff, mean": lambda pair: PaDiff(pair, {"atol": 1e-4, "rtol": 0, "compare_mode": "mean"}, adapts=True),
    "reprod_log": ReprodLog,
}
