"""Panoptic quality, equal to panopticapi and to cityscapesScripts' evalPanopticSemanticLabeling.

A predicted and a labelled segment of one class match if their IoU is above 0.5; void pixels of the label are taken out
of the union first. Per class: SQ = mean IoU of its matches, RQ = TP / (TP + FP/2 + FN/2), PQ = SQ * RQ. A labelled
crowd is never matched and never missed. A predicted segment without a match is no false positive if more than half of
it is void, or the crowd of its class: of several crowds of a class in an image only the last one listed counts.

The official tools stop where there is nothing to average, or a map and its list of segments disagree; here:
- a class that occurs neither in the label nor as a false positive has no PQ (NaN, shown as "-"; there 0.0) and, as
  there, is left out of the means; without any class the mean is NaN.
- a predicted id that is not listed, a listed one without pixels, an unknown category, an id listed twice and an image
  counted twice are a DataError.

IoUs are added image by image, within an image by label id and then by predicted id: the order of the official tools
with one process. They start one process per core and add the sums of np.array_split chunks; `result(chunks=n)` does
the same. Merging what several processes counted changes no bit.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from paddleseg_ext.data.panoptic_format import read_panoptic_json
from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics.by_image import SegmentMetric
from paddleseg_ext.metrics.figures import or_none, percent, shown
from paddleseg_ext.metrics.map_files import PathLike, read_ahead, read_ids
from paddleseg_ext.metrics.runs import PairTable, total
from paddleseg_ext.metrics.segments import VOID, Category, Segment, check_predicted, check_segments


class PanopticMean(NamedTuple):
    """Means over the classes of a group; NaN if none of them occurs.

    Attributes:
        pq: panoptic quality, 0..1.
        sq: segmentation quality.
        rq: recognition quality.
        n: classes in the mean.
    """

    pq: float
    sq: float
    rq: float
    n: int


@dataclass(frozen=True)
class PanopticResult:
    """The figures of an evaluation, in 0..1.

    Attributes:
        categories: all classes.
        num_images: images counted.
        pq: per class; NaN for a class that does not occur.
        sq: per class; 0 for a class without matches.
        rq: per class.
        tp: matched segments per class.
        fp: predicted segments per class that match nothing.
        fn: labelled segments per class that nothing matches.
        all: means over the classes that occur.
        things: means over the things among them.
        stuff: means over the others.
    """

    categories: tuple[Category, ...]
    num_images: int
    pq: tuple[float, ...]
    sq: tuple[float, ...]
    rq: tuple[float, ...]
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    all: PanopticMean
    things: PanopticMean
    stuff: PanopticMean

    def summary(self) -> str:
        """One line: "PQ 0.6031, SQ 0.8056, RQ 0.7357 over 19 of 19 classes; things PQ 0.5522, stuff PQ 0.6401"."""
        return (
            f"PQ {shown(self.all.pq)}, SQ {shown(self.all.sq)}, RQ {shown(self.all.rq)} over {self.all.n} of "
            f"{len(self.categories)} classes; things PQ {shown(self.things.pq)}, stuff PQ {shown(self.stuff.pq)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON; what has no value is None."""
        groups = {"all": self.all, "things": self.things, "stuff": self.stuff}
        return {
            "num_images": self.num_images,
            **{name: {key: or_none(value) for key, value in mean._asdict().items()} for name, mean in groups.items()},
            "classes": [
                {
                    "id": category.id,
                    "name": category.name,
                    "is_thing": category.is_thing,
                    "pq": or_none(self.pq[k]),
                    "sq": or_none(self.sq[k]),
                    "rq": or_none(self.rq[k]),
                    "tp": self.tp[k],
                    "fp": self.fp[k],
                    "fn": self.fn[k],
                }
                for k, category in enumerate(self.categories)
            ],
        }

    def table(self) -> Table:
        """The figures by class name, in per cent, for the console."""
        table = Table()
        table.add_column("class")
        for column in ("PQ", "SQ", "RQ", "TP", "FP", "FN"):
            table.add_column(column, justify="right")
        for k, category in enumerate(self.categories):
            counts = (self.tp[k], self.fp[k], self.fn[k])
            table.add_row(category.name, *map(percent, (self.pq[k], self.sq[k], self.rq[k])), *map(str, counts))
        table.add_section()
        for name, mean in (("all", self.all), ("things", self.things), ("stuff", self.stuff)):
            table.add_row(f"{name} ({mean.n})", *map(percent, mean[:3]))
        return table


