"""Why a data pipeline or post-processing differs: what would have to be done to its arrays to make them agree.

Of upstream's pipeline only digests are known, which any change of an array changes: if the port's array, changed in
some way, has upstream's digest, that change is the difference.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable

import numpy as np

from parity.compare import Finding
from parity.diagnosis import values
from parity.traces import digest, sample_index

Arrays = Mapping[str, np.ndarray]
Digests = Mapping[str, tuple[tuple[int, ...], np.ndarray]]
IGNORED = 255


def explain(finding: Finding, own: Arrays, recorded: Digests) -> str:
    """The cause of the first divergence of a data pipeline, in one sentence; "" if none is found.

    Args:
        finding: the first divergence.
        own: what the port's pipeline makes.
        recorded: shape and digest of what upstream's makes.
    """
    name = finding.point.partition("/")[2]
    name = name[: -len(".shape")] if name.endswith(".shape") else name
    if name not in own or name not in recorded:
        return f"only one side makes {name}"
    wrong = [n for n in own if n in recorded and not _agrees(own[n], recorded[n])]
    if name not in wrong:
        return ""
    where = f"{len(wrong)} of {len(own)} points differ, first {name}"
    array, truth = own[name], recorded[name]
    for text, change in _changes(name, array):
        if _agrees(change(array), truth):
            others = sum(_agrees(change(own[n]), recorded[n]) for n in wrong if own[n].ndim == array.ndim)
            return f"{text}: so changed, {others} of the differing points agree with upstream ({where})"
    if array.ndim == 3 and array.shape == truth[0]:
        affine = _affine(array, truth[1], _noun(name, array))
        if affine:
            return f"{affine} ({where})"
    if array.ndim == 2 and array.shape == truth[0]:
        return f"{_label_values(array, truth[1])} ({where})"
    return f"no known change of {name} gives upstream's ({where}): an interpolation, a crop, or a draw; no cause found"


def agree(made: Arrays, recorded: Digests) -> bool:
    """Whether all arrays are upstream's."""
    return all(name in made and _agrees(made[name], numbers) for name, numbers in recorded.items())


def _agrees(array: np.ndarray, recorded: tuple[tuple[int, ...], np.ndarray]) -> bool:
    shape, numbers = recorded
    own = digest(array)
    return tuple(array.shape) == tuple(shape) and own.shape == numbers.shape and _close(own, numbers)


def _close(own: np.ndarray, numbers: np.ndarray) -> bool:
    return bool(np.max(np.abs(own - numbers)) <= 1e-6 * (np.abs(numbers[0]) + 1e-30))


Change = tuple[str, Callable[[np.ndarray], np.ndarray]]


def _noun(name: str, array: np.ndarray) -> str:
    """What an array is called: an image has three channels, others may be heatmaps or offsets."""
    if array.ndim != 3:
        return "the label"
    return "the image" if array.shape[0] == 3 and "offset" not in name else name.rpartition("/")[2]


def _changes(name: str, array: np.ndarray) -> Iterator[Change]:
    noun = _noun(name, array)
    if noun == "the image":
        yield "the image has its channels reversed (BGR for RGB)", lambda x: x[::-1]
    elif array.ndim == 3 and len(array) > 1:
        yield f"{noun} has its {len(array)} channels in reverse order (such as y and x)", lambda x: x[::-1]
    if array.ndim == 3:
        yield f"{noun} is 255 times upstream's: it is not divided by 255", lambda x: x / 255.0
        yield f"{noun} is a 255th of upstream's: it is divided by 255 twice", lambda x: x * 255.0
    else:
        kept = lambda x, y: np.where(x == IGNORED, x, y)  # noqa: E731
        yield "label ids are one more than upstream's", lambda x: kept(x, x - 1)
        yield "label ids are one less than upstream's (or ignored 0)", lambda x: kept(x, x + 1)
    yield f"{noun} is mirrored", lambda x: x[..., ::-1]
    yield f"{noun} is upside down", lambda x: x[..., ::-1, :]
    for axis, lines in ((-1, "columns"), (-2, "rows")):
        for step in (1, -1):
            yield f"{noun} is shifted by {step} {lines}", lambda x, s=step, a=axis: np.roll(x, -s, a)


