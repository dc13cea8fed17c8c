"""What the harness needs to know of a port: a case.

A case names a torch reference and a Paddle port, how weights carry over, what goes in, and how each side trains. It
is built from functions with local imports, so that it can be listed where torch or paddle is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Union

import numpy as np

from parity.errors import CaseError

STAGES = (
    "weights",
    "forward",
    "forward_train",
    "loss",
    "gradients",
    "step",
    "trajectory",
    "initial",
    "data",
    "postprocess",
    "metrics",
)
CALIBRATION = 999  # number of the batch that statistics are calibrated on; no stage trains that long

_NEEDS = {
    "loss": ("losses",),
    "gradients": ("losses",),
    "step": ("losses", "optimizer"),
    "trajectory": ("losses", "optimizer"),
    "postprocess": ("postprocess",),
}


@dataclass(frozen=True)
class Rename:
    """Reference names that match `pattern` (re.search) are rewritten by `replacement` (re.sub)."""

    pattern: str
    replacement: str


@dataclass(frozen=True)
class Drop:
    """Reference tensors that match `pattern` (re.search) are not carried over, for a stated reason."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class Transpose:
    """Reference matrices that match `pattern` (re.search) are transposed, beyond the rule for linear layers."""

    pattern: str


Rule = Union[Rename, Drop, Transpose]


@dataclass(frozen=True)
class Schedule:
    """The stretch of training that a stage replays.

    Attributes:
        steps: number of optimizer steps.
        start: 0-based iteration of the first.
        iters: length of the whole run that the learning-rate schedule is for.
        warmup_iters: length of its warm-up.
    """

    steps: int = 3
    start: int = 0
    iters: int = 100
    warmup_iters: int = 0

    def follows(self, other: Schedule) -> bool:
        """Whether it is the other one with more steps."""
        return self.steps > other.steps and replace(self, steps=other.steps) == other


@dataclass(frozen=True)
class Side:
    """How one side is built; all but `model` are optional.

    Attributes:
        model: () -> torch.nn.Module or paddle.nn.Layer.
        losses: (inputs) -> callable or module `(outputs, targets) -> dict of scalar terms`; `inputs` are the numpy
            arrays, for losses that depend on the size.
        optimizer: (model, losses, Schedule) -> an object with `step()`; gradients are cleared for it. torch: a
            `torch.optim.Optimizer`, or an object with one as `.optim`. paddle: a `paddle.optimizer.Optimizer`, or an
            object with one as `.inner` and `learning_rates()`.
        rate: (iteration, Schedule) -> base learning rate of the step with this index, by the side's own schedule.
        outputs: (result of the forward pass) -> dict of named tensors; by default a dict is taken as it is, and the
            elements of a tuple are named "0", "1", ...
        postprocess: (outputs) -> dict of discrete arrays (class ids, instance ids).
        data: (seed) -> dict of what the data pipeline makes of fixed samples with fixed draws. Only the port gives it:
            the other side is upstream's own recorded numbers.
        metrics: name of a recorded evaluation -> () -> the same figures by the port's own metrics, on the same made-up
            predictions (see `parity.official`). Only the port gives them: the other side is the official evaluators'.
        train_step: (model, losses, optimizer, inputs, targets, iteration) -> loss terms as numbers. The training step
            of the port's own engine, if what trains is to be what is proven; else losses, backward pass and
            `optimizer.step()` are called here. `inputs` is the list of tensors that the model gets, `targets` a
            dict. Only the port has one.
        initial: whether training has to start from the values that `model` leaves in its tensors, as the constructors
            draw them. Given by both sides; or by the port alone, where upstream's own were recorded.
    """

    model: Callable[[], Any]
    losses: Callable[[Mapping[str, np.ndarray]], Any] | None = None
    optimizer: Callable[[Any, Any, Schedule], Any] | None = None
    rate: Callable[[int, Schedule], float] | None = None
    outputs: Callable[[Any], dict[str, Any]] | None = None
    postprocess: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    data: Callable[[int], dict[str, np.ndarray]] | None = None
    metrics: Mapping[str, Callable[[], dict[str, Any]]] | None = None
    train_step: Callable[..., Mapping[str, float]] | None = None
    initial: bool = False


