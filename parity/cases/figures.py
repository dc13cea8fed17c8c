"""The figures of `paddleseg_ext.metrics`, for the `metrics` stage: what cases share, and no case itself.

    Side(model, ..., metrics=figures.SEMANTIC)

`PANOPTIC` is for Cityscapes, `COCO_PANOPTIC` for COCO.
"""

from __future__ import annotations

from typing import Any

from parity import official


def cityscapes_semantic() -> dict[str, Any]:
    """IoU by train ids, as the evaluation of a semantic model counts it."""
    from paddleseg_ext.data import classes
    from paddleseg_ext.metrics import ConfusionMatrix

    train_ids = classes.cityscapes_train_ids()
    metric = ConfusionMatrix(19)
    for image in official.cityscapes():
        label = train_ids[_labels(image.instance)]
        metric.update(train_ids[image.semantic], label, image.name)
    result = metric.result()
    return {"mean IoU": result.miou, "IoU": result.iou}


def cityscapes_panoptic() -> dict[str, Any]:
    """PQ, AP, IoU and iIoU from one pass, as the evaluation of a panoptic model counts them."""
    from paddleseg_ext.metrics import CityscapesEvaluator

    metric = CityscapesEvaluator(train_ids=False)
    for image in official.cityscapes():
        segments = _segments(image.segments)
        metric.update(image.pred, segments, image.instance, semantic=image.semantic, image=image.name)
    result = metric.result()
    return {
        **_panoptic(result.panoptic),
        "mean AP": result.instance.mean_ap,
        "mean AP50": result.instance.mean_ap50,
        "AP": [result.instance.ap[k] for k in _places(result.instance.categories, official.THINGS)],
        "AP50": [result.instance.ap50[k] for k in _places(result.instance.categories, official.THINGS)],
        "mean IoU": result.semantic.miou,
        "IoU": result.semantic.iou,
        "mean iIoU": result.semantic.miiou,
        "iIoU": result.semantic.iiou,
    }


def coco_panoptic() -> dict[str, Any]:
    """PQ of segments in COCO's format."""
    from paddleseg_ext.metrics import Category, PanopticQuality

    things, stuff = official.COCO_THINGS, official.COCO_STUFF
    metric = PanopticQuality([Category(i, str(i), i in things) for i in things + stuff])
    for image in official.coco():
        metric.update(image.pred, _segments(image.segments), image.label, _segments(image.label_segments))
    return _panoptic(metric.result())


def _labels(instance: Any) -> Any:
    """Label ids of instance ids."""
    ids = instance.copy()
    ids[ids >= 1000] //= 1000
    return ids


def _segments(segments: tuple[official.Segment, ...]) -> list[Any]:
    from paddleseg_ext.metrics import Segment

    return [Segment(s.id, s.category, score=s.score, is_crowd=s.crowd) for s in segments]


def _places(categories: Any, ids: tuple[int, ...]) -> list[int]:
    order = [category.id for category in categories]
    return [order.index(i) for i in ids]


def _panoptic(result: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {"PQ": result.pq, "TP": result.tp, "FP": result.fp, "FN": result.fn}
    for group in ("all", "things", "stuff"):
        mean = getattr(result, group)
        figures[f"PQ {group}"] = [mean.pq, mean.sq, mean.rq]
        figures[f"classes in PQ {group}"] = mean.n
    return figures


SEMANTIC = {"cityscapes_semantic": cityscapes_semantic}
PANOPTIC = {"cityscapes_panoptic": cityscapes_panoptic}
COCO_PANOPTIC = {"coco_panoptic": coco_panoptic}
