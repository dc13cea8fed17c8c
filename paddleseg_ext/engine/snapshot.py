"""The whole state of a run as arrays and plain data, and back: what makes resuming exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.engine import processes
from paddleseg_ext.engine.banner import environment
from paddleseg_ext.engine.checkpoint import Checkpoint, rng_state, set_rng_state
from paddleseg_ext.errors import CheckpointError, TrainingError
from paddleseg_ext.models.pretrained import assign

if TYPE_CHECKING:
    from paddleseg_ext.engine.run import Run

Arrays = dict[str, dict[str, np.ndarray]]
_LOW_PRECISION = (paddle.float16, paddle.bfloat16)


def take(run: Run) -> tuple[Arrays, dict[str, Any]]:
    """Arrays by group, and everything else as plain data; all processes take part.

    Raises:
        TrainingError: if a weight is not finite: such a checkpoint would replace a good one.
    """
    sources: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "model": lambda: weights_of(run.model),
        "losses": lambda: weights_of(run.losses),
        "optimizer": run.optimizer.state_dict,
        "ema": lambda: run.ema.state_dict(),
    }
    arrays: Arrays = {group: sources[group]() for group in groups_of(run)}
    broken = non_finite(arrays["model"])
    if broken:
        raise TrainingError(
            f"iteration {run.iteration}: {len(broken)} weights are not finite ({', '.join(broken[:5])}); expected "
            "numbers; no checkpoint was written; resume the last one with a lower learning rate or gradient clipping"
        )
    own = {"rng": rng_state(paddle.get_rng_state()), "loader": run.loader.state_dict()}
    state = {
        "config": run.config.data,
        "seed": run.seed,
        "world_size": processes.world_size(),
        "history": run.history,
        "nan_skips": run.nan_skips,
        "ignored_batches": run.ignored_batches,
        "scaler": run.precision.state_dict(),
        "processes": processes.gather(own),
        "versions": environment(),
    }
    return arrays, state


def groups_of(run: Run) -> set[str]:
    """The groups of arrays that make up a run's state."""
    groups = {"model", "optimizer"}
    groups |= {"ema"} if run.ema is not None else set()
    return groups | ({"losses"} if run.losses.parameters() else set())


def restore(run: Run, checkpoint: Checkpoint, *, anyway: bool = False) -> None:
    """Brings a run to where the checkpoint was taken.

    Args:
        run: freshly built.
        checkpoint: whose differences from this run are checked and accepted.
        anyway: what the checkpoint lacks, or what belongs to other processes or data, starts anew.

    Raises:
        CheckpointError: if something does not fit.
    """
    arrays, state = checkpoint.arrays, checkpoint.state
    assign(run.model, arrays["model"], where=str(checkpoint.path))
    if "losses" in arrays:
        assign(run.losses, arrays["losses"], where=f"{checkpoint.path}, losses")
    if "optimizer" in arrays:
        run.optimizer.set_state_dict(arrays["optimizer"])
    if run.ema is not None:
        run.ema.set_state_dict(arrays.get("ema", arrays["model"]))
    try:
        run.precision.load_state_dict(state.get("scaler", {}))
        run.iteration, run.history = checkpoint.iteration, list(state["history"])
        run.nan_skips, run.ignored_batches = state["nan_skips"], state["ignored_batches"]
        own = state["processes"][processes.rank() % len(state["processes"])]
        run.loader.load_state_dict(own["loader"], strict=not anyway)
        if state["world_size"] == processes.world_size():
            paddle.set_rng_state(set_rng_state(own["rng"], paddle.get_rng_state()))
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: state.json lacks {error}; expected what this version writes; use --pretrained"
        ) from error


def weights_of(layer: nn.Layer) -> dict[str, np.ndarray]:
    """A layer's parameters and buffers by name; those of 16 bits as float32, which holds them exactly."""
    return {
        name: (tensor.astype("float32") if tensor.dtype in _LOW_PRECISION else tensor).numpy()
        for name, tensor in layer.state_dict().items()
    }


def non_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the arrays that hold NaN or infinity."""
    return [name for name, value in arrays.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
