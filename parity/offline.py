"""Recording one side of a case, and the verdict on two recordings.

Each side is recorded by an ordinary run of the stages. Where only torch is installed, an echo of the reference takes
the port's place; the port is then recorded against the reference's file, since it is fed some of what the reference
computed. Comparing runs the stages once more, with both sides played from their files.

`record_reference` and what it imports work on Python 3.8 and torch 1.4, with numpy alone beside torch.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from parity import stages as stage_runs
from parity.bench import Bench
from parity.case import STAGES, Case, Side
from parity.chain import ChainResult
from parity.compare import StageResult
from parity.errors import CaseError
from parity.recording import Log, Player, Recorded, Recorder, Store, decode, digest, encode, key_of, save, sound
from parity.stages import CaseResult
from parity.traces import Trace
from parity.weights import PortTensor

_BUILT = ("reference", "port", "inputs", "probes")  # fields of a case that are code


class _GivenBench(Bench):
    """A bench whose sides are given.

    Args:
        case: as for `Bench`.
        sides: "float64" or "float32" -> (reference, port).
        settings: as for `Bench`.
    """

    def __init__(self, case: Case, sides: Callable[[str], tuple[Any, Any]], **settings: Any) -> None:
        self._given = sides
        super().__init__(case, **settings)

    def _sides(self, dtype: str) -> tuple[Any, Any]:
        return self._given(dtype)

    def _lowered(self) -> tuple[Any, Any]:
        return self._given("float32")

    def _raised(self) -> None:
        pass  # the float64 sides were not touched


class _LoneBench(_GivenBench):
    """A bench with one side, which has nothing to be compared with."""

    def _compare(self, stage: str, reference: Trace, port: Trace, **_: Any) -> StageResult:
        crash = reference.meta.get("crash", "")
        return StageResult(stage, crash=f"the reference raised {crash}" if crash else "")


class _Echo:
    """Stands for a port that answers what the reference answered.

    Args:
        reference: the recorder of the reference.
        log: that it writes to.
    """

    name = "port"

    def __init__(self, reference: Recorder, log: Log) -> None:
        self._reference, self._log = reference, log
        self._asked: dict[str, int] = {}
        self._state: Mapping[str, np.ndarray] = {}

    def tensors(self) -> list[PortTensor]:
        side = self._reference.side
        left_out = side.framework_only()
        return [PortTensor(name, name, shape) for name, shape in side.shapes().items() if name not in left_out]

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        self._state = dict(state)

    def state(self) -> Mapping[str, np.ndarray]:
        return self._state

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*arguments: Any, **options: Any) -> Any:
            answers = [outcome for name, _, outcome in self._log.calls if name == method and outcome[0] == "value"]
            if not answers:
                return {}
            number = self._asked[method] = self._asked.get(method, -1) + 1
            return decode(answers[min(number, len(answers) - 1)][1], self._log.store.arrays.__getitem__)

        return call


class _SpiedInput:
    """An input's specification, whose arrays are kept."""

    def __init__(self, spec: Any, name: str, log: Log) -> None:
        self._spec, self._name, self._keep = spec, name, _spy(spec.make, f"input {name}", log)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._spec, attribute)

    def make(self, name: str, size: Sequence[int], seed: int = 0) -> np.ndarray:
        return self._keep(name, tuple(size), seed)


class _RecordedInput:
    """An input whose arrays were recorded."""

    def __init__(self, player: Player, name: str) -> None:
        self._player, self._name = player, name

    def make(self, name: str, size: Sequence[int], seed: int = 0) -> np.ndarray:
        return self._player.answer(f"input {self._name}", digest([name, tuple(size), seed]))


def _spy(function: Callable[..., Any], name: str, log: Log) -> Callable[..., Any]:
    """The same function, of which each answer is kept once."""
    known: set[str] = set()

    def call(*arguments: Any) -> Any:
        key = digest(list(arguments))
        try:
            value = function(*arguments)
        except Exception as error:
            if key not in known:
                log.add_error(name, key, error)
            raise
        finally:
            new = key not in known
            known.add(key)
        if new:
            log.add(name, key, value)
        return value

    return call


def _spied(case: Case, log: Log) -> Case:
    """The case, with every function of its own watched; what builds its sides is not."""
    port = case.port
    metrics = {name: _spy(function, f"metric {name}", log) for name, function in (port.metrics or {}).items()}
    port = dataclasses.replace(
        port, data=port.data and _spy(port.data, "data", log), metrics=metrics if port.metrics else port.metrics
    )
    return dataclasses.replace(
        case,
        inputs={name: _SpiedInput(spec, name, log) for name, spec in case.inputs.items()},
        probes=case.probes and _spy(case.probes, "probes", log),
        port=port,
    )