class _Matches(NamedTuple):
    """What an image contributes, classes by their places.

    Attributes:
        found: (class, IoU) of each match, in the order of the sums.
        wrong: class of each predicted segment that counts as a false positive.
        missed: class of each labelled segment that nothing matches.
    """

    found: list[tuple[int, float]]
    wrong: list[int]
    missed: list[int]


class PanopticQuality(SegmentMetric[_Matches]):
    """Counts matches image by image.

    Args:
        categories: all classes, in the order in which their figures are averaged.
    """

    def add(
        self,
        table: PairTable,
        pred_segments: Sequence[Segment],
        label_segments: Sequence[Segment],
        *,
        image: str = "image",
        index: int | None = None,
    ) -> None:
        """Counts an image from its table of pairs; otherwise as `update`.

        The pairs must ascend, but for those with void, which may be in pieces and anywhere.
        """
        index = self._free_index(index, image)
        check_segments(label_segments, self._places, f"{image}: label")
        check_segments(pred_segments, self._places, f"{image}: prediction")
        check_predicted(pred_segments, np.unique(table.pred), f"{image}: prediction")
        self._images[index] = _match(table, pred_segments, label_segments, self._places)

    def result(self, *, chunks: int = 1) -> PanopticResult:
        """The figures.

        Args:
            chunks: processes of the official tool whose order of sums is wanted.
        """
        images = self._in_order()
        ious = self._sum_ious([image.found for image in images], chunks)
        tps = self._count([k for k, _ in image.found] for image in images)
        fps, fns = (self._count(getattr(image, name) for image in images) for name in ("wrong", "missed"))
        pq, sq, rq = [], [], []
        for iou, tp, fp, fn in zip(ious, tps, fps, fns):
            occurs = tp + fp + fn > 0
            weight = tp + 0.5 * fp + 0.5 * fn
            pq.append(iou / weight if occurs else math.nan)
            sq.append((iou / tp if tp else 0.0) if occurs else math.nan)
            rq.append(tp / weight if occurs else math.nan)
        things = [category.is_thing for category in self.categories]
        return PanopticResult(
            categories=self.categories,
            num_images=self.num_images,
            pq=tuple(pq),
            sq=tuple(sq),
            rq=tuple(rq),
            tp=tps,
            fp=fps,
            fn=fns,
            all=_mean(pq, sq, rq, [True] * len(things)),
            things=_mean(pq, sq, rq, things),
            stuff=_mean(pq, sq, rq, [not thing for thing in things]),
        )

    def _count(self, classes: Iterable[list[int]]) -> tuple[int, ...]:
        """How often each class occurs in lists of classes."""
        counts = Counter(itertools.chain.from_iterable(classes))
        return tuple(counts[k] for k in range(len(self.categories)))

    def _sum_ious(self, matches: Sequence[list[tuple[int, float]]], chunks: int) -> list[float]:
        """Sum of the matches' IoUs per class, chunk by chunk."""
        ious = [0.0] * len(self.categories)
        for chunk in np.array_split(np.arange(len(matches)), chunks):
            part = [0.0] * len(self.categories)
            for i in chunk.tolist():
                for k, iou in matches[i]:
                    part[k] += iou
            ious = [a + b for a, b in zip(ious, part)]
        return ious


def evaluate_files(
    label_json: PathLike,
    pred_json: PathLike,
    *,
    label_folder: PathLike | None = None,
    pred_folder: PathLike | None = None,
    chunks: int = 1,
    threads: int | None = None,
) -> PanopticResult:
    """Panoptic quality of files in COCO's panoptic format.

    Args:
        label_json: ground truth with `categories` and `annotations`.
        pred_json: prediction with `annotations`.
        label_folder: of the ground truth's PNG files; by default the JSON file's name without ".json".
        pred_folder: likewise of the prediction's.
        chunks: as in `PanopticQuality.result`.
        threads: that decode files, see `read_ahead`; the figures do not depend on it.

    Raises:
        DataError: if a file is missing or damaged, an image has no prediction or several, or a map and its list of
            segments disagree.
    """
    label_json, pred_json = Path(label_json), Path(pred_json)
    truth, predicted = read_panoptic_json(label_json), read_panoptic_json(pred_json)
    pairs = _pair_entries(truth["annotations"], predicted["annotations"], pred_json)
    label_folder = Path(label_folder or label_json.with_suffix(""))
    pred_folder = Path(pred_folder or pred_json.with_suffix(""))
    metric = PanopticQuality([Category(c["id"], c["name"], c["isthing"] == 1) for c in truth["categories"]])
    files = (
        ((read_ids, label_folder / label["file_name"]), (read_ids, pred_folder / pred["file_name"]))
        for label, pred in pairs
    )
    for (label, pred), (label_ids, pred_ids) in zip(pairs, read_ahead(files, threads=threads)):
        label_segments, pred_segments = (
            [Segment.from_coco(segment) for segment in entry["segments_info"]] for entry in (label, pred)
        )
        metric.update(pred_ids, pred_segments, label_ids, label_segments, image=str(label["image_id"]))
    return metric.result(chunks=chunks)


