"""From a configuration to data sets, model, losses and optimizer that fit together."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Callable

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.config import Config, apply_flag, build_component, located
from paddleseg_ext.data import EvalLoader, SegmentationDataset, TrainLoader
from paddleseg_ext.engine import processes
from paddleseg_ext.errors import ConfigError
from paddleseg_ext.losses import Losses, build_losses
from paddleseg_ext.optim import Optimizer, build_optimizer

_BATCH_NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D)


def build_model(config: Config, *, without_pretrained: bool = False) -> nn.Layer:
    """The model, with whatever weights its `pretrained` keys name.

    Args:
        config: validated.
        without_pretrained: ignore those keys, since other weights follow; the files may be gone then.
    """
    if without_pretrained:
        for key in pretrained_keys(config):
            config = apply_flag(config, key, None, "weights that follow")
    return build_component(config, "model")


def pretrained_keys(config: Config) -> list[str]:
    """Dotted paths of the `pretrained` keys of the model and its parts that name a file."""
    return _pretrained_keys(config.data["model"], "model")


def build_val_dataset(config: Config) -> SegmentationDataset:
    """The data set to evaluate on, whose classes are the model's.

    Raises:
        ConfigError: if the numbers of classes differ.
    """
    dataset = build_component(config, "val_dataset")
    _check_classes(config, dataset, "val_dataset")
    return dataset


def build_loaders(
    config: Config, runtime: Mapping[str, Any], seed: int, *, do_eval: bool
) -> tuple[TrainLoader, EvalLoader | None]:
    """This process's training batches and, if it evaluates, validation samples."""
    place = {"rank": processes.rank(), "world_size": processes.world_size(), "num_workers": runtime["num_workers"]}
    dataset = build_component(config, "train_dataset")
    _check_classes(config, dataset, "train_dataset")
    with located(config, "train_dataset"):
        batch_size = config.data["batch_size"]
        loader = TrainLoader(dataset, batch_size=batch_size, seed=seed, skip_bad=runtime["skip_bad"], **place)
    if not do_eval:
        return loader, None
    val_dataset = build_val_dataset(config)
    with located(config, "val_dataset"):
        if any(pair.label is None for pair in val_dataset.pairs):
            raise ConfigError("has no labels; expected a part with ground truth, such as mode: val; or drop --do_eval")
        return loader, EvalLoader(val_dataset, **place)


def build_learning(config: Config, model: nn.Layer) -> tuple[Losses, Optimizer]:
    """The losses, and the optimizer over the parameters of both."""
    with located(config, "losses"):
        losses = build_losses(config.data["losses"])
    with located(config, "optimizer"):
        rates, iters = config.data["lr_scheduler"], config.data["iters"]
        return losses, build_optimizer(config.data["optimizer"], rates, model=model, losses=losses, iters=iters)


def synchronize_batch_norm(model: nn.Layer, say: Callable[[str], None]) -> nn.Layer:
    """The model, its batch norms computed over all processes where that is possible: on several GPUs.

    Layers of a subclass, with a formula of their own, stay as they are.
    """
    if processes.world_size() == 1:
        return model
    if not paddle.get_device().startswith("gpu"):
        say("batch norm: statistics of each process's own batch, since Paddle has no synchronised batch norm on a CPU")
        return model
    special = [
        layer for layer in model.sublayers() if isinstance(layer, _BATCH_NORMS) and type(layer) not in _BATCH_NORMS
    ]
    if special:
        say(f"batch norm: {len(special)} layers of {type(special[0]).__name__} are not synchronised")
    _convert(model)
    return model


def seed_generators(seed: int) -> None:
    """Sets the random generators of Python, numpy and Paddle."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    paddle.seed(seed)


def _convert(layer: nn.Layer) -> None:
    for name, child in layer.named_children():
        if type(child) in _BATCH_NORMS:
            setattr(layer, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            _convert(child)


def _check_classes(config: Config, dataset: SegmentationDataset, section: str) -> None:
    wanted = config.get("model.num_classes")
    if wanted is not None and wanted != dataset.num_classes:
        raise ConfigError(
            f"{config.where('model.num_classes')}: model.num_classes: {wanted}, but {section} has "
            f"{dataset.num_classes} classes ({config.where(section)}); expected the same number; correct one of them"
        )


def _pretrained_keys(value: Any, path: str) -> list[str]:
    """Dotted paths of all `pretrained` keys that name something."""
    if not isinstance(value, Mapping):
        return []
    found = [f"{path}.pretrained"] if value.get("pretrained") else []
    return found + [key for name, child in value.items() for key in _pretrained_keys(child, f"{path}.{name}")]
