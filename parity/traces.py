"""What a side computed, as numbers: full traces in memory, digests on disk.

A trace maps point names (`<stage>/<layer path as in the port>`) to arrays, in execution order. A digest stands for
a tensor in a recorded file: a few statistics that depend on *every* element, and a strided sample of it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parity.errors import CaseError

SCHEMA = 1
SAMPLE = 24


@dataclass
class Trace:
    """What one side computed in one stage.

    Attributes:
        points: point name -> array, in execution order. An empty array stands for "no gradient".
        meta: what the comparison needs beside the points: `leaves` (leaf module -> class name), `norms` (per
            normalisation what each call averaged, see `known.RunningVariance`), `dropout` (rate of each), `scales`
            (magnitude of each parameter), `crash` (the message, when the side raised half-way).
    """

    points: dict[str, np.ndarray] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, array: np.ndarray) -> None:
        """Appends a point; a module that runs again gets `name@2`, `name@3`, ..."""
        if name in self.points:
            repeat = 2
            while f"{name}@{repeat}" in self.points:
                repeat += 1
            name = f"{name}@{repeat}"
        self.points[name] = array

    def only(self, kind: str) -> Trace:
        """The points `<step>/<kind>/<name>` of it."""
        found = {name: value for name, value in self.points.items() if name.split("/")[1:2] == [kind]}
        return Trace(found, dict(self.meta))

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(value.nbytes for value in self.points.values())

    def shapes(self) -> Trace:
        """The same points without their numbers, which all read 0."""
        zeros = {name: np.broadcast_to(value.dtype.type(0), value.shape) for name, value in self.points.items()}
        return Trace(zeros, dict(self.meta))

    def copied(self) -> Trace:
        """The same numbers in memory of its own."""
        return Trace({name: np.array(value) for name, value in self.points.items()}, dict(self.meta))

    def sampled(self, size: int = 2**14) -> Trace:
        """Of each larger tensor about that many elements, flat; enough to fit a rule to, in memory of its own.

        Of tensors of the same size they are those at the same places.
        """

        def sample(value: np.ndarray) -> np.ndarray:
            return np.array(value if value.size <= size else value.ravel()[:: -(-value.size // size)])

        return Trace({name: sample(value) for name, value in self.points.items()})

    def without_arrays(self) -> Trace:
        """Only the single numbers of it: losses, rates."""
        return Trace({name: value for name, value in self.points.items() if value.size == 1}, dict(self.meta))


def digest(array: np.ndarray) -> np.ndarray:
    """(3 + n,) float64: rms, largest magnitude, a projection of all elements, then n <= 24 samples.

    The projection is sum(w_i * x_i) / sqrt(size) with fixed pseudo-random weights, no two alike, so that a change of
    one element, or two elements swapped, changes the digest even when they are not sampled.
    """
    flat = np.asarray(array, np.float64).ravel()
    if flat.size == 0:
        return np.zeros(3)
    with np.errstate(invalid="ignore", over="ignore"):
        rms = np.sqrt(np.dot(flat, flat) / flat.size)
        projection = np.dot(_weights(flat.size), flat) / np.sqrt(flat.size)
        largest = max(flat.max(), -flat.min())
        return np.concatenate([[rms, largest, projection], flat[sample_index(flat.size)]])


def digested(value: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and digest of an array, as a recording holds them."""
    return value.shape, digest(value)


def sample_index(size: int) -> np.ndarray:
    """Flat indices of a digest's samples: all of a small tensor, else evenly spread."""
    if size <= SAMPLE:
        return np.arange(size)
    return np.linspace(0, size - 1, SAMPLE).astype(np.int64)


def _weights(size: int) -> np.ndarray:
    """Numbers of either sign with magnitudes in [1, 2), by their index; the longest so far is kept."""
    global _known_weights
    if size > _known_weights.size:
        _known_weights = _hashes(size)
    return _known_weights[:size]


