"""Why an optimizer's step differs: each side's accumulators and updates are fitted against its gradient and parameter.

    velocity = c * g + d * p          c: clipping or scaling, d: weight decay        (first step)
    moment1  = (1 - beta1) * (c * g + d * p), moment2 = (1 - beta2) * (c * g + d * p)^2
    update   = -rate * (velocity, or moment1' / (sqrt(moment2') + epsilon)) - rate * decoupled decay * p

where g is the gradient, p the parameter before the step, and ' the correction of the first step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.diagnosis import values

Arrays = Mapping[str, np.ndarray]
SAMPLES = 4096  # elements that a fit looks at
TINY = 1e-9  # share of the gradient in a moment below which there is none
FITS = 1e-6  # residual over rms below which a fit is believed; rates and decays are float32 in Paddle


@dataclass(frozen=True)
class Rule:
    """How a parameter is updated, as read from its first step.

    Attributes:
        scale: of the gradient; 1 if nothing clips it.
        decay: added to the gradient, times the parameter.
        beta1: of Adam, or None.
        beta2: of Adam, or None.
        limit: to which each element of the gradient is clipped, or None.
        gains: 1 - beta1 and 1 - beta2, with all their digits where the betas are next to 1; or None.
        epsilon: of Adam, or None.
        decoupled: weight decay beside Adam's quotient (AdamW).
        boost: the update over rate * velocity: 1 + momentum for Nesterov's, else 1; None if no multiple.
    """

    scale: float
    decay: float
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None
    decoupled: float = 0.0
    boost: float | None = None
    gains: tuple[float, float] | None = None
    limit: float | None = None


def fit(target: np.ndarray, parts: Sequence[np.ndarray]) -> tuple[list[float], float]:
    """(coefficients, residual over rms) of the least-squares fit of a tensor by a sum of others."""
    every = -(-target.size // SAMPLES)
    target = target.ravel()[::every]
    columns = np.stack([part.ravel()[::every] for part in parts], axis=1).astype(np.float64)
    scales = np.sqrt((columns**2).mean(axis=0))
    scales[scales == 0] = 1.0
    solution, *_ = np.linalg.lstsq(columns / scales, target.astype(np.float64), rcond=1e-13)
    residual = target - columns @ (solution / scales)
    rms = float(np.sqrt(np.mean(np.square(target)))) or 1.0
    return [float(value) for value in solution / scales], float(np.sqrt(np.mean(residual**2))) / rms


def read(name: str, step: Arrays, gradient: np.ndarray, before: np.ndarray) -> Rule | None:
    """The rule that a parameter's first step follows; None if no rule fits.

    Args:
        name: of the parameter.
        step: the points of the step, `<kind>/<name>`.
        gradient: of the parameter.
        before: the parameter before the step.
    """
    rate = float(step.get(f"learning_rate/{name}", 0.0))
    update = step.get(f"update/{name}")
    parts = [gradient, before] if before.size > 2 else [gradient]
    moment = step.get(f"optimizer/{name}.moment1")
    if moment is not None:
        return _read_adam(name, step, moment, parts, rate)
    velocity = step.get(f"optimizer/{name}.velocity")
    if velocity is None:
        if update is None or not rate:
            return None
        velocity = update / -rate
    numbers, residual = fit(velocity, parts)
    if residual > FITS:
        limit = float(np.abs(velocity).max())
        clipped = values.same(np.clip(gradient, -limit, limit), velocity)
        return Rule(1.0, 0.0, limit=limit) if clipped else None
    boost = values.ratio(velocity * -rate, update) if update is not None and rate else None
    return Rule(numbers[0], numbers[1] if len(numbers) > 1 else 0.0, boost=1.0 if boost is None else boost)


def _read_adam(name: str, step: Arrays, moment: np.ndarray, parts: Sequence[np.ndarray], rate: float) -> Rule | None:
    numbers, residual = fit(moment, parts)
    if residual > FITS or abs(numbers[0]) < TINY:  # nothing is learnt of a gradient that is 0
        return None
    first, decay = numbers[0], numbers[1] / numbers[0] if len(numbers) > 1 else 0.0
    square, update = step.get(f"optimizer/{name}.moment2"), step.get(f"update/{name}")
    if square is None or update is None:  # Adamax keeps another norm
        return Rule(1.0, decay, 1.0 - first)
    corrected = moment / first
    (second, *_), misfit = fit(square, [corrected**2])
    if misfit > FITS or second <= 0.0:
        return Rule(1.0, decay, 1.0 - first)
    rule = Rule(1.0, decay, 1.0 - first, 1.0 - second, gains=(first, second))
    if not rate:
        return rule
    epsilon, decoupled = _epsilon(update / -rate, corrected, np.sqrt(square / second), parts[1:])
    return replace(rule, epsilon=epsilon, decoupled=decoupled)


def _epsilon(
    update: np.ndarray, mean: np.ndarray, root: np.ndarray, decaying: Sequence[np.ndarray]
) -> tuple[float | None, float]:
    """(epsilon, decoupled decay) of update = mean / (root + epsilon) + decay * what decays, if anything does.

    Of what rounding leaves open there is None, or no decay.
    """
    told = _telling(root)
    update, mean, root, *decaying = (value.ravel()[told] for value in (update, mean, root, *decaying))
    if not update.size or not decaying:
        return (_epsilon_beside(update, mean, root) if update.size else None), 0.0
    (before,) = decaying
    epsilon, decoupled = _epsilon_beside(update, mean, root), 0.0
    plain = _rest(update, mean, root, epsilon)
    large = root >= np.median(root)  # epsilon shows least there
    for _ in range(20):  # each is found with the other held; both are small
        last = decoupled
        decoupled = fit(_rest(update, mean, root, epsilon)[large], [before[large]])[0][0]
        epsilon = _epsilon_beside(update - decoupled * before, mean, root)
        if abs(decoupled - last) <= 1e-12:
            break
    left = _rest(update - decoupled * before, mean, root, epsilon)
    if np.abs(left).max() > 0.1 * np.abs(plain).max():
        return _epsilon_beside(update, mean, root), 0.0
    return epsilon, decoupled


def _rest(update: np.ndarray, mean: np.ndarray, root: np.ndarray, epsilon: float | None) -> np.ndarray:
    """What Adam's quotient leaves of an update over its rate."""
    return update - mean / (root + (epsilon or 0.0))


