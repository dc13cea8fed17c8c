"""Evaluation of a model over a data set: one confusion matrix, whatever the number of processes.

Each process takes every n-th image; their matrices are added, so the figures are those of a single process to the
last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Callable

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.data import EvalLoader, Sample
from paddleseg_ext.engine import processes
from paddleseg_ext.engine.inference import TestConfig, predict_labels
from paddleseg_ext.metrics import ConfusionMatrix

Visitor = Callable[[Sample, np.ndarray], None]


def evaluate(
    model: nn.Layer,
    loader: EvalLoader,
    test_config: TestConfig | None = None,
    *,
    visit: Visitor | None = None,
    advance: Callable[[], None] = lambda: None,
) -> ConfusionMatrix:
    """Predicts every sample of a loader and counts pixels by label and prediction.

    Args:
        model: left in the mode, training or evaluation, in which it comes.
        loader: this process's part of the data set.
        test_config: scales, flips, sliding window; the whole image by default.
        visit: called with each sample and its prediction, (H, W) int32 of the original size.
        advance: called after each sample.

    Returns:
        The counts of all processes; nothing is counted for samples without a label.
    """
    dataset = loader.dataset
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
    was_training = model.training
    model.eval()
    try:
        for sample in loader:
            image = paddle.to_tensor(sample["image"].transpose(2, 0, 1)[None].copy())
            pred = predict_labels(model, image, test_config, restore=sample["meta"]["restore"])
            if "label" in sample:
                matrix.update(pred, sample["label"], sample["meta"]["image_path"])
            if visit is not None:
                visit(sample, pred)
            advance()
    finally:
        if was_training:
            model.train()
    matrix.load_state(processes.total(matrix.state()))
    return matrix


def test_config_of(settings: Mapping[str, Any]) -> tuple[TestConfig, str | None]:
    """The settings of `test_config` as evaluation takes them, and a remark on what they mean.

    One scale other than 1 without `aug_eval` is the protocol that STDC-Seg reports as m50 or m75: the image resized
    by that factor, the logits resized back, both with align_corners.

    Args:
        settings: all keys of the section, with defaults.
    """
    config = TestConfig(**settings)
    if config.aug_eval or len(config.scales) != 1 or config.scales == (1.0,):
        return config, None
    scale = config.scales[0]
    remark = (
        f"scale {scale:g} alone, without --aug_eval: STDC-Seg's protocol (its m{100 * scale:g}), one view, both resizes"
        " with align_corners"
    )
    return replace(config, aug_eval=True, resize_align_corners=True), remark


def eval_record(matrix: ConfusionMatrix, classes: tuple[str, ...], convention: str = "present") -> dict[str, Any]:
    """The figures under the names that logs and JSON use: mIoU, Acc, Kappa, Dice and class_iou."""
    result = matrix.result(classes, convention=convention)
    return {
        "images": result.num_images,
        "mIoU": result.miou,
        "Acc": result.accuracy,
        "Kappa": result.kappa,
        "Dice": result.mdice,
        "class_iou": dict(zip(result.classes, result.iou)),
    }