def _affine(array: np.ndarray, numbers: np.ndarray, noun: str) -> str:
    """Whether each channel is a line of upstream's: then an image's mean and std are others."""
    index = sample_index(array.size)
    samples, theirs = array.ravel()[index].astype(np.float64), numbers[3:]
    channel = index // (array.shape[1] * array.shape[2])
    lines = []
    for number in range(array.shape[0]):
        mine = channel == number
        if mine.sum() < 3 or np.ptp(theirs[mine]) == 0:
            return ""
        slope, shift = np.polyfit(theirs[mine], samples[mine], 1)
        if np.max(np.abs(slope * theirs[mine] + shift - samples[mine])) > 1e-4 * (1 + np.abs(samples).max()):
            return ""
        lines.append((float(slope), float(shift)))
    large = 1e-6 * float(np.abs(theirs).max())
    said = ", ".join(f"{slope:.4g} x {shift if abs(shift) > large else 0:+.4g}" for slope, shift in lines)
    which = "std" if all(abs(shift) < 1e-3 for _, shift in lines) else "mean and std"
    how = f"normalised with another {which}" if noun == "the image" else "scaled or moved"
    return f"{noun} is {how}: its channels are {said}, of upstream's x"


def _label_values(array: np.ndarray, numbers: np.ndarray) -> str:
    """What the sampled pixels say: ids are mapped one by one, or they are others here and there."""
    samples, theirs = array.ravel()[sample_index(array.size)].astype(int), numbers[3:].astype(int)
    pairs = set(zip(theirs.tolist(), samples.tolist()))
    changed = sorted(pair for pair in pairs if pair[0] != pair[1])
    shown = ", ".join(f"{a} is {b}" for a, b in changed[:4]) + (", ..." if len(changed) > 4 else "")
    own = np.unique(array).tolist()
    if changed and len(pairs) == len({a for a, _ in pairs}) and _is_map(array, numbers, pairs):
        text = "ids are mapped otherwise" if len(changed) > 1 else "one id is another"
        if all(b == (IGNORED if a == 0 else a - 1) for a, b in pairs if a != IGNORED):
            text = "ids are one less and 0 is ignored (reduce_zero_label)"
        elif changed[-1][0] == IGNORED:
            text = f"upstream ignores pixels ({IGNORED}) that the port gives another id"
        return f"{text}: in every sampled pixel, upstream's {shown}"
    if numbers[1] == IGNORED and IGNORED not in own:
        became = {b for a, b in pairs if a == IGNORED}
        what = f"class {became.pop()} in every sampled pixel" if len(became) == 1 else "other classes, such as 0"
        return f"upstream ignores pixels ({IGNORED}), the port none: they became {what}"
    share = f"in {100 * float(np.mean(samples != theirs)):.3g} % of the sampled pixels" if changed else "somewhere"
    kinds = f" (upstream's {shown})" if shown else ""
    blurred = _between(array.astype(int))
    if blurred > 0.2:
        return (
            f"label ids differ {share}{kinds}: the label is interpolated (bilinear for nearest), {100 * blurred:.0f} %"
            " of the pixels at its edges have an id between those of both sides"
        )
    return f"label ids differ {share}{kinds}, and no mapping of ids explains it; no cause found"


def _between(label: np.ndarray) -> float:
    """Of the pixels at edges, the share whose id lies between those to the left and to the right; 0 for noise."""
    left, middle, right = label[:, :-2], label[:, 1:-1], label[:, 2:]
    edge = left != right
    if not 0 < edge.mean() < 0.5:
        return 0.0
    return float(((middle - left) * (right - middle) > 0)[edge].mean())


def _is_map(array: np.ndarray, numbers: np.ndarray, pairs: set[tuple[int, int]]) -> bool:
    """Whether pairs (upstream's id, the port's) are a rule: undone, it gives upstream's, or samples repeat it."""
    back = {own: theirs for theirs, own in pairs}
    if len(back) == len(pairs):
        undone = array.astype(int)
        for own, theirs in back.items():
            undone[array == own] = theirs
        if _agrees(undone, (array.shape, numbers)):
            return True
    theirs = numbers[3:].astype(int)
    ids = [a for a, b in pairs if a != b]
    return int(np.isin(theirs, ids).sum()) - len(ids) >= 3