def _epsilon_beside(update: np.ndarray, mean: np.ndarray, root: np.ndarray) -> float | None:
    """The epsilon of update = mean / (root + epsilon); None if it does not show."""
    usable = np.abs(update) > 1e-3
    if not usable.any():
        return None
    smallest = np.argsort(root[usable])[: max(1, usable.sum() // 4)]
    found = (mean[usable] / update[usable] - root[usable])[smallest]
    epsilon = float(np.median(found))
    spread = float(np.median(np.abs(found - epsilon)))
    return epsilon if epsilon > 0.0 and spread <= 0.1 * epsilon else None


def _telling(root: np.ndarray) -> np.ndarray:
    """Indices of elements that learn: those with the smallest roots, beside which epsilon shows, and some of all."""
    learnt = np.flatnonzero(root > 0)
    if learnt.size <= 2 * SAMPLES:
        return learnt
    small = learnt[np.argpartition(root.ravel()[learnt], SAMPLES)[:SAMPLES]]
    return np.union1d(small, learnt[:: -(-learnt.size // SAMPLES)])


_NAMES = {
    "decay": "weight decay",
    "beta1": "Adam's beta1",
    "beta2": "Adam's beta2",
    "epsilon": "Adam's epsilon",
    "decoupled": "decoupled weight decay (AdamW's)",
}


def compare_rules(ours: Mapping[str, Rule | None], theirs: Mapping[str, Rule | None]) -> str:
    """What distinguishes the rules of two sides, and for which parameters; "" if they agree.

    It is what differs alike in the most parameters: where a gradient is made of rounding, or next to nothing beside the
    decay, single ones may seem to differ in anything.
    """
    ours = {name: _scaled(own, theirs.get(name)) for name, own in ours.items()}
    limited = _limited(ours, theirs)
    if limited:
        return limited
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for field in ("scale", "decay", "decoupled", "beta1", "beta2", "epsilon", "boost"):
        for name, rule in theirs.items():
            own = ours.get(name)
            if own is None or rule is None:
                continue
            one, other = getattr(own, field), getattr(rule, field)
            if one is not None and other is not None and not _equal(field, one, other):
                found.setdefault(field, {})[name] = (_rounded(field, one), _rounded(field, other))
    if not found:
        return ""
    moved = _decoupled(found, len(theirs))
    if moved:
        return moved
    field = max(found, key=lambda name: Counter(found[name].values()).most_common(1)[0][1])
    return _told(field, found[field], len(theirs))


def _limited(ours: Mapping[str, Rule | None], theirs: Mapping[str, Rule | None]) -> str:
    """A sentence if one side clips the elements of gradients, and the other does not, or to another number."""
    own, other = ({rule.limit for rule in rules.values() if rule and rule.limit} for rules in (ours, theirs))
    own, other = ({float(f"{limit:.6g}") for limit in limits} for limits in (own, other))
    if own == other or len(own) > 1 or len(other) > 1:
        return ""
    told = [f"clips each element of a gradient to {min(known):.4g}" if known else "does not" for known in (own, other)]
    return f"the port {told[0]}, the reference {told[1]} (fitted to the first step)"


def explain_clip(ours: Mapping[str, Rule | None], theirs: Mapping[str, Rule | None], norm: float) -> str:
    """Whether gradients that are clipped to one norm differ by the 1e-6 that torch adds to it before it divides.

    Args:
        ours: the port's rules.
        theirs: the reference's.
        norm: of all gradients.
    """
    pairs = [(rule, theirs.get(name)) for name, rule in ours.items()]
    found = [rule.scale / other.scale - 1.0 for rule, other in pairs if rule and other and 0.0 < other.scale < 1.0]
    if not found or not norm or len(found) < len(pairs):
        return ""
    if max(abs(excess * norm / 1e-6 - 1.0) for excess in found) > 1e-2:
        return ""
    return (
        f"both sides clip all gradients to one norm, and the port's are {found[0]:.2g} of the reference's larger: torch"
        f" divides by the norm + 1e-6 (here {norm:.4g}), Paddle by the norm"
    )


def _decoupled(found: Mapping[str, Mapping[str, tuple[float, float]]], total: int) -> str:
    """A sentence if one side adds the decay to the gradient (Adam with L2) and the other decouples it (AdamW)."""
    added, beside = found.get("decay", {}), found.get("decoupled", {})
    kinds: dict[tuple[str, float, float], list[str]] = {}
    for name in set(added) & set(beside):
        (one, other), (own, theirs) = added[name], beside[name]
        if (one, theirs) == (0.0, 0.0) and other and own:
            kinds.setdefault(("port", own, other), []).append(name)
        elif (other, own) == (0.0, 0.0) and one and theirs:
            kinds.setdefault(("reference", theirs, one), []).append(name)
    if not kinds:
        return ""
    (side, number, another), names = max(kinds.items(), key=lambda pair: len(pair[1]))
    plain = {"port": "reference", "reference": "port"}[side]
    return (
        f"the {side}'s weight decay {number:.4g} is decoupled (AdamW's), the {plain}'s {another:.4g} is added to the"
        f" gradient (Adam with L2), of {group_of(sorted(names), total)} (fitted to the first step)"
    )


def _scaled(own: Rule | None, other: Rule | None) -> Rule | None:
    """Adam's rule with the reference's betas, where both moments are what they make of gradients times a constant."""
    if own is None or other is None or own.gains is None or other.gains is None:
        return own
    first, second = (mine / theirs for mine, theirs in zip(own.gains, other.gains))
    if abs(first - 1.0) <= 1e-6 or abs(second / first**2 - 1.0) > 1e-6:
        return own
    return replace(own, scale=first, beta1=other.beta1, beta2=other.beta2, epsilon=None)


def _equal(field: str, one: float, other: float) -> bool:
    slack = {"decay": 1e-6, "decoupled": 1e-6, "epsilon": 0.02 * max(abs(one), abs(other))}.get(field, 1e-6)
    return abs(one - other) <= slack


def _rounded(field: str, value: float) -> float:
    return 0.0 if field in ("decay", "decoupled") and abs(value) < 2e-7 else float(f"{value:.4g}")


def _told(field: str, pairs: Mapping[str, tuple[float, float]], total: int) -> str:
    (one, other), _ = Counter(pairs.values()).most_common(1)[0]
    names = [name for name, pair in pairs.items() if pair == (one, other)]
    whom = group_of(names, total)
    if field == "scale":
        return (
            f"the optimizer gets gradients that are {one / other:.4g} times the reference's, of {whom}: they are"
            " clipped or scaled on one side"
        )
    if field == "boost":
        high, low = max(one, other), min(one, other)
        larger, smaller = ("port", "reference") if one > other else ("reference", "port")
        why = f"the {larger}'s momentum is Nesterov's"
        if low != 1 or high >= 2:  # Nesterov's is 1 + momentum
            why = f"the {larger} takes its step with another rate than it names afterwards, or applies a factor twice"
        times = f"{high:.4g} times rate * velocity, the {smaller}'s {low:.4g} times"
        return f"the {larger}'s update is {times}, of {whom}: {why}"
    return f"{_NAMES[field]} {one:.4g}, reference {other:.4g}, of {whom} (fitted to the first step)"


def group_of(names: Sequence[str], total: int) -> str:
    """How many parameters these are, an example, and what they have in common."""
    if len(names) == total:
        return f"all {total} parameters"
    kinds = Counter(name.rpartition(".")[2] for name in names)
    kind = f", all {next(iter(kinds))}" if len(kinds) == 1 and len(names) > 1 else ""
    heads = Counter(name.split(".")[0] for name in names)
    where = f" under {', '.join(list(heads)[:3])}" if len(names) > 1 else ""
    return f"{len(names)} of {total} parameters such as {names[0]}{where}{kind}"


def compare_momentum(
    step: tuple[Arrays, Arrays], before: tuple[Arrays, Arrays], names: Sequence[str], known: float | None
) -> str:
    """Whether another momentum explains the velocities of a later step.

    Both sides have the same gradients and parameters until here, so that what differs is a multiple of the velocity of
    the step before.

    Args:
        step: points of the step, (reference, port).
        before: of the step before.
        names: of the parameters.
        known: the reference's momentum, if its optimizer could be asked.
    """
    found, differing = [], Counter()
    for name in names:
        for accumulator in ("velocity", "moment1", "moment2"):
            point = f"optimizer/{name}.{accumulator}"
            if point in step[0] and point in step[1] and point in before[0]:
                difference = step[1][point] - step[0][point]
                differing[accumulator] += bool(difference.any())
                numbers, residual = fit(difference, [before[0][point]])
                if residual <= 1e-4 and abs(numbers[0]) > 1e-7:
                    found.append((accumulator, round(numbers[0], 6)))
    if not found:
        return ""
    (accumulator, change), count = Counter(found).most_common(1)[0]
    if abs(change - 1.0) < 1e-3 and accumulator != "moment2":
        return f"the gradient of the step before is added once more, in {count} parameters: it is not cleared"
    if 2 * count < differing[accumulator]:
        return ""
    what = {"velocity": "momentum", "moment1": "Adam's beta1", "moment2": "Adam's beta2"}[accumulator]
    said = f"{what} is {change:+.4g} off the reference's"
    if known is not None and accumulator == "velocity":
        said = f"{what} {known + change:.4g}, reference {known:.4g}"
    return f"{said}: the {accumulator} differs by {change:+.4g} times that of the step before, in {count} parameters"
