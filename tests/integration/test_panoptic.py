"""Panoptic training, evaluation and prediction from end to end; the figures are those of the official tools."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data.classes import CITYSCAPES_LABELS
from paddleseg_ext.data.panoptic_format import read_ids
from paddleseg_ext.data.prepare_panoptic import write_cityscapes_panoptic
from paddleseg_ext.errors import ConfigError
from paddleseg_ext.metrics.panoptic import evaluate_files

pytestmark = pytest.mark.integration

THING_IDS = {label.id for label in CITYSCAPES_LABELS if label.has_instances and label.train_id != 255}


@pytest.fixture(scope="module")
def nets() -> ModuleType:
    """The module tiny_panoptic.py, its models registered."""
    from paddleseg_ext.config import import_components

    path = Path(__file__).with_name("tiny_panoptic.py")
    spec = importlib.util.spec_from_file_location("tiny_panoptic", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import_components()
    module.register()
    return module


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validation scenes that are large enough for objects of 100 pixels."""
    from paddleseg_ext.data.demo import DemoSettings, make_demo

    return make_demo(tmp_path_factory.mktemp("data") / "town", DemoSettings(0, 5, 1, height=128, width=256))


@pytest.fixture
def oracle(nets: ModuleType, town: Path) -> dict[str, Any]:
    """A configuration whose model knows the town, with mistakes."""
    return nets.config_data(town, model={"type": "Oracle", "num_classes": 19, "root": str(town)})


def run_val(config_data: dict[str, Any], **options: Any) -> Any:
    from paddleseg_ext.config import Config, validate
    from paddleseg_ext.engine.val import ValOptions, val

    config = Config.from_dict(config_data)
    validate(config, "val")
    return val(config, ValOptions(random_weights=True, device="cpu", **options), lambda line: None)


@pytest.fixture
def run_train(nets: ModuleType, city: Path, tmp_path: Path) -> Callable[..., Any]:
    """Trains the tiny model: `run_train(name, options={...}, **changes of the configuration)`."""
    from paddleseg_ext.config import Config, validate
    from paddleseg_ext.engine.train import TrainOptions, train

    def run(name: str = "run", options: dict[str, Any] | None = None, **changes: Any) -> Any:
        config = Config.from_dict(nets.config_data(city, **changes))
        options = {"save_dir": str(tmp_path / name), "device": "cpu", "do_eval": True, **(options or {})}
        validate(config, "train", do_eval=True)
        return train(config, TrainOptions(**options))

    return run


