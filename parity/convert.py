"""Weight files from torch to Paddle and back, by the very rules that the parity check proves.

A conversion is checked before it counts: the written file is read again, loaded strictly, and both sides' forward
passes are compared in float64.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_ext import weight_files
from paddleseg_ext.errors import WeightError
from parity import fluid, layouts, torch_files
from parity.bench import Bench
from parity.case import Case, Drop
from parity.compare import Finding, compare
from parity.errors import SideError
from parity.weights import Plan, plan

RECORD_SCHEMA = 1


@dataclass
class Conversion:
    """What was written.

    Attributes:
        case: name of the case whose rules were used.
        source: path of what was read.
        target: path of what was written.
        tensors: one entry per tensor: `from`, `to`, `shape`, `dtype`, `transposed`, `sha256`.
        dropped: names that were not carried over -> reason.
        counters: `num_batches_tracked` of the torch file, which Paddle has no place for.
        notes: what else a reader has to know, a sentence each.
        record: path of the JSON file with all of this.
        worst: largest relative difference of the forward check, or None if it was skipped.
    """

    case: str
    source: str
    target: str
    tensors: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    record: str = ""
    worst: float | None = None


def convert(case: Case, source: Path, target: Path, *, part: str = "", check: bool = True) -> Conversion:
    """Torch weights to a Paddle file.

    Args:
        case: whose reference the file belongs to.
        source: `.pth` and the like, or any file that `paddleseg_ext.weight_files` reads.
        target: `.pdparams`, `.safetensors` or `.npz`; `<target>.json`, beside it, records every tensor.
        part: the file holds only the sub-module at this path ("cp.backbone"); so will the target.
        check: compare forward passes with what was written.

    Raises:
        WeightError: if the file cannot be read or does not hold exactly the reference's tensors.
        WeightsError: if the case's rules do not carry it over.
    """
    bench = _bench(case)
    result = Conversion(case.name, str(source), str(target))
    state = _read(source, result)
    prefix = f"{part}." if part else ""
    shapes = {name: shape for name, shape in bench.reference.shapes().items() if name.startswith(prefix)}
    if not shapes:
        raise WeightError(f"--part {part}: {case.name} has no such sub-module; name one, such as cp.backbone")
    framework_only = {n: r for n, r in bench.reference.framework_only().items() if n.startswith(prefix)}
    state = _complete({prefix + name: value for name, value in state.items()}, shapes, framework_only, source, result)
    ports = [tensor for tensor in bench.port.tensors() if not part or tensor.torch_name.startswith(prefix)]
    moves = _plan(bench, shapes, ports, framework_only, source)
    result.dropped = moves.dropped
    result.counters = {name: int(state[name]) for name in framework_only}
    arrays = {name[len(prefix) :]: value for name, value in moves.forward(state).items()}
    weight_files.save_arrays(target, arrays)
    for move in moves.moves:
        value = arrays[move.port[len(prefix) :]]
        result.tensors.append(_entry(move.reference[len(prefix) :], move.port[len(prefix) :], value, move.transposed))
    if check:
        written = {prefix + name: value for name, value in weight_files.load_arrays(target).items()}
        result.worst = _check(bench, state, written, moves.backward, target)
    _write_record(result, target)
    return result


def revert(
    case: Case, source: Path, target: Path, *, part: str = "", template: Path | None = None, check: bool = True
) -> Conversion:
    """Paddle weights to a torch file that upstream's code loads strictly.

    Args:
        case: whose port the file belongs to.
        source: of the port.
        target: `.pth` and the like.
        part: as in `convert`.
        template: a torch file to take from what the case's rules drop.
        check: compare forward passes with what was written.

    Raises:
        WeightError: if the file does not hold exactly the port's tensors, or a dropped tensor has no source.
        WeightsError: if the case's rules do not carry it over.
    """
    bench = _bench(case)
    result = Conversion(case.name, str(source), str(target))
    arrays = weight_files.load_arrays(source)
    prefix = f"{part}." if part else ""
    shapes = {name: shape for name, shape in bench.reference.shapes().items() if name.startswith(prefix)}
    framework_only = {n: r for n, r in bench.reference.framework_only().items() if n.startswith(prefix)}
    ports = [tensor for tensor in bench.port.tensors() if not part or tensor.torch_name.startswith(prefix)]
    moves = _plan(bench, shapes, ports, framework_only, source)
    given = {prefix + name: value for name, value in arrays.items()}
    _same_names(given, [move.port for move in moves.moves], source, f"the port of {case.name}")
    found = moves.backward(given)
    found.update(_counters(source, framework_only, prefix, result))
    found.update(_dropped(case, moves.dropped, framework_only, template, source))
    state = {name: found[name] for name in shapes}
    for name, shape in shapes.items():
        if tuple(state[name].shape) != tuple(shape):
            raise WeightError(f"{source}: {name} has shape {state[name].shape}; expected {shape}; is it of this model?")
    torch_files.save_arrays(target, {name[len(prefix) :]: value for name, value in state.items()})
    sources = {move.reference: move for move in moves.moves}
    for name, value in state.items():
        own = sources[name].port[len(prefix) :] if name in sources else ""
        result.tensors.append(_entry(own, name[len(prefix) :], value, name in sources and sources[name].transposed))
    if check:
        written = {prefix + name: value for name, value in torch_files.load_any(target).items()}
        result.worst = _check(bench, written, given, moves.backward, target)
    _write_record(result, target)
    return result


def _bench(case: Case) -> Bench:
    bench = Bench(case)
    if bench.failure:
        raise SideError(f"{case.name}: {bench.failure}")
    return bench


def _plan(bench: Bench, shapes: Mapping[str, Any], ports: list[Any], framework_only: Any, source: Path) -> Plan:
    """How these tensors move, which may be a part of the case's: its rules may be meant for the others."""
    also = [*bench.reference.shapes(), *(f"{path}." for path in bench.reference.module_types())]
    return plan(shapes, ports, bench.case.weights, framework_only=framework_only, also=also, where=str(source))