def idle_transform(make: Callable[[], Arrays]) -> str:
    """The name of a transform of the port's pipeline without which the pipeline makes the same; "" if there is none.

    Args:
        make: () -> what the pipeline makes.
    """
    from paddleseg_ext.data.transforms.base import Compose

    used: dict[str, type] = {}
    own = Compose.replay

    def replay(pipeline: Any, *arguments: Any) -> Any:
        used.update({type(transform).__name__: type(transform) for transform in pipeline.transforms})
        return own(pipeline, *arguments)

    Compose.replay = replay
    try:
        plain = make()
    finally:
        Compose.replay = own
    for name, transform in used.items():
        apply = transform.__dict__.get("apply")
        if apply is None:
            continue
        transform.apply = lambda self, sample, draws: sample
        try:
            without = make()
        except Exception:  # later transforms need what it does
            continue
        finally:
            transform.apply = apply
        if all(np.array_equal(without[key], value) for key, value in plain.items()):
            return name
    return ""


# --- post-processing ------------------------------------------------------------------------------------------------


def explain_postprocess(reference: Any, outputs: Arrays, actual: Arrays, point: str) -> str:
    """What the reference would have to be given to make what the port makes of the model's outputs.

    Args:
        reference: the torch side.
        outputs: which both sides got.
        actual: what the port makes of them.
        point: name of the array that differs first.
    """
    for text, changed in _other_outputs(outputs):
        made = reference.postprocess(changed).points
        if point in made and made[point].shape == actual[point].shape and np.array_equal(made[point], actual[point]):
            return f"{point} is what the reference makes when {text}"
    return ""


def relation(reference: Any, outputs: Arrays, actual: Arrays, point: str) -> str:
    """What has been done to the array that differs first, as far as it shows in itself; arguments as above."""
    plain = reference.postprocess(outputs).points.get(point)
    if plain is None:
        return ""
    said = values.relation(np.asarray(plain, np.float64), np.asarray(actual[point], np.float64))
    return f"{point} {said}" if said else ""


def _other_outputs(outputs: Arrays) -> Iterable[tuple[str, Arrays]]:
    names = list(outputs)
    for one in names:
        for other in names:
            if one != other and outputs[one].shape == outputs[other].shape:
                yield f"{one} is replaced by {other}", {**outputs, one: outputs[other]}
    for name, output in outputs.items():
        yield f"{name} is negated", {**outputs, name: -output}
        if output.ndim == 4:
            yield f"{name} is mirrored", {**outputs, name: output[..., ::-1].copy()}
            yield f"{name} is upside down", {**outputs, name: output[..., ::-1, :].copy()}
            if output.shape[1] > 1:
                yield f"the channels of {name} are reversed", {**outputs, name: output[:, ::-1].copy()}


def keywords(port: Any, outputs: Arrays, expected: Arrays, point: str, function: Any, owners: Sequence[Any]) -> str:
    """Which keyword of a function that post-processing calls, at its default or another value, makes it agree.

    Of several it is that with which most arrays agree: of the first one, another setting may happen to make the same.

    Args:
        port: the Paddle side.
        outputs: which both sides got.
        expected: what the reference makes of them.
        point: name of the array that differs first.
        function: such as `paddleseg_ext.postprocess.panoptic_deeplab`.
        owners: modules under whose name it is called.
    """
    best, most = "", 0
    for name, parameter in inspect.signature(function).parameters.items():
        for value in _around(parameter.default) if isinstance(parameter.default, (int, float)) else ():
            got = _with_keyword(port, outputs, function, owners, {name: value})
            agreeing = {key for key, array in expected.items() if key in got and np.array_equal(got[key], array)}
            if point in agreeing and len(agreeing) > most:
                best, most = f"with {name}={values.short(value)} {point} agrees: this setting is another", len(agreeing)
    return best


def _around(value: float) -> list[float]:
    if isinstance(value, int):
        powers = {2**power for power in range(12)}
        return sorted(
            {value, 0, value - 4, value - 2, value + 2, value + 4, 2 * value, value // 2, 3, 7, 10, 20, 100} | powers
        )
    return [value, value + 0.1, value - 0.1, 2 * value, value / 2]


def _with_keyword(
    port: Any, outputs: Arrays, function: Any, owners: Sequence[Any], keyword: Mapping[str, Any]
) -> Arrays:
    name = function.__name__
    own = [getattr(owner, name) for owner in owners]
    for owner, called in zip(owners, own):
        setattr(owner, name, lambda *a, _called=called, **k: _called(*a, **{**k, **keyword}))
    try:
        return port.postprocess(outputs).points
    finally:
        for owner, called in zip(owners, own):
            setattr(owner, name, called)
