"""Plants faults in correct ports, one at a time, and scores what the harness says of each.

caught      a fault that changes any number makes a stage fail
localised   the first divergence is in the right stage, at the layer or point where the mistake is
explained   the stated cause names the mistake
false alarm a correct port fails, with any of the seeds
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from typing import Callable

import numpy as np

from parity.bench import Bench
from parity.case import STAGES, Case
from parity.compare import StageResult
from parity.diagnosis import conditioning
from parity.errors import CaseError
from parity.faults import (  # noqa: F401  (they register their kinds)
    absent,
    between,
    carried,
    data,
    frozen,
    initial,
    layers,
    losses,
    merged,
    metrics,
    more,
    points,
    steps,
    training,
)
from parity.faults.dealing import Deal
from parity.faults.fault import KINDS
from parity.faults.score import Score, said
from parity.faults.sizes import Size, smallest
from parity.faults.ward import Ward

Progress = Callable[[str, str], None]
SEEDED = [
    stage for stage in STAGES if stage not in ("initial", "data", "metrics")
]  # which depend on no seed: the ward runs them


def self_test(
    cases: Sequence[Case],
    *,
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    sites: int = 1,
    seeds: int = 3,
    size: tuple[int, int] | None = None,
    spread: bool = False,
    progress: Progress | None = None,
    so_far: Callable[[Score], None] | None = None,
) -> Score:
    """Plants faults in the ports of some cases.

    Args:
        cases: whose ports are correct.
        kinds: names of the kinds to plant; all by default.
        seed: of the weights, the inputs, and the choice of sites.
        sites: faults to count per kind and case.
        seeds: runs of the correct port that look for false alarms, from `seed` on.
        size: (H, W); by default small, see `sizes`.
        spread: plant each kind in one case of each family only, which the seed chooses, see `dealing`.
        progress: called with (case, what) before each fault.
        so_far: called with the score after each case, which a long run may never come to the end of.

    Raises:
        CaseError: for an unknown kind, or less than one run or site.
    """
    _check_arguments(kinds or (), seeds=seeds, sites=sites)
    score = Score(seed=seed, seeds=seeds, sites=sites)
    say = progress or _silent
    chosen: dict[str, tuple[int, int]] = {}
    deal = Deal(cases, list(kinds or KINDS), seed, spread=spread)
    for case, first in deal:
        if case.name not in chosen:
            chosen[case.name] = size or smallest(case, seed)
        small = smaller(case, chosen[case.name])
        score.sizes[case.name] = tuple(small.size)
        if first:
            _check_clean(small, range(seed + 1, seed + seeds), score, say, [case.size, *case.extra_sizes])
        _visit(case, small, deal, score, seed=seed, sites=sites, say=say)
        gc.collect()
        score.elsewhere = deal.elsewhere()
        if so_far is not None:
            so_far(score)
    return score


def _check_arguments(kinds: Sequence[str], **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise CaseError(f"--{name} {count}: expected a positive number")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise CaseError(f"there is no kind of fault {unknown[0]!r}; kinds are {', '.join(KINDS)}")


def _visit(case: Case, small: Case, deal: Deal, score: Score, *, seed: int, sites: int, say: Progress) -> None:
    """Plants in one port what it is dealt; when this returns, nothing of it is left in memory."""
    say(case.name, f"correct port, seed {seed}")
    ward = Ward(small, seed, score)
    if ward.healthy:
        places = ward.places(deal.kinds)
        for name in deal.given(case, [name for name, faults in places.items() if faults]):
            deal.counted(case, name, ward.plant_kind(name, places[name], sites, say))
    else:
        deal.give_up(case)
    ward.close()


def smaller(case: Case, size: tuple[int, int] | None) -> Case:
    """The case with few training steps, at this size or the smallest that it names.

    The run goes on for two steps after those of the `step` stage: what is lost between them shows in the last loss.
    """
    step = dataclasses.replace(case.step, steps=min(case.step.steps, 2))
    trajectory = dataclasses.replace(case.trajectory, steps=max(min(case.trajectory.steps, 4), step.steps + 2))
    chosen = size or min([case.size, *case.extra_sizes], key=lambda pair: pair[0] * pair[1])
    return dataclasses.replace(case, step=step, trajectory=trajectory, size=chosen, extra_sizes=())


def _check_clean(case: Case, seeds: Sequence[int], score: Score, say: Progress, sizes: Sequence[Size] = ()) -> None:
    """Runs the correct port with several seeds; both models are built once.

    Where the reference's own numbers are not determined to what the verdict asks for, that seed is run again at a
    larger size.
    """
    bench = None
    for seed in seeds:
        say(case.name, f"correct port, seed {seed}")
        if bench is None:
            bench = Bench(case, seed=seed)
        else:
            _reseed(bench, seed)
        first = _first_failure(bench)
        score.clean += 1
        if first is not None:
            bench.close()
            bench = None  # a new one: nothing that went wrong stays
            _sound_alarm(case, seed, first, score, [size for size in sizes if np.prod(size) > np.prod(case.size)])
    if bench is not None:
        bench.close()
    gc.collect()


def _first_failure(bench: Bench) -> StageResult | None:
    return next((r for r in map(bench.run_stage, SEEDED) if not r.passed and not r.reason), None)


def _sound_alarm(case: Case, seed: int, first: StageResult, score: Score, larger: Sequence[Size]) -> None:
    """Notes a false alarm, or that this seed determines the numbers only at a larger size."""
    found = f"{case.name}, seed {seed}: {said(first)}"
    for size in sorted(larger, key=np.prod) if first.cause.startswith(conditioning.MOVES) else ():
        bench = Bench(dataclasses.replace(case, size=size), seed=seed)
        again = _first_failure(bench)
        bench.close()
        if again is None:
            at, instead = ("x".join(map(str, pair)) for pair in (case.size, size))
            score.undetermined.append(f"{found} at {at}, where {first.cause}; at {instead} it passes")
            return
        if not again.cause.startswith(conditioning.MOVES):
            found += f"; at {size[0]}x{size[1]}: {said(again)}"
            break
    score.alarms.append(found)


def _reseed(bench: Bench, seed: int) -> None:
    """Gives both models of a bench other weights and inputs."""
    bench.traces.clear()
    bench._batches.clear()
    bench.seed, bench.plan = seed, None
    bench._load_reference(None)


def _silent(case: str, what: str) -> None:
    pass
