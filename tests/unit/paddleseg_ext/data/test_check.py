from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data import Cityscapes
from paddleseg_ext.data.check import check_dataset, label_value_error, report_lines
from paddleseg_ext.data.image_io import read_label, write_png


@pytest.fixture
def root(city: Path, tmp_path: Path) -> Path:
    shutil.copytree(city, tmp_path / "cityscapes")
    return tmp_path / "cityscapes"


def test_a_sound_data_set_has_no_problems_and_the_right_counts(root: Path) -> None:
    dataset = Cityscapes(str(root), "val")
    report = check_dataset(dataset)
    assert report
    assert report.sizes == {"32x64": 3}
    counted = [0] * 256
    for pair in dataset.pairs:
        for value in read_label(pair.label).ravel():
            counted[value] += 1
    assert report.class_pixels == counted[:19]
    assert report.ignored_pixels == counted[255]
    assert json.loads(json.dumps(report.as_dict()))["num_samples"] == 3


def test_every_bad_file_is_named_in_one_run(root: Path) -> None:
    pairs = Cityscapes(str(root), "train").pairs
    data = bytearray(Path(pairs[0].image).read_bytes())
    data[len(data) // 2] ^= 1
    Path(pairs[0].image).write_bytes(data)
    Path(pairs[1].label).write_bytes(b"")
    shutil.copy(pairs[2].label.replace("labelTrainIds", "labelIds"), pairs[2].label)
    write_png(pairs[3].label, np.zeros((64, 32), np.uint8))
    write_png(pairs[4].label, np.zeros((32, 64), np.int32))
    report = check_dataset(Cityscapes(str(root), "train"))
    assert not report
    for problem, path, text in zip(
        report.problems,
        [pairs[0].image, pairs[1].label, pairs[2].label, pairs[3].label, pairs[4].label],
        ["damaged", "empty", "training ids", "64 x 32", "16-bit"],
    ):
        assert problem.startswith(f"{path}: ")
        assert text in problem
    assert len(report.problems) == 5


def test_oddities_that_do_not_stop_training_are_notes(root: Path) -> None:
    pairs = Cityscapes(str(root), "val").pairs
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(pairs[0].image, exif=exif)
    Image.fromarray(np.zeros((32, 64, 4), np.uint8)).save(pairs[1].image)
    write_png(pairs[2].label, np.full((32, 64), 255, np.uint8))
    report = check_dataset(Cityscapes(str(root), "val"))
    assert report
    text = "\n".join(report.notes)
    assert f"{pairs[0].image}: EXIF orientation 3 is ignored" in text
    assert f"{pairs[1].image}: mode RGBA is converted" in text
    assert f"{pairs[2].label}: every pixel is ignored" in text


def test_report_lists_classes_by_name(root: Path) -> None:
    lines = report_lines("val", check_dataset(Cityscapes(str(root), "val")))
    assert lines[0].startswith("val: 3 samples, 0 problems; height x width: 32x64: 3")
    assert any(line.split()[0] == "road" for line in lines[2:])


@pytest.mark.integration
def test_workers_find_the_same(root: Path) -> None:
    dataset = Cityscapes(str(root), "train")
    assert check_dataset(dataset, num_workers=2) == check_dataset(dataset)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 18, 255], None),
        ([19], "has values {19} in 1 pixels; expected 0..18 and ignore 255"),
        ([34, 35, 34], "has values {34, 35} in 3 pixels; expected 0..18 and ignore 255"),
    ],
)
def test_label_values(values: list[int], expected: str | None) -> None:
    assert label_value_error(np.array([values], np.uint8), 19, 255) == expected


def test_negative_label_values_are_wrong_too() -> None:
    assert label_value_error(np.array([[-1, 3]], np.int32), 19, 255).startswith("has values {-1} in 1 pixels")


def test_a_long_list_of_values_is_cut() -> None:
    assert "{19, 20, 21, 22, 23, 24, 25, 26, ...}" in label_value_error(np.arange(40, dtype=np.uint8)[None], 19, 255)
