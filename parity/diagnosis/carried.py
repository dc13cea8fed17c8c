"""Why weights do not carry over: the rule that is missing, to paste into the case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.compare import Finding
from parity.diagnosis import leaf

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
    return f"{move.port} {said}{_rule(move, wrong, expected, actual)}; {len(wrong)} tensors differ after loading"


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


def explain_plan(text: str, reference: Any, port: Any) -> str:
    """What a plan that cannot be made says about the layers: a bias that one side has, or other groups.

    Args:
        text: the message of the plan.
        reference: the torch side.
        port: the Paddle side.
    """
    own = {tensor.torch_name: tuple(tensor.shape) for tensor in port.tensors()}
    theirs = {name: tuple(shape) for name, shape in reference.shapes().items()}
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
    return ""
