from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data import ADE20K, Cityscapes, Dataset, PascalVOC
from paddleseg_ext.data.image_io import write_png
from paddleseg_ext.errors import ConfigError, DataError

STEMS = ("aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313")


@pytest.fixture(autouse=True)
def no_root_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)


def test_cityscapes_sample(write_cityscapes) -> None:
    dataset = Cityscapes(str(write_cityscapes(stems=STEMS)))
    sample = dataset[2]
    assert len(dataset) == 3
    assert sample["image"].shape == (4, 8, 3) and sample["image"].dtype == np.uint8
    assert sample["label"].tolist() == [[3] * 8] * 4
    assert sample["meta"]["index"] == 2
    assert sample["meta"]["original_size"] == (4, 8)
    assert sample["meta"]["image_path"].endswith("bochum_000000_000313_leftImg8bit.png")
    assert (dataset.num_classes, dataset.ignore_index, dataset.classes[13]) == (19, 255, "car")
    assert dataset.palette[13].tolist() == [0, 0, 142]


def test_cityscapes_pairs_by_stem_and_not_by_order(write_cityscapes) -> None:
    root = write_cityscapes(stems=STEMS)
    (root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(DataError) as caught:
        Cityscapes(str(root))
    text = str(caught.value)
    assert "3 images but no label */*_gtFine_labelTrainIds.png for 1 of them (aachen/aachen_000000_000019)" in text
    assert "has 0 files *_gtFine_labelIds.png and 2 files *_gtFine_labelTrainIds.png" in text


def test_label_ids_without_training_ids_name_the_command(write_cityscapes) -> None:
    root = write_cityscapes(stems=STEMS, kind="labelIds", label=7)
    with pytest.raises(DataError, match=f"prepare_cityscapes.py --root {root}"):
        Cityscapes(str(root))


def test_labels_without_images_are_an_error(write_cityscapes) -> None:
    root = write_cityscapes(stems=STEMS)
    (root / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png").unlink()
    with pytest.raises(DataError, match=r"1 labels have no image .*\(aachen/aachen_000001_000019\)"):
        Cityscapes(str(root))


def test_missing_split_says_what_exists(write_cityscapes) -> None:
    root = write_cityscapes(stems=STEMS)
    with pytest.raises(DataError, match=r"no image matches leftImg8bit/val/.*gtFine holds train/"):
        Cityscapes(str(root), mode="val")


def test_test_split_has_no_labels(write_cityscapes) -> None:
    dataset = Cityscapes(str(write_cityscapes(split="test", label=None)), mode="test")
    assert "label" not in dataset[0]
    assert dataset[0]["meta"]["label_path"] is None


def test_other_counts_than_published_are_noticed_not_refused(write_cityscapes) -> None:
    root = write_cityscapes(stems=STEMS)
    assert Cityscapes(str(root)).notices == [f"{root}: 3 images in train; the published set has 2975"]


def test_root_from_the_environment(write_cityscapes, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_cityscapes()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    assert len(Cityscapes(None)) == 1
    moved = Cityscapes("nowhere/cityscapes")
    assert moved.notices[0] == f"dataset_root nowhere/cityscapes does not exist; using {root}"
    with pytest.raises(DataError, match="nowhere/demo: no such folder"):  # a root with a name of its own is meant
        Cityscapes("nowhere/demo")


def test_both_spellings_of_cityscapes_are_found(write_cityscapes) -> None:
    root = write_cityscapes()
    assert len(Cityscapes(str(root.with_name("cityscape")))) == 1


def test_missing_root_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder \(looked for .*cityscapes, .*cityscape\); download"):
        Cityscapes(str(tmp_path / "cityscapes"))
    with pytest.raises(DataError, match=r"make_demo\.py --root"):
        Cityscapes(str(tmp_path / "demo"))


@pytest.mark.parametrize("value", [19, 24, 34, 254])
def test_label_values_that_are_no_classes_name_the_file(write_cityscapes, value: int) -> None:
    root = write_cityscapes()
    path = root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png"
    label = np.zeros((4, 8), np.uint8)
    label[0, :3] = value
    label[1] = 255
    write_png(path, label)
    with pytest.raises(DataError) as caught:
        Cityscapes(str(root))[0]
    expected = f"{path}: has values {{{value}}} in 3 pixels; expected 0..18 and ignore 255; the labels are probably"
    assert str(caught.value).startswith(expected)


def test_label_of_another_size_names_both_files(write_cityscapes) -> None:
    root = write_cityscapes()
    write_png(root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png", np.zeros((8, 4), np.uint8))
    with pytest.raises(DataError, match=r"labelTrainIds\.png: the label is 8 x 4 .*leftImg8bit\.png is 4 x 8"):
        Cityscapes(str(root))[0]


def test_unknown_mode_is_a_config_error(write_cityscapes) -> None:
    with pytest.raises(ConfigError, match="mode is 'training'; expected one of train, val, test"):
        Cityscapes(str(write_cityscapes()), mode="training")


def test_instances_come_with_the_sample(city: Path) -> None:
    sample = Cityscapes(str(city), "val", instances=True)[0]
    assert sample["instance"].dtype == np.int32
    assert sample["instance"].shape == sample["label"].shape


def test_ade20k_shifts_ids_and_ignores_other(tmp_path: Path) -> None:
    for kind in ("images", "annotations"):
        (tmp_path / kind / "validation").mkdir(parents=True)
    Image.fromarray(np.zeros((1, 4, 3), np.uint8)).save(tmp_path / "images/validation/ADE_val_00000001.jpg")
    label_path = tmp_path / "annotations/validation/ADE_val_00000001.png"
    write_png(label_path, np.array([[0, 1, 150, 13]], np.uint8))
    dataset = ADE20K(str(tmp_path), mode="val")
    assert dataset[0]["label"].tolist() == [[255, 0, 149, 12]]
    assert dataset.classes[12] == "person"
    for wrong in (151, 255):
        write_png(label_path, np.array([[0, 1, wrong, 13]], np.uint8))
        with pytest.raises(DataError, match="ADE_val_00000001"):
            dataset[0]


def test_voc_reads_palette_labels_and_its_lists(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for stem, folder in (("2007_000001", "SegmentationClass"), ("2008_000002", "SegmentationClassAug")):
        Image.fromarray(np.zeros((1, 3, 3), np.uint8)).save(root / f"JPEGImages/{stem}.jpg")
        write_png(root / f"{folder}/{stem}.png", np.array([[0, 15, 255]], np.uint8), palette=np.zeros((256, 3)))
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n")
    (root / "ImageSets/Segmentation/aug.txt").write_text("2008_000002\n\n")
    assert PascalVOC(str(root.parent))[0]["label"].tolist() == [[0, 15, 255]]
    assert len(PascalVOC(str(root), mode="trainaug")) == 2
    with pytest.raises(DataError, match=r"val\.txt: no such file"):
        PascalVOC(str(root), mode="val")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A folder with images "a.png", "my photo.png" and a label "l.png" for each."""
    for name in ("a.png", "my photo.png"):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / name)
    write_png(tmp_path / "l.png", np.array([[0, 1], [3, 250]], np.uint8))
    return tmp_path


def open_list(root: Path, text: str | bytes, **arguments) -> Dataset:
    path = root / "list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    options = {"num_classes": 4, "ignore_index": 250, "train_path": str(path), **arguments}
    return Dataset(str(root), **options)


def test_list_files_as_people_write_them(listed: Path) -> None:
    dataset = open_list(listed, b"\xef\xbb\xbfa.png,l.png\r\n\r\n  my photo.png , l.png \r\n", separator=",")
    assert [Path(pair.image).name for pair in dataset.pairs] == ["a.png", "my photo.png"]
    assert dataset[1]["label"].tolist() == [[0, 1], [3, 250]]
    assert dataset.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("text", "separator", "message"),
    [
        ("a.png l.png\na.png,l.png", " ", r"list\.txt:2: 1 fields .*is the separator ','"),
        ("my photo.png l.png", " ", r"list\.txt:1: 3 fields"),
        ("a.png", " ", r"list\.txt:1: 1 fields"),
        ("a.png,", ",", r"list\.txt:1: "),
        ("\n\nb.png l.png", " ", r"list\.txt:3: .*b\.png does not exist"),
        ("/etc/passwd l.png", " ", r"list\.txt:1: '/etc/passwd' is an absolute path"),
        ("C:\\a.png l.png", " ", "absolute path"),
        ("../a.png l.png", " ", r"leaves .*'\.\.'"),
        ("x\\..\\..\\a.png l.png", " ", "leaves"),
        ("", " ", "the list is empty"),
    ],
)
def test_malformed_lists_name_the_line(listed: Path, text: str, separator: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_list(listed, text, separator=separator)


def test_list_that_is_no_utf_8_is_refused(listed: Path) -> None:
    with pytest.raises(DataError, match="is not UTF-8 text"):
        open_list(listed, "größe.png l.png".encode("latin-1"))


def test_only_test_lists_may_lack_labels(listed: Path) -> None:
    dataset = open_list(listed, "a.png\n", mode="test", test_path=str(listed / "list.txt"))
    assert "label" not in dataset[0]


def test_list_dataset_checks_its_arguments(listed: Path) -> None:
    with pytest.raises(ConfigError, match="mode is 'val' but val_path is not set"):
        open_list(listed, "a.png l.png", mode="val")
    with pytest.raises(ConfigError, match="num_classes is 0"):
        open_list(listed, "a.png l.png", num_classes=0)
    with pytest.raises(ConfigError, match="2 classes named"):
        open_list(listed, "a.png l.png", classes=["x", "y"])
