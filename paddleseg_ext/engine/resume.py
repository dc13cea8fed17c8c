"""What has to be the same for a run to go on exactly where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

from paddleseg_ext.engine.checkpoint import Checkpoint, latest, load_checkpoint
from paddleseg_ext.errors import CheckpointError

AUTO = "auto"

# What may change between two parts of a run: it decides nothing that is learnt.
FREE_KEYS = (
    "meta",
    "postprocess",
    "reference_batch_size",
    "runtime.early_stop_intervals",
    "runtime.keep_checkpoint_max",
    "runtime.log_iters",
    "runtime.log_level",
    "runtime.max_nan_skips",
    "runtime.num_workers",
    "runtime.on_nan",
    "runtime.save_interval",
    "runtime.skip_bad",
    "runtime.vis_interval",
    "test_config",
    "val_dataset",
)


def find_checkpoint(resume: str, save_dir: str | os.PathLike[str], warn: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint that `--resume` means.

    Args:
        resume: "auto" for the newest whole one of `save_dir`, or a checkpoint's folder.
        save_dir: of the run.
        warn: is told about damaged ones that "auto" passes over.

    Returns:
        None if it is "auto" and there is none.

    Raises:
        CheckpointError: if it cannot be read, or holds only weights.
    """
    if resume == AUTO:
        return latest(save_dir, warn=warn)
    path = Path(resume)
    checkpoint = load_checkpoint(path.parent if path.name.startswith("model.") else path)
    if "optimizer" not in checkpoint.arrays:
        raise CheckpointError(
            f"{resume}: holds weights alone; expected a checkpoint to resume, such as {path.parent / 'iter_1000'}; "
            f"to start a new run from these weights: --pretrained {resume}"
        )
    return checkpoint


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two configurations would train differently: "key: old -> new" for each value, without `FREE_KEYS`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in sorted(set(before) | set(after))
        if before.get(key, _ABSENT) != after.get(key, _ABSENT) and not _is_free(key)
    ]


def check_same_run(
    checkpoint: Checkpoint, config: Mapping[str, Any], world_size: int, *, groups: set[str], anyway: bool
) -> list[str]:
    """What is not as it was when the checkpoint was written.

    Args:
        checkpoint: to resume.
        config: of now.
        world_size: number of processes now.
        groups: the groups of arrays that this run has: "model", "optimizer", "ema".
        anyway: whether to go on in spite of differences.

    Raises:
        CheckpointError: lists the differences, unless `anyway`.
    """
    found = config_differences(checkpoint.state.get("config", {}), config)
    processes_then = checkpoint.state.get("world_size", 1)
    if processes_then != world_size:
        found.append(f"processes: {processes_then} -> {world_size}")
    found += [f"{group}: missing in the checkpoint, starts anew" for group in sorted(groups - set(checkpoint.arrays))]
    if found and not anyway:
        listed = "\n".join(f"  {line}" for line in found)
        raise CheckpointError(
            f"{checkpoint.path}: this run is not the one that the checkpoint is from:\n{listed}\n"
            "expected the same, so that the result is that of an uninterrupted run; restore it, add --resume-anyway to "
            "go on with these changes, or start a new run from its weights with --pretrained"
        )
    return found


_ABSENT = object()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything that is no container, and of empty containers."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not set"
