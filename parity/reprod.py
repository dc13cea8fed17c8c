"""Files of reprod-log, the format of the reproduction workflow that Paddle users know, read and judged.

A file is a dict of arrays that numpy wrote as a pickle. It is interpreted, not run: nothing but arrays in a dict gets
through. The judge is this harness's: the largest difference decides, shapes and types have to agree, and what one side
lacks is a failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_ext import array_pickles
from paddleseg_ext.errors import WeightError
from parity import policy
from parity.compare import Finding, StageResult, compare
from parity.errors import CaseError
from parity.traces import Trace

FLOAT32_RELATIVE = 1e-5  # what the reproduction workflow itself takes for rounding, of the largest difference here
_REFERENCE, _PORT = ("ref", "torch", "pytorch", "benchmark"), ("paddle", "port")
_SUFFIX = re.compile(rf"_({'|'.join((*_REFERENCE, *_PORT))})$")


class _ObjectType:
    """Stands in for numpy's dtype of objects."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Dictionary(array_pickles._Pickle):
    """Interprets the pickle of a single dict in an array of objects, which is how numpy saves one."""

    def _allowed(self) -> dict[str, Any]:
        table = super()._allowed()
        number = table["numpy.dtype"].call

        def dtype(code: Any, *flags: Any) -> Any:
            return _ObjectType() if code in ("O8", b"O8", "O", b"O") else number(code, *flags)

        table["numpy.dtype"] = array_pickles._Global(dtype)
        return table

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, _ObjectType):
            return
        if isinstance(target, array_pickles._Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, _, content = state
            if isinstance(dtype, _ObjectType):
                if shape != () or not isinstance(content, list) or len(content) != 1:
                    raise ValueError("an array of several objects")
                target.value = self._finish(content[0], {}, 0)[0]
                return
        super()._build(target, state)


def read(path: Path) -> dict[str, np.ndarray]:
    """Name -> array of a file.

    Raises:
        CaseError: if it is missing, damaged, or holds anything else.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = reader[version](file)
            if dtype.kind != "O" or shape != ():
                raise ValueError(f"an array of {dtype}, shape {shape}")
            content = _Dictionary(file, path.stat().st_size, str(path)).value()
    except WeightError as error:
        raise CaseError(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CaseError(f"{path}: not a file of reprod-log: {error}; expected a dict of arrays") from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, np.ndarray) for name, value in content.items()
    ):
        raise CaseError(f"{path}: not a file of reprod-log: something other than a dict of arrays")
    return content


def compare_logs(reference: Path, port: Path) -> list[StageResult]:
    """The verdict on two files, or on two folders of them: one result per pair of files.

    Files of folders are paired by their names without `_ref`, `_torch`, `_paddle` and the like; both may be the same
    folder. Float64 is judged as ever. Float32 cannot tell a small mistake from rounding, and passes below
    `FLOAT32_RELATIVE` of a tensor's rms.

    Raises:
        CaseError: if a file cannot be read, or there is none.
    """
    if reference.is_dir() != port.is_dir():
        raise CaseError(f"{reference} and {port}: one is a folder; expected two files or two folders")
    if not reference.is_dir():
        return [_judged(_stem(reference), reference, port)]
    theirs, own = _files(reference, leave_out=_PORT), _files(port, leave_out=_REFERENCE)
    results = [_judged(name, path, own[name]) for name, path in theirs.items() if name in own]
    for name in sorted(set(theirs) ^ set(own)):
        lacking, path = (port, theirs[name]) if name in theirs else (reference, own[name])
        text = f"{lacking} has no counterpart of {path.name}"
        results.append(StageResult(name, [Finding(name, "missing", np.inf, 0.0, text)]))
    return results


def _files(folder: Path, *, leave_out: Sequence[str]) -> dict[str, Path]:
    files = [path for path in sorted(folder.glob("*.npy")) if not path.stem.endswith(tuple(f"_{s}" for s in leave_out))]
    if not files:
        raise CaseError(
            f"{folder}: no .npy files of this side; expected names such as forward_ref.npy, forward_paddle.npy"
        )
    found: dict[str, Path] = {}
    for path in files:
        if _stem(path) in found:
            raise CaseError(f"{folder}: {path.name} and {found[_stem(path)].name} would both be {_stem(path)!r}")
        found[_stem(path)] = path
    return found


def _stem(path: Path) -> str:
    return _SUFFIX.sub("", path.stem)


def _judged(name: str, reference: Path, port: Path) -> StageResult:
    theirs, own = read(reference), read(port)
    findings = []
    for finding in compare(Trace(theirs), Trace(own), stage=name):
        if finding.verdict == "missing":
            lacking = port if finding.point[len(name) + 1 :] in theirs else reference
            finding = replace(finding, text=f"{lacking} has no such array")
        findings.append(finding)
    return StageResult(name, [_of_float32(finding, theirs, own, name) for finding in findings])


def _of_float32(
    finding: Finding, theirs: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], stage: str
) -> Finding:
    point = finding.point[len(stage) + 1 :]
    single = any(side[point].dtype == np.float32 for side in (theirs, own) if point in side)
    if not single or finding.verdict not in ("pass", "fail"):
        return finding
    verdict = "pass" if finding.error <= FLOAT32_RELATIVE else "fail"
    text = finding.text.replace(f"> {policy.RELATIVE:.0e}", f"> {FLOAT32_RELATIVE:.0e}") if verdict == "fail" else ""
    return Finding(finding.point, verdict, finding.error, FLOAT32_RELATIVE, text)