def _described(case: Case, store: Store) -> dict[str, Any]:
    """What a case says, without the code that it holds."""
    said = {field.name: getattr(case, field.name) for field in dataclasses.fields(case) if field.name not in _BUILT}
    given = {
        name: [field.name for field in dataclasses.fields(Side) if getattr(getattr(case, name), field.name)]
        for name in ("reference", "port")
    }
    return {
        "said": {name: encode(value, store) for name, value in said.items()},
        "given": given,
        "inputs": list(case.inputs),
        "probes": case.probes is not None,
        "metrics": list(case.port.metrics or ()),
    }


def _absent(*_: Any) -> Any:
    raise CaseError("a recording holds what this function returned, and not the function")


def _rebuilt(reference: Recorded, port: Recorded) -> Case:
    """The case of two recordings."""
    described = port.header["case"]
    if described != reference.header["case"]:
        raise CaseError(f"{reference.path} and {port.path} are of different cases, or of two versions of one")
    player, own = reference.case_player(), port.case_player()
    sides = {name: Side(**{field: _absent for field in fields}) for name, fields in described["given"].items()}
    names = described["metrics"]
    if sides["port"].metrics is not None:
        metrics = {name: (lambda name=name: own.answer(f"metric {name}", digest([]))) for name in names}
        sides["port"] = dataclasses.replace(sides["port"], metrics=metrics)
    if sides["port"].data is not None:
        data = dataclasses.replace(sides["port"], data=lambda seed: own.answer("data", digest([seed])))
        sides["port"] = data
    probes = (lambda seed, size: player.answer("probes", digest([seed, size]))) if described["probes"] else None
    said = {name: decode(value, port.array) for name, value in described["said"].items()}
    inputs = {name: _RecordedInput(player, name) for name in described["inputs"]}
    return Case(**said, **sides, inputs=inputs, probes=probes)


def record_reference(
    case: Case,
    path: Path,
    *,
    stages: Sequence[str] | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    float32: bool = True,
) -> CaseResult:
    """Records the torch side of a case; paddle need not be installed.

    Args:
        case: whose reference.
        path: of the file to write.
        stages: these and the rest as in `run`.
        seed: of the generated weights and inputs.
        size: (H, W) of the inputs.
        weights: a state dict of the reference.
        float32: also record in float32.

    Returns: what running it showed; only crashes mean something.
    """
    from parity import torch_old

    torch_old.prepare()
    from parity.torch_side import TorchSide

    store = Store()
    logs = {name: Log(store) for name in ("float64", "float32", "case")}
    chain = stage_runs._verify(case)

    def sides(dtype: str) -> tuple[Any, Any]:
        recorder = Recorder(TorchSide(case.reference, dtype=dtype), logs[dtype])
        return recorder, _Echo(recorder, logs[dtype])

    spied = _spied(case, logs["case"])
    alone = dataclasses.replace(spied, weights=(), port=dataclasses.replace(case.port, data=None, metrics=None))
    bench = _LoneBench(alone, sides, seed=seed, size=size, weights=weights)
    wanted = stage_runs._wanted(stages)
    result = _run(alone, bench, wanted, chain, float32=float32)
    if result.stages[-1].stage != "weights":
        _add_leaves(bench, wanted, logs["float64"])
    header = {
        "side": "reference",
        "settings": {**result.settings, "stages": wanted, "float32": float32},
        "chain": chain.to_dict(),
    }
    _save(path, header, case, store, logs)
    return result


def record_port(case: Case, path: Path, reference: Recorded) -> CaseResult:
    """Records the Paddle side of a case against a recording of its reference; torch need not be installed.

    Args:
        case: whose port.
        path: of the file to write.
        reference: the recording; stages, seed, size and weights are its own.

    Returns:
        The verdict, which `compare` gives again.
    """
    _check_side(reference, "reference")
    from parity.paddle_side import PaddleSide

    store = Store()
    logs = {name: Log(store) for name in ("float64", "float32", "case")}
    if _described(case, Store()) != reference.header["case"]:
        raise CaseError(f"{reference.path}: recorded from another case, or another version of it; record it again")

    def sides(dtype: str) -> tuple[Any, Any]:
        return reference.player(dtype), Recorder(PaddleSide(case.port, dtype=dtype), logs[dtype])

    result = _judged(_spied(case, logs["case"]), sides, reference)
    causes = {stage.stage: stage.cause for stage in result.stages if stage.cause}
    header = {"side": "port", "settings": reference.header["settings"], "chain": None, "causes": causes}
    _save(path, header, case, store, logs)
    return result


def compare(reference: Recorded, port: Recorded) -> CaseResult:
    """The verdict on two recordings; neither framework need be installed.

    Raises:
        CaseError: if they are not the two sides of one case, or the port was recorded against another reference.
    """
    _check_side(reference, "reference")
    _check_side(port, "port")
    with sound(f"{reference.path}, {port.path}: cannot be judged"):
        case = _rebuilt(reference, port)
        result = _judged(case, lambda dtype: (reference.player(dtype), port.player(dtype)), reference)
    for stage in result.stages:
        stage.cause = port.header["causes"].get(stage.stage, stage.cause)  # found while the port was there
    return result


