"""Which optimizer each side has, by what it keeps and how it steps, when both are not of one kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from parity.diagnosis import updates, values

Arrays = Mapping[str, np.ndarray]
FORMS = {
    "g / (sqrt({slope:.4g} g^2) + {epsilon:.4g})": 1,
    "g / sqrt({slope:.4g} g^2 + {epsilon:.4g})": 2,
}


def explain(steps: Sequence[tuple[Arrays, Arrays]], gradients: Arrays, before: Arrays) -> str:
    """What distinguishes two kinds of optimizers, in one sentence; "" if they are of one kind.

    Args:
        steps: points of the steps that were taken, (reference, port).
        gradients: of the first step, by parameter.
        before: parameters before it.
    """
    theirs, ours = (_kept(step) for step in steps[0])
    both = tuple(_described(step, gradients, before) for step in steps[0])
    if theirs == ours:
        unequal = theirs or both[0] == both[1] or not all(both)
        return "" if unequal else f"the port's first update is {both[1]}, the reference's {both[0]} (fitted)"
    updated = [(one[n], other[n]) for one, other in steps for n in one if n.startswith("update/") and n in other]
    if updated and all(values.same(*pair) for pair in updated):
        return (
            f"the updates of {len(steps)} steps agree, but the port keeps {_listed(ours)}, the reference"
            f" {_listed(theirs)}: they may only have other names"
        )
    said = [f" and its first update is {text}" if text else "" for text in both]
    return (
        f"the optimizers keep other accumulators: the port's {_listed(ours)}{said[1]}; the reference's"
        f" {_listed(theirs)}{said[0]}"
    )


def _kept(step: Arrays) -> frozenset[str]:
    """The kinds of accumulators of a step."""
    return frozenset(name.rpartition(".")[2] for name in step if name.startswith("optimizer/"))


_KINDS = {
    frozenset(): "none that is known here",
    frozenset({"velocity"}): "a velocity (SGD with momentum)",
    frozenset({"moment1", "moment2"}): "two moments (Adam, AdamW)",
}


def _listed(kept: frozenset[str]) -> str:
    return _KINDS.get(kept, " and ".join(sorted(kept)))


def _described(step: Arrays, gradients: Arrays, before: Arrays) -> str:
    """How a first step without known accumulators follows from the gradient; "" if in no known way."""
    if _kept(step):
        return ""
    found = set()
    for name, gradient in gradients.items():
        rate = float(step.get(f"learning_rate/{name}", 0.0))
        if rate and f"update/{name}" in step and gradient.any() and gradient.size > 2:
            plain = updates.read(name, step, gradient, before[name])
            found.add("rate * gradient (plain SGD)" if plain else _adaptive(step[f"update/{name}"] / -rate, gradient))
    return found.pop() if len(found) == 1 else ""


def _adaptive(update: np.ndarray, gradient: np.ndarray) -> str:
    """The form of an update over its rate that divides the gradient by what the gradient is, as RMSProp does."""
    told = (gradient != 0) & (update != 0)
    if told.sum() < 3 or np.any(gradient[told] * update[told] < 0):
        return ""
    size, quotient = np.abs(gradient[told]), gradient[told] / update[told]
    best = ("", updates.FITS)
    for form, power in FORMS.items():
        parts = [size**power, np.ones_like(size)]
        (slope, epsilon), residual = updates.fit(quotient**power, parts)
        if residual < best[1] and slope > 0.0:
            epsilon = epsilon if epsilon > 0.0 else 0.0
            best = (form.format(slope=slope if power == 2 else slope**2, epsilon=epsilon), residual)
    return f"rate * {best[0]}" if best[0] else ""


def explain_later(steps: Sequence[tuple[Arrays, Arrays]], group: Mapping[str, float]) -> str:
    """Dampening and AMSGrad, which the first step does not show.

    Args:
        steps: points of the steps up to the one that differs, (reference, port).
        group: numbers that the reference's optimizer is set to.
    """
    return _dampening(steps, group) or _amsgrad(steps, group)


def _dampening(steps: Sequence[tuple[Arrays, Arrays]], group: Mapping[str, float]) -> str:
    """From the second step on, the velocity is momentum * the one before + (1 - dampening) * gradient."""
    dampening, momentum = group.get("dampening", 0.0), group.get("momentum", 0.0)
    if len(steps) < 2 or not dampening:
        return ""
    (last, _), (theirs, ours) = steps[-2:]
    names = [name for name in theirs if name.endswith(".velocity") and name in ours and name in last]
    share = 1.0 - dampening
    for name in names:
        numbers, residual = updates.fit(theirs[name], [ours[name], last[name]])
        if residual > updates.FITS or np.abs(np.array(numbers) - [share, momentum - share * momentum]).max() > 1e-6:
            return ""
    return f"the reference's optimizer has dampening {dampening:.4g}, the port's none" if names else ""


def _amsgrad(steps: Sequence[tuple[Arrays, Arrays]], group: Mapping[str, float]) -> str:
    """Whether one side divides by the largest second moment so far."""
    beta1, beta2, epsilon = (group.get(name) for name in ("beta1", "beta2", "eps"))
    if beta1 is None or beta2 is None or epsilon is None:
        return ""
    sides = []
    for side in (0, 1):
        taken, follows = [step[side] for step in steps], set()
        for path in (name.partition("/")[2] for name in taken[-1] if name.startswith("update/")):
            squares = [step.get(f"optimizer/{path}.moment2") for step in taken]
            if any(value is None for value in squares):
                continue
            last, largest = squares[-1], np.max(squares, axis=0)
            mean = taken[-1][f"optimizer/{path}.moment1"] / (1.0 - beta1 ** len(steps))
            rate = float(taken[-1][f"learning_rate/{path}"])
            for kind, square in (("last", last), ("largest", largest)):
                made = -rate * mean / (np.sqrt(square / (1.0 - beta2 ** len(steps))) + epsilon)
                error = np.max(np.abs(made - taken[-1][f"update/{path}"]))
                if error <= 1e-6 * rate and not np.array_equal(last, largest):
                    follows.add(kind)
        sides.append(follows)
    if sorted(map(sorted, sides)) != [["largest"], ["last"]]:
        return ""
    one, other = ("reference", "port") if sides[0] == {"largest"} else ("port", "reference")
    return f"the {one} divides by the largest second moment so far (AMSGrad), the {other} by the last"
