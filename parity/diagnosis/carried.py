"""Why weights do not carry over: the rule that is missing, to paste into the case."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity import matching
from parity.case import Drop
from parity.compare import Finding
from parity.diagnosis import leaf
from parity.matching import Modules
from parity.weights import rename, rename_module

Arrays = Mapping[str, np.ndarray]


def explain(finding: Finding, plan: Any, expected: Arrays, actual: Arrays) -> str:
    """The cause of a tensor that the port holds with another value, in one sentence.

    Args:
        finding: the first divergence; its point is `weights/<reference name>`.
        plan: how the tensors move.
        expected: what the port should hold, in its own names.
        actual: what it holds.
    """
    name = finding.point.partition("/")[2]
    move = next((m for m in plan.moves if m.reference == name), None)
    if move is None:
        return ""
    wrong = [m for m in plan.moves if not np.array_equal(expected[m.port], actual[m.port])]
    said = leaf.origin(np.asarray(actual[move.port]), move.port, expected)
    again = _initialised_again(plan, wrong, expected)
    return f"{move.port} {said}{_rule(move, wrong, expected, actual)}; {len(wrong)} tensors differ after loading{again}"


def _initialised_again(plan: Any, wrong: Sequence[Any], expected: Arrays) -> str:
    """Whether what differs is what an initialisation sets: most weights, and neither biases nor norms."""
    weights = [move for move in plan.moves if expected[move.port].ndim >= 2]
    if len(wrong) < 3 or 2 * len(wrong) < len(weights) or any(expected[move.port].ndim < 2 for move in wrong):
        return ""
    return f" ({len(weights)} weights in all), no bias and no norm: they look initialised after they were loaded"


def _rule(move: Any, wrong: list[Any], expected: Arrays, actual: Arrays) -> str:
    value = actual[move.port]
    source = next((m for m in wrong if m is not move and np.array_equal(expected[m.port], value)), None)
    if source is not None:
        one, other = (re.escape(m.reference) for m in (source, move))
        return f'; if that is meant: Rename(r"^{one}$", "{move.port}"), and one for {other}'
    own = expected[move.port]
    if own.ndim == 2 and own.shape[0] == own.shape[1] and np.array_equal(own.T, value):
        return f'; if that is meant: Transpose(r"^{re.escape(move.reference)}$")'
    return ""


def explain_plan(text: str, reference: Any, port: Any, rules: Sequence[Any] = ()) -> str:
    """Why tensors do not carry over: what the rules do, what a layer has or has not, or the rules that are missing.

    Args:
        text: the message of the plan.
        reference: the torch side.
        port: the Paddle side.
        rules: of the case.
    """
    own = {tensor.torch_name: tuple(tensor.shape) for tensor in port.tensors()}
    dropped = [rule.pattern for rule in rules if isinstance(rule, Drop)]
    theirs: dict[str, tuple[int, ...]] = {}
    for name, shape in reference.shapes().items():
        if name in reference.framework_only() or any(re.search(pattern, name) for pattern in dropped):
            continue
        target = rename(name, rules)
        if target in theirs:
            return f"the rules rename two tensors to {target}, {name} and another: one pattern matches too much"
        theirs[target] = tuple(shape)
    found = _of_layers(theirs, own)
    if found:
        return found
    types = {rename_module(path, rules): kind for path, kind in reference.module_types().items() if path}
    own_types = {path: kind for path, kind in port.module_types().items() if path}
    return _missing_rules(Modules(types, theirs), Modules(own_types, own)) or _of_rules(text, theirs, own)


def _of_layers(theirs: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]) -> str:
    """What two layers of one name do not have in common."""
    for name, shape in own.items():
        if name.endswith(".bias") and name not in theirs and f"{name[:-5]}.weight" in theirs:
            return f"the port's {name[:-5]} has a bias, the reference's has none (bias_attr=False)"
        other = theirs.get(name)
        if other and len(shape) == 4 and other != shape and shape[0] == other[0] and shape[2:] == other[2:]:
            return (
                f"{name} is {shape}, reference {other}: the layer has other groups (depthwise or dense), or other input"
                " channels"
            )
    for name in theirs:
        if name.endswith(".bias") and name not in own and f"{name[:-5]}.weight" in own:
            return f"the port's {name[:-5]} has no bias, the reference's has one"
    for name, shape in theirs.items():
        if own.get(name, shape) != shape:
            return f"{name} is {own[name]}, reference {shape}: the layer has another size"
    return ""


def _missing_rules(theirs: Modules, own: Modules) -> str:
    """The rules to paste, which follow from names, types and shapes; and what has to be decided."""
    if set(theirs.shapes) == set(own.shapes):
        return ""
    proposal = matching.propose(theirs, own)
    said = []
    if proposal.rules:
        shown = ", ".join(f'Rename(r"{rule.pattern}", "{rule.replacement}")' for rule in proposal.rules[:6])
        more = len(proposal.rules) - 6
        said.append(
            f"add at the end of the rules: {shown}" + (f" and {more} more (python -m parity init)" * (more > 0))
        )
    for one, other in proposal.open[:3]:
        said.append(f"{_some(one)} could each be any of {_some(other)} in the port: add the Renames that are right")
    left = [name for name in matching.unmatched(proposal, theirs, own) if not _is_open(name, proposal.open, 0)]
    held = {rename(name, proposal.rules) for name in theirs.shapes}
    extra = [name for name in own.shapes if name not in held and not _is_open(name, proposal.open, 1)]
    if left:
        pattern = re.escape(left[0])
        said.append(
            f"only the reference has {_some(left)}: if the port does without, Drop(r"
            f'"^{pattern}$", reason="..."); if it is there under another name, Rename; a plain attribute is no buffer'
        )
    if extra:
        said.append(f"only the port has {_some(extra)}")
    return "; ".join(said)


def _is_open(name: str, questions: Sequence[tuple[list[str], list[str]]], side: int) -> bool:
    return any(name.startswith(f"{path}.") for question in questions for path in question[side])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _of_rules(text: str, theirs: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]) -> str:
    """What is wrong when names and shapes agree."""
    if dict(theirs) != dict(own):
        return ""
    if "without the Transpose rule" in text:
        return "names and shapes agree without the Transpose rule: a linear layer's weight is transposed by its type"
    return "every tensor carries over, but a rule matches nothing: its pattern is wrong, or it is not needed"
