"""Which module of a reference is which of its port: a proposal for a case's Rename rules, and what it leaves open.

Two subtrees can be one another if they hold the same tensors under the same names, in modules of the same types. They
are taken to be if neither has a second candidate, in the whole model or in the innermost module that both sides have.
Everything else is said to be open, with what its order suggests; it is never decided here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from parity.case import Rename
from parity.weights import rename, rename_module

Shape = tuple  # of numbers


@dataclass(frozen=True)
class Modules:
    """A model's leaves and tensors, in torch's spelling.

    Attributes:
        types: leaf path -> class name.
        shapes: tensor name -> shape, in order.
    """

    types: Mapping[str, str]
    shapes: Mapping[str, Shape]

    def paths(self) -> list[str]:
        """Every path that holds a leaf or a tensor, containers before what they contain, in order of definition."""
        found: dict[str, None] = {}
        for name in [*(f"{path}." for path in self.types), *self.shapes]:
            parts = name.split(".")[:-1]
            for end in range(1, len(parts) + 1):
                found.setdefault(".".join(parts[:end]))
        return list(found)

    def below(self, path: str) -> tuple[tuple[str, str, Shape], ...]:
        """What a subtree holds: (name inside it, "type" or "tensor", what), sorted."""
        leaves = [(_inside(name, path), "type", (_kind(kind),)) for name, kind in self.types.items()]
        tensors = [(_inside(name, path), "tensor", tuple(shape)) for name, shape in self.shapes.items()]
        return tuple(sorted(entry for entry in leaves + tensors if entry[0] is not None))


@dataclass
class Proposal:
    """What can be said about how the names carry over.

    Attributes:
        rules: that follow.
        reasons: of each rule, in words.
        open: groups of subtrees that could be one another: (reference's paths, port's paths).
        other_type: leaves of the same name and tensors, but of other types: (name, the reference's type, the port's).
        reference_only: tensors and leaves of the reference without any candidate.
        port_only: likewise of the port.
        same: number of leaves and tensors whose names agree as they are.
    """

    rules: list[Rename] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    open: list[tuple[list[str], list[str]]] = field(default_factory=list)
    other_type: list[tuple[str, str, str]] = field(default_factory=list)
    reference_only: list[str] = field(default_factory=list)
    port_only: list[str] = field(default_factory=list)
    same: int = 0

    @property
    def still_open(self) -> int:
        """Number of questions that it leaves."""
        return len(self.open) + len(self.other_type) + len(self.reference_only) + len(self.port_only)


def propose(reference: Modules, port: Modules) -> Proposal:
    """Matches two models.

    Args:
        reference: names as they are.
        port: names in torch's spelling.
    """
    proposal = Proposal()
    theirs, own = _by_content(reference), _by_content(port)
    shared = set(reference.paths()) & set(port.paths())
    done_theirs, done_own = set(), set()
    for path in _outermost_same(reference, port):
        done_theirs.add(path), done_own.add(path)
        proposal.same += len(reference.below(path))
    for content in sorted(theirs, key=lambda c: -len(c)):
        left = [p for p in theirs[content] if not _covered(p, done_theirs)]
        right = [p for p in own.get(content, []) if not _covered(p, done_own)]
        if not left or not right:
            continue
        done_theirs.update(left), done_own.update(right)
        for one, other, home in _pairs(left, right, shared):
            _add_rule(proposal, one, other, content, home)
            left.remove(one), right.remove(other)
        if left and right:
            proposal.open.append((left, right))
        elif left or right:
            done_theirs.difference_update(left), done_own.difference_update(right)
    _compare_the_rest(proposal, reference, port, done_theirs, done_own)
    _check_order(proposal, reference)
    return proposal


def _pairs(left: Sequence[str], right: Sequence[str], shared: set[str]) -> list[tuple[str, str, str]]:
    """Those of two lists of subtrees alike that can only be one another: (reference's, port's, module inside which).

    Args:
        left: paths in the reference.
        right: paths in the port.
        shared: paths that both models have.
    """
    if len(left) == len(right) == 1:
        return [(left[0], right[0], "")]

    def home(path: str) -> str:
        parts = path.split(".")[:-1]
        return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in shared), "")

    pairs = []
    for where in dict.fromkeys(home(path) for path in left):
        ours, others = ([path for path in paths if home(path) == where] for paths in (left, right))
        if where and len(ours) == len(others) == 1:
            pairs.append((ours[0], others[0], where))
    return pairs


def _add_rule(proposal: Proposal, left: str, right: str, content: Sequence[tuple], home: str) -> None:
    kinds = [what[0] for _, kind, what in content if kind == "type"]
    tensors = len(content) - len(kinds)
    what = f"{len(kinds)} layers with {tensors} tensors: the only ones of these types and shapes"
    if len(kinds) == 1:
        what = f"the only {kinds[0]}{' of these shapes' if tensors else ''}"
    proposal.rules.append(Rename(f"^{re.escape(left)}\\.", f"{right}."))
    proposal.reasons.append(what + (f" in {home}" if home else ""))


def _check_order(proposal: Proposal, reference: Modules) -> None:
    """Rules are applied one after the other: one that would take up another's result is put before it, or left open."""
    wanted = {}
    for rule in proposal.rules:
        for path in reference.paths():
            if re.search(rule.pattern, f"{path}."):
                wanted[path] = re.sub(rule.pattern, rule.replacement, f"{path}.")[:-1]
    order = sorted(range(len(proposal.rules)), key=lambda i: -proposal.rules[i].pattern.count("."))
    for candidate in (range(len(proposal.rules)), order, list(reversed(order))):
        rules = [proposal.rules[i] for i in candidate]
        if all(rename_module(path, rules) == target for path, target in wanted.items()):
            proposal.reasons = [proposal.reasons[i] for i in candidate]
            proposal.rules = rules
            return
    kept: list[Rename] = []
    reasons: list[str] = []
    for rule, reason in zip(proposal.rules, proposal.reasons):
        trial = [*kept, rule]
        if all(
            rename_module(p, trial) == t for p, t in wanted.items() if any(re.search(r.pattern, f"{p}.") for r in trial)
        ):
            kept, reasons = trial, [*reasons, reason]
        else:
            source = rule.pattern[1:-2].replace("\\", "")
            proposal.open.append(([source], [rule.replacement[:-1]]))
    proposal.rules, proposal.reasons = kept, reasons