def _pair_entries(
    truth: Sequence[dict[str, Any]], predicted: Sequence[dict[str, Any]], pred_json: Path
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each labelled image with its prediction, in the order of the labels."""
    by_image: dict[Any, dict] = {}
    for entry in predicted:
        if entry["image_id"] in by_image:
            raise DataError(f"{pred_json}: image {entry['image_id']} is there twice; expected one prediction")
        by_image[entry["image_id"]] = entry
    for entry in truth:
        if entry["image_id"] not in by_image:
            image = entry["image_id"]
            raise DataError(f"{pred_json}: there is no prediction for image {image}; expected one for each image")
    return [(entry, by_image[entry["image_id"]]) for entry in truth]


class _Side(NamedTuple):
    """The segments of a map as arrays, ascending by id."""

    ids: np.ndarray
    classes: np.ndarray

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Place of each id, -1 where it is not listed."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[places] == ids, places, -1)


def _side(segments: Sequence[Segment], class_places: Mapping[int, int]) -> _Side:
    pairs = sorted((segment.id, class_places[segment.category_id]) for segment in segments)
    ids, classes = np.array(pairs, np.int64).reshape(-1, 2).T
    return _Side(ids, classes)


def _match(
    table: PairTable,
    pred_segments: Sequence[Segment],
    label_segments: Sequence[Segment],
    class_places: Mapping[int, int],
) -> _Matches:
    """What matches in an image, and what does not."""
    preds, labels = _side(pred_segments, class_places), _side(label_segments, class_places)
    crowd, label_areas, last_crowds = _label_facts(table, label_segments, labels, class_places)
    row_pred, row_label = preds.places(table.pred), labels.places(table.gt)
    drawn = row_pred >= 0
    pred_areas = total(row_pred[drawn], table.pixels[drawn], len(preds.ids))
    on_void = drawn & (table.gt == VOID)
    void = total(row_pred[on_void], table.pixels[on_void], len(preds.ids))

    rows = np.flatnonzero(drawn & (row_label >= 0))
    p, g, pixels = row_pred[rows], row_label[rows], table.pixels[rows]
    same = preds.classes[p] == labels.classes[g]
    on_crowd = same & (last_crowds[preds.classes[p]] == g)
    ignored = void + total(p[on_crowd], pixels[on_crowd], len(preds.ids))
    candidate = same & ~crowd[g]
    p, g, pixels = p[candidate], g[candidate], pixels[candidate]
    iou = pixels / (pred_areas[p] + label_areas[g] - pixels - void[p])
    match = iou > 0.5

    missed = ~crowd
    missed[g[match]] = False
    wrong = ignored / pred_areas <= 0.5
    wrong[p[match]] = False
    found = list(zip(labels.classes[g[match]].tolist(), iou[match].tolist()))
    return _Matches(found, preds.classes[wrong].tolist(), labels.classes[missed].tolist())


def _label_facts(
    table: PairTable, segments: Sequence[Segment], labels: _Side, class_places: Mapping[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each labelled segment is a crowd, its area, and for each class the place of its last crowd, or -2."""
    rows = labels.places(table.gt)
    areas = total(rows[rows >= 0], table.pixels[rows >= 0], len(labels.ids))
    crowd = np.zeros(len(labels.ids), bool)
    last_crowds = np.full(len(class_places), -2)
    places = labels.places(np.array([segment.id for segment in segments], np.int64))
    for place, segment in zip(places, segments):
        if segment.area is not None:
            areas[place] = segment.area
        if segment.is_crowd:
            crowd[place] = True
            last_crowds[class_places[segment.category_id]] = place
    return crowd, areas, last_crowds


def _mean(pq: Sequence[float], sq: Sequence[float], rq: Sequence[float], chosen: Sequence[bool]) -> PanopticMean:
    """Means over the chosen classes that occur, added in their order."""
    sums, n = [0.0, 0.0, 0.0], 0
    for values, wanted in zip(zip(pq, sq, rq), chosen):
        if wanted and not math.isnan(values[0]):
            sums = [a + b for a, b in zip(sums, values)]
            n += 1
    return PanopticMean(*(value / n if n else math.nan for value in sums), n)
