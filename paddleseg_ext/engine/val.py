"""Evaluation as a command: from a configuration and weights to a table, JSON, pictures or files for a test server."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
from rich.console import Console
from rich.progress import Progress

from paddleseg_ext import pictures
from paddleseg_ext.config import Config, located, settings
from paddleseg_ext.data import EvalLoader, Sample, SegmentationDataset
from paddleseg_ext.data.image_io import file_errors, read_image, write_png
from paddleseg_ext.engine import processes
from paddleseg_ext.engine.banner import select_device, threads_in_use
from paddleseg_ext.engine.demo import make_city_if_needed
from paddleseg_ext.engine.panoptic import Result
from paddleseg_ext.engine.panoptic_files import PanopticWriter
from paddleseg_ext.engine.parts import build_model, build_val_dataset, seed_generators
from paddleseg_ext.engine.tasks import Evaluation, PanopticTask, SemanticTask, Task, is_panoptic, task_of
from paddleseg_ext.engine.weights import load_weights
from paddleseg_ext.errors import ConfigError, DataError
from paddleseg_ext.log import EVAL_FIGURES, heartbeat, without_nan
from paddleseg_ext.metrics import SegmentationResult
from paddleseg_ext.metrics.figures import shown


@dataclass(frozen=True)
class ValOptions:
    """What a command line says beside the configuration.

    Attributes:
        model_path: weights; None evaluates the model as it is built, which only `random_weights` allows.
        random_weights: that this is what is wanted.
        allow: names, as regular expressions, in which the weights may differ from the model's.
        device: "cpu", "gpu" ...; None takes a GPU if there is one.
        json_path: file for the figures.
        save_dir: folder for a picture per image.
        format_dir: folder for predictions as the data set's publisher numbers classes; no figures are computed then.
        convention: "present" or "paddleseg", see `metrics.confusion`.
    """

    model_path: str | None = None
    random_weights: bool = False
    allow: tuple[str, ...] = ()
    device: str | None = None
    json_path: str | None = None
    save_dir: str | None = None
    format_dir: str | None = None
    convention: str = "present"


def val(config: Config, options: ValOptions, say: Callable[[Any], None] = print) -> SegmentationResult | Result | None:
    """Evaluates a model on `val_dataset`; all processes take part, the main one speaks and writes.

    Args:
        config: validated for "val".
        options: beside it.
        say: gets lines, and the table for rich.

    Returns:
        The figures; None with `format_dir`.

    Raises:
        PaddlesegExtError: if configuration, weights or data cannot be used.
    """
    if options.model_path is None and not options.random_weights:
        raise ConfigError(
            "--model_path: missing; expected trained weights, such as output/best_model; add it, or --random_weights "
            "to evaluate the model as it is built"
        )
    _check_convention(config, options)
    processes.start()
    say = say if processes.is_main() else _silent
    task = task_of(config, options.convention)
    device, fallback = select_device(options.device)
    for line in filter(None, (fallback, f"device {device}, threads {threads_in_use()}", task.remark)):
        say(line)
    make_city_if_needed(config, say)
    _check_writable(options)
    dataset = build_val_dataset(config)
    with located(config, "val_dataset"):
        task.check(dataset)
    if options.format_dir is None and any(pair.label is None for pair in dataset.pairs):
        raise DataError(
            f"val_dataset: images without labels, such as {dataset.pairs[0].image}; expected a part with ground truth "
            "(mode: val); for a test set give --format_only"
        )
    loader = _loader(config, dataset)
    seed_generators(settings(config, "runtime")["seed"] or 0)
    model = build_model(config, without_pretrained=options.model_path is not None)
    if options.model_path is not None:
        load_weights(model, options.model_path, allow=options.allow)
    origin = options.model_path or "as built (--random_weights)"
    say(f"weights {origin}; {len(dataset)} images; {_protocol(task)}")
    visit = _visitor(dataset, options, task)
    with _progress(len(loader), say) as advance:
        evaluation = task.evaluate(model, loader, visit=visit, advance=advance)
    if isinstance(visit, PanopticWriter):
        visit.close()
    for folder in filter(None, (options.format_dir, options.save_dir)):
        say(f"{len(dataset)} files in {folder}")
    if options.format_dir is not None:
        return None
    _report(evaluation, options, task, say)
    return evaluation.result


def _check_writable(options: ValOptions) -> None:
    """Finds out before the evaluation whether its figures can be written after it."""
    if options.json_path and processes.is_main():
        path = Path(options.json_path)
        with file_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            was_there = path.exists()
            path.open("a").close()
            if not was_there:
                path.unlink()


def _check_convention(config: Config, options: ValOptions) -> None:
    if is_panoptic(config) and options.convention != "present":
        raise ConfigError(
            "--paddleseg-metrics: PaddleSeg has no figures of its own for task: panoptic; expected the official ones; "
            "remove it"
        )


def _loader(config: Config, dataset: SegmentationDataset) -> EvalLoader:
    with located(config, "val_dataset"):
        return EvalLoader(
            dataset,
            num_workers=settings(config, "runtime")["num_workers"],
            rank=processes.rank(),
            world_size=processes.world_size(),
        )


def _protocol(task: Task) -> str:
    """How each image is evaluated, in words."""
    if isinstance(task, PanopticTask):
        return "whole images; " + ", ".join(f"{key} {value}" for key, value in task.settings.items())
    config = task.test_config
    flips = [name for name in ("horizontal", "vertical") if config.aug_eval and getattr(config, f"flip_{name}")]
    scales = config.scales if config.aug_eval else (1.0,)
    text = f"scale{'s' if len(scales) > 1 else ''} {' '.join(f'{scale:g}' for scale in scales)}"
    text += f", flips {' and '.join(flips)}" if flips else ""
    return text + (f", windows of {config.crop_size} every {config.stride} pixels" if config.is_slide else "")


def _report(evaluation: Evaluation, options: ValOptions, task: Task, say: Callable[[Any], None]) -> None:
    say(evaluation.table)
    say(evaluation.summary)
    record = evaluation.record
    figures = " ".join(f"{key}: {shown(record[key])}" for key in EVAL_FIGURES if key in record)
    say(f"[EVAL] #Images: {record['images']} {figures}")
    if options.json_path and processes.is_main():
        protocol = {"test_config": vars(task.test_config)} if isinstance(task, SemanticTask) else {}
        protocol = protocol or {"postprocess": dict(task.settings)}
        content = {**evaluation.to_dict(), "weights": options.model_path, **protocol}
        with file_errors(options.json_path):
            Path(options.json_path).parent.mkdir(parents=True, exist_ok=True)
            Path(options.json_path).write_text(json.dumps(without_nan(content), indent=1) + "\n", encoding="utf-8")
        say(f"figures in {options.json_path}")


def _visitor(dataset: SegmentationDataset, options: ValOptions, task: Task) -> Callable[..., None] | None:
    """What is done with each prediction."""
    if options.format_dir is None and options.save_dir is None:
        return None
    if isinstance(task, PanopticTask):
        return PanopticWriter(dataset, options.format_dir, options.save_dir)
    top = os.path.commonpath([os.path.dirname(pair.image) for pair in dataset.pairs])

    def visit(sample: Sample, pred: np.ndarray) -> None:
        name = Path(os.path.relpath(sample["meta"]["image_path"], top)).with_suffix(".png")
        if options.format_dir is not None:
            _write(Path(options.format_dir) / name.name, dataset.published_ids[pred])
        if options.save_dir is not None:
            _write(Path(options.save_dir) / name, _picture(dataset, sample, pred))

    return visit


def _picture(dataset: SegmentationDataset, sample: Sample, pred: np.ndarray) -> np.ndarray:
    image = read_image(sample["meta"]["image_path"])
    if "label" not in sample:
        return pictures.overlay(image, pred, dataset.palette)
    return pictures.comparison(image, pred, sample["label"], classes=dataset.classes, colors=dataset.palette)


def _write(path: Path, pixels: np.ndarray) -> None:
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, pixels)


@contextlib.contextmanager
def _progress(total: int, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    console = Console(stderr=True)
    if not (processes.is_main() and console.is_terminal):
        yield heartbeat("evaluating", total, say)
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("evaluating", total=total)
        yield lambda: bar.advance(task)


def _silent(line: Any) -> None:
    """Says nothing."""
