from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddleseg_ext.engine import checkpoint as checkpoints
from paddleseg_ext.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from paddleseg_ext.engine.resume import check_same_run, config_differences, find_checkpoint
from paddleseg_ext.errors import CheckpointError

CONFIG: dict[str, Any] = {
    "iters": 100,
    "losses": [{"type": "CrossEntropy", "weight": 1.0}],
    "runtime": {"seed": 0, "num_workers": 2, "log_iters": 10},
    "val_dataset": {"type": "Cityscapes"},
}
GROUPS = {"model", "optimizer"}


def checkpoint(config: dict[str, Any], *, world_size: int = 1, groups: tuple[str, ...] = tuple(GROUPS)) -> Checkpoint:
    return Checkpoint(Path("out/iter_5"), 5, {g: {} for g in groups}, {"config": config, "world_size": world_size})


def test_differences_are_named_by_path_with_both_values() -> None:
    new = {**CONFIG, "iters": 200, "losses": [{"type": "CrossEntropy", "weight": 0.5, "thresh": None}]}
    assert config_differences(CONFIG, new) == [
        "iters: 100 -> 200",
        "losses.0.thresh: not set -> null",
        "losses.0.weight: 1.0 -> 0.5",
    ]


def test_what_does_not_decide_what_is_learnt_may_differ() -> None:
    new = {**CONFIG, "runtime": {"seed": 0, "num_workers": 0}, "val_dataset": {"type": "ADE20K"}, "meta": {"a": 1}}
    assert config_differences(CONFIG, new) == []
    assert config_differences(CONFIG, {**CONFIG, "runtime": {"seed": 1, "num_workers": 2}}) == ["runtime.seed: 0 -> 1"]


def test_an_added_or_removed_part_is_a_difference() -> None:
    added = {**CONFIG, "losses": [*CONFIG["losses"], {"type": "DiceLoss"}]}
    assert config_differences(CONFIG, added) == ['losses.1.type: not set -> "DiceLoss"']
    assert config_differences(added, CONFIG) == ['losses.1.type: "DiceLoss" -> not set']


def test_a_different_run_is_refused_with_what_to_do() -> None:
    with pytest.raises(CheckpointError) as error:
        check_same_run(checkpoint({**CONFIG, "iters": 7}, world_size=2), CONFIG, 1, groups=GROUPS, anyway=False)
    text = str(error.value)
    assert "iters: 7 -> 100" in text and "processes: 2 -> 1" in text
    assert "--resume-anyway" in text and "--pretrained" in text


def test_a_missing_part_is_refused_and_anyway_lists_it() -> None:
    part = checkpoint(CONFIG, groups=("model",))
    with pytest.raises(CheckpointError, match="optimizer: missing in the checkpoint"):
        check_same_run(part, CONFIG, 1, groups=GROUPS, anyway=False)
    assert check_same_run(part, CONFIG, 1, groups=GROUPS, anyway=True) == [
        "optimizer: missing in the checkpoint, starts anew"
    ]


def test_the_same_run_has_no_differences() -> None:
    assert check_same_run(checkpoint(CONFIG), CONFIG, 1, groups=GROUPS, anyway=False) == []


def test_a_checkpoint_of_a_newer_release_is_never_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"model": {"w": np.ones(2, "f4")}}
    save_checkpoint(tmp_path, 10, arrays, {})
    monkeypatch.setattr(checkpoints, "SCHEMA", 2)
    save_checkpoint(tmp_path, 20, arrays, {})
    monkeypatch.undo()
    warnings: list[str] = []
    with pytest.raises(CheckpointError, match="version 2; expected 1; use the release that wrote it"):
        find_checkpoint("auto", tmp_path, warnings.append)
    assert warnings == []
    assert load_checkpoint(tmp_path / "iter_10").iteration == 10  # the user may still take it by name