def _outermost_same(reference: Modules, port: Modules) -> list[str]:
    """Paths whose subtrees are the same on both sides, without those inside them."""
    both = [path for path in reference.paths() if reference.below(path) and reference.below(path) == port.below(path)]
    return [path for path in both if not _inside_any(path, set(both) - {path})]


def _by_content(modules: Modules) -> dict[tuple, list[str]]:
    found: dict[tuple, list[str]] = {}
    for path in modules.paths():
        content = modules.below(path)
        if content:
            found.setdefault(content, []).append(path)
    return found


def _covered(path: str, done: set) -> bool:
    """Whether a subtree lies in one of others, or one of them in it."""
    return any(path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.") for other in done)


def _compare_the_rest(proposal: Proposal, reference: Modules, port: Modules, done: set, done_own: set) -> None:
    """Fills in what agrees by name alone, and what one side has only."""
    rest, own = _rest(reference, done), _rest(port, done_own)
    same = {name for name in rest.shapes if own.shapes.get(name) == rest.shapes[name]}
    proposal.same += len(same)
    for path in rest.types:
        held = {name for name in rest.shapes if name.rpartition(".")[0] == path}
        if path in own.types and held and held <= same:
            proposal.other_type.append((path, rest.types[path], own.types[path]))
    known = {path for path, _, _ in proposal.other_type}
    proposal.reference_only, proposal.port_only = (_said(side, same, known) for side in (rest, own))


def _rest(modules: Modules, done: set) -> Modules:
    """Leaves and tensors that are in no subtree that is done."""
    types = {path: kind for path, kind in modules.types.items() if not _inside_any(path, done)}
    shapes = modules.shapes.items()
    return Modules(types, {n: tuple(shape) for n, shape in shapes if not _inside_any(n.rpartition(".")[0], done)})


def _said(rest: Modules, same: set, known: set) -> list[str]:
    names = []
    for path, kind in rest.types.items():
        held = ", ".join(name[len(path) + 1 :] for name in rest.shapes if name.rpartition(".")[0] == path)
        names += [f"{path} ({kind}{': ' if held else ''}{held})"] if path not in known else []
    return names + [
        f"{name} {shape}"
        for name, shape in rest.shapes.items()
        if name not in same and name.rpartition(".")[0] not in rest.types
    ]


def _inside_any(path: str, done: set) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in done)


