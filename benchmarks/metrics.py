"""The metrics against the official tools, in one run, on the same images: `python benchmarks/metrics.py`.

Twenty generated maps of 1024 x 2048. Every figure of every class is compared with ==, and the exit code is 1 if one
differs. "From memory" gives both sides decoded images; "from files" lets both read PNG files.

The official tools are used as their packages come. cityscapesScripts evaluates PQ in a process for each core, and all
else in one; it can be built with a counter in C, which is used if it is there. Its AP tool takes one PNG per predicted
object, and its cache of ground-truth objects is filled beforehand. panopticapi is measured too if it is installed.
Ours decodes files in threads; a row with one process against one thread is the same work on the same core.

Both sides run in turn, so that a load on the machine meets both. The ratio is that of the best times, and beside it
stands that of the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from city_scenes import HEIGHT, WIDTH, Scene, SceneFiles, make_scenes

from paddleseg_ext.metrics import CityscapesIoU, ConfusionMatrix, InstanceAP, InstanceMask, PanopticQuality, Segment
from paddleseg_ext.metrics.cityscapes import CATEGORIES, THINGS, VOID_IDS, CityscapesEvaluator
from paddleseg_ext.metrics.instance import InstanceResult
from paddleseg_ext.metrics.instance_iou import CLASSES, CityscapesIoUResult
from paddleseg_ext.metrics.map_files import read_ids, read_instances, read_label
from paddleseg_ext.metrics.panoptic import PanopticResult

GOAL_IN_MEMORY, GOAL_FROM_FILES = 8, 2
CORES = os.cpu_count() or 1
Figures = dict[str, Any]

# The official tools


def official(name: str) -> Any:
    """A module of cityscapesScripts."""
    return importlib.import_module(f"cityscapesscripts.evaluation.{name}")


def official_iou(files: SceneFiles, *, with_instances: bool) -> Figures:
    """IoU, and iIoU and the figures of groups if wanted."""
    tool = official("evalPixelLevelSemanticLabeling")
    tool.args.evalInstLevelScore, tool.args.JSONOutput, tool.args.quiet = with_instances, False, True
    preds, labels = files.paths("semantic/{}.png"), files.paths("gt/{}_gtFine_labelIds.png")
    result = tool.evaluateImgLists(preds, labels, tool.args)
    names = {"classScores": "IoU", "classInstScores": "iIoU", "categoryScores": "IoU", "categoryInstScores": "iIoU"}
    found = {}
    for key, name in names.items() if with_instances else [("classScores", "IoU")]:
        found[f"{name} mean of {key[:-6].removesuffix('Inst')}"] = tool.getScoreAverage(result[key], tool.args)
        found.update({f"{name} {label}": value for label, value in result[key].items()})
    return found


@functools.lru_cache(maxsize=1)
def official_objects(files: SceneFiles) -> dict[str, Any]:
    """The ground-truth objects that the official AP tool caches."""
    tool = official("evalInstanceLevelSemanticLabeling")
    tool.setInstanceLabels(tool.args)
    tool.args.quiet, tool.args.predictionPath = True, str(files.folder)
    return tool.instances2dict(files.paths("gt/{}_gtFine_instanceIds.png"), False)


def official_ap(files: SceneFiles) -> Figures:
    """AP by class and overlap."""
    tool = official("evalInstanceLevelSemanticLabeling")
    objects = official_objects(files)
    lists, labels = files.paths("masks/{}.txt"), files.paths("gt/{}_gtFine_instanceIds.png")
    matrix = tool.evaluateMatches(tool.matchGtWithPreds(lists, labels, objects, tool.args), tool.args)
    means = tool.computeAverages(matrix, tool.args)
    found = {"AP": means["allAp"], "AP50": means["allAp50%"]}
    for name, row in zip(tool.args.instLabels, matrix[0].tolist()):
        found[f"AP {name}"], found[f"AP50 {name}"] = means["classes"][name]["ap"], means["classes"][name]["ap50%"]
        found[f"AP by overlap {name}"] = row
    return found


def official_pq(files: SceneFiles, package: str, *, processes: int) -> Figures:
    """PQ, SQ, RQ and what they are made of."""
    tool = importlib.import_module(package)

    def annotation(scene: Scene, segments: list[Segment]) -> dict[str, Any]:
        entries = [
            {"id": s.id, "category_id": s.category_id, "iscrowd": int(s.is_crowd), "area": s.area} for s in segments
        ]
        return {"image_id": scene.name, "file_name": f"{scene.name}.png", "segments_info": entries}

    pairs = [(annotation(s, s.truth_segments), annotation(s, s.segments)) for s in files.scenes]
    categories = {c.id: {"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in CATEGORIES}
    folders = [str(files.folder / name) for name in ("truth", "predicted")]
    if processes > 1:
        stat = tool.pq_compute_multi_core(pairs, *folders, categories)
    else:
        stat = tool.pq_compute_single_core(0, pairs, *folders, categories)
    found: Figures = {}
    for name, is_thing in (("all", None), ("things", True), ("stuff", False)):
        mean, by_class = stat.pq_average(categories, is_thing)
        found.update({f"{key} {name}": value for key, value in mean.items()})
        for ident, values in by_class.items():
            counts = (stat[ident].tp, stat[ident].fp, stat[ident].fn)
            found[f"PQ {categories[ident]['name']}"] = [values["pq"], values["sq"], values["rq"], *counts]
    return found


# Ours; threads = 0 takes the maps from memory


def our_iou(files: SceneFiles, threads: int) -> Figures:
    """IoU."""
    matrix = ConfusionMatrix(len(CLASSES))
    names = "semantic/{}_trainIds.png", "gt/{}_gtFine_labelTrainIds.png"
    for _, (pred, label) in files.maps(lambda s: [(read_label, name.format(s.name)) for name in names], threads):
        matrix.update(pred, label)
    result = matrix.result(CLASSES)
    return {"IoU mean of class": result.miou, **{f"IoU {k}": v for k, v in zip(CLASSES, result.iou)}}


def our_iiou(files: SceneFiles, threads: int) -> Figures:
    """IoU and iIoU, of classes and groups."""
    metric = CityscapesIoU()
    for _, (pred, instance) in files.maps(
        lambda s: [(read_label, f"semantic/{s.name}.png"), (read_instances, f"gt/{s.name}_gtFine_instanceIds.png")],
        threads,
    ):
        metric.update(pred, instance)
    return iou_figures(metric.result())


def iou_figures(result: CityscapesIoUResult) -> Figures:
    """The figures by name."""
    found: Figures = {"IoU mean of class": result.miou, "iIoU mean of class": result.miiou}
    found.update({"IoU mean of category": result.group_miou, "iIoU mean of category": result.group_miiou})
    names = (*result.classes, *result.groups)
    found.update({f"IoU {name}": value for name, value in zip(names, (*result.iou, *result.group_iou))})
    found.update({f"iIoU {name}": value for name, value in zip(names, (*result.iiou, *result.group_iiou))})
    return found


def our_ap_of_masks(files: SceneFiles, threads: int) -> Figures:
    """AP, from one mask per object."""
    metric = InstanceAP(THINGS, VOID_IDS)
    for scene, (instance, *masks) in files.maps(
        lambda s: [
            (read_instances, f"gt/{s.name}_gtFine_instanceIds.png"),
            *((read_label, f"masks/{s.name}_{x.id}.png") for x in s.things),
        ],
        threads,
    ):
        objects = [InstanceMask(x.category_id, x.score, mask) for x, mask in zip(scene.things, masks)]
        metric.update_masks(objects, instance)
    return ap_figures(metric.result())


def our_ap_of_maps(files: SceneFiles, threads: int) -> Figures:
    """AP, from the panoptic map."""
    metric = InstanceAP(THINGS, VOID_IDS)
    for scene, (pred, instance) in files.maps(pred_and_instance, threads):
        metric.update(pred, scene.segments, instance)
    return ap_figures(metric.result())


def pred_and_instance(scene: Scene) -> list[tuple[Callable, str]]:
    """The files of a panoptic prediction and its ground truth."""
    return [(read_ids, f"predicted/{scene.name}.png"), (read_instances, f"gt/{scene.name}_gtFine_instanceIds.png")]


def ap_figures(result: InstanceResult) -> Figures:
    """The figures by name."""
    found: Figures = {"AP": result.mean_ap, "AP50": result.mean_ap50}
    for k, category in enumerate(result.categories):
        found[f"AP {category.name}"], found[f"AP50 {category.name}"] = result.ap[k], result.ap50[k]
        found[f"AP by overlap {category.name}"] = result.matrix[k].tolist()
    return found


def our_pq(files: SceneFiles, threads: int, *, processes: int) -> Figures:
    """PQ, its sums in the order of so many official processes."""
    metric = PanopticQuality(CATEGORIES)
    for s, (pred, truth) in files.maps(
        lambda s: [(read_ids, f"{kind}/{s.name}.png") for kind in ("predicted", "truth")], threads
    ):
        metric.update(pred, s.segments, truth, s.truth_segments)
    return pq_figures(metric.result(chunks=processes))


def pq_figures(result: PanopticResult) -> Figures:
    """The figures by name; where a class does not occur, as the official tools write it."""
    found: Figures = {}
    for name in ("all", "things", "stuff"):
        found.update({f"{key} {name}": value for key, value in getattr(result, name)._asdict().items()})
    for k, category in enumerate(result.categories):
        values = np.nan_to_num([result.pq[k], result.sq[k], result.rq[k]]).tolist()
        found[f"PQ {category.name}"] = [*values, result.tp[k], result.fp[k], result.fn[k]]
    return found


def our_evaluator(files: SceneFiles, threads: int) -> Figures:
    """PQ and AP, with IoU and iIoU of the segments, from the same pass."""
    evaluator = CityscapesEvaluator(train_ids=False)
    for scene, (pred, instance) in files.maps(pred_and_instance, threads):
        evaluator.update(pred, scene.segments, instance)
    result = evaluator.result()
    return {**pq_figures(result.panoptic), **ap_figures(result.instance)}


# Measuring


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        metric: name.
        processes: of the official tool.
        official: seconds of each run.
        threads: of ours; 0 for maps in memory.
        ours: seconds of each run.
        differing: names of the figures that are not equal.
        has_goal: whether the goal is for this line: the official tool as it comes against ours as it comes.
    """

    metric: str
    processes: int
    official: list[float]
    threads: int
    ours: list[float]
    differing: list[str]
    has_goal: bool = True