def compare_live(reference: Recorded, case: Case) -> CaseResult:
    """The verdict on a recorded reference and a port that runs here."""
    _check_side(reference, "reference")
    if _described(case, Store()) != reference.header["case"]:
        raise CaseError(f"{reference.path}: recorded from another case, or another version of it; record it again")
    from parity.paddle_side import PaddleSide

    return _judged(case, lambda dtype: (reference.player(dtype), PaddleSide(case.port, dtype=dtype)), reference)


def _judged(case: Case, sides: Callable[[str], tuple[Any, Any]], reference: Recorded) -> CaseResult:
    settings = reference.header["settings"]
    given = settings["weights"] == "given"
    shapes = reference.player("float64").shapes() if given else {}
    weights = {name: np.broadcast_to(0.0, shape) for name, shape in shapes.items()} if given else None
    bench = _GivenBench(case, sides, seed=settings["seed"], size=tuple(settings["size"]), weights=weights)
    chain = dict(reference.header["chain"])
    chain["worst"] = np.inf if chain["worst"] is None else chain["worst"]
    return _run(case, bench, settings["stages"], ChainResult(**chain), float32=settings["float32"])


def _run(case: Case, bench: Bench, wanted: Sequence[str], chain: ChainResult, *, float32: bool) -> CaseResult:
    started = time.perf_counter()
    result = CaseResult(case.name, chain, bench=bench)
    result.versions = _versions(bench)
    result.settings = {"seed": bench.seed, "size": list(bench.size), "weights": bench.weights}
    for stage in wanted:
        case.why_not(stage)
    stage_runs._run_stages(result, list(wanted), lambda stage: None, float32=float32)
    for stage in result.stages:
        found, failed, _ = stage.cause.partition("the diagnosis raised")
        if failed:  # for want of a side that runs
            found = found.rstrip(";: ") or "no cause found"
            stage.cause = f"{found}; more experiments need both sides to run here"
    result.seconds = time.perf_counter() - started
    return result


def _versions(bench: Bench) -> dict[str, str]:
    """As `Bench.versions`; what both sides have in two versions is listed for each."""
    if bench.failure:
        return {}
    theirs, own = bench.reference.versions(), bench.port.versions()
    two = {name for name, version in theirs.items() if own.get(name, version) != version}
    found = {f"{name} (reference)" if name in two else name: version for name, version in theirs.items()}
    return {**found, **{f"{name} (port)" if name in two else name: version for name, version in own.items()}}


def _add_leaves(bench: Bench, wanted: Sequence[str], log: Log) -> None:
    """Asks the reference what the search for a cause asks of it: settings, inputs and outputs of each leaf."""
    reference, inputs = bench.reference, bench.batch()[0]
    leaves = list(reference.module_types())
    for path in leaves:
        reference.attributes(path)
    modes = [train for stage, train in (("forward", False), ("forward_train", True)) if stage in wanted]
    for train in modes:
        bench.reference.load(bench.initial)
        try:
            received = _leaf_inputs(reference.side, leaves, inputs, train=train)
        except Exception:  # a model that cannot run has no inputs to show
            continue
        for path, values in received.items():
            key = key_of("reference", "leaf_inputs", (path, inputs), {"train": train})
            log.add("leaf_inputs", key, values)
            with suppress(Exception):  # the recorder keeps it
                reference.replay(path, values, train=train)


def _leaf_inputs(side: Any, leaves: Sequence[str], inputs: Sequence[np.ndarray], *, train: bool) -> dict[str, Any]:
    """What each leaf of a torch model receives first, in one pass; leaves that get other than tensors are left out."""
    received: dict[str, Any] = {}

    def hook(path: str) -> Callable[..., None]:
        def keep(module: Any, arguments: Any) -> None:
            if path not in received and all(hasattr(value, "detach") for value in arguments):
                received[path] = [value.detach().clone().numpy() for value in arguments]

        return keep

    modules = dict(side.model.named_modules())
    handles = [modules[path].register_forward_pre_hook(hook(path)) for path in leaves if path in modules]
    try:
        side.leaf_inputs(leaves[0], inputs, train=train)
    finally:
        for handle in handles:
            handle.remove()
    return received


def _save(path: Path, header: Mapping[str, Any], case: Case, store: Store, logs: Mapping[str, Log]) -> None:
    described = _described(case, store)
    calls = {name: log.calls for name, log in logs.items() if log.calls or name == "case"}
    save(path, {**header, "case": described, "stages": list(STAGES), "logs": calls}, store)


def _check_side(recorded: Recorded, side: str) -> None:
    if recorded.header.get("side") != side:
        raise CaseError(f"{recorded.path}: a recording of the {recorded.header.get('side')}; expected the {side}'s")