def _read(source: Path, result: Conversion) -> dict[str, np.ndarray]:
    if source.is_dir() or source.suffix.lower() == ".tgz":
        result.notes.append("a folder of Paddle 1.x variables; their names were translated")
        return fluid.load_variables(source)
    if source.suffix.lower() in torch_files.SUFFIXES:
        contents = torch_files.load_contents(source)
    else:
        contents = weight_files.load_contents(source)
    if contents.prefix:
        result.notes.append(f"every name began with {contents.prefix!r} (DataParallel); it was removed")
    if contents.rest:
        result.notes.append(
            f"beside the weights the file holds {', '.join(map(str, list(contents.rest)[:8]))}; left out"
        )
    state = {name[len(contents.prefix) :]: value for name, value in contents.arrays.items()}
    return layouts.without_surplus(layouts.to_detectron2(state, result.notes), result.notes)


def _complete(
    state: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    framework_only: Mapping[str, str],
    source: Path,
    result: Conversion,
) -> dict[str, np.ndarray]:
    """The state in the reference's order, with the batch counters that old files lack."""
    absent = [name for name in framework_only if name not in state]
    if absent:
        result.notes.append(f"{len(absent)} batch counters are not in the file; taken as 0")
    full = {**state, **{name: np.zeros((), np.int64) for name in absent}}
    _same_names(full, list(shapes), source, f"the reference of {result.case}")
    return {name: full[name] for name in shapes}


def _same_names(given: Mapping[str, Any], expected: list[str], source: Path, owner: str) -> None:
    missing = [name for name in expected if name not in given]
    known = set(expected)
    extra = [name for name in given if name not in known]
    if missing or extra:
        raise WeightError(
            f"{source}: {len(missing)} tensors are missing ({', '.join(missing[:5])}), {len(extra)} unexpected"
            f" ({', '.join(extra[:5])}); expected those of {owner}; is it another model's, or part of one (--part)?"
        )


