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
            "" for a mistake between layers, whose point is the first one that it changes a number of.
        words: regular expressions, all of which the stated cause has to contain.
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
    """

    name: str
    text: str
    sites: Callable[[Patient], Iterator[Fault]] = field(repr=False)


KINDS: dict[str, Kind] = {}


def kind(name: str, text: str) -> Callable[[Callable[..., Iterator[Fault]]], Callable[..., Iterator[Fault]]]:
    """Registers a function that yields the faults of a kind."""

    def register(sites: Callable[..., Iterator[Fault]]) -> Callable[..., Iterator[Fault]]:
        KINDS[name] = Kind(name, text, sites)
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
        calls: functions that the model calls between layers, in one forward pass in training mode.
    """

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.port = bench.port
        self.case = bench.case
        inputs, self.targets = bench.batch()
        bench._restore()
        seen = calls.of_port(self.port, inputs, train=True)
        self.ran = set(seen.inputs)
        self.calls = seen.calls
        self.inputs = seen.inputs
        self.outputs = seen.outputs
        bench._restore()

    @property
    def model(self) -> Any:
        """The port's model."""
        return self.port.model

    def layers(self, *kinds: type, leaf: bool = True) -> Iterator[tuple[str, Any]]:
        """(path, layer) of those that run and are of these types."""
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


def layer_point(path: str) -> str:
    """What the points of a leaf are called, in any stage of the model."""
    own = re.escape(path)
    return rf"(buffer/|dropout/)?{own}(\.(running_mean|running_var|output|weight|bias))?(@\d+)?"


def set_attributes(stack: ExitStack, owner: Any, **values: Any) -> None:
    """Sets attributes; undone with the stack."""
    for name, value in values.items():
        stack.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def wrap_forward(stack: ExitStack, layer: Any, wrong: Callable[..., Any]) -> None:
    """Makes a layer compute `wrong(own forward, *inputs)`."""
    own = layer.forward
    layer.forward = lambda *inputs, **keywords: wrong(own, *inputs, **keywords)
    stack.callback(layer.__dict__.pop, "forward")


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
