"""A training run: everything that the loop needs, set up from a configuration and brought to where it starts."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from paddleseg_ext.config import Config, located, settings
from paddleseg_ext.data import EvalLoader, TrainLoader
from paddleseg_ext.engine import processes, snapshot
from paddleseg_ext.engine.amp import Precision
from paddleseg_ext.engine.banner import banner, command_line, environment, select_device, threads_in_use
from paddleseg_ext.engine.batch_scaling import batch_warning, scale_schedule
from paddleseg_ext.engine.checkpoint import Checkpoint, clean, prepare_root
from paddleseg_ext.engine.demo import make_city_if_needed
from paddleseg_ext.engine.parts import (
    build_learning,
    build_loaders,
    build_model,
    pretrained_keys,
    seed_generators,
    synchronize_batch_norm,
)
from paddleseg_ext.engine.resume import AUTO, check_same_run, find_checkpoint
from paddleseg_ext.engine.tasks import Task, task_of
from paddleseg_ext.engine.weights import load_weights
from paddleseg_ext.errors import ConfigError
from paddleseg_ext.log import JSON_NAME, TEXT_NAME, RunLog
from paddleseg_ext.losses import Losses
from paddleseg_ext.optim import EMA, Optimizer

EVALUATIONS = "evaluations.json"
_FILES = ("last_checkpoint", EVALUATIONS, TEXT_NAME, JSON_NAME)
_PATTERNS = (r"iter_\d+", r"(ema_)?best_model", r"vdlrecords\..*", r"nonfinite_.*\.json", *map(re.escape, _FILES))
_OF_A_RUN = re.compile("|".join(_PATTERNS))


@dataclass(frozen=True)
class TrainOptions:
    """What a command line says beside the configuration.

    Attributes:
        save_dir: folder for checkpoints and logs.
        do_eval: evaluate at each checkpoint and keep the best.
        use_vdl: write VisualDL records.
        device: "cpu", "gpu" ...; None takes a GPU if there is one.
        resume: "auto", or a checkpoint's folder; None starts anew.
        resume_anyway: resume in spite of a changed configuration.
        pretrained: weights to start from.
        allow: names, as regular expressions, in which those may differ from the model's.
        scale_schedule: adapt learning rate and length to the batch.
    """

    save_dir: str = "output"
    do_eval: bool = False
    use_vdl: bool = False
    device: str | None = None
    resume: str | None = None
    resume_anyway: bool = False
    pretrained: str | None = None
    allow: tuple[str, ...] = ()
    scale_schedule: bool = False


@dataclass
class Run:
    """The parts of a training run, and how far it is.

    Attributes:
        iteration: steps done.
        task: what is measured.
        history: evaluations so far, {"iteration", "mIoU", "ema_mIoU"}, or with PQ; the best one and early stopping
            follow from it.
        nan_skips: steps left out because the loss was not finite.
        ignored_batches: batches without a single labelled pixel.
    """

    config: Config
    options: TrainOptions
    runtime: Mapping[str, Any]
    log: RunLog
    seed: int
    model: nn.Layer
    losses: Losses
    optimizer: Optimizer
    precision: Precision
    ema: EMA | None
    loader: TrainLoader
    val_loader: EvalLoader | None
    task: Task
    iteration: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    nan_skips: int = 0
    ignored_batches: int = 0

    @property
    def iters(self) -> int:
        """Length of the run in steps."""
        return self.config.data["iters"]

    @property
    def save_dir(self) -> Path:
        """Folder for checkpoints and logs."""
        return Path(self.options.save_dir)

    def is_due(self) -> bool:
        """Whether a checkpoint, and an evaluation, belongs here."""
        return self.iteration > 0 and (
            self.iteration % self.runtime["save_interval"] == 0 or self.iteration == self.iters
        )


def start_run(config: Config, options: TrainOptions) -> Run:
    """Builds a run and brings it to where it starts; nothing is trained yet.

    Args:
        config: validated.
        options: beside it.

    Raises:
        PaddlesegExtError: for whatever cannot be used.
    """
    processes.start()
    warnings: list[str] = []
    device, fallback = select_device(options.device)
    if fallback:
        warnings.append(fallback)
    checkpoint = _open_save_dir(options, warnings)
    runtime = settings(config, "runtime")
    if runtime["cudnn_benchmark"] and device.startswith("gpu"):
        paddle.set_flags({"FLAGS_cudnn_exhaustive_search": True})
    log = RunLog(options.save_dir, use_vdl=options.use_vdl, is_main=processes.is_main(), level=runtime["log_level"])
    try:
        for text in warnings:
            log.warn(text)
        if options.scale_schedule:
            config, derivation = scale_schedule(config, processes.world_size())
            log.info("\n".join(derivation))
        elif batch_warning(config, processes.world_size()):
            log.warn(batch_warning(config, processes.world_size()))
        make_city_if_needed(config, log.info)
        run = _build(config, options, log, checkpoint)
        _bring_to_start(run, checkpoint)
        _announce(run, device, _origin_of_weights(config, options, checkpoint))
    except BaseException:
        log.close()
        raise
    return run


def _open_save_dir(options: TrainOptions, warnings: list[str]) -> Checkpoint | None:
    """Makes the folder ready; the checkpoint to resume, if there is one."""
    if options.resume not in (None, AUTO) and options.pretrained:
        raise ConfigError("--resume goes on with a run, --pretrained starts a new one from weights; give one of them")
    if processes.is_main():
        prepare_root(options.save_dir)
        clean(options.save_dir)
    processes.wait_for_all()
    checkpoint = None
    if options.resume is not None:
        checkpoint = find_checkpoint(options.resume, options.save_dir, warnings.append)
        if checkpoint is None:
            warnings.append(f"--resume auto: {options.save_dir} has no checkpoint; starting a new run")
    processes.wait_for_all()
    save_dir = Path(options.save_dir)
    goes_on_here = checkpoint is not None and checkpoint.path.resolve().parent == save_dir.resolve()
    if not goes_on_here and processes.is_main():
        _set_aside_earlier_run(save_dir, warnings)
    processes.wait_for_all()
    return checkpoint


def _set_aside_earlier_run(save_dir: Path, warnings: list[str]) -> None:
    """Moves what an earlier run has left in the folder into one of its own, so that nothing of it is overwritten."""
    found = [entry for entry in sorted(save_dir.iterdir()) if _OF_A_RUN.fullmatch(entry.name)]
    if not found:
        return
    number = 1
    while (save_dir / f"earlier_run_{number}").exists():
        number += 1
    place = save_dir / f"earlier_run_{number}"
    place.mkdir()
    for entry in found:
        os.rename(entry, place / entry.name)
    warnings.append(f"{save_dir}: held an earlier run, which is now in {place} (to go on with a run: --resume auto)")


def _build(config: Config, options: TrainOptions, log: RunLog, checkpoint: Checkpoint | None) -> Run:
    """All parts, in the state of a new run."""
    runtime = settings(config, "runtime")
    with located(config, "runtime.precision"):
        precision = Precision(runtime["precision"], runtime["amp_level"])
    task = task_of(config)
    seed = _seed(runtime["seed"], checkpoint)
    seed_generators(seed)
    loader, val_loader = build_loaders(config, runtime, seed, do_eval=options.do_eval)
    for section, part in (("train_dataset", loader), ("val_dataset", val_loader)):
        if part is not None:
            with located(config, section):
                task.check(part.dataset)
    model = build_model(config, without_pretrained=checkpoint is not None)
    if runtime["sync_bn"]:
        model = synchronize_batch_norm(model, log.info)
    losses, optimizer = build_learning(config, model)
    if options.pretrained and checkpoint is None:
        load_weights(model, options.pretrained, allow=options.allow)
        log.info(f"weights from {options.pretrained}")
    ema = EMA(model, runtime["ema"]["decay"]) if runtime["ema"] else None
    precision.prepare(model, optimizer)
    model.train()
    losses.train()
    return Run(
        config=config,
        options=options,
        runtime=runtime,
        log=log,
        seed=seed,
        model=model,
        losses=losses,
        optimizer=optimizer,
        precision=precision,
        ema=ema,
        loader=loader,
        val_loader=val_loader,
        task=task,
    )


def _seed(configured: int | None, checkpoint: Checkpoint | None) -> int:
    """The run's seed, the same in all processes; a resumed run keeps the one it had."""
    if configured is not None:
        return configured
    if checkpoint is not None and "seed" in checkpoint.state:
        return int(checkpoint.state["seed"])
    return processes.gather(secrets.randbelow(2**31))[0]