def _hashes(size: int) -> np.ndarray:
    """The splitmix64 hash of each index, as a number."""
    z = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    magnitude = 1.0 + (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.where(z & np.uint64(1), magnitude, -magnitude)


_known_weights = np.zeros(0)


@dataclass
class Run:
    """One recorded run: the digests of its points, in order.

    Attributes:
        size: (H, W) of the input.
        seed: of the inputs.
        dtype: "float64" or "float32".
        points: point name -> (shape, digest).
    """

    size: tuple[int, int]
    seed: int
    dtype: str
    points: dict[str, tuple[tuple[int, ...], np.ndarray]] = field(default_factory=dict)

    def add(self, trace: Trace) -> None:
        """Appends the digests of a trace."""
        for name, array in trace.points.items():
            self.points[name] = (tuple(array.shape), digest(array))


@dataclass
class Recording:
    """What an upstream repository computed, and where from.

    Attributes:
        case: name of the case.
        upstream: "owner/repository@commit".
        versions: package -> version of the environment it was recorded in.
        state_dict: upstream's keys -> shapes, in its order.
        runs: run name -> run.
        notes: facts that were recorded beside the points (schedule values, group sizes), plain JSON.
    """

    case: str
    upstream: str
    versions: dict[str, str]
    state_dict: dict[str, tuple[int, ...]]
    runs: dict[str, Run]
    notes: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes `<path>.npz` (the digests) and `<path>.json` (everything else, with the npz's sha256)."""
        values: list[np.ndarray] = []
        runs: dict[str, Any] = {}
        for name, run in self.runs.items():
            index = [[point, list(shape), len(numbers)] for point, (shape, numbers) in run.points.items()]
            values.extend(numbers for _, numbers in run.points.values())
            runs[name] = {"size": list(run.size), "seed": run.seed, "dtype": run.dtype, "points": index}
        npz = path.with_suffix(".npz")
        np.savez_compressed(npz, values=np.concatenate(values))
        header = {
            "schema": SCHEMA,
            "case": self.case,
            "upstream": self.upstream,
            "versions": self.versions,
            "sha256": hashlib.sha256(npz.read_bytes()).hexdigest(),
            "state_dict": {key: list(shape) for key, shape in self.state_dict.items()},
            "notes": self.notes,
            "runs": runs,
        }
        path.with_suffix(".json").write_text(_dump(header), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Reads a recording.

        Raises:
            CaseError: if a file is missing, damaged, of another schema, or the two do not belong together.
        """
        header_path, npz = path.with_suffix(".json"), path.with_suffix(".npz")
        if not header_path.exists() or not npz.exists():
            raise CaseError(f"{path}: no recorded trace (.json and .npz); record one with parity/upstream/record_*.py")
        try:
            header = json.loads(header_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CaseError(f"{header_path}: not JSON: {error}; record it again") from error
        if header.get("schema") != SCHEMA:
            raise CaseError(f"{header_path}: schema {header.get('schema')}; expected {SCHEMA}; record it again")
        if hashlib.sha256(npz.read_bytes()).hexdigest() != header["sha256"]:
            raise CaseError(f"{npz}: its sha256 is not the one in {header_path.name}; record both again")
        try:
            with np.load(npz, allow_pickle=False) as archive:
                values = archive["values"]
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise CaseError(f"{npz}: not an archive of numbers: {error}; record it again") from error
        runs, offset = {}, 0
        for name, entry in header["runs"].items():
            run = Run(size=tuple(entry["size"]), seed=entry["seed"], dtype=entry["dtype"])
            for point, shape, length in entry["points"]:
                run.points[point] = (tuple(shape), values[offset : offset + length])
                offset += length
            runs[name] = run
        if offset != len(values):
            raise CaseError(f"{npz}: {len(values)} numbers; {header_path.name} lists {offset}; record both again")
        state_dict = {key: tuple(shape) for key, shape in header["state_dict"].items()}
        return cls(header["case"], header["upstream"], header["versions"], state_dict, runs, header["notes"])


def _dump(header: dict[str, Any]) -> str:
    """JSON with one line per top-level entry and per point: a diff shows what changed."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in header.items() if key != "runs"]
    runs = []
    for name, run in header["runs"].items():
        points = ",\n   ".join(json.dumps(point) for point in run["points"])
        rest = ", ".join(f"{json.dumps(key)}: {json.dumps(run[key])}" for key in ("size", "seed", "dtype"))
        runs.append(f'  {json.dumps(name)}: {{{rest}, "points": [\n   {points}]}}')
    return "{\n" + "\n".join(lines) + '\n "runs": {\n' + ",\n".join(runs) + "}\n}\n"
