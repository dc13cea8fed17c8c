"""What users of PaddleSeg and mmsegmentation write out of habit, and what to write here instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paddleseg_ext.config.document import dump_inline
from paddleseg_ext.config.load import closest
from paddleseg_ext.registry import DATASETS, LOSSES, OPTIMIZERS, SCHEDULES

# Top-level keys that stand in the place of one of ours, which is then not reported as missing.
REPLACED_BY = {"loss": "losses", "learning_rate": "lr_scheduler"}

_UNUSED = (
    "to_static_training",
    "print_mem_info",
    "log_ranks",
    "uniform_output_enabled",
    "pdx_model_name",
    "hpi_config_path",
)
_RUNTIME = (
    "seed",
    "log_iters",
    "save_interval",
    "keep_checkpoint_max",
    "early_stop_intervals",
    "num_workers",
    "precision",
)

_ARGUMENTS = {
    (OPTIMIZERS.kind, "custom_cfg"): "write param_groups: [{name: a regular expression, lr_mult: 10}, ...]",
    (OPTIMIZERS.kind, "grad_clip_cfg"): "write grad_clip: {type: ClipGradByGlobalNorm, clip_norm: 35}",
    (OPTIMIZERS.kind, "momentum"): "gradient descent with momentum is {type: Momentum, momentum: 0.9}",
    (OPTIMIZERS.kind, "learning_rate"): "it belongs to lr_scheduler",
    (OPTIMIZERS.kind, "lr"): "the rate is lr_scheduler.learning_rate",
    (SCHEDULES.kind, "iters"): "the schedule runs over the top-level iters",
    (SCHEDULES.kind, "decay_steps"): "the schedule runs over the top-level iters",
    (SCHEDULES.kind, "max_iters"): "the schedule runs over the top-level iters",
    (LOSSES.kind, "coef"): "write weight",
    (LOSSES.kind, "loss_weight"): "write weight",
    (LOSSES.kind, "loss_name"): "write name",
    (DATASETS.kind, "shuffle"): "training data are always shuffled, evaluation data never; remove it",
}

_SETTINGS = {
    ("test_config", "auc_roc"): "there is no AUC here; remove it",
    ("test_config", "mode"): "write is_slide: true for a sliding window",
    ("runtime", "use_ema"): "write ema: {decay: 0.999}",
    ("runtime", "iters"): "it belongs to the top level",
}

_LAUNCH = "python -m paddle.distributed.launch --nproc_per_node N tools/train.py ..."

# Flags of other tools -> what to write here.
_FLAGS = {
    # mmsegmentation
    "--work-dir": "--save_dir",
    "--amp": "--precision fp16",
    "--resume-from": "--resume",
    "--load-from": "--pretrained",
    "--checkpoint": "--model_path",
    "--show-dir": "--save_dir",
    "--out-dir": "--save_dir",
    "--launcher": _LAUNCH,
    # detectron2
    "--config-file": "--config",
    "--eval-only": "tools/val.py --config ... --model_path ...",
    "--num-gpus": _LAUNCH,
    # PaddleCV
    "--total_step": "--iters",
    "--base_lr": "--learning_rate",
    "--init_weights_path": "--pretrained",
    "--save_weights_path": "--save_dir",
    "--dataset_path": "--opts train_dataset.dataset_root=... val_dataset.dataset_root=...",
    "--train_crop_size": "--opts train_dataset.transforms.N.crop_size=[W,H], N counted from 0",
    "--norm_type": "--opts model.norm=..., or the recipe of that norm",
    "--parallel": _LAUNCH,
    # UPSNet
    "--cfg": "--config",
    "--weight_path": "--model_path",
    # PaddleSeg's that mean nothing here
    "--data_format": "",
    "--repeats": "",
    "--profiler_options": "",
    "--to_static_training": "",
    "--use_multilabel": "",
    "--auc_roc": "",
    "--for_fd": "",
}


def flag_hint(flag: str) -> str:
    """What to write instead of a flag of another tool, as a sentence; "" if nothing is known."""
    if flag not in _FLAGS:
        return ""
    return f" Write {_FLAGS[flag]} instead." if _FLAGS[flag] else f" {flag} has no counterpart here; remove it."


def argument_hint(kind: str, key: str) -> str:
    """What to do about an argument that a component of this kind does not take; "" if nothing is known."""
    return _ARGUMENTS.get((kind, key), "")


def setting_hint(section: str, key: str) -> str:
    """What to do about a key that `runtime` or `test_config` does not have; "" if nothing is known."""
    return _SETTINGS.get((section, key), "")


def top_level_hint(key: str, value: Any) -> str:
    """What to write instead of a top-level key of other tools; "" if nothing is known."""
    if key == "loss":
        return loss_hint(value)
    if key == "learning_rate":
        return f"the rate belongs to the schedule; write\nlr_scheduler: {dump_inline(_schedule(value))}"
    if key == "distill_loss":
        return "there is no distillation here; remove it"
    if key in _UNUSED:
        return "PaddleSeg's key, which means nothing here; remove it"
    if key in _RUNTIME:
        return f"it belongs to runtime; write\nruntime: {dump_inline({key: value})}"
    return ""


def loss_hint(value: Any) -> str:
    """PaddleSeg's `{types: [...], coef: [...]}` in the form used here, with the user's own entries."""
    text = "losses are bound to the model's outputs by name, not by position; write"
    entries = list(_losses(value, 1.0)) or [{"type": "CrossEntropy", "weight": 1.0}]
    lines = []
    for index, entry in enumerate(entries):
        head = {"type": entry.pop("type"), "output": "semantic" if index == 0 else f"OUTPUT_{index}", "target": "label"}
        lines.append(f"  - {dump_inline({**head, 'weight': entry.pop('weight'), **entry})}")
    place = "\n(an OUTPUT is a name that the model's forward returns)" if len(lines) > 1 else ""
    return "\n".join([text, "losses:", *lines]) + place


def _losses(value: Any, factor: float) -> Iterator[dict[str, Any]]:
    """The entries of `types` with their `coef`; a single type stands for all coefficients, as in PaddleSeg."""
    if not isinstance(value, Mapping):
        return
    types = value.get("types", value.get("losses"))
    types = types if isinstance(types, list) else []
    weights = value.get("coef")
    weights = weights if isinstance(weights, list) else [1.0] * len(types)
    if len(types) == 1 and len(weights) > 1:
        types = types * len(weights)
    for entry, weight in zip(types, weights):
        if not isinstance(entry, Mapping) or type(weight) not in (int, float):
            continue
        if entry.get("type") == "MixedLoss":
            yield from _losses(entry, factor * weight)
        else:
            arguments = {key: item for key, item in entry.items() if key != "type"}
            yield {"type": _loss_type(str(entry.get("type"))), "weight": factor * weight, **arguments}


def _loss_type(name: str) -> str:
    """The registered loss that PaddleSeg's name means."""
    stem = name[: -len("Loss")] if name.endswith("Loss") else name
    for option in (name, stem, stem + "Loss"):
        if option in LOSSES:
            return option
    return closest(name, LOSSES.names()) or name


def _schedule(value: Any) -> dict[str, Any]:
    """A schedule from a number, or from the `{value, decay: {type, power, end_lr}}` of older configurations."""
    if not isinstance(value, Mapping):
        return {"type": "PolynomialDecay", "learning_rate": value, "power": 0.9}
    decay = value.get("decay")
    decay = decay if isinstance(decay, Mapping) else {}
    numbers = {key: decay[key] for key in ("power", "end_lr") if key in decay}
    return {"type": "PolynomialDecay", "learning_rate": value.get("value", 0.01), **numbers}