# Evaluation equals the official tools, run on the files that --format_only writes


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A program of cityscapesScripts, with what newer numpy has removed."""
    pytest.importorskip("cityscapesscripts")
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    return lambda name: importlib.import_module(f"cityscapesscripts.evaluation.{name}")


def test_pq_is_the_official_one_to_the_last_bit(
    oracle: dict, town: Path, tmp_path: Path, official: Callable[[str], Any]
) -> None:
    result = run_val(oracle).panoptic
    assert run_val(oracle, format_dir=str(tmp_path / "files")) is None
    (truth,) = write_cityscapes_panoptic(town, ["val"])
    assert evaluate_files(truth, tmp_path / "files/panoptic.json") == result

    module = official("evalPanopticSemanticLabeling")
    label, pred = (json.loads(Path(path).read_text()) for path in (truth, tmp_path / "files/panoptic.json"))
    by_image = {entry["image_id"]: entry for entry in pred["annotations"]}
    pairs = [(entry, by_image[entry["image_id"]]) for entry in label["annotations"]]
    categories = {entry["id"]: entry for entry in label["categories"]}
    folders = (Path(truth).with_suffix(""), tmp_path / "files/panoptic")
    stat = module.pq_compute_single_core(0, pairs, *map(str, folders), categories)
    for name, isthing in (("all", None), ("things", True), ("stuff", False)):
        theirs, classes = stat.pq_average(categories, isthing=isthing)
        ours = getattr(result, name)
        assert (ours.pq, ours.sq, ours.rq, ours.n) == (theirs["pq"], theirs["sq"], theirs["rq"], theirs["n"])
        for k, category in enumerate(result.categories):
            if category.id in classes and not math.isnan(result.pq[k]):
                figures = {"pq": result.pq[k], "sq": result.sq[k], "rq": result.rq[k]}
                assert figures == classes[category.id]
    assert 0.1 < result.things.pq < 0.99 and 0.1 < result.stuff.pq < 0.99  # neither nothing nor all is right


def test_ap_is_the_official_one_to_the_last_bit(
    oracle: dict, town: Path, tmp_path: Path, official: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_val(oracle).instance
    run_val(oracle, format_dir=str(tmp_path / "files"))
    module = official("evalInstanceLevelSemanticLabeling")
    monkeypatch.setattr(module, "writeDict2JSON", lambda data, path: None)  # fails on numpy's integers
    truths, lists = [], []
    for entry in json.loads((tmp_path / "files/panoptic.json").read_text())["annotations"]:
        ids = read_ids(tmp_path / "files/panoptic" / entry["file_name"])
        lines = []
        for segment in entry["segments_info"]:
            if segment["category_id"] in THING_IDS:
                name = f"{entry['image_id']}_{segment['id']}.png"
                Image.fromarray((ids == segment["id"]).astype(np.uint8) * 255).save(tmp_path / name)
                lines.append(f"{name} {segment['category_id']} {segment['score']!r}\n")
        lists.append(str(tmp_path / f"{entry['image_id']}.txt"))
        Path(lists[-1]).write_text("".join(lines))
        (path,) = (town / "gtFine/val").rglob(f"{entry['image_id']}_gtFine_instanceIds.png")
        truths.append(str(path))
    args = module.args
    args.gtInstancesFile, args.predictionPath = str(tmp_path / "none.json"), str(tmp_path)
    args.JSONOutput, args.quiet = False, True
    theirs = module.evaluateImgLists(lists, truths, args)["averages"]
    assert (result.mean_ap, result.mean_ap50) == (theirs["allAp"], theirs["allAp50%"])
    for category, ap in zip(result.categories, result.ap):
        assert np.array_equal(ap, theirs["classes"][category.name]["ap"], equal_nan=True)
    assert 0 < result.mean_ap < 0.99


def test_miou_is_the_official_one_to_the_last_bit(
    oracle: dict, town: Path, tmp_path: Path, official: Callable[[str], Any]
) -> None:
    result = run_val(oracle).semantic
    run_val(oracle, format_dir=str(tmp_path / "files"))
    module = official("evalPixelLevelSemanticLabeling")
    truths = sorted(str(path) for path in (town / "gtFine/val").rglob("*_gtFine_labelIds.png"))
    files = [
        str(tmp_path / "files/semantic" / Path(path).name.replace("gtFine_labelIds", "leftImg8bit")) for path in truths
    ]
    module.args.evalInstLevelScore, module.args.quiet, module.args.JSONOutput = False, True, False
    module.args.evalPixelAccuracy, module.args.evalLabels = False, []
    theirs = module.evaluateImgLists(files, truths, module.args)
    assert result.miou == theirs["averageScoreClasses"]
    assert 0.3 < result.miou < 0.99


def test_one_pass_writes_all_figures_and_pictures(oracle: dict, tmp_path: Path) -> None:
    result = run_val(oracle, json_path=str(tmp_path / "val.json"), save_dir=str(tmp_path / "pictures"))
    figures = json.loads((tmp_path / "val.json").read_text())
    assert figures["panoptic"]["all"]["pq"] == result.panoptic.all.pq
    assert figures["instance"]["AP"] == result.instance.mean_ap
    assert figures["semantic"]["mIoU"] == result.semantic.miou
    assert len(figures["panoptic"]["classes"]) == 19 and len(figures["instance"]["classes"]) == 8
    assert figures["postprocess"] == {"threshold": 0.1, "nms_kernel": 3, "top_k": 200, "stuff_area": 20}
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 5


def test_a_test_set_without_labels_is_only_formatted(
    oracle: dict, town: Path, nets: ModuleType, tmp_path: Path
) -> None:
    test = {**oracle, "model": {"type": "TinyPanoptic", "num_classes": 19}}
    test["val_dataset"] = {**test["val_dataset"], "mode": "test"}
    assert run_val(test, format_dir=str(tmp_path / "files"), save_dir=str(tmp_path / "pictures")) is None
    (entry,) = json.loads((tmp_path / "files/panoptic.json").read_text())["annotations"]
    assert (tmp_path / "files/panoptic" / entry["file_name"]).is_file()


def test_two_processes_give_the_figures_of_one(oracle: dict, nets: ModuleType, tmp_path: Path) -> None:
    run_val(oracle, json_path=str(tmp_path / "one.json"))
    (tmp_path / "c.yml").write_text(json.dumps(oracle))
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    command += [nets.__file__, "val", "--config", "c.yml", "--random_weights", "--num_threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(nets.REPOSITORY)}
    done = subprocess.run(
        [*command, "--json", "two.json", "--device", "cpu"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two


# Training


def test_training_keeps_the_best_pq_and_logs_all_figures(run_train: Callable[..., Any], tmp_path: Path) -> None:
    result = run_train(iters=6, runtime={"ema": {"decay": 0.5}})
    assert result.iteration == 6 and set(result.best) == {"iteration", "PQ", "ema_PQ"}
    records = [json.loads(line) for line in (tmp_path / "run/train.jsonl").read_text().splitlines()]
    evaluations = [record for record in records if record["kind"] == "eval"]
    assert [record["weights"] for record in evaluations] == ["model", "ema"] * 2
    for key in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP", "AP50", "mIoU", "class_pq", "class_iou"):
        assert key in evaluations[0], key
    trained = [record for record in records if record["kind"] == "train"]
    assert set(trained[0]["losses"]) == {"loss_semantic", "loss_center", "loss_offset"}
    assert (tmp_path / "run/best_model").is_dir() and (tmp_path / "run/ema_best_model").is_dir()
    assert "best PQ" in (tmp_path / "run/train.log").read_text()


def test_a_resumed_run_knows_its_best_pq(run_train: Callable[..., Any], tmp_path: Path) -> None:
    whole = run_train("whole", iters=6)
    run_train("parts", iters=6, options={"save_dir": str(tmp_path / "parts")})
    shutil_target = tmp_path / "parts/iter_6"
    for file in shutil_target.iterdir():
        file.unlink()
    shutil_target.rmdir()
    (tmp_path / "parts/last_checkpoint").write_text("iter_3\n")
    again = run_train("parts", iters=6, options={"resume": "auto"})
    assert again.best == whole.best
    evaluations = [json.loads((tmp_path / name / "evaluations.json").read_text()) for name in ("whole", "parts")]
    assert evaluations[0] == evaluations[1]


def test_the_losses_fall(run_train: Callable[..., Any], tmp_path: Path) -> None:
    run_train(iters=40, options={"do_eval": False}, runtime={"save_interval": 100})
    records = [json.loads(line) for line in (tmp_path / "run/train.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


# Prediction


@pytest.fixture
def predictor(nets: ModuleType, oracle: dict, tmp_path: Path) -> Any:
    from paddleseg_ext.config import Config, build_component
    from paddleseg_ext.engine.snapshot import weights_of
    from paddleseg_ext.predictor import Predictor
    from paddleseg_ext.weight_files import save_arrays

    model = build_component(Config.from_dict(oracle), "model")
    save_arrays(tmp_path / "weights.safetensors", weights_of(model))
    return Predictor.from_config(oracle, tmp_path / "weights.safetensors", device="cpu")


def test_a_predictor_tells_objects_apart(predictor: Any, town: Path) -> None:
    path = sorted((town / "leftImg8bit/val").rglob("*.png"))[0]
    prediction = predictor(path)
    assert prediction.ids.shape == prediction.label.shape == (128, 256)
    assert set(np.unique(prediction.ids)) - {0} == {segment.id for segment in prediction.segments}
    assert prediction.things and all(s.category_id in range(11, 19) for s in prediction.things)
    assert sum(prediction.counts().values()) == len(prediction.things)
    assert prediction.mask(prediction.things[0]).sum() > 0
    for picture in (prediction.overlay(names=True), prediction.overlay(contours=False), prediction.colorized()):
        assert picture.shape == (128, 256, 3) and picture.dtype == np.uint8
    array = predictor(np.array(Image.open(path)))
    np.testing.assert_array_equal(array.ids, prediction.ids)


def test_predicted_files_are_cocos_format(predictor: Any, town: Path, tmp_path: Path) -> None:
    from paddleseg_ext.engine.predict import find_images, predict_files

    said: list[str] = []
    images = find_images(town / "leftImg8bit/val")
    assert predict_files(predictor, images, tmp_path / "out", names=True, say=said.append) == 5
    content = json.loads((tmp_path / "out/panoptic.json").read_text())
    for (path, _), entry in zip(images, content["annotations"]):
        prediction = predictor(path)
        np.testing.assert_array_equal(read_ids(tmp_path / "out/panoptic" / entry["file_name"]), prediction.ids)
        published = {s.id: prediction.categories[s.category_id].id for s in prediction.segments}
        assert {s["id"]: s["category_id"] for s in entry["segments_info"]} == published
        assert [s["area"] for s in entry["segments_info"]] == [prediction.mask(s).sum() for s in prediction.segments]
    assert {folder.name for folder in (tmp_path / "out").iterdir() if folder.is_dir()} == {
        "added_prediction", "pseudo_color_prediction", "class_ids", "panoptic",
    }  # fmt: skip
    assert any(" car" in line or " person" in line for line in said)


def test_a_prediction_saves_itself(predictor: Any, town: Path, tmp_path: Path) -> None:
    prediction = predictor(sorted((town / "leftImg8bit/val").rglob("*.png"))[0])
    prediction.save(tmp_path / "street.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "street.png"), prediction.ids)
    (entry,) = json.loads((tmp_path / "street.json").read_text())["annotations"]
    assert entry["image_id"] == "street" and len(entry["segments_info"]) == len(prediction.segments)


# What is wrong


def test_a_data_set_without_objects_is_refused(oracle: dict) -> None:
    semantic = {**oracle, "val_dataset": {**oracle["val_dataset"], "type": "Cityscapes"}}
    with pytest.raises(ConfigError, match="val_dataset: Cityscapes does not tell objects apart; expected"):
        run_val(semantic)


def test_a_model_without_centers_is_refused(oracle: dict, tiny: ModuleType) -> None:
    with pytest.raises(ConfigError, match="model: gives semantic but no center, offset; expected"):
        run_val({**oracle, "model": {"type": "TinyNet", "num_classes": 19}})


def test_what_has_no_effect_is_refused(oracle: dict, predictor: Any, tiny: ModuleType, tmp_path: Path) -> None:
    from paddleseg_ext.data.transforms import Compose
    from paddleseg_ext.engine.predict import predict_files
    from paddleseg_ext.predictor import Predictor

    with pytest.raises(ConfigError, match="--paddleseg-metrics: PaddleSeg has no figures"):
        run_val(oracle, convention="paddleseg")
    with pytest.raises(ConfigError, match="prob: a panoptic prediction has scores"):
        predictor(np.zeros((128, 256, 3), np.uint8), prob=True)
    with pytest.raises(ConfigError, match="--names: the model does not tell objects apart"):
        predict_files(Predictor(lambda image: {}, Compose()), [], tmp_path, names=True)


# COCO: another size than the network's, classes by their published ids


def test_coco_is_evaluated_at_its_own_size(nets: ModuleType, tmp_path: Path) -> None:
    from paddleseg_ext.data.coco_classes import COCO_CATEGORIES
    from paddleseg_ext.data.panoptic_format import write_ids, write_panoptic_json
    from paddleseg_ext.data.prepare_coco import prepare_coco_panoptic

    rng, annotations = np.random.default_rng(0), []
    for folder in ("val2017", "annotations/panoptic_val2017"):
        (tmp_path / folder).mkdir(parents=True)
    for number in (3, 8):
        ids = np.full((40, 52), 184, np.int64)
        ids[5:30, 10:40] = 70000 + number
        Image.fromarray(rng.integers(0, 256, (40, 52, 3), np.uint8)).save(tmp_path / f"val2017/{number}.jpg")
        write_ids(tmp_path / f"annotations/panoptic_val2017/{number}.png", ids)
        segments = [(184, 184, 40 * 52 - 750), (70000 + number, 1, 750)]
        entries = [{"id": i, "category_id": c, "area": a, "iscrowd": 0} for i, c, a in segments]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": entries})
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (3, 8)],
        "annotations": annotations,
        "categories": [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in COCO_CATEGORIES],
    }
    write_panoptic_json(tmp_path / "annotations/panoptic_val2017.json", content)
    prepare_coco_panoptic(tmp_path, ["val"])
    pipeline = [
        {"type": "ResizeShortestEdge", "short_edge_length": [64], "max_size": 64},
        {"type": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        {"type": "Padding", "target_size": [64, 64], "im_padding_value": 0},
    ]
    config = nets.config_data(tmp_path, model={"type": "TinyPanoptic", "num_classes": 133})
    config["val_dataset"] = {"type": "COCOPanoptic", "dataset_root": str(tmp_path), "transforms": pipeline}
    config["val_dataset"]["mode"] = "val"
    result = run_val(config, save_dir=str(tmp_path / "pictures"))
    assert run_val(config, format_dir=str(tmp_path / "files")) is None
    assert evaluate_files(tmp_path / "annotations/panoptic_val2017.json", tmp_path / "files/panoptic.json") == (
        result.panoptic
    )
    assert read_ids(tmp_path / "files/panoptic/3.png").shape == (40, 52)
    assert len(result.panoptic.categories) == 133 and result.semantic.num_pixels == 2 * 40 * 52
    assert result.instance.num_objects == (2, *[0] * 79) and result.instance.mean_ap == result.instance.ap[0]