def peers() -> Iterator[tuple[str, int, Callable[[SceneFiles], Figures], Callable[[SceneFiles, int], Figures]]]:
    """Metric, processes of the official tool, the tool, and ours."""
    yield "mIoU", 1, functools.partial(official_iou, with_instances=False), our_iou
    yield "IoU and iIoU", 1, functools.partial(official_iou, with_instances=True), our_iiou
    yield "AP, a mask per object", 1, official_ap, our_ap_of_masks
    yield "AP, a map of segments", 1, official_ap, our_ap_of_maps
    packages = {"": "cityscapesscripts.evaluation.evalPanopticSemanticLabeling"}
    if importlib.util.find_spec("panopticapi"):
        packages[" (panopticapi)"] = "panopticapi.evaluation"
    for name, package in packages.items():
        for processes in sorted({1, CORES}):
            run = functools.partial(official_pq, package=package, processes=processes)
            yield f"PQ{name}", processes, run, functools.partial(our_pq, processes=processes)


def measure(files: SceneFiles, repeats: int, *, read: bool) -> Iterator[Row]:
    """All lines from memory, or from files."""
    whole: dict[str, tuple[list[float], Figures]] = {}
    for metric, processes, their_run, our_run in peers():
        if processes > 1 and not read:
            continue  # ours has one thread there
        threads = sorted({processes, CORES}) if read else [0]
        runs = [their_run, *(functools.partial(our_run, threads=count) for count in threads)]
        (theirs, expected), *ours = in_turn([functools.partial(run, files) for run in runs], repeats)
        if processes == 1:
            whole[metric] = theirs, expected
        for count, (mine, found) in zip(threads, ours):
            is_theirs_at_best = processes == (CORES if metric.startswith("PQ") else 1)
            has_goal = not read or (is_theirs_at_best and count == CORES)
            yield Row(metric, processes, theirs, count, mine, differing(expected, found), has_goal)
    parts = [whole[metric] for metric in ("IoU and iIoU", "AP, a map of segments", "PQ")]
    theirs = [sum(seconds) for seconds in zip(*(times for times, _ in parts))]
    expected = {name: value for _, figures in parts[1:] for name, value in figures.items()}
    for count in sorted({1, CORES}) if read else (0,):
        ((mine, found),) = in_turn([functools.partial(our_evaluator, files, count)], repeats)
        yield Row("IoU, iIoU, AP and PQ of a map", 1, theirs, count, mine, differing(expected, found), False)


