"""What a planted fault is: one porting mistake at one place of a port that is correct otherwise."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

from parity.diagnosis import calls

Plant = Callable[["Patient", ExitStack], None]
Sites = Callable[["Patient"], Iterator["Fault"]]


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        kind: name of the sort of mistake.
        site: where it is made.
        plant: makes it; what undoes it goes onto the stack.
        begins: the first stage that it can reach; those before do not run what it changes.
        stages: where its first divergence may be; by default `begins`, and the training mode of the forward pass.
        point: regular expression that the whole name of the first diverging point has to match, without its stage;
            "" for a mistake that no point is named after, such as one between layers: then it has to be the very first
            point, in the reference's order, that the mistake changes a number of.
        words: regular expressions, all of which the stated cause has to contain; see `judging.explains`.
    """

    kind: str
    site: str
    plant: Plant = field(repr=False)
    begins: str = "forward"
    stages: tuple[str, ...] = ()
    point: str = ""
    words: tuple[str, ...] = ()

    @contextmanager
    def planted(self, patient: Patient) -> Iterator[None]:
        """Within the block the patient's port makes the mistake."""
        with ExitStack() as stack:
            self.plant(patient, stack)
            yield

    def expects(self, stage: str) -> bool:
        """Whether the first divergence may be in this stage."""
        return stage in (self.stages or (("forward", "forward_train") if self.begins == "forward" else (self.begins,)))


@dataclass(frozen=True)
class Kind:
    """A sort of mistake.

    Attributes:
        name: short, with hyphens.
        text: what is done wrong.
        sites: finds every place of a port where it can be made.
        needs: what is missing for any case to express it, or "".
    """

    name: str
    text: str
    sites: Sites = field(repr=False)
    needs: str = ""


KINDS: dict[str, Kind] = {}


def kind(name: str, text: str, *, needs: str = "") -> Callable[[Sites], Sites]:
    """Registers a function that yields the faults of a kind."""

    def register(sites: Sites) -> Sites:
        KINDS[name] = Kind(name, text, sites, needs)
        return sites

    return register


class Patient:
    """A correct port on a bench, and what faults need to know of it.

    Args:
        bench: built, with its weights planned and loaded.

    Attributes:
        bench: as given.
        port: its `PaddleSide`.
        case: as it is without a fault.
        ran: leaves that run in evaluation or training.
        calls: functions that the model calls between layers, in one forward pass in training mode. Of the tensors in
            them, and in `inputs`, only the shapes are kept.
        evaluation_calls: likewise in evaluation mode.
        inputs: path of a layer -> what its first call receives, in training mode or else in evaluation.
    """

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.port = bench.port
        self.case = bench.case
        _, self.targets = bench.batch()
        training, evaluation = self._pass(train=True), self._pass(train=False)
        self.calls, self.evaluation_calls = training.calls, evaluation.calls
        self.inputs = {**evaluation.inputs, **training.inputs}
        self.ran = set(self.inputs)
        self._observed: dict[bool, dict[str, np.ndarray]] = {}
        self._terms: list[str] | None = None
        self._data: dict[str, np.ndarray] | None = None

    def _pass(self, *, train: bool) -> Any:
        inputs, _ = self.bench.batch()
        self.bench._restore()
        seen = calls.of_port(self.port, inputs, train=train)
        self.bench._restore()
        for call in seen.calls:
            call.inputs, call.output = [_shape(value) for value in call.inputs], _shape(call.output)
        seen.inputs = {path: [_shape(value) for value in values] for path, values in seen.inputs.items()}
        return seen

    def function_calls(self) -> Iterator[tuple[Any, frozenset[bool]]]:
        """Every call, and in which modes it is made: {True} in training, {False} in evaluation, or both."""
        modes: dict[Any, set[bool]] = {}
        found: dict[Any, Any] = {}
        for train, made in ((True, self.calls), (False, self.evaluation_calls)):
            for call in made:
                place = (call.number, call.name, call.where)
                modes.setdefault(place, set()).add(train)
                found.setdefault(place, call)
        for place, call in found.items():
            yield call, frozenset(modes[place])

    def outputs(self, *, train: bool) -> dict[str, np.ndarray]:
        """The model's outputs by name."""
        if train not in self._observed:
            inputs, targets = self.bench.batch()
            self.bench._restore()
            points = self.port.observe(inputs, targets, train=train, backward=False).points
            found = {name.partition("/")[2]: value for name, value in points.items() if name.startswith("output/")}
            self.bench._restore()
            self._observed[train] = found
        return self._observed[train]

    def terms(self) -> list[str]:
        """Names of the loss terms; none if the case has no losses."""
        if self._terms is None:
            made = self.port.evaluate_losses(self.outputs(train=True), self.targets) if self.reaches("loss") else None
            self._terms = [] if made is None else [name for name in made.points if not name.startswith("d_")]
        return self._terms

    def data(self) -> dict[str, np.ndarray]:
        """What the case's pipeline makes; {} if it has none."""
        if self._data is None:
            self._data = dict(self.case.port.data(0)) if self.reaches("data") else {}
        return self._data

    @property
    def model(self) -> Any:
        """The port's model."""
        return self.port.model

    def layers(self, *kinds: type, leaf: bool = True) -> Iterator[tuple[str, Any]]:
        """(path, layer) of those that run and are of these types.

        Args:
            kinds: types.
            leaf: leave out layers that have others in them, such as a convolution that owns its norm.
        """
        leaves = self.port.module_types()
        for path, layer in self.model.named_sublayers():
            if path in self.ran and isinstance(layer, kinds) and (path in leaves or not leaf):
                yield path, layer

    def parameters(self) -> dict[str, Any]:
        """Parameters by the port's own name, those of layers that run."""
        return {n: p for n, p in self.model.named_parameters() if n.rpartition(".")[0] in self.ran}

    def aliases(self, name: str) -> list[str]:
        """All names under which the state dict has this tensor."""
        state = self.model.state_dict()
        return [other for other, tensor in state.items() if tensor is state[name]]

    def reaches(self, stage: str) -> bool:
        """Whether the case has this stage."""
        return self.case.why_not(stage) is None


