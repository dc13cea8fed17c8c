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
from paddleseg_ext.engine.evaluate import Visitor, evaluate, test_config_of
from paddleseg_ext.engine.inference import TestConfig
from paddleseg_ext.engine.parts import build_model, build_val_dataset, seed_generators
from paddleseg_ext.engine.weights import load_weights
from paddleseg_ext.errors import ConfigError, DataError
from paddleseg_ext.log import without_nan
from paddleseg_ext.metrics import SegmentationResult


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


def val(config: Config, options: ValOptions, say: Callable[[Any], None] = print) -> SegmentationResult | None:
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
    processes.start()
    say = say if processes.is_main() else _silent
    with located(config, "test_config"):
        test_config, remark = test_config_of(settings(config, "test_config"))
    device, fallback = select_device(options.device)
    for line in filter(None, (fallback, f"device {device}, threads {threads_in_use()}", remark)):
        say(line)
    make_city_if_needed(config, say)
    dataset = build_val_dataset(config)
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
    say(f"weights {origin}; {len(dataset)} images; {_protocol(test_config)}")
    with _progress(len(loader)) as advance:
        matrix = evaluate(model, loader, test_config, visit=_visitor(dataset, options), advance=advance)
    for folder in filter(None, (options.format_dir, options.save_dir)):
        say(f"{len(dataset)} files in {folder}")
    if options.format_dir is not None:
        return None
    result = matrix.result(dataset.classes, convention=options.convention)
    _report(result, options, test_config, say)
    return result


def _loader(config: Config, dataset: SegmentationDataset) -> EvalLoader:
    with located(config, "val_dataset"):
        return EvalLoader(
            dataset,
            num_workers=settings(config, "runtime")["num_workers"],
            rank=processes.rank(),
            world_size=processes.world_size(),
        )


def _protocol(config: TestConfig) -> str:
    """How each image is evaluated, in words."""
    flips = [name for name in ("horizontal", "vertical") if config.aug_eval and getattr(config, f"flip_{name}")]
    scales = config.scales if config.aug_eval else (1.0,)
    text = f"scale{'s' if len(scales) > 1 else ''} {' '.join(f'{scale:g}' for scale in scales)}"
    text += f", flips {' and '.join(flips)}" if flips else ""
    return text + (f", windows of {config.crop_size} every {config.stride} pixels" if config.is_slide else "")


def _report(
    result: SegmentationResult, options: ValOptions, test_config: TestConfig, say: Callable[[Any], None]
) -> None:
    say(result.table())
    say(result.summary())
    say(
        f"[EVAL] #Images: {result.num_images} mIoU: {result.miou:.4f} Acc: {result.accuracy:.4f} "
        f"Kappa: {result.kappa:.4f} Dice: {result.mdice:.4f}"
    )
    if options.json_path and processes.is_main():
        record = {**result.to_dict(), "weights": options.model_path, "test_config": vars(test_config)}
        with file_errors(options.json_path):
            Path(options.json_path).parent.mkdir(parents=True, exist_ok=True)
            Path(options.json_path).write_text(json.dumps(without_nan(record), indent=1) + "\n", encoding="utf-8")
        say(f"figures in {options.json_path}")


def _visitor(dataset: SegmentationDataset, options: ValOptions) -> Visitor | None:
    """What is done with each prediction."""
    if options.format_dir is None and options.save_dir is None:
        return None
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
def _progress(total: int) -> Iterator[Callable[[], None]]:
    console = Console(stderr=True)
    if not (processes.is_main() and console.is_terminal):
        yield lambda: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("evaluating", total=total)
        yield lambda: bar.advance(task)


def _silent(line: Any) -> None:
    """Says nothing."""