def in_turn(runs: list[Callable[[], Figures]], repeats: int) -> list[tuple[list[float], Figures]]:
    """Seconds of each repetition of each run, and its figures; first all once, then all once more, and so on."""
    seconds: list[list[float]] = [[] for _ in runs]
    figures: list[Figures] = [{} for _ in runs]
    for _ in range(repeats):
        for k, run in enumerate(runs):
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                figures[k] = run()
            seconds[k].append(time.perf_counter() - start)
    return list(zip(seconds, figures))


def differing(expected: Figures, found: Figures) -> list[str]:
    """Names of our figures that are not to the last bit the official ones; NaN equals NaN."""

    def written(value: Any) -> str:
        return repr([float(entry) for entry in np.ravel(value)])

    return [name for name, value in found.items() if name not in expected or written(expected[name]) != written(value)]


def as_table(rows: list[Row], count: int, repeats: int) -> Table:
    """Times in ms per image, and ratios."""
    table = Table(title=f"ms per image of {HEIGHT} x {WIDTH}, {count} images, best of {repeats}")
    columns = ("metric", "from", "official", "processes", "ours", "threads", "ratio", "of medians", "goal", "equal")
    for column in columns:
        table.add_column(column, justify="left" if column in ("metric", "from") else "right")
    for i, row in enumerate(rows):
        if i and rows[i - 1].threads == 0 < row.threads:
            table.add_section()
        cells = [f"{1000 * min(row.official) / count:.1f}", str(row.processes)]
        cells += [f"{1000 * min(row.ours) / count:.1f}", str(max(row.threads, 1))]
        cells += [f"{figure(row.official) / figure(row.ours):.1f}x" for figure in (min, statistics.median)]
        goal = f"{GOAL_FROM_FILES if row.threads else GOAL_IN_MEMORY}x" if row.has_goal else ""
        place = "files" if row.threads else "memory"
        table.add_row(row.metric, place, *cells, goal, "NO" if row.differing else "yes")
    return table


def main() -> int:
    """Makes the images, runs both sides and prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, default=20, help="number of images; each takes some 250 MB")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # which cityscapesScripts 2.3.0 calls and numpy 2.4 has removed
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = SceneFiles(Path(folder), make_scenes(args.images))
        with files.preloaded():
            rows = list(measure(files, args.repeats, read=False))
        rows += measure(files, args.repeats, read=True)
    Console(width=120).print(as_table(rows, args.images, args.repeats))
    counter = "with" if official("evalPixelLevelSemanticLabeling").CSUPPORT else "without"
    load = f"load {os.getloadavg()[0]:.1f} on {CORES} cores"
    print(f"python {sys.version.split()[0]}, numpy {np.__version__}, cityscapesScripts {counter} its C counter, {load}")
    for row in rows:
        if row.differing:
            print(f"{row.metric}: {len(row.differing)} figures differ: {', '.join(row.differing[:5])}")
    return int(any(row.differing for row in rows))


if __name__ == "__main__":
    sys.exit(main())