def _shape(value: np.ndarray) -> np.ndarray:
    """Stands for an array of which only the shape is asked."""
    return np.broadcast_to(np.zeros((), value.dtype), value.shape)


def layer_point(path: str) -> str:
    """What the points of a layer, and of what it has inside, are called, in any stage of the model."""
    return rf"(buffer/|dropout/)?{re.escape(path)}(\.\w+)*(@\d+)?"


def set_attributes(stack: ExitStack, owner: Any, **values: Any) -> None:
    """Sets attributes; undone with the stack."""
    for name, value in values.items():
        stack.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def wrap_forward(stack: ExitStack, layer: Any, wrong: Callable[..., Any]) -> None:
    """Makes a layer compute `wrong(own forward, *inputs)`."""
    wrap_attribute(stack, layer, "forward", wrong)


def wrap_attribute(stack: ExitStack, owner: Any, name: str, wrong: Callable[..., Any]) -> None:
    """Makes a method of an object compute `wrong(own method, *arguments)`."""
    own = getattr(owner, name)
    object.__setattr__(owner, name, lambda *arguments, **keywords: wrong(own, *arguments, **keywords))
    stack.callback(owner.__dict__.pop, name)


def replace_layer(stack: ExitStack, model: Any, path: str, other: Any) -> None:
    """Puts another layer at a path."""
    parent, _, name = path.rpartition(".")
    owner = model
    for part in parent.split(".") if parent else ():
        owner = owner._sub_layers[part]
    stack.callback(owner._sub_layers.__setitem__, name, owner._sub_layers[name])
    owner._sub_layers[name] = other


def exchange_keys(stack: ExitStack, patient: Patient, one: str, other: str) -> None:
    """Makes the state dict hand out two tensors under each other's names."""
    model, ones, others = patient.model, patient.aliases(one), patient.aliases(other)
    own = model.state_dict

    def state_dict(*args: Any, **kwargs: Any) -> Any:
        state = own(*args, **kwargs)
        first, second = state[one], state[other]
        state.update({name: second for name in ones})
        state.update({name: first for name in others})
        return state

    model.state_dict = state_dict
    stack.callback(model.__dict__.pop, "state_dict")


def change_side(patient: Patient, stack: ExitStack, **functions: Any) -> None:
    """Gives the port's side other functions (`losses`, `optimizer`, `rate`, `postprocess`, `data`, `outputs`)."""
    side = dataclasses.replace(patient.port.side, **functions)
    set_attributes(stack, patient.port, side=side)
    set_attributes(stack, patient.bench, case=dataclasses.replace(patient.case, port=side))


def transposed(array: np.ndarray) -> np.ndarray:
    """A kernel with its two channel axes exchanged."""
    return np.ascontiguousarray(np.swapaxes(array, 0, 1))