def _inside(name: str, path: str) -> str | None:
    if name == path:
        return ""
    return name[len(path) + 1 :] if name.startswith(f"{path}.") else None


def _kind(name: str) -> str:
    """A class's name as both frameworks would spell it."""
    name = re.sub(r"^conv(\d)dtranspose$", r"convtranspose\1d", name.lower())
    return {"nondynamicallyquantizablelinear": "linear"}.get(name, name)  # torch's, of attentions


def unmatched(proposal: Proposal, reference: Modules, port: Modules) -> list[str]:
    """Tensors of the reference that the rules do not carry to one of the port's of the same shape."""
    return [
        name
        for name, shape in reference.shapes.items()
        if port.shapes.get(rename(name, proposal.rules)) != tuple(shape)
    ]


def source(name: str, module: str, proposal: Proposal, left: Sequence[str]) -> str:
    """The text of a case with a proposal, and with all that is open as comments.

    Args:
        name: of the case.
        module: that has `reference` and `port`.
        proposal: how names carry over.
        left: tensors that do not carry over yet.
    """
    lines = []
    for rule, reason in zip(proposal.rules, proposal.reasons):
        lines.append(f"# {reason}")
        lines.append(f'Rename(r"{rule.pattern}", "{rule.replacement}"),')
    for theirs, own in proposal.open:
        lines.append("# CHECK: these could be one another; in this order? Then remove the # of each line:")
        if len(theirs) != len(own):
            lines[-1] = f"# CHECK: {len(theirs)} of the reference, {len(own)} of the port; which is which?"
        for index in range(max(len(theirs), len(own))):
            one = theirs[index] if index < len(theirs) else "?"
            other = own[index] if index < len(own) else "?"
            lines.append(f'# Rename(r"^{re.escape(one) if one != "?" else one}\\.", "{other}."),')
    for path, kind, own in proposal.other_type:
        lines.append(f"# CHECK: {path} is a {kind}; in the port, with the same tensors, a {own}")
    for entry in proposal.reference_only:
        path = entry.partition(" ")[0]
        lines.append(f"# CHECK: only the reference has {entry}; another name in the port: Rename; not needed there:")
        lines.append(f'# Drop(r"^{re.escape(path)}", reason="why"),')
    for entry in proposal.port_only:
        lines.append(f"# CHECK: only the port has {entry}")
    status = "every tensor carries over" if not left else f"{len(left)} tensors do not carry over yet"
    body = "".join(f"        {line}\n" for line in lines)
    weights = f"    weights=(\n{body}    ),\n" if lines else ""
    used = ["Case"] + (["Drop"] if proposal.reference_only else []) + (["Rename"] if lines else []) + ["inputs"]
    return _CASE.format(name=name, module=module, status=status, imports=", ".join(used), weights=weights)


_CASE = '''"""The case {name}, begun by `python -m parity init`: {status}. Look through the lines with CHECK."""

from {module} import port, reference

from parity import {imports}  # noqa: F401

CASE = Case(
    name="{name}",
    reference=reference,
    port=port,
    inputs={{"image": inputs.image(4)}},  # CHECK: (4, 3, H, W); anything with make(name, size, seed) does as well
    size=(65, 97),
{weights})
'''

MODELS = '''"""The two models of {name}; then run `python -m parity init {path}` again."""


def reference():
    """The original, with the settings to compare."""
    import torch

    return torch.nn.Conv2d(3, 8, 3)


def port():
    """The port, with the same settings."""
    import paddle

    return paddle.nn.Conv2D(3, 8, 3)
'''
