"""Carrying weights from the reference to the port, and back: one to one, or not at all.

Framework rules follow a layer's type, as the Paddle side reports it: normalisation buffers have other names, linear
weights are transposed, `num_batches_tracked` does not exist. What is left is said by the rules of the case.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.case import Drop, Rename, Rule, Transpose
from parity.errors import CaseError, WeightsError


@dataclass(frozen=True)
class PortTensor:
    """One parameter or buffer of the port.

    Attributes:
        name: in the port's own spelling ("bn._mean").
        torch_name: the same in torch's spelling ("bn.running_mean").
        shape: as torch would lay it out.
        transposed: whether the port holds the transpose (a linear layer's weight).
    """

    name: str
    torch_name: str
    shape: tuple[int, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Move:
    """One tensor on its way: from `reference` to `port`, transposed or not."""

    reference: str
    port: str
    transposed: bool


@dataclass(frozen=True)
class Plan:
    """How every tensor moves.

    Attributes:
        moves: in the reference's order.
        dropped: reference name -> reason.
    """

    moves: tuple[Move, ...]
    dropped: dict[str, str]

    def forward(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The port's state from the reference's."""
        return {
            m.port: np.ascontiguousarray(state[m.reference].T) if m.transposed else state[m.reference]
            for m in self.moves
        }

    def backward(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The reference's state from the port's, without what was dropped."""
        return {
            m.reference: np.ascontiguousarray(state[m.port].T) if m.transposed else state[m.port] for m in self.moves
        }


def rename(name: str, rules: Sequence[Rule]) -> str:
    """A reference name in the port's spelling, by the Rename rules in order."""
    for rule in rules:
        if isinstance(rule, Rename):
            name = re.sub(rule.pattern, rule.replacement, name)
    return name


def rename_module(path: str, rules: Sequence[Rule]) -> str:
    """A reference module's path in the port's spelling, by the rules for its tensors."""
    renamed = rename(f"{path}.", rules)[:-1]
    return rename(path, rules) if renamed == path else renamed


def plan(
    reference: Mapping[str, Sequence[int]],
    port: Iterable[PortTensor],
    rules: Sequence[Rule] = (),
    *,
    framework_only: Mapping[str, str] | None = None,
    also: Iterable[str] = (),
    where: str = "weights",
) -> Plan:
    """Pairs every reference tensor with one of the port.

    Args:
        reference: name -> shape.
        port: all tensors of the port.
        rules: of the case.
        framework_only: reference names that Paddle has no counterpart for, with the reason.
        also: further names of the reference that a rule may be meant for, such as "relu." for a module without tensors.
        where: name of the case, for messages.

    Raises:
        WeightsError: naming every tensor without a partner, of another shape, or hit twice, and every rule that
            matched nothing; with the nearest name of the other side and a rule that would help.
        CaseError: if the rules are none.
    """
    by_name = {tensor.torch_name: tensor for tensor in port}
    used_rules: set[int] = set()
    _check_rules(rules, where)
    for name in also:
        _apply(name, rules, used_rules)
    applied = {name: _apply(name, rules, used_rules) for name in reference if name not in (framework_only or {})}
    wanted = {target for target, reason, _ in applied.values() if reason is None}
    free = {name: tuple(tensor.shape) for name, tensor in by_name.items() if name not in wanted}
    moves, dropped, problems, sources = [], dict(framework_only or {}), [], {}
    for name, (target, reason, transposed) in applied.items():
        shape = reference[name]
        if reason is not None:
            dropped[name] = reason
            continue
        if target in sources:
            problems.append(f"{name} and {sources[target]} both go to {target}; make the Rename rules injective")
            continue
        sources[target] = name
        tensor = by_name.get(target)
        if tensor is None:
            problems.append(_without_target(name, target, tuple(shape), free))
            continue
        expected = tuple(reversed(tensor.shape)) if transposed else tensor.shape
        if tuple(shape) != expected:
            problems.append(_wrong_shape(name, tuple(shape), tensor, transposed))
            continue
        moves.append(Move(name, tensor.name, tensor.transposed != transposed))
    unmatched = [tensor for tensor in by_name.values() if tensor.torch_name not in sources]
    problems.extend(f"the port's {tensor.name} {tensor.shape} gets no weight" for tensor in unmatched)
    problems.extend(f"rule {rule} matches nothing; remove it" for i, rule in enumerate(rules) if i not in used_rules)
    if problems:
        shown = "\n  ".join(problems[:12]) + (f"\n  ... and {len(problems) - 12} more" if len(problems) > 12 else "")
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise WeightsError(f"{where}: the weights do not carry over one to one, {count}:\n  {shown}")
    return Plan(tuple(moves), dropped)


def _apply(name: str, rules: Sequence[Rule], used: set[int]) -> tuple[str, str | None, bool]:
    """(name in the port's spelling, reason for dropping it or None, whether a rule transposes it)."""
    target, reason, transposed = name, None, False
    for index, rule in enumerate(rules):
        if not re.search(rule.pattern, target if isinstance(rule, Rename) else name):
            continue
        used.add(index)
        if isinstance(rule, Rename):
            target = re.sub(rule.pattern, rule.replacement, target)
        elif isinstance(rule, Drop):
            reason = rule.reason
        elif isinstance(rule, Transpose):
            transposed = not transposed
    return target, reason, transposed


def _check_rules(rules: Sequence[Rule], where: str) -> None:
    """Refuses what is no rule, and a pattern or replacement that `re` refuses."""
    if isinstance(rules, (Rename, Drop, Transpose, str)):
        raise CaseError(f"{where}: weights is {rules!r}; expected a sequence of rules; a comma makes one: (rule,)")
    for rule in rules:
        if not isinstance(rule, (Rename, Drop, Transpose)):
            raise CaseError(f"{where}: weights has {rule!r}; expected a Rename, Drop or Transpose")
        try:
            re.sub(rule.pattern, getattr(rule, "replacement", ""), "")
        except (re.error, IndexError, TypeError) as error:
            raise CaseError(f"{where}: {rule!r} cannot be used: {error}") from error


def _without_target(name: str, target: str, shape: tuple[int, ...], free: dict[str, tuple[int, ...]]) -> str:
    """What to say of a tensor that goes nowhere; `free` are the port's without a weight that none was suggested for."""
    shown = f"{name if target == name else f'{name} (renamed {target})'} {shape} has no target in the port"
    if free.get(name) == shape:
        return f"{shown}, which calls it {name} as well; remove the rule that renames it"
    same_shape = [other for other, own in free.items() if own == shape]
    alike = same_shape or [other for other, own in free.items() if len(own) == len(shape)]
    nearest = difflib.get_close_matches(target, alike, n=1, cutoff=0.3)
    if same_shape and nearest:
        free.pop(nearest[0])  # no second tensor goes there
        return f"{shown}; nearest: {nearest[0]}; if that is it, add {_rename_rule(target, nearest[0])}"
    parts = [other for other in alike if _parent(other).startswith(_parent(target)) and free[other][1:] == shape[1:]]
    if shape and len(parts) > 1 and sum(free[other][0] for other in parts) == shape[0]:
        return (
            f"{shown}; {', '.join(parts)} have its shape together, but a tensor carries over whole: let the port hold"
            " one, as the reference does"
        )
    return f"{shown}; nearest: {nearest[0]} {free[nearest[0]]}, of another shape" if nearest else shown


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _rename_rule(name: str, other: str) -> str:
    """The rule that gives a tensor another's name, and does so for what is beside it."""
    mine, theirs = name.split("."), other.split(".")
    end = [r"$", ""]
    while len(mine) > 1 and len(theirs) > 1 and mine[-1] == theirs[-1]:
        mine.pop()
        theirs.pop()
        end = [r"\.", "."]
    return f'Rename(r"^{re.escape(".".join(mine))}{end[0]}", "{".".join(theirs)}{end[1]}")'


def _wrong_shape(name: str, shape: tuple[int, ...], tensor: PortTensor, transposed: bool) -> str:
    expected = tuple(reversed(tensor.shape)) if transposed else tensor.shape
    hint = ""
    if shape == tuple(tensor.shape):
        hint = "; without the Transpose rule it does"
    elif shape == tuple(reversed(expected)) and len(shape) == 2:
        hint = f'; if it is meant to be transposed, declare Transpose(r"^{re.escape(name)}$")'
    return f"{name} {shape} does not fit the port's {tensor.name}, which takes {expected}{hint}"


def translate(point: str, rules: Sequence[Rule], *, modules: bool) -> str:
    """A reference point's name in the port's spelling.

    Args:
        point: its name.
        rules: of the case.
        modules: whether names without a slash are those of modules, and not of tensors.
    """
    head, slash, tail = point.rpartition("/")
    kind = head.rpartition("/")[2]
    if kind in ("output", "loss", "schedule") or re.match(r"input\.\d+$|losses\.", tail):
        return point
    path, at, repeat = tail.partition("@")
    if kind == "dropout" or (modules and not kind):
        return f"{head}{slash}{rename_module(path, rules)}{at}{repeat}"
    owner, _, last = path.rpartition(".")
    if not kind and last == "output":
        return f"{rename_module(owner, rules)}.output{at}{repeat}"
    if kind == "optimizer":
        return f"{head}{slash}{rename(owner, rules)}.{last}"
    return f"{head}{slash}{rename(path, rules)}"