def _bring_to_start(run: Run, checkpoint: Checkpoint | None) -> None:
    """Restores the checkpoint or, in a new run, gives all processes the same weights and each its own randomness."""
    if checkpoint is None:
        processes.share_from_main(run.model.state_dict().values())
        processes.share_from_main(run.losses.state_dict().values())
        seed_generators(run.seed + processes.rank())
        return
    anyway = run.options.resume_anyway
    groups = snapshot.groups_of(run)
    changes = check_same_run(checkpoint, run.config.data, processes.world_size(), groups=groups, anyway=anyway)
    snapshot.restore(run, checkpoint, anyway=anyway)
    run.history += [entry for entry in read_evaluations(checkpoint.path.parent) if entry["iteration"] == run.iteration]
    run.log.info(f"resuming {checkpoint.path}: {run.iteration} of {run.iters} iterations are done")
    for change in changes:
        run.log.warn(f"--resume-anyway: {change}")


def read_evaluations(save_dir: Path) -> list[dict[str, Any]]:
    """The results that a run has written beside its checkpoints; empty if there are none that can be read."""
    try:
        found = json.loads((save_dir / EVALUATIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    entries = found if isinstance(found, list) else []
    dicts = [e for e in entries if isinstance(e, dict) and isinstance(e.get("iteration"), int)]
    return [e for e in dicts if "mIoU" in e or "PQ" in e]


def _origin_of_weights(config: Config, options: TrainOptions, checkpoint: Checkpoint | None) -> str:
    if checkpoint is not None:
        return str(checkpoint.path)
    configured = ", ".join(f"{config.get(key)} ({key})" for key in pretrained_keys(config))
    return options.pretrained or configured or "nowhere: trained from scratch"


def _announce(run: Run, device: str, weights: str) -> None:
    total = run.config.data["batch_size"] * processes.world_size()
    facts = {
        "device": device,
        "threads": threads_in_use(),
        "processes": processes.world_size(),
        "seed": run.seed,
        "parameters": f"{sum(p.size for p in run.model.parameters() if not p.stop_gradient):,}",
        "training images": f"{len(run.loader.dataset)} ({run.loader.iterations_per_epoch:g} iterations per epoch)",
        "schedule": f"{run.iters} iterations, total batch {total}",
        "weights from": weights,
        "output": str(run.save_dir),
    }
    if run.val_loader is not None:
        facts["validation images"] = len(run.val_loader.dataset)
    record = {
        "iteration": run.iteration,
        "iters": run.iters,
        "command": command_line(),
        **facts,
        "versions": environment(),
        "config": run.config.data,
    }
    run.log.start(record, banner(run.config, facts))
    datasets = [run.loader.dataset] + ([run.val_loader.dataset] if run.val_loader else [])
    for text in dict.fromkeys(notice for dataset in datasets for notice in dataset.notices):
        run.log.info(f"note: {text}")
