"""Training: the loop, and what happens around a step.

    load a batch -> training_step -> average the weights -> log -> checkpoint -> evaluate, keep the best -> next

A checkpoint is written before the evaluation that belongs to it, so that a crash in evaluation loses nothing; a run
that is resumed there makes up for the evaluation. Every run with the same configuration, processes and threads gives
the same weights, interrupted or not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext import pictures
from paddleseg_ext.config import Config
from paddleseg_ext.data.loader import Batch
from paddleseg_ext.engine import processes, snapshot
from paddleseg_ext.engine.banner import memory_mb
from paddleseg_ext.engine.checkpoint import save_best, save_checkpoint
from paddleseg_ext.engine.inference import predict_labels
from paddleseg_ext.engine.interrupt import Interruption, catch_signals
from paddleseg_ext.engine.run import EVALUATIONS, Run, TrainOptions, start_run
from paddleseg_ext.engine.step import NonFiniteStepError, training_step
from paddleseg_ext.errors import TrainingError, WeightError
from paddleseg_ext.log import duration, without_nan
from paddleseg_ext.weight_files import write_atomically

BEST, EMA_BEST = "best_model", "ema_best_model"


@dataclass(frozen=True)
class TrainResult:
    """How a run has ended.

    Attributes:
        iteration: steps done.
        best: the best evaluation {"iteration", "mIoU" or "PQ", ...}; None without any.
        exit_code: 0, or 130 / 143 if Ctrl-C or SIGTERM has ended it.
    """

    iteration: int
    best: dict[str, Any] | None
    exit_code: int


def train(config: Config, options: TrainOptions) -> TrainResult:
    """Trains as a configuration says.

    Args:
        config: validated for "train".
        options: beside it.

    Raises:
        PaddlesegExtError: if the run cannot start or go on; the checkpoints written so far are whole.
    """
    with catch_signals() as interruption:
        run = start_run(config, options)
        start = time.monotonic()
        try:
            with run.log.progress("training", run.iters, run.iteration) as advance:
                _loop(run, interruption, advance)
            result = TrainResult(run.iteration, best_of(run.history, run.task.metric), interruption.exit_code)
            run.log.info(_closing_line(run, result, time.monotonic() - start))
        finally:
            run.loader.close()
            run.log.close()
        return result


def _loop(run: Run, interruption: Interruption, advance: Callable[[], None]) -> None:
    """Steps until the end, a signal, or the evaluations stop getting better."""
    meter = _Meter(run)
    if run.val_loader and run.is_due() and run.iteration not in [entry["iteration"] for entry in run.history]:
        _evaluate(run)  # the run stopped between a checkpoint and its evaluation
    while run.iteration < run.iters and not _is_stale(run):
        batch = meter.load()
        terms = _step(run, batch)
        run.iteration += 1
        if terms is not None and run.ema is not None:
            run.ema.update()
        meter.add(terms)
        advance()
        if run.iteration % run.runtime["log_iters"] == 0:
            run.log.train(meter.record())
        if run.runtime["vis_interval"] and run.iteration % run.runtime["vis_interval"] == 0:
            _draw(run, batch)
        is_interrupted = processes.any_of(interruption.signal is not None)
        if run.is_due() or is_interrupted:
            _save(run)
        if is_interrupted:
            return
        if run.is_due() and run.val_loader:
            _evaluate(run)
        meter.start_step()


def _step(run: Run, batch: Batch) -> dict[str, float] | None:
    """One training step; None if it was left out because its loss or gradients are not finite."""
    run.ignored_batches += _is_ignored(run, batch)
    may_skip = run.runtime["on_nan"] == "skip"
    running = [(tensor, tensor.numpy()) for tensor in running_statistics(run.model)] if may_skip else []
    tensors = {name: paddle.to_tensor(value) for name, value in batch.items() if name != "index"}
    precision = run.precision
    try:
        return training_step(
            run.model, run.losses, run.optimizer, tensors, run.iteration, precision.scaler, autocast=precision.autocast
        )
    except NonFiniteStepError as error:
        place = _dump(run, batch, error)
        if not may_skip or run.nan_skips >= run.runtime["max_nan_skips"]:
            skipped = f", after {run.nan_skips} steps were skipped" if run.nan_skips else ""
            raise TrainingError(
                f"{error}{skipped}; see {place} for the samples and gradients; lower the learning rate, clip gradients "
                f"(optimizer.grad_clip), or go on without such steps: --opts runtime.on_nan=skip"
            ) from error
        run.nan_skips += 1
        for tensor, value in running:  # the pass has moved them
            tensor.set_value(value)
        run.log.warn(f"{error}; step skipped ({run.nan_skips} of {run.runtime['max_nan_skips']} allowed), see {place}")
        return None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "ResourceExhausted" not in str(error):
            raise
        raise TrainingError(
            f"step {run.iteration + 1}: out of memory with {len(batch['index'])} images of "
            f"{' x '.join(map(str, batch['image'].shape[2:]))} (height x width); expected a batch that fits; lower "
            "--batch_size (and give --scale-schedule-to-batch) or the crop size"
        ) from error


def running_statistics(model: nn.Layer) -> list[paddle.Tensor]:
    """What a forward pass in training mode changes; Paddle counts the statistics of batch norm as parameters."""
    return [tensor for tensor in model.state_dict().values() if tensor.stop_gradient]


def _is_ignored(run: Run, batch: Batch) -> bool:
    """Whether no pixel of the batch, in any process, has a label; says so."""
    nothing = bool((batch["label"] == run.loader.dataset.ignore_index).all())
    if processes.world_size() > 1:
        nothing = not processes.any_of(not nothing)
    if nothing:
        run.log.warn(
            f"step {run.iteration + 1}: no pixel of the batch has a label ({run.ignored_batches + 1} such batches so "
            f"far; samples {batch['index'].tolist()}); its cross-entropy is 0"
        )
    return nothing


def _dump(run: Run, batch: Batch, error: NonFiniteStepError) -> str:
    """Writes what is known about a step whose loss is not finite; where to."""
    samples = [int(index) for part in processes.gather(batch["index"].tolist()) for index in part]
    path = run.save_dir / f"nonfinite_iter_{run.iteration + 1}.json"
    if processes.is_main():
        pairs = run.loader.dataset.pairs
        record = {
            "step": run.iteration + 1,
            "losses": {name: repr(value) for name, value in error.terms.items()},
            "learning_rate": run.optimizer.schedule(run.iteration),
            "samples": [{"index": index, "image": pairs[index].image} for index in samples],
            "gradient_norms": {name: repr(value) for name, value in error.gradient_norms.items()},
            "non_finite_weights": snapshot.non_finite(snapshot.weights_of(run.model)),
            "seed": run.seed,
            "config": run.config.data,
        }
        _write_json(run, path, record)
    return str(path)


def _write_json(run: Run, path: Path, data: Any) -> None:
    """Writes a record that training can do without; a failure is said, not raised."""
    if processes.is_main():
        content = json.dumps(without_nan(data), indent=1).encode()
        try:
            write_atomically(path, lambda file: file.write(content))
        except WeightError as error:
            run.log.warn(str(error))


def _save(run: Run) -> None:
    """Writes a checkpoint; all processes take part, the main one writes."""
    arrays, state = snapshot.take(run)
    if processes.is_main():
        place = save_checkpoint(run.save_dir, run.iteration, arrays, state, keep=run.runtime["keep_checkpoint_max"])
        run.log.info(f"checkpoint {place}")


def _evaluate(run: Run) -> None:
    """Evaluates the weights, and their average if there is one; keeps the best of each."""
    metric, ema_metric = run.task.metric, f"ema_{run.task.metric}"
    scores = {metric: _evaluate_weights(run, "model")}
    arrays = {metric: lambda: snapshot.weights_of(run.model)}
    if run.ema is not None:
        with run.ema.applied():
            scores[ema_metric] = _evaluate_weights(run, "ema")
        arrays[ema_metric] = run.ema.state_dict
    for key, folder in ((metric, BEST), (ema_metric, EMA_BEST)):
        earlier = best_of(run.history, key)
        if key in scores and processes.is_main() and (earlier is None or scores[key] > earlier[key]):
            state = {"config": run.config.data, key: scores[key]}
            save_best(run.save_dir, run.iteration, {"model": arrays[key]()}, state, name=folder)
    run.history.append({"iteration": run.iteration, **scores})
    _write_json(run, run.save_dir / EVALUATIONS, run.history)
    best = best_of(run.history, metric)
    if best is not None:
        score, at = best[metric], best["iteration"]
        run.log.info(f"[EVAL] The model with the best validation {metric} ({score:.4f}) was saved at iter {at}.")
    if _is_stale(run):
        run.log.info(f"early stop: {run.runtime['early_stop_intervals']} evaluations without a better {metric}")


def _evaluate_weights(run: Run, weights: str) -> float:
    """The figure that decides, of the model as it is now; logs all figures."""
    with run.log.progress("evaluating", len(run.val_loader), seconds=30.0) as advance:
        evaluation = run.task.evaluate(run.model, run.val_loader, advance=advance)
    run.log.evaluation({"iteration": run.iteration, "weights": weights, **evaluation.record}, evaluation.table)
    return evaluation.record[run.task.metric]


def best_of(history: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    """The evaluation with the highest score, of equal ones the first; None if there is none."""
    scored = [entry for entry in history if entry.get(key) is not None and not np.isnan(entry[key])]
    return max(scored, key=lambda entry: entry[key]) if scored else None


def stale_evaluations(history: list[dict[str, Any]], key: str = "mIoU") -> int:
    """Evaluations since the best one that were worse than it; one that equals it does not count (PaddleSeg's rule)."""
    best, count = -np.inf, 0
    for entry in history:
        score = entry[key] if entry.get(key) is not None else np.nan
        if score > best:
            best, count = score, 0
        elif score < best:
            count += 1
    return count


def _is_stale(run: Run) -> bool:
    allowed = run.runtime["early_stop_intervals"]
    return allowed is not None and stale_evaluations(run.history, run.task.metric) >= allowed


def _draw(run: Run, batch: Batch) -> None:
    """Shows the first sample of a batch with its label and its prediction in VisualDL."""
    if not run.log.shows_pictures:
        return
    image, label, dataset = batch["image"][0], batch["label"][0], run.loader.dataset
    run.model.eval()
    pred = predict_labels(run.model, paddle.to_tensor(image[None]))
    run.model.train()
    low, high = image.min(), image.max()
    shown = ((image - low) / max(high - low, 1e-6) * 255).astype(np.uint8).transpose(1, 2, 0)
    panel = pictures.comparison(shown, pred, label, classes=dataset.classes, colors=dataset.palette)
    run.log.picture("Train/sample", panel, run.iteration)


def _closing_line(run: Run, result: TrainResult, seconds: float) -> str:
    how = "finished" if run.iteration == run.iters else "stopped"
    if result.exit_code:
        how = "interrupted"
    parts = [f"{how} after {run.iteration} of {run.iters} iterations, {duration(seconds)}"]
    if result.best is not None:
        metric = run.task.metric
        parts.append(f"best {metric} {result.best[metric]:.4f} at iteration {result.best['iteration']}")
    if run.nan_skips:
        parts.append(f"{run.nan_skips} steps skipped because the loss was not finite")
    if run.ignored_batches:
        parts.append(f"{run.ignored_batches} batches without a labelled pixel")
    if run.loader.skipped:
        parts.append(f"{len(run.loader.skipped)} unreadable samples replaced")
    return "; ".join(parts)


class _Meter:
    """Means and times since the last line of the log."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._reset()
        self.start_step()

    def start_step(self) -> None:
        """The time from here on belongs to the next step; evaluation and checkpoints are nobody's."""
        self._begin = time.perf_counter()

    def load(self) -> Batch:
        """The next batch."""
        batch = next(self._run.loader)
        self._reading += time.perf_counter() - self._begin
        return batch

    def add(self, terms: Mapping[str, float] | None) -> None:
        """Counts a finished step; None is one that was left out."""
        self._seconds += time.perf_counter() - self._begin
        self._steps += 1
        if terms is not None:
            self._counted += 1
            for name, value in terms.items():
                self._sums[name] = self._sums.get(name, 0.0) + value

    def record(self) -> dict[str, Any]:
        """The record for the log; begins anew."""
        run, steps = self._run, self._steps
        means = {name: value / self._counted for name, value in self._sums.items()}
        batch_cost = self._seconds / steps
        images = run.config.data["batch_size"] * processes.world_size()
        record = {
            "iteration": run.iteration,
            "iters": run.iters,
            "epoch": int((run.iteration - 1) // run.loader.iterations_per_epoch) + 1,
            "loss": sum(means.values()) if means else float("nan"),
            "losses": means,
            "lr": run.optimizer.schedule(run.iteration - 1),
            "batch_cost": batch_cost,
            "reader_cost": self._reading / steps,
            "ips": images / batch_cost,
            "memory_mb": memory_mb(),
            "eta_seconds": (run.iters - run.iteration) * batch_cost,
        }
        self._reset()
        return record

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = self._counted = 0
        self._seconds = self._reading = 0.0
