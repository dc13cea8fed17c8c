"""Records what cityscapesScripts and panopticapi say of the predictions of `parity.official`.

    python parity/upstream/record_metrics.py --panopticapi PATH

PATH is your own checkout of cocodataset/panopticapi at commit 7bb4655; cityscapesScripts is the installed package. The
tools run on files in a temporary folder. Two things are done for them: `numpy.in1d`, which newer numpy has no longer,
is `numpy.isin`, and the list of matches, which cannot be written with it, is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from parity import official  # noqa: E402

PANOPTICAPI = "cocodataset/panopticapi@7bb4655"
LABELS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # evaluated, by id


def script(name: str) -> Any:
    """A module of cityscapesScripts."""
    np.in1d = np.isin
    return import_module(f"cityscapesscripts.evaluation.{name}")


def write_truth(folder: Path, images: list[official.CityscapesImage]) -> list[str]:
    """Writes instance and label ids as Cityscapes does; the paths of the instance ids."""
    city = folder / "gtFine" / "val" / "toytown"
    city.mkdir(parents=True)
    paths = []
    for image in images:
        labels = np.where(image.instance < 1000, image.instance, image.instance // 1000).astype(np.uint8)
        Image.fromarray(labels).save(city / f"{image.name}_gtFine_labelIds.png")
        paths.append(str(city / f"{image.name}_gtFine_instanceIds.png"))
        Image.fromarray(image.instance.astype(np.uint16)).save(paths[-1])
    return paths


def pixel_level(folder: Path, images: list[official.CityscapesImage]) -> dict[str, Any]:
    """IoU and iIoU."""
    module = script("evalPixelLevelSemanticLabeling")
    labels = [path.replace("instanceIds", "labelIds") for path in write_truth(folder, images)]
    preds = []
    for image in images:
        preds.append(str(folder / f"{image.name}_pred.png"))
        Image.fromarray(image.semantic).save(preds[-1])
    module.args.evalInstLevelScore, module.args.JSONOutput, module.args.quiet = True, False, True
    result = module.evaluateImgLists(preds, labels, module.args)
    names = {label.id: label.name for label in import_module("cityscapesscripts.helpers.labels").labels}
    figures = {}
    for key, kind in (("IoU", "classScores"), ("iIoU", "classInstScores")):
        figures[f"mean {key}"] = module.getScoreAverage(result[kind], module.args)
        figures[key] = [result[kind][names[i]] for i in LABELS]
    return figures


def instance_level(folder: Path, images: list[official.CityscapesImage]) -> dict[str, Any]:
    """AP of the things among the predicted segments."""
    module = script("evalInstanceLevelSemanticLabeling")
    module.writeDict2JSON = lambda data, path: None
    module.args.gtInstancesFile, module.args.predictionPath = str(folder / "none.json"), str(folder)
    module.args.JSONOutput, module.args.quiet = False, True
    truth, lists = write_truth(folder, images), []
    for image in images:
        lines = []
        for segment in image.segments:
            name = f"{image.name}_{segment.id}.png"
            Image.fromarray((image.pred == segment.id).astype(np.uint8) * 255).save(folder / name)
            lines.append(f"{name} {segment.category} {segment.score!r}\n")
        lists.append(folder / f"{image.name}.txt")
        lists[-1].write_text("".join(lines))
    averages = module.evaluateImgLists([str(path) for path in lists], truth, module.args)["averages"]
    names = {label.id: label.name for label in import_module("cityscapesscripts.helpers.labels").labels}
    classes = [averages["classes"][names[i]] for i in official.THINGS]
    return {
        "mean AP": averages["allAp"],
        "mean AP50": averages["allAp50%"],
        "AP": [entry["ap"] for entry in classes],
        "AP50": [entry["ap50%"] for entry in classes],
    }


def cityscapes_truth(instance: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The panoptic truth of instance ids, by the rules of createPanopticImgs."""
    helpers = import_module("cityscapesscripts.helpers.labels")
    ids, segments = np.zeros_like(instance), []
    for ident in np.unique(instance).tolist():
        label = helpers.id2label[ident if ident < 1000 else ident // 1000]
        if label.ignoreInEval:
            continue
        ids[instance == ident] = ident
        crowd = int(ident < 1000 and label.hasInstances)
        area = int((instance == ident).sum())
        segments.append({"id": ident, "category_id": label.id, "iscrowd": crowd, "area": area})
    return ids, segments


def panoptic(module: Any, folder: Path, pairs: list[tuple[Any, ...]], categories: dict[int, bool]) -> dict[str, Any]:
    """PQ of (truth, its segments, prediction, its segments), by class and as means."""
    for name in ("truth", "predicted"):
        (folder / name).mkdir()
    entries = []
    for number, (truth, truth_segments, pred, segments) in enumerate(pairs):
        file_name = f"{number}.png"
        for name, ids in (("truth", truth), ("predicted", pred)):
            rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
            Image.fromarray(rgb).save(folder / name / file_name)
        own = [{"id": s.id, "category_id": s.category} for s in segments]
        label = {"image_id": number, "file_name": file_name, "segments_info": truth_segments}
        entries.append((label, {"image_id": number, "file_name": file_name, "segments_info": own}))
    known = {i: {"id": i, "isthing": int(thing)} for i, thing in categories.items()}
    stat = module.pq_compute_single_core(0, entries, str(folder / "truth"), str(folder / "predicted"), known)
    figures = {}
    for group, isthing in (("all", None), ("things", True), ("stuff", False)):
        mean, classes = stat.pq_average(known, isthing=isthing)
        figures[f"PQ {group}"] = [mean["pq"], mean["sq"], mean["rq"]]
        figures[f"classes in PQ {group}"] = mean["n"]
        if isthing is None:
            occurs = {i: stat[i].tp + stat[i].fp + stat[i].fn > 0 for i in known}
            figures["PQ"] = [classes[i]["pq"] if occurs[i] else None for i in known]  # 0 where it does not
    for name in ("tp", "fp", "fn"):
        figures[name.upper()] = [int(getattr(stat[i], name)) for i in known]
    return figures


def evaluate(panopticapi: Path) -> dict[str, Any]:
    """All evaluations, by name."""
    scripts = f"cityscapesScripts {metadata.version('cityscapesScripts')}"
    images = official.cityscapes()
    is_thing = {i: i in official.THINGS for i in LABELS}
    pairs = [(*cityscapes_truth(image.instance), image.pred, image.segments) for image in images]
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / kind for kind in ("pixels", "instances", "panoptic", "coco")]
        for folder in folders:
            folder.mkdir()
        pixels = pixel_level(folders[0], images)
        things = instance_level(folders[1], images)
        whole = panoptic(script("evalPanopticSemanticLabeling"), folders[2], pairs, is_thing)
        sys.path.insert(0, str(panopticapi))
        coco = panoptic(import_module("panopticapi.evaluation"), folders[3], *coco_pairs())
    semantic = {key: pixels[key] for key in ("mean IoU", "IoU")}
    return {
        "cityscapes_semantic": {"tool": scripts, "figures": semantic},
        "cityscapes_panoptic": {"tool": scripts, "figures": {**whole, **things, **pixels}},
        "coco_panoptic": {"tool": PANOPTICAPI, "figures": coco},
    }


