"""Where training starts: whether both models draw their initial values from the same distributions. Numpy only.

Two frameworks' generators never give the same numbers, so a tensor's initial values are compared by their digest (see
`traces`). Constants have to be equal. Of drawn values the spread has to agree as far as chance lets it: the logarithm
of the ratio of two sample deviations of n normal numbers has a deviation of 1/sqrt(n), and six of those are allowed.
That tells the defaults of torch and Paddle apart from some fifty elements on, and Kaiming's fan_in from its fan_out
where they differ. Of thousands of elements the largest shows the kind of distribution as well: a uniform one ends at
1.73 deviations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from parity.compare import Finding
from parity.traces import digested
from parity.weights import Plan

Digested = Any  # (shape, digest), as `traces.digested` returns them

DEVIATIONS = 6.0
CONSTANT = 1e-6  # relative: what float32 leaves of a constant
SIGNS = 24  # draws of one sign, after which the other does not occur
UNIFORM, CUT, TAILED = "uniform", "normal, cut at two deviations", "normal"
_ENDS = (
    (2000, 1.95, UNIFORM),
    (10000, 2.4, CUT),
)  # from so many elements on: largest / rms below which it is this kind


@dataclass(frozen=True)
class Start:
    """The initial values of one tensor.

    Attributes:
        shape: as its side lays it out.
        rms: of all elements.
        largest: magnitude.
        samples: some elements.
    """

    shape: tuple[int, ...]
    rms: float
    largest: float
    samples: np.ndarray

    @classmethod
    def of(cls, digested: Digested) -> Start:
        """From shape and digest."""
        shape, numbers = digested
        return cls(tuple(shape), float(numbers[0]), float(numbers[1]), np.asarray(numbers[3:]))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def constant(self) -> bool:
        """Whether all elements are one number."""
        return bool((self.samples == self.samples[0]).all()) and self.largest - self.rms <= CONSTANT * self.largest

    @property
    def kind(self) -> str:
        """Of distribution, as far as its number of elements tells; else ""."""
        end = self.largest / self.rms if self.rms else 0.0
        for least, limit, kind in _ENDS:
            if self.size >= least and end < limit:
                return kind
        return TAILED if self.size >= _ENDS[-1][0] else ""

    @property
    def one_sign(self) -> bool:
        """Whether zero lies beyond all draws."""
        return len(self.samples) >= SIGNS and ((self.samples >= 0).all() or (self.samples <= 0).all())

    def __str__(self) -> str:
        if self.constant:
            return f"all {self.samples[0]:g}"
        if self.kind == UNIFORM:
            return f"uniform within +-{self.largest:.3g}"
        return f"{self.kind or 'drawn'}, deviation {self.rms:.3g}"


def difference(expected: Start, actual: Start) -> str:
    """How two tensors' initial values differ by more than chance; "" if they do not.

    One element that was drawn says nothing, unless the other side's is exactly 0 or 1.
    """
    if not expected.size or not actual.size:
        return ""
    if expected.constant and actual.constant:
        theirs, own = float(expected.samples[0]), float(actual.samples[0])
        drawn = expected.size == 1 and not {theirs, own} & {0.0, 1.0}
        return "" if drawn or abs(own - theirs) <= CONSTANT * abs(theirs) else f"{actual}; reference {expected}"
    alike = expected.constant == actual.constant and expected.one_sign == actual.one_sign
    if alike and expected.kind == actual.kind and _close(actual.rms, expected.rms, expected.size):
        return ""
    return f"{actual}; reference {expected}"


def _close(one: float, other: float, size: int) -> bool:
    return abs(math.log(one / other)) <= DEVIATIONS / math.sqrt(size)


def compare(plan: Plan, reference: Mapping[str, Digested], port: Mapping[str, Digested]) -> list[Finding]:
    """Compares the initial values of every tensor that the plan carries over.

    Args:
        plan: which tensors belong together.
        reference: reference name -> shape and digest.
        port: port name -> likewise.
    """
    findings = []
    for move in plan.moves:
        point = f"initial/{move.port}"
        if move.reference not in reference or move.port not in port:
            side = "reference" if move.reference not in reference else "port"
            findings.append(Finding(point, "missing", np.inf, 0.0, f"the initial values of the {side} are not known"))
            continue
        text = difference(Start.of(reference[move.reference]), Start.of(port[move.port]))
        findings.append(Finding(point, "fail", np.inf, 0.0, text) if text else Finding(point, "pass"))
    return findings


# --- why --------------------------------------------------------------------------------------------------------------

Fans = Callable[[float, float], float]
RULES: tuple[tuple[str, str, Fans], ...] = (  # name, kind, (fan_in, fan_out) -> deviation
    ("torch's default, uniform within 1/sqrt(fan_in)", UNIFORM, lambda i, o: 1 / math.sqrt(3 * i)),
    ("Kaiming normal of fan_in (Paddle's default for convolutions)", TAILED, lambda i, o: math.sqrt(2 / i)),
    ("Kaiming normal of fan_out", TAILED, lambda i, o: math.sqrt(2 / o)),
    ("Xavier uniform (Paddle's default for linear layers)", UNIFORM, lambda i, o: math.sqrt(2 / (i + o))),
    ("Xavier normal", TAILED, lambda i, o: math.sqrt(2 / (i + o))),
    ("Kaiming uniform of fan_in", UNIFORM, lambda i, o: math.sqrt(2 / i)),
    ("uniform within sqrt(3/fan_in)", UNIFORM, lambda i, o: 1 / math.sqrt(i)),
    ("normal of deviation 1/sqrt(fan_in)", TAILED, lambda i, o: 1 / math.sqrt(i)),
    ("normal of deviation 1/sqrt(fan_out)", TAILED, lambda i, o: 1 / math.sqrt(o)),
)


def rule(starts: Sequence[Start], fans: Sequence[tuple[float, float]]) -> str:
    """The rule that all these tensors follow; "" if none that is known does, and for vectors, which tell no fan.

    Args:
        starts: the tensors.
        fans: of each, (fan_in, fan_out).
    """
    if any(len(start.shape) < 2 for start in starts):
        return ""
    for name, kind, deviation in RULES:
        if all(
            not start.constant and start.kind in ("", kind) and _close(start.rms, deviation(*fan), start.size)
            for start, fan in zip(starts, fans)
        ):
            return name
    return ""


def rule_of(values: np.ndarray) -> str:
    """The rule that one tensor, as torch lays it out, looks drawn by; as in `rule`."""
    return rule([Start.of(digested(values))], [fans(values.shape)])


def fans(shape: Sequence[int]) -> tuple[float, float]:
    """(fan_in, fan_out) of a weight as torch lays it out; of a vector, its length twice."""
    if len(shape) < 2:
        return (float(math.prod(shape)) or 1.0,) * 2
    field = math.prod(shape[2:])
    return float(shape[1] * field), float(shape[0] * field)


def explain(
    plan: Plan,
    reference: Mapping[str, Digested],
    port: Mapping[str, Digested],
    kinds: Mapping[str, str],
    differing: Sequence[str],
) -> str:
    """One sentence about the tensors that start otherwise: which, from what, and from what in the reference.

    Args:
        plan: which tensors belong together.
        reference: as in `compare`.
        port: likewise.
        kinds: path of a layer in the port -> its class.
        differing: port names, in order.
    """
    theirs = {move.port: Start.of(reference[move.reference]) for move in plan.moves if move.reference in reference}
    groups: dict[tuple[str, str], list[str]] = {}
    for name in differing:
        if name in theirs and name in port:
            path, _, attribute = name.rpartition(".")
            groups.setdefault((kinds.get(path, ""), attribute), []).append(name)
    said = [_said(kind, attribute, names, theirs, port) for (kind, attribute), names in groups.items()]
    return f"initial values differ: {'. '.join(said)}" if said else ""


def _said(
    kind: str, attribute: str, names: Sequence[str], theirs: Mapping[str, Start], port: Mapping[str, Digested]
) -> str:
    own, expected = [Start.of(port[name]) for name in names], [theirs[name] for name in names]
    sizes = [fans(start.shape) for start in expected]
    path = names[0].rpartition(".")[0]
    whose = names[0] if not path or attribute.isdigit() else f"{attribute} of {path}"  # of the model itself, of a list
    if len(names) > 1:
        of_type = f" of type {kind}" if kind else ""
        whose = f"{attribute} of {len(names)} layers{of_type}, such as {names[0].rpartition('.')[0]}"
    return f"{whose}: {rule(own, sizes) or own[0]}; reference {rule(expected, sizes) or expected[0]}"
