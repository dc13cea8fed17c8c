"""The three-line API, with a network that tells red, green and blue apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from PIL import Image

from paddleseg_ext import registry
from paddleseg_ext.config import import_components
from paddleseg_ext.data.classes import CITYSCAPES_CLASSES
from paddleseg_ext.data.transforms import Compose
from paddleseg_ext.engine.inference import TestConfig
from paddleseg_ext.errors import ConfigError, DataError, WeightError
from paddleseg_ext.predictor import Predictor
from paddleseg_ext.weight_files import save_arrays

REPOSITORY = Path(__file__).resolve().parents[3]
NORMALIZE = {"type": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


class ColorNet(nn.Layer):
    """Class k is the strongest of the channels; further classes never win."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, num_classes, 1)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"semantic": self.conv(image)}


def color_weights(num_classes: int = 3) -> dict[str, np.ndarray]:
    weight = np.zeros((num_classes, 3, 1, 1), np.float32)
    weight[:3, :, 0, 0] = np.eye(3)
    bias = np.full(num_classes, -100, np.float32)
    bias[:3] = 0
    return {"conv.weight": weight, "conv.bias": bias}


@pytest.fixture
def color_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `ColorNet` known to configurations."""
    import_components()
    monkeypatch.setitem(registry.MODELS._entries, "ColorNet", ColorNet)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_arrays(path, color_weights())
    return path


def config_data(**changes: Any) -> dict[str, Any]:
    dataset = {"type": "Dataset", "dataset_root": "nowhere", "num_classes": 3, "classes": ["red", "green", "blue"]}
    return {
        "model": {"type": "ColorNet", "num_classes": 3},
        "val_dataset": {**dataset, "mode": "val", "val_path": "nowhere.txt", "transforms": [NORMALIZE]},
        **changes,
    }


@pytest.fixture
def picture() -> np.ndarray:
    """Red at the left, green at the right, blue below."""
    image = np.full((6, 8, 3), 40, np.uint8)
    image[:4, :4, 0] = image[:4, 4:, 1] = image[4:, :, 2] = 200
    return image


EXPECTED = [[0] * 4 + [1] * 4] * 4 + [[2] * 8] * 2


@pytest.mark.usefixtures("color_net")
def test_three_lines_give_the_classes_of_a_file(tmp_path: Path, weights: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "picture.png")
    predictor = Predictor.from_config(config_data(), weights, device="cpu")
    prediction = predictor(tmp_path / "picture.png")
    assert prediction.label.tolist() == EXPECTED
    assert prediction.prob is None
    assert prediction.classes == ("red", "green", "blue")
    np.testing.assert_array_equal(prediction.image, picture)


@pytest.mark.usefixtures("color_net")
def test_arrays_and_pillow_images_are_pictures_too(weights: Path, picture: np.ndarray) -> None:
    predictor = Predictor.from_config(config_data(), weights, device="cpu")
    for image in (picture, Image.fromarray(picture), Image.fromarray(picture).convert("RGBA")):
        assert predictor(image).label.tolist() == EXPECTED


@pytest.mark.usefixtures("color_net")
def test_probabilities_are_the_softmax_of_the_logits(weights: Path, picture: np.ndarray) -> None:
    prediction = Predictor.from_config(config_data(), weights, device="cpu")(picture, prob=True)
    logits = (np.array([200, 40, 40]) / 255 - 0.5) / 0.5
    expected = np.exp(logits) / np.exp(logits).sum()
    assert prediction.prob.shape == (3, 6, 8)
    np.testing.assert_allclose(prediction.prob[:, 0, 0], expected, rtol=1e-5)


@pytest.mark.usefixtures("color_net")
@pytest.mark.parametrize("softmax_average", [False, True])
def test_the_test_config_of_the_configuration_is_used(
    weights: Path, picture: np.ndarray, softmax_average: bool
) -> None:
    section = {"aug_eval": True, "scales": [1, 2], "flip_horizontal": True, "softmax_average": softmax_average}
    predictor = Predictor.from_config(config_data(test_config=section), weights, device="cpu")
    assert predictor.test_config == TestConfig(**section)
    prediction = predictor(picture, prob=True)
    assert prediction.label.tolist() == EXPECTED
    np.testing.assert_allclose(prediction.prob.sum(axis=0), 1, rtol=1e-5)


@pytest.mark.usefixtures("color_net")
def test_a_resize_and_a_padding_of_the_preprocessing_are_undone(weights: Path, picture: np.ndarray) -> None:
    data = config_data()
    steps = [{"type": "Resize", "target_size": [32, 24]}, {"type": "Padding", "target_size": [40, 40]}, NORMALIZE]
    data["val_dataset"]["transforms"] = steps
    assert Predictor.from_config(data, weights, device="cpu")(picture).label.tolist() == EXPECTED


@pytest.mark.usefixtures("color_net")
def test_published_data_sets_have_names_and_colors_without_being_there(tmp_path: Path, picture: np.ndarray) -> None:
    save_arrays(tmp_path / "model.npz", color_weights(19))
    city = {"type": "Cityscapes", "dataset_root": "nowhere", "mode": "val", "transforms": [NORMALIZE]}
    data = config_data(model={"type": "ColorNet", "num_classes": 19}, val_dataset=city)
    prediction = Predictor.from_config(data, tmp_path / "model.npz", device="cpu")(picture)
    assert prediction.classes == CITYSCAPES_CLASSES
    assert prediction.colorized()[0, 0].tolist() == [128, 64, 128]
    assert prediction.overlay(1.0)[0, 7].tolist() == [244, 35, 232]
    assert prediction.shares() == {"road": 16 / 48, "sidewalk": 16 / 48, "building": 16 / 48}
    prediction.save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert np.array(image).tolist() == EXPECTED


@pytest.mark.usefixtures("color_net")
def test_a_network_with_another_number_of_classes_than_names_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    save_arrays(tmp_path / "model.npz", color_weights(5))
    data = config_data(model={"type": "ColorNet", "num_classes": 5})
    with pytest.raises((ConfigError, DataError), match=r"5.*3"):
        Predictor.from_config(data, tmp_path / "model.npz", device="cpu")(picture)


def test_without_names_classes_are_numbers_with_generic_colors(picture: np.ndarray) -> None:
    model = ColorNet()
    model.set_state_dict(color_weights())
    prediction = Predictor(model, Compose([]))(picture)
    assert prediction.classes == ("0", "1", "2")
    assert prediction.palette.tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert not model.training


@pytest.mark.usefixtures("color_net")
def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path / "other.npz", {"head.weight": np.zeros((3, 3), np.float32)})
    with pytest.raises(WeightError, match=r"other.npz: does not fit ColorNet \(0 of 2 names agree\)"):
        Predictor.from_config(config_data(), tmp_path / "other.npz", device="cpu")


@pytest.mark.usefixtures("color_net")
def test_a_configuration_with_a_typo_is_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match="num_clases"):
        Predictor.from_config(config_data(model={"type": "ColorNet", "num_clases": 3}), weights)


@pytest.mark.usefixtures("color_net")
def test_random_preprocessing_is_refused(weights: Path) -> None:
    data = config_data()
    data["val_dataset"]["transforms"] = [{"type": "HorizontalFlip", "prob": 0.5}, NORMALIZE]
    with pytest.raises(ConfigError, match="random"):
        Predictor.from_config(data, weights, device="cpu")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "nowhere.png: there is no such file"),
        (np.zeros((4, 4, 3), np.float32), r"an array of float32 \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"an array of uint8 \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (3, "image: a int"),
    ],
)
def test_what_is_no_picture_is_refused(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Predictor(ColorNet(), Compose([]))(image)


def test_importing_the_predictor_does_not_import_paddle() -> None:
    code = "import paddleseg_ext.predictor, sys; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
