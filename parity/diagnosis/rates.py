"""Why learning rates differ: the schedule (all parameters), or a group's multiplier (some of them)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from parity.diagnosis.updates import group_of

Series = Mapping[int, float]
CLOSE = 1e-9


def explain_groups(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """What the rates of one step say: "" if they agree, or if all are off by one factor, which is the schedule's.

    Args:
        ours: parameter -> rate in the port.
        theirs: in the reference.
    """
    missing, extra = [n for n in theirs if n not in ours], [n for n in ours if n not in theirs]
    if missing or extra:
        side, other, names = ("port", "reference", missing) if missing else ("reference", "port", extra)
        whom = group_of(names, max(len(ours), len(theirs)))
        return f"{whom}: in no group of the {side}'s optimizer, which does not train what the {other}'s does"
    factors = {name: ours[name] / theirs[name] for name in theirs if theirs[name]}
    off = {name: factor for name, factor in factors.items() if abs(factor - 1.0) > CLOSE}
    if not off or (len(off) == len(factors) and max(off.values()) - min(off.values()) <= 1e-9 * max(off.values())):
        return ""
    factor = next(iter(off.values()))
    names = [name for name, value in off.items() if abs(value - factor) <= 1e-6 * abs(factor)]
    return (
        f"the learning rate of {group_of(names, len(factors))} is {factor:.4g} times the reference's, that of the"
        " others agrees: a group's multiplier"
    )


def explain_schedule(ours: Series, theirs: Series, *, iters: int, warmup: int) -> str:
    """Which setting of a schedule differs, in one sentence; "" if the schedules agree or nothing known fits.

    Args:
        ours: iteration -> rate of the port.
        theirs: of the reference, at the same iterations, without gaps where both are asked for.
        iters: length of the run.
        warmup: length of its warm-up.
    """
    common = sorted(set(ours) & set(theirs))
    off = [i for i in common if abs(ours[i] - theirs[i]) > CLOSE * abs(theirs[i])]
    if not off:
        return ""
    return (
        _base(ours, theirs, common)
        or _moved(ours, theirs, common)
        or _no_warmup(ours, theirs, iters, warmup, common)
        or _peaks(ours, theirs, common, off)
        or _held(ours, theirs, common)
        or _warmup(ours, theirs, warmup, off)
        or _decay(ours, theirs, iters, warmup, common)
        or _described(ours, theirs, iters, warmup)
        or f"the schedules differ from iteration {off[0]} on ({ours[off[0]]:.6g}, reference {theirs[off[0]]:.6g})"
    )


def _base(ours: Series, theirs: Series, common: list[int]) -> str:
    factors = [ours[i] / theirs[i] for i in common if theirs[i]]
    if not factors or max(factors) - min(factors) > 1e-9 * max(factors):
        return ""
    return f"the rate is {factors[0]:.6g} times the reference's at every iteration: the base rate"


def _moved(ours: Series, theirs: Series, common: list[int]) -> str:
    for step in (1, -1, 2, -2):
        pairs = [(ours[i], theirs[i + step]) for i in common if i + step in theirs]
        if len(pairs) >= 3 and all(abs(a - b) <= CLOSE * abs(b) for a, b in pairs):
            way = "ahead of" if step > 0 else "behind"
            count = f"{abs(step)} step{'s' if abs(step) > 1 else ''}"
            return f"the schedule is {count} {way} the reference's: its rate at i is the reference's at i{step:+d}"
    return ""


def _no_warmup(ours: Series, theirs: Series, iters: int, warmup: int, common: list[int]) -> str:
    if not warmup or 0 not in ours or ours[0] <= theirs[0]:
        return ""
    start = [i for i in common if i <= warmup]
    if all(ours[a] >= ours[b] for a, b in zip(start, start[1:])):
        return (
            f"the port has no warm-up: it starts at {ours[0]:.6g} and falls, the reference rises from {theirs[0]:.6g}"
            f" in {warmup} iterations"
        )
    return ""


def _peaks(ours: Series, theirs: Series, common: list[int], off: list[int]) -> str:
    """Warm-ups that end at different iterations, after which both schedules agree."""
    own, other = (max(common, key=lambda i: (series[i], i)) for series in (ours, theirs))
    sampled = all(i in ours and i in theirs for i in range(max(own, other) + 2))
    if own == other or not own or not other or not sampled or off[-1] > max(own, other):
        return ""
    return (
        f"the rate rises to iteration {own}, the reference's to {other}, and after both they agree: the warm-up's"
        " length, or whether it counts from 0 or 1"
    )


def _held(ours: Series, theirs: Series, common: list[int]) -> str:
    """A rate that moves once in some iterations, to what the reference's is then."""
    for one, other, side in ((ours, theirs, "port"), (theirs, ours, "reference")):
        moves = [i for i in common if i and i - 1 in one and one[i] != one[i - 1]]
        length = moves[0] if moves else 0
        known = [i for i in common if length and i // length * length in other]
        if length < 2 or len(moves) < 2 or len(known) < 3 * length:
            continue
        if all(abs(one[i] - other[i // length * length]) <= CLOSE * other[i // length * length] for i in known):
            rest = {"port": "reference", "reference": "port"}[side]
            return f"the {side}'s rate moves once in {length} iterations (per epoch?), the {rest}'s in each"
    return ""


def _described(ours: Series, theirs: Series, iters: int, warmup: int) -> str:
    """What each schedule is, if both are of a known form."""
    own, other = (_form(series, iters, warmup) for series in (ours, theirs))
    if not own or not other or own == other:
        return ""
    return f"the schedule is {own}, the reference's {other} (fitted)"


def _form(series: Series, iters: int, warmup: int) -> str:
    """A schedule after its warm-up in words; "" if it has no known form."""
    points = [i for i in sorted(series) if max(warmup, 1) - 1 <= i < iters]
    if len(points) < 8:
        return ""
    at, rate = np.array(points, np.float64), np.array([series[i] for i in points])
    steps = [(a, b) for a, b in zip(points, points[1:]) if series[a] != series[b]]
    if 4 * len(steps) < len(points):
        where = (str(b) if b == a + 1 else f"between {a} and {b}" for a, b in steps)
        falls = ", ".join(f"{series[b] / series[a]:.4g} times from {w} on" for (a, b), w in zip(steps, where))
        return f"constant ({series[points[0]]:.4g}{', ' if falls else ''}{falls})"
    for start in dict.fromkeys((0, warmup)):
        for end in (iters, iters - 1, iters + 1):
            left = np.clip(1.0 - (at - start) / (end - start), 0.0, 1.0)
            for name, shape in _shapes(left):
                columns = np.stack([shape, np.ones_like(shape)], axis=1)
                (scale, last), *_ = np.linalg.lstsq(columns, rate, rcond=None)
                if np.max(np.abs(columns @ [scale, last] - rate)) <= 1e-8 * np.abs(rate).max():
                    last = last if abs(last) > 1e-7 * abs(scale) else 0.0
                    return f"{name} from {scale + last:.4g} to {last:.4g} in iterations {start} to {end}"
    return ""


def _shapes(left: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What falls from 1 to 0 with the share of the run that is left."""
    for power in (1.0, 0.9, 0.5, 2.0, 3.0):
        yield ("linear" if power == 1.0 else f"a polynomial of power {power:g}"), left**power
    yield "half a cosine", 0.5 - 0.5 * np.cos(np.pi * left)


def _warmup(ours: Series, theirs: Series, warmup: int, off: list[int]) -> str:
    if not warmup or any(i > warmup for i in off):
        return ""
    kinds = {"port": _warmup_kind(ours, warmup), "reference": _warmup_kind(theirs, warmup)}
    if kinds["port"] != kinds["reference"]:
        return f"the warm-up is {kinds['port']}, the reference's {kinds['reference']}; after it both agree"
    starts = f", and starts at {ours[0]:.3g}, the reference's at {theirs[0]:.3g}" if off[0] == 0 else ""
    return f"the warm-up ({kinds['port']}) differs from iteration {off[0]} on{starts}; after it both agree"


def _warmup_kind(series: Series, warmup: int) -> str:
    points = [i for i in sorted(series) if i < warmup]
    if len(points) < 3:
        return "too short to tell"
    x = np.array(points, np.float64)
    y = np.array([series[i] for i in points])
    for name, values in (("linear", y), ("geometric", np.log(np.maximum(y, 1e-300)))):
        line = np.polyval(np.polyfit(x, values, 1), x)
        if np.max(np.abs(line - values)) <= 1e-6 * (np.max(np.abs(values)) or 1.0):
            return name
    return "neither linear nor geometric"


def _decay(ours: Series, theirs: Series, iters: int, warmup: int, common: list[int]) -> str:
    after = [i for i in common if warmup < i < iters]
    base = theirs.get(warmup)
    if not after or not base:
        return ""
    done = np.array([(i - warmup) / (iters - warmup) for i in after])
    left = 1.0 - done
    powers = {}
    for side, series in (("port", ours), ("reference", theirs)):
        rate = np.array([series[i] for i in after])
        power = np.log(rate / base) / np.log(left)
        powers[side] = float(np.median(power)) if np.ptp(power) <= 1e-6 else None
    if powers["port"] is not None and powers["reference"] is not None:
        return f"the polynomial has power {powers['port']:.4g}, reference {powers['reference']:.4g}"
    if powers["reference"] is None:
        return ""
    shape = left ** powers["reference"]
    end = (np.array([ours[i] for i in after]) - base * shape) / (1.0 - shape)
    if np.ptp(end) <= 1e-6 * np.abs(end).max():
        return f"the schedule ends at {float(np.median(end)):.4g}, the reference at 0"
    return ""
