"""Which module of a reference is which of its port: a proposal for a case's Rename rules, and what it leaves open.

Two subtrees can be one another if they hold the same tensors under the same names, in modules of the same types. They
are taken to be if neither has a second candidate. Everything else is said to be open, with what its order suggests; it
is never decided here.
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
        reference_only: tensors and leaves of the reference without any candidate.
        port_only: likewise of the port.
        same: number of leaves and tensors whose names agree as they are.
    """

    rules: list[Rename] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    open: list[tuple[list[str], list[str]]] = field(default_factory=list)
    reference_only: list[str] = field(default_factory=list)
    port_only: list[str] = field(default_factory=list)
    same: int = 0


def propose(reference: Modules, port: Modules) -> Proposal:
    """Matches two models.

    Args:
        reference: names as they are.
        port: names in torch's spelling.
    """
    proposal = Proposal()
    theirs, own = _by_content(reference), _by_content(port)
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
        if len(left) == len(right) == 1:
            _add_rule(proposal, left[0], right[0], content)
        else:
            proposal.open.append((left, right))
    proposal.reference_only = _rest(reference, done_theirs)
    proposal.port_only = _rest(port, done_own)
    _check_order(proposal, reference)
    return proposal


def _add_rule(proposal: Proposal, left: str, right: str, content: Sequence[tuple]) -> None:
    tensors = sum(kind == "tensor" for _, kind, _ in content)
    leaves = len(content) - tensors
    what = f"{tensors} tensors" if leaves <= 1 else f"{leaves} layers with {tensors} tensors"
    proposal.rules.append(Rename(f"^{re.escape(left)}\\.", f"{right}."))
    proposal.reasons.append(f"{what}: the only ones of these types and shapes" if content else "")


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


def _rest(modules: Modules, done: set) -> list[str]:
    names = [f"{path} ({kind})" for path, kind in modules.types.items() if not _inside_any(path, done)]
    owners = {path for path in modules.types if not _inside_any(path, done)}
    names += [
        f"{name} {tuple(shape)}"
        for name, shape in modules.shapes.items()
        if name.rpartition(".")[0] not in owners and not _inside_any(name.rpartition(".")[0], done)
    ]
    return names


def _inside_any(path: str, done: set) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in done)


def _inside(name: str, path: str) -> str | None:
    if name == path:
        return ""
    return name[len(path) + 1 :] if name.startswith(f"{path}.") else None


def _kind(name: str) -> str:
    """A class's name as both frameworks would spell it."""
    return {"nondynamicallyquantizablelinear": "linear"}.get(name.lower(), name.lower())  # torch's, of attentions


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
