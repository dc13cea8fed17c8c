"""What a run tells: console, `train.log`, `train.jsonl` and, if asked for, VisualDL.

Logging never stops training: whatever fails here (no space left, VisualDL missing or broken) is said once, and the
run goes on without it. Only the main process logs.

Each line of `train.jsonl` is an object with `time` (seconds since 1970) and a `kind`:
- start: iteration, iters, command, versions, device, config ...; one for each start, also of a resumed run;
- train: iteration, iters, epoch, loss, losses (by name), lr, batch_cost, reader_cost (seconds), ips, memory_mb,
  eta_seconds; means over the steps since the last such line;
- eval: iteration, weights ("model" or "ema"), images, mIoU, Acc, Kappa, Dice, class_iou (by name); of a panoptic
  model PQ, SQ, RQ, PQ_things, PQ_stuff, AP, AP50, mIoU, class_pq, class_iou;
- message: level, text.
`iteration` counts finished steps. Lines of steps that a crash has lost come again; `plots.read_log` keeps the last.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

TEXT_NAME = "train.log"
JSON_NAME = "train.jsonl"
EVAL_FIGURES = ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP", "AP50", "mIoU", "Acc", "Kappa", "Dice")
_VISUALDL = "VisualDL"
_PACKAGE = "paddleseg_ext"


class RunLog:
    """The log of one training run.

    Args:
        save_dir: where the files go; must exist.
        use_vdl: also write VisualDL records there.
        is_main: whether this process logs at all.
        level: "info", or "warning" for a console with nothing else; the files get everything.
        stream: of the console; standard output by default.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        *,
        use_vdl: bool = False,
        is_main: bool = True,
        level: str = "info",
        stream: Any = None,
    ) -> None:
        self.is_main = is_main
        self._is_quiet = level == "warning"
        self._console = Console(file=stream or sys.stdout, highlight=False, markup=False, soft_wrap=True)
        self._failed: set[str] = set()
        self._said: set[str] = set()
        self._files: dict[str, TextIO] = {}
        self._visualdl: Any = None
        self._progress: Progress | None = None
        self._handler = _Handler(self)
        if is_main:
            for name in (TEXT_NAME, JSON_NAME):
                self._try(name, lambda name=name: self._files.update({name: _open_for_append(Path(save_dir) / name)}))
            logging.getLogger(_PACKAGE).addHandler(self._handler)
            if use_vdl:
                self._visualdl = self._try(_VISUALDL, lambda: _start_visualdl(save_dir))

    def info(self, text: str) -> None:
        """For people; may have several lines."""
        self._line("INFO", text)

    def warn(self, text: str, *, once: bool = False) -> None:
        """A line that should not be overlooked.

        Args:
            text: of the line.
            once: say the same text only once in a run.
        """
        if self.is_main and not (once and text in self._said):
            self._said.add(text)
            self._line("WARNING", text)
            self._record({"kind": "message", "level": "warning", "text": text})

    def start(self, record: Mapping[str, Any], banner: str) -> None:
        """All there is to know about the run.

        Args:
            record: as data; keys as in the module's description.
            banner: for people.
        """
        self.info(banner)
        self._record({"kind": "start", **record})

    def train(self, record: Mapping[str, Any]) -> None:
        """Means over some steps; keys as in the module's description."""
        self._line("INFO", train_line(record))
        self._record({"kind": "train", **record})
        scalars = {"loss": record["loss"], **(record["losses"] if len(record["losses"]) > 1 else {})}
        scalars.update({key: record[key] for key in ("lr", "batch_cost", "reader_cost")})
        self._scalars({f"Train/{name}": value for name, value in scalars.items()}, record["iteration"])

    def evaluation(self, record: Mapping[str, Any], table: Any = None) -> None:
        """The result of an evaluation.

        Args:
            record: keys as in the module's description.
            table: per class, for rich; or None.
        """
        is_ema = record["weights"] == "ema"
        if table is not None:
            self._table(table)
        figures = " ".join(f"{key}: {_four_digits(record[key])}" for key in EVAL_FIGURES if key in record)
        self._line("INFO", f"[EVAL] {'EMA ' if is_ema else ''}#Images: {record['images']} {figures}")
        self._record({"kind": "eval", **record})
        prefix = "Evaluate/Ema_" if is_ema else "Evaluate/"
        shown = [key for key in ("PQ", "AP", "mIoU", "Acc") if key in record]
        self._scalars({f"{prefix}{key}": record[key] for key in shown}, record["iteration"])

    def picture(self, tag: str, image: np.ndarray, iteration: int) -> None:
        """A picture for VisualDL, (H, W, 3) uint8 RGB."""
        if self._visualdl is not None:
            self._try(_VISUALDL, lambda: self._visualdl.add_image(tag, image, step=iteration))

    @property
    def shows_pictures(self) -> bool:
        """Whether `picture` has any effect."""
        return self._visualdl is not None

    @contextlib.contextmanager
    def progress(
        self, label: str, total: int, done: int = 0, *, seconds: float = math.inf
    ) -> Iterator[Callable[[], None]]:
        """A bar below the lines while the block runs, if the console is a terminal; call the result at each step.

        Args:
            label: of the bar.
            total: number of steps.
            done: steps done already.
            seconds: without a terminal, a line says so often how far it is.
        """
        if not (self.is_main and self._console.is_terminal):
            yield heartbeat(label, total, self.info, seconds)
            return
        outer = self._progress
        bar = outer or _bar(self._console)
        with contextlib.nullcontext() if outer else bar:
            self._progress = bar
            task = bar.add_task(label, total=total, completed=done)
            try:
                yield lambda: bar.advance(task)
            finally:
                bar.remove_task(task)
                self._progress = outer

    def close(self) -> None:
        """Closes the files; later lines go to the console alone."""
        logging.getLogger(_PACKAGE).removeHandler(self._handler)
        if self._visualdl is not None:
            self._try(_VISUALDL, self._visualdl.close)
        for name, file in list(self._files.items()):
            self._try(name, file.close)
        self._files, self._visualdl = {}, None

    def _line(self, level: str, text: str) -> None:
        if self.is_main:
            line = f"[{time.strftime('%Y/%m/%d %H:%M:%S')}] {level}: {text}"
            if level == "WARNING" or not self._is_quiet:
                with contextlib.suppress(OSError, ValueError):  # the reader of the console has gone
                    self._console.print(line)
            self._write(TEXT_NAME, line)

    def _table(self, table: Any) -> None:
        if self.is_main:
            if not self._is_quiet:
                with contextlib.suppress(OSError, ValueError):
                    self._console.print(table)
            text = io.StringIO()
            Console(file=text, width=120).print(table)
            self._write(TEXT_NAME, text.getvalue().rstrip())

    def _record(self, record: Mapping[str, Any]) -> None:
        if self.is_main:
            data = without_nan({"time": round(time.time(), 3), **record})
            self._write(JSON_NAME, json.dumps(data, ensure_ascii=False, default=str))

    def _scalars(self, scalars: Mapping[str, float], iteration: int) -> None:
        if self._visualdl is not None:
            for tag, value in scalars.items():
                self._try(_VISUALDL, lambda t=tag, v=value: self._visualdl.add_scalar(t, float(v), step=iteration))

    def _write(self, name: str, line: str) -> None:
        if name in self._files:
            self._try(name, lambda: print(line, file=self._files[name], flush=True))

    def _try(self, part: str, action: Callable[[], Any]) -> Any:
        """The result of an action of one part of the log; after its first failure that part is left alone."""
        if part in self._failed:
            return None
        try:
            return action()
        except Exception as error:  # whatever it is, training goes on
            self._failed.add(part)
            self._files.pop(part, None)
            self._visualdl = None if part == _VISUALDL else self._visualdl
            self.warn(f"logging to {part} failed ({type(error).__name__}: {error}); the run goes on without it")
            return None


