from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")

from paddleseg_ext.engine.predict import find_images, predict_files
from paddleseg_ext.errors import DataError
from paddleseg_ext.predictor import Prediction


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "sub/b.JPG", "sub/deep/c.png", "with space.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (10, 20, 30)).save(path)
    (tmp_path / "in/notes.md").write_text("no picture")
    return tmp_path / "in"


def names(found: list[tuple[Path, Path]]) -> list[str]:
    return [str(name) for _, name in found]


def test_a_folder_is_searched_with_its_subfolders(folder: Path) -> None:
    assert names(find_images(folder)) == ["a.png", "sub/b.JPG", "sub/deep/c.png", "with space.png"]


def test_one_picture_is_itself(folder: Path) -> None:
    assert find_images(folder / "sub/b.JPG") == [(folder / "sub/b.JPG", Path("b.JPG"))]


def test_a_list_is_relative_to_its_folder_and_may_name_labels(folder: Path) -> None:
    (folder / "list.txt").write_text("\ufeffa.png,labels/a.png\r\n\r\nsub/b.JPG labels/b.png\nwith space.png\n")
    assert names(find_images(folder / "list.txt")) == ["a.png", "sub/b.JPG", "with space.png"]
    (folder / "sub/up.txt").write_text("../a.png\n")
    assert names(find_images(folder / "sub/up.txt")) == ["a.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png\nmissing.png\n", r"list\.txt:2: .*missing\.png does not exist"),
        ("\n \n", "is empty"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(folder: Path, content: str | bytes, message: str) -> None:
    (folder / "list.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        find_images(folder / "list.txt")


def test_nothing_to_predict_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no picture in it"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="there is no such file or folder"):
        find_images(tmp_path / "gone")


def test_overlay_palette_and_ids_are_saved_below_their_folders(folder: Path, tmp_path: Path) -> None:
    label = np.array([[0, 0, 1, 1]] * 3)
    palette = np.array([[9, 9, 9], [8, 8, 8]], np.uint8)

    def predictor(path: Path) -> Prediction:
        return Prediction(np.array(Image.open(path).convert("RGB")), label, None, ("road", "sky"), palette)

    said: list[str] = []
    images = find_images(folder)
    count = predict_files(predictor, images, tmp_path / "out", custom_color=[255, 0, 0], opacity=1.0, say=said.append)
    assert count == 4 and len(said) == 4
    assert "road 50.0%, sky 50.0%" in said[0]
    with Image.open(tmp_path / "out/pseudo_color_prediction/sub/b.png") as picture:
        assert np.array(picture.convert("RGB"))[0].tolist() == [[255, 0, 0]] * 2 + [[8, 8, 8]] * 2
        np.testing.assert_array_equal(np.array(picture), label)
    with Image.open(tmp_path / "out/class_ids/sub/deep/c.png") as picture:
        np.testing.assert_array_equal(np.array(picture), label)
    with Image.open(tmp_path / "out/added_prediction/a.png") as picture:
        assert np.array(picture)[0].tolist() == [[255, 0, 0]] * 2 + [[8, 8, 8]] * 2


def test_a_place_that_cannot_be_written_to_is_an_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    image, label = np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), int)
    prediction = Prediction(image, label, None, ("road",), np.ones((1, 3), np.uint8))
    with pytest.raises(DataError, match="out"):
        predict_files(lambda path: prediction, find_images(folder), tmp_path / "out")