def _counters(
    source: Path, framework_only: Mapping[str, str], prefix: str, result: Conversion
) -> dict[str, np.ndarray]:
    path = _record_path(source)
    counters: dict[str, int] = {}
    if path.exists():
        try:
            counters = json.loads(path.read_text(encoding="utf-8"))["counters"]
        except (ValueError, KeyError, TypeError) as error:
            raise WeightError(
                f"{path}: not a record of a conversion ({error}); expected counters; move it away"
            ) from error
        result.notes.append(f"batch counters are taken from {path.name}")
    elif framework_only:
        result.notes.append(f"{len(framework_only)} batch counters are not in a Paddle file; written as 0")
    return {name: np.array(counters.get(name, 0), np.int64) for name in framework_only}


def _dropped(
    case: Case, dropped: Mapping[str, str], framework_only: Mapping[str, str], template: Path | None, source: Path
) -> dict[str, np.ndarray]:
    names = [name for name in dropped if name not in framework_only]
    if not names:
        return {}
    if template is None:
        reasons = [rule.reason for rule in case.weights if isinstance(rule, Drop)]
        raise WeightError(
            f"{source}: {case.name} drops {len(names)} tensors ({'; '.join(reasons)}), such as {names[0]};"
            " expected a --template to take them from; name a checkpoint of upstream"
        )
    values = torch_files.load_any(template)
    missing = [name for name in names if name not in values]
    if missing:
        raise WeightError(
            f"--template {template}: has no {missing[0]} ({len(missing)} in all); name upstream's own file"
        )
    return {name: values[name] for name in names}


def _entry(source: str, target: str, value: np.ndarray, transposed: bool) -> dict[str, Any]:
    return {
        "from": source,
        "to": target,
        "shape": list(value.shape),
        "dtype": str(value.dtype),
        "transposed": transposed,
        "sha256": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest(),
    }


def _check(
    bench: Bench, state: Mapping[str, np.ndarray], written: Mapping[str, np.ndarray], backward: Any, target: Path
) -> float:
    """Loads both files' weights and compares the forward passes; what a part leaves open is generated.

    Raises:
        WeightError: if a value changed on the way or the forward passes differ; the target is removed then.
    """
    bench.reference.load({**bench.initial, **state})
    bench.initial = bench.reference.state()
    carried = backward(written)
    changed = [
        name for name, value in carried.items() if not np.array_equal(bench.initial[name], value, equal_nan=True)
    ]
    if changed:
        target.unlink()
        raise WeightError(
            f"{target}: {len(changed)} tensors differ from their source once loaded, first {changed[0]}; two names of"
            " one tensor hold different values in the file, of which a model keeps the later; expected equal values"
        )
    weights = bench.run_stage("weights")
    findings: list[Finding] = weights.findings
    if weights.passed:
        bench.port.load({**bench.plan.forward(bench.initial), **written})
        inputs, targets = bench.batch()
        traces = [s.observe(inputs, targets, train=False, backward=False) for s in (bench.reference, bench.port)]
        findings = compare(bench.translated(traces[0]), traces[1], stage="forward", ignored=bench.case.ignored)
    first = next((finding for finding in findings if not finding.passed), None)
    if first is not None or not findings:
        target.unlink()
        text = f"{first.point}: {first.text}" if first else "nothing was compared"
        raise WeightError(f"{target}: the forward check failed at {text}; the file was removed; run parity/check.py")
    return max(finding.error for finding in findings)


def _record_path(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _write_record(result: Conversion, target: Path) -> None:
    path = _record_path(target)
    record = {
        "schema": RECORD_SCHEMA,
        "case": result.case,
        "source": Path(result.source).name,
        "sha256": weight_files.sha256(target),
        "notes": result.notes,
        "dropped": result.dropped,
        "counters": result.counters,
        "tensors": result.tensors,
    }
    text = json.dumps(record, indent=1) + "\n"
    weight_files.write_atomically(path, lambda file: file.write(text.encode()))
    result.record = str(path)
