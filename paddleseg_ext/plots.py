"""Curves of one or several training runs, from their JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddleseg_ext.errors import DataError
from paddleseg_ext.log import EVAL_FIGURES, JSON_NAME

Record = dict[str, Any]
Curve = tuple[list[int], list[float]]


def read_log(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a run, in the order of the steps; of steps that were done twice, only the last time.

    A line that a crash has cut off is left out.

    Args:
        path: a `train.jsonl`, or the folder of a run.

    Raises:
        DataError: if there is none, or nothing in it is a record.
    """
    path = Path(path)
    file = path / JSON_NAME if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as e:
        raise DataError(f"{file}: cannot be read ({e.strerror}); expected the {JSON_NAME} of a training run") from e
    records: list[Record] = []
    for line in lines:
        record = _parse(line)
        if record is not None and record["kind"] == "start":
            records = [old for old in records if old.get("iteration", 0) <= record.get("iteration", 0)]
        if record is not None:
            records.append(record)
    if not records:
        raise DataError(f"{file}: no line is a record of a training run; expected those that tools/train.py writes")
    return records


def curves(records: Sequence[Record]) -> dict[str, Curve]:
    """All numbers of a run as curves over its steps: "loss", each loss by name, "lr", "mIoU", "mIoU (EMA)" ..."""
    found: dict[str, Curve] = {}
    for record in records:
        for name, value in _scalars(record):
            steps, values = found.setdefault(name, ([], []))
            steps.append(record["iteration"])
            values.append(value)
    return found


def plot(runs: Mapping[str, Mapping[str, Curve]], keys: Sequence[str] | None, out: str | os.PathLike[str]) -> Path:
    """Draws one diagram per key, each with one line per run, into a picture.

    Args:
        runs: label -> curves.
        keys: names of curves; None draws losses, learning rate and mIoU.
        out: PNG, SVG or PDF file; missing folders are made.

    Raises:
        DataError: if no run has a key, or the file cannot be written; names the keys there are.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise DataError(f"curves cannot be drawn: {e}; expected matplotlib, which visualdl brings; install it") from e
    known = list(dict.fromkeys(key for found in runs.values() for key in found))
    wanted = list(keys) if keys else _usual(known)
    missing = [key for key in wanted if key not in known]
    if missing or not wanted:
        raise DataError(f"no run has {', '.join(missing) or 'any curve'}; available: {', '.join(known) or 'nothing'}")
    columns = min(len(wanted), 3)
    rows = -(-len(wanted) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, key in enumerate(wanted, 1):
        axes = figure.add_subplot(rows, columns, number, title=key, xlabel="iteration")
        for label, found in runs.items():
            if key in found:
                axes.plot(*found[key], label=label, marker="." if len(found[key][0]) < 30 else "")
        axes.grid(alpha=0.3)
        if len(runs) > 1:
            axes.legend()
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=120)
    except (OSError, ValueError) as e:
        raise DataError(f"{out}: cannot be written ({e}); expected a path that ends in .png, .svg or .pdf") from e
    return Path(out)


def _parse(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("kind"), str) else None


def _scalars(record: Record) -> list[tuple[str, float]]:
    """The numbers of a record, under the names that `curves` gives them."""
    if record["kind"] == "train":
        values = {key: record.get(key) for key in ("loss", "lr", "batch_cost", "reader_cost", "ips", "memory_mb")}
        values.update(record.get("losses") or {})
    elif record["kind"] == "eval":
        suffix = " (EMA)" if record.get("weights") == "ema" else ""
        values = {f"{key}{suffix}": record.get(key) for key in EVAL_FIGURES}
        for title, key in (("IoU", "class_iou"), ("PQ", "class_pq")):
            values.update({f"{title} {name}{suffix}": value for name, value in (record.get(key) or {}).items()})
    else:
        values = {}
    return [(name, value) for name, value in values.items() if isinstance(value, (int, float))]


def _usual(known: Sequence[str]) -> list[str]:
    """What most people want to see: the loss and its terms, the learning rate, mIoU or PQ and AP."""
    rest = {"batch_cost", "reader_cost", "ips", "memory_mb", *EVAL_FIGURES} - {"PQ", "AP", "mIoU"}
    own = [key for key in known if key not in rest and not key.startswith(("IoU ", "PQ ")) and "(EMA)" not in key]
    return own + [key for key in known if key in ("PQ (EMA)", "mIoU (EMA)")]