@dataclass(frozen=True)
class Probe:
    """Outputs made up to drive the losses into a corner that the model's own outputs do not reach.

    Attributes:
        outputs: output name -> array.
        targets: target name -> array.
    """

    outputs: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One port against one original.

    Attributes:
        name: `<model>_<backbone>[_<upstream>]`.
        reference: the torch side; a function is short for `Side(model=function)`.
        port: the Paddle side, likewise.
        inputs: name -> specification from `parity.inputs`.
        feed: which inputs the models get, in order; the others are targets.
        size: (H, W) of the inputs.
        weights: rules, applied in order to each reference name; every rule has to match something.
        probes: (seed, (H, W)) -> probe name -> Probe.
        step: what the `step` stage replays.
        trajectory: what the `trajectory` stage replays; if it is `step` with more steps, only these are computed anew.
        upstream: "owner/repository@commit" that the reference stands for, or None.
        not_applicable: stage -> why this case cannot have it.
        ignored: (regular expression, reason) of points that only one side can have.
        extra_sizes: further sizes at which the case must hold, for tests.
        calibrate: whether generated running statistics are replaced by those of one batch before anything runs, on the
            reference (the port receives them with the weights) and on upstream's side of the chain alike. Deep
            networks need it: with statistics that are not theirs, activations explode or die out on the way.
    """

    name: str
    reference: Side | Callable[[], Any]
    port: Side | Callable[[], Any]
    inputs: Mapping[str, Any]
    feed: Sequence[str] = ("image",)
    size: tuple[int, int] = (129, 257)
    weights: Sequence[Rule] = ()
    probes: Callable[[int, tuple[int, int]], Mapping[str, Probe]] | None = None
    step: Schedule = field(default_factory=Schedule)
    trajectory: Schedule = field(default_factory=lambda: Schedule(steps=8))
    upstream: str | None = None
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    ignored: Sequence[tuple[str, str]] = ()
    extra_sizes: Sequence[tuple[int, int]] = ()
    calibrate: bool = False

    def __post_init__(self) -> None:
        for attribute in ("reference", "port"):
            side = getattr(self, attribute)
            if not isinstance(side, Side):
                object.__setattr__(self, attribute, Side(model=side))
        if self.reference.train_step is not None:
            raise CaseError(f"case {self.name}: the reference gives `train_step`; only the port's engine can have one")
        for size in (self.size, *self.extra_sizes):
            edges = size if isinstance(size, Sequence) else ()
            if [isinstance(edge, (int, np.integer)) and edge > 0 for edge in edges] != [True, True]:
                raise CaseError(
                    f"case {self.name}: size {size!r}; expected (height, width), two positive whole numbers"
                )
        for stage in self.not_applicable:
            if stage not in STAGES:
                raise CaseError(f"case {self.name}: not_applicable names {stage!r}; stages are {', '.join(STAGES)}")
        for key, spec in self.inputs.items():
            if not hasattr(spec, "make"):
                raise CaseError(
                    f"case {self.name}: input {key!r} is a {type(spec).__name__}; expected a specification such as "
                    "parity.inputs.image(), or an object with `make(name, size, seed)`; arrays are an argument of `run`"
                )
        for entry in self.ignored:
            if isinstance(entry, str) or len(entry) != 2:
                raise CaseError(
                    f"case {self.name}: ignored has {entry!r}; expected pairs (regular expression, reason); a comma"
                    ' makes one pair a sequence: (("attn", "why"),)'
                )
        for key in self.feed:
            if key not in self.inputs:
                raise CaseError(f"case {self.name}: feed names {key!r}; inputs are {', '.join(self.inputs)}")

    def schedule_iterations(self) -> list[int]:
        """Where the learning-rate schedule is sampled: its ends, around the end of the warm-up, and in between."""
        run, warmup = self.step.iters, self.step.warmup_iters
        spread = [run * part // 16 for part in range(16)]
        edges = [0, 1, warmup // 2, warmup - 1, warmup, warmup + 1, run - 1]
        return sorted({iteration for iteration in spread + edges if 0 <= iteration < run})

    def make_inputs(self, seed: int = 0, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """The inputs at a size, by name."""
        made = {}
        for name, spec in self.inputs.items():
            try:
                made[name] = np.asarray(spec.make(name, size or self.size, seed))
            except Exception as error:
                raise CaseError(
                    f"case {self.name}: input {name!r} cannot be made: make(name, size, seed) raised"
                    f" {type(error).__name__}: {error}"
                ) from error
        return made

    def split(self, arrays: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """(what the models get, in order; targets by name) of the arrays of one batch."""
        return [arrays[name] for name in self.feed], {n: value for n, value in arrays.items() if n not in self.feed}

    def batch(self, seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """The arrays of the batch with this number, by name."""
        return self.make_inputs(seed * 1000 + index, size)

    def why_not(self, stage: str) -> str | None:
        """The reason why a stage cannot run for this case, or None.

        Declared reasons come first; a stage whose functions neither side gives is reported as such.
        """
        if stage in self.not_applicable:
            return self.not_applicable[stage]
        if stage == "initial":
            if self.reference.initial and not self.port.initial:
                raise CaseError(f"case {self.name}: only the reference gives `initial`; give it on both sides")
            return None if self.port.initial else "the case gives no `initial`"
        if stage in ("data", "metrics"):
            return None if getattr(self.port, stage) is not None else f"the case gives no `{stage}`"
        for attribute in _NEEDS.get(stage, ()):
            given = [side for side in ("reference", "port") if getattr(getattr(self, side), attribute) is not None]
            if len(given) == 1:
                raise CaseError(f"case {self.name}: only the {given[0]} gives `{attribute}`; give it on both sides")
            if not given:
                return f"the case gives no `{attribute}`"
        return None