def coco_pairs() -> tuple[list[tuple[Any, ...]], dict[int, bool]]:
    """What `panoptic` needs for COCO."""
    pairs = []
    for image in official.coco():
        truth = [
            {"id": s.id, "category_id": s.category, "iscrowd": int(s.crowd), "area": int((image.label == s.id).sum())}
            for s in image.label_segments
        ]
        pairs.append((image.label, truth, image.pred, image.segments))
    return pairs, {i: i in official.COCO_THINGS for i in official.COCO_THINGS + official.COCO_STUFF}


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--panopticapi", type=Path, required=True, help="your checkout of cocodataset/panopticapi")
    parser.add_argument("--out", type=Path, default=official.RECORDING, help="file to write")
    options = parser.parse_args()
    if not (options.panopticapi / "panopticapi" / "evaluation.py").exists():
        message = f"{options.panopticapi}: no panopticapi/evaluation.py there; expected a checkout of {PANOPTICAPI}"
        print(f"error: {message}", file=sys.stderr)
        return 2
    found = evaluate(options.panopticapi)
    clean = {n: {**e, "figures": {k: _plain(v) for k, v in e["figures"].items()}} for n, e in found.items()}
    versions = {"numpy": np.__version__, "pillow": metadata.version("pillow")}
    text = json.dumps({"schema": 1, "versions": versions, "evaluations": clean}, indent=1)
    options.out.write_text(text + "\n", encoding="utf-8")
    return 0


def _plain(value: Any) -> Any:
    """Without numpy's types and NaN."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (int, np.integer)):
        return None if value is None else int(value)
    return None if np.isnan(value) else float(value)


if __name__ == "__main__":
    sys.exit(main())