def train_line(record: Mapping[str, Any]) -> str:
    """PaddleSeg's line of training, and each loss by name."""
    losses = record["losses"] if len(record["losses"]) > 1 else {}
    parts = [
        f"epoch: {record['epoch']}",
        f"iter: {record['iteration']}/{record['iters']}",
        f"loss: {record['loss']:.4f}",
        *(f"{name}: {value:.4f}" for name, value in losses.items()),
        f"lr: {record['lr']:.6f}",
        f"batch_cost: {record['batch_cost']:.4f}",
        f"reader_cost: {record['reader_cost']:.5f}",
        f"ips: {record['ips']:.4f} samples/sec",
        f"mem: {record['memory_mb']:.0f} MB",
    ]
    return f"[TRAIN] {', '.join(parts)} | ETA {duration(record['eta_seconds'])}"


def heartbeat(label: str, total: int, say: Callable[[str], None], seconds: float = 30.0) -> Callable[[], None]:
    """What to call at each of `total` steps, so that a line says at most every `seconds` how far they are."""
    start = last = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal last, done
        done += 1
        now = time.monotonic()
        if now - last >= seconds and done < total:
            last = now
            say(f"{label}: {done} of {total}, {duration((now - start) / done * (total - done))} left")

    return advance


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: "01:02:03"."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def without_nan(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinities are None, tuples and arrays lists."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return without_nan(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Handler(logging.Handler):
    """Carries what modules of this package say through `logging`, such as a data worker that died, into the log."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.warn(record.getMessage())


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _open_for_append(path: Path) -> TextIO:
    """A text file to add lines to; a last line that a crash has cut off is closed first."""
    is_cut = path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
    file = path.open("a", encoding="utf-8")
    if is_cut:
        file.write("\n")
    return file


def _start_visualdl(save_dir: str | os.PathLike[str]) -> Any:
    from visualdl import LogWriter

    return LogWriter(str(save_dir))


def _four_digits(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
