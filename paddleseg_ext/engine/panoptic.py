"""Panoptic prediction and evaluation: one pass over the images for PQ, AP and mIoU, whatever the number of processes.

K classes, H W image. What an image contributes is kept by its number in the data set, so the figures of several
processes are those of one, to the last bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Union

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.data import EvalLoader, Sample
from paddleseg_ext.data.datasets import CityscapesPanoptic, PanopticDataset
from paddleseg_ext.engine import processes
from paddleseg_ext.engine.inference import Model, undo_geometry
from paddleseg_ext.errors import ConfigError, PaddlesegExtError
from paddleseg_ext.metrics import CityscapesEvaluator, CityscapesResult, PanopticEvaluation, PanopticEvaluator
from paddleseg_ext.postprocess import all_segments, argmax_classes, panoptic_deeplab
from paddleseg_ext.segments import Segment

Result = Union[CityscapesResult, PanopticEvaluation]
OUTPUTS = ("semantic", "center", "offset")


class PanopticOutput(NamedTuple):
    """What a network says about an image.

    Attributes:
        ids: (H, W) int32 segment ids, 0 = void.
        segments: one for each id, ascending; categories are classes 0..K-1, things have a score.
        label: (H, W) uint8 or int32 classes of the semantic branch, without void.
    """

    ids: np.ndarray
    segments: list[Segment]
    label: np.ndarray


Visitor = Callable[[Sample, PanopticOutput], None]


def predict_panoptic(
    model: Model,
    image: paddle.Tensor,
    thing_ids: Collection[int],
    settings: Mapping[str, Any],
    *,
    restore: Sequence[Mapping[str, Any]] = (),
) -> PanopticOutput:
    """Segments of an image at its original size.

    Logits, heat and offsets are resized bilinearly to the original size before anything is decided; the values of
    offsets stay, as in detectron2.

    Args:
        model: in evaluation mode; gives `semantic`, `center` and `offset` at the size of its input.
        image: (1, 3, H, W) normalised.
        thing_ids: classes whose objects are told apart.
        settings: the section `postprocess`: threshold, nms_kernel, top_k, stuff_area.
        restore: geometry to undo, `meta["restore"]` of the sample.

    Raises:
        PaddlesegExtError: if the model does not give these outputs, or memory does not suffice.
    """
    if getattr(model, "training", False):
        raise ValueError("predict_panoptic: the model is in training mode; call model.eval() first")
    try:
        with paddle.no_grad():
            outputs = model(image)
            _check_outputs(outputs, image)
            maps = [undo_geometry(outputs[name].astype("float32"), restore)[0].numpy() for name in OUTPUTS]
    except MemoryError as e:
        height, width = image.shape[2:]
        raise PaddlesegExtError(
            f"out of memory at an image of {height} x {width} (height x width); expected an image that fits; add a "
            "Resize to val_dataset.transforms"
        ) from e
    label = argmax_classes(maps[0])
    ids, things = panoptic_deeplab(*maps, thing_ids=thing_ids, label=label, **settings)
    return PanopticOutput(*all_segments(ids, things), label)


def evaluate_panoptic(
    model: nn.Layer,
    loader: EvalLoader,
    settings: Mapping[str, Any],
    *,
    visit: Visitor | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Result:
    """Predicts every sample of a loader and measures.

    Args:
        model: left in the mode, training or evaluation, in which it comes.
        loader: this process's part of a panoptic data set.
        settings: the section `postprocess`.
        visit: called with each sample and its prediction.
        advance: called after each sample.

    Returns:
        The figures over all processes; nothing is counted for samples without ground truth.
    """
    dataset = loader.dataset
    evaluator = _make_evaluator(dataset)
    was_training = model.training
    model.eval()
    try:
        for sample in loader:
            image = paddle.to_tensor(sample["image"].transpose(2, 0, 1)[None].copy())
            restore = sample["meta"]["restore"]
            output = predict_panoptic(model, image, dataset.thing_ids, settings, restore=restore)
            if "panoptic" in sample:
                _count(evaluator, sample, output)
            if visit is not None:
                visit(sample, output)
            advance()
    finally:
        if was_training:
            model.train()
    total = _make_evaluator(dataset)
    for state in processes.gather(evaluator.state()):
        total.merge_state(state)
    return total.result()


def check_dataset(dataset: Any) -> PanopticDataset:
    """The data set, if it is a panoptic one.

    Raises:
        ConfigError: if not.
    """
    if not isinstance(dataset, PanopticDataset):
        raise ConfigError(
            f"{type(dataset).__name__} does not tell objects apart; expected, with task: panoptic, "
            "CityscapesPanoptic or COCOPanoptic"
        )
    return dataset


def panoptic_record(result: Result) -> dict[str, Any]:
    """The figures that logs keep: PQ, SQ, RQ, PQ_things, PQ_stuff, AP, AP50, mIoU, class_pq and class_iou (by name)."""
    panoptic, semantic = result.panoptic, result.semantic
    record = {
        "images": panoptic.num_images,
        "PQ": panoptic.all.pq,
        "SQ": panoptic.all.sq,
        "RQ": panoptic.all.rq,
        "PQ_things": panoptic.things.pq,
        "PQ_stuff": panoptic.stuff.pq,
        "mIoU": semantic.miou,
        "AP": result.instance.mean_ap,
        "AP50": result.instance.mean_ap50,
    }
    names = [category.name for category in panoptic.categories]
    record["class_pq"] = dict(zip(names, panoptic.pq))
    record["class_iou"] = dict(zip(semantic.classes, semantic.iou))
    return record


def _check_outputs(outputs: Mapping[str, paddle.Tensor], image: paddle.Tensor) -> None:
    missing = [name for name in OUTPUTS if name not in outputs]
    if missing:
        raise ConfigError(
            f"model: gives {', '.join(outputs)} but no {', '.join(missing)}; expected semantic, center and offset, "
            "with task: panoptic; choose a panoptic model such as PanopticDeepLab"
        )
    for name in OUTPUTS:
        if tuple(outputs[name].shape[2:]) != tuple(image.shape[2:]):
            raise ValueError(
                f"the model's {name} is {list(outputs[name].shape[2:])} for an image of {list(image.shape[2:])} "
                "(height, width); expected the image's size; the model has to resize it itself"
            )


def _make_evaluator(dataset: PanopticDataset) -> CityscapesEvaluator | PanopticEvaluator:
    return CityscapesEvaluator() if isinstance(dataset, CityscapesPanoptic) else PanopticEvaluator(dataset.categories)


def _count(evaluator: CityscapesEvaluator | PanopticEvaluator, sample: Sample, output: PanopticOutput) -> None:
    meta = sample["meta"]
    place = {"image": meta["image_path"], "index": meta["index"]}
    if isinstance(evaluator, CityscapesEvaluator):
        evaluator.update(output.ids, output.segments, sample["panoptic"], semantic=output.label, **place)
    else:
        evaluator.update(
            output.ids,
            output.segments,
            sample["panoptic"],
            sample["segments"],
            semantic=output.label,
            classes=sample["label"],
            **place,
        )
