"""Predictions in three lines.

    from paddleseg_ext.predictor import Predictor
    predictor = Predictor.from_config("configs/demo/stdc1_demo_256x128.yml", "output/demo/best_model")
    prediction = predictor("street.png")

`prediction.label` is the map of class ids, `prediction.overlay()` a picture. Importing this module does not import
paddle, so that the number of threads can still be chosen.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image

from paddleseg_ext import pictures, threads
from paddleseg_ext.config import Config, build_component, import_components, load_config, located, settings, validate
from paddleseg_ext.data.classes import (
    ADE20K_CLASSES,
    ADE20K_PALETTE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_PALETTE,
    VOC_CLASSES,
    VOC_PALETTE,
    voc_palette,
)
from paddleseg_ext.data.image_io import read_image
from paddleseg_ext.data.loader import prepare_for_evaluation
from paddleseg_ext.data.transforms import Compose
from paddleseg_ext.errors import ConfigError, DataError

if TYPE_CHECKING:
    from paddleseg_ext.engine.inference import Model, TestConfig

Picture = Union[str, "os.PathLike[str]", np.ndarray, Image.Image]
_PUBLISHED = {
    "Cityscapes": (CITYSCAPES_CLASSES, CITYSCAPES_PALETTE),
    "ADE20K": (ADE20K_CLASSES, ADE20K_PALETTE),
    "PascalVOC": (VOC_CLASSES, VOC_PALETTE),
}


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says about an image.

    Attributes:
        image: (H, W, 3) uint8 RGB, the image itself.
        label: (H, W) int32 class ids.
        prob: (K, H, W) float32 probabilities, if they were asked for.
        classes: K names.
        palette: (K, 3) uint8 RGB.
    """

    image: np.ndarray
    label: np.ndarray
    prob: np.ndarray | None
    classes: tuple[str, ...]
    palette: np.ndarray

    def overlay(self, opacity: float = 0.5) -> np.ndarray:
        """(H, W, 3) uint8: the image tinted by class."""
        return pictures.overlay(self.image, self.label, self.palette, opacity=opacity)

    def colorized(self) -> np.ndarray:
        """(H, W, 3) uint8: the classes' colours."""
        return pictures.colorize(self.label, self.palette)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a palette PNG, whose pixels are the class ids; the folder must exist."""
        pictures.save_label(path, self.label, self.palette)

    def shares(self) -> dict[str, float]:
        """Share of the image of each class that occurs, the largest first."""
        counts = np.bincount(self.label.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[k]: counts[k] / self.label.size for k in order if counts[k]}


class Predictor:
    """A network with the preprocessing that it was trained for.

    Args:
        model: `image -> {"semantic": logits}`; a layer is put into evaluation mode.
        transforms: preprocessing of a picture, without randomness.
        classes: K names; numbers if there are none.
        palette: (K, 3) uint8 RGB; generic colours by default.
        test_config: scales, flips, sliding window; the whole image by default.
    """

    def __init__(
        self,
        model: Model,
        transforms: Compose,
        *,
        classes: Sequence[str] = (),
        palette: np.ndarray | None = None,
        test_config: TestConfig | None = None,
    ) -> None:
        if transforms.is_random:
            raise ConfigError("transforms: some are random; expected those of evaluation, such as Normalize")
        if hasattr(model, "eval"):
            model.eval()
        self.model = model
        self.transforms = transforms
        self.classes = tuple(classes)
        self.palette = palette
        self.test_config = test_config

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike[str] | Mapping[str, Any] | Config,
        model_path: str | os.PathLike[str],
        *,
        device: str | None = None,
        num_threads: int | None = None,
        allow: Sequence[str] = (),
    ) -> Predictor:
        """A predictor from a configuration and weights; the data set of the configuration need not be there.

        Args:
            config: YAML file, its content, or a loaded configuration. Its `val_dataset.transforms` are the
                preprocessing, and its `test_config` says how an image is evaluated.
            model_path: weight file, or a checkpoint's folder.
            device: "cpu", "gpu" ...; None takes a GPU if there is one.
            num_threads: threads of the CPU; all cores by default. It must be given before anything imports paddle.
            allow: names, as regular expressions, in which the weights may differ from the model's.

        Raises:
            ConfigError: if the configuration cannot be used.
            WeightError: if the weights cannot be read or do not fit.
        """
        threads.configure(num_threads)
        import_components()
        from paddleseg_ext.engine.banner import select_device
        from paddleseg_ext.engine.evaluate import test_config_of
        from paddleseg_ext.engine.parts import build_model
        from paddleseg_ext.engine.weights import load_weights

        config = _as_config(config)
        validate(config, "predict")
        _, fallback = select_device(device)
        if fallback:
            warnings.warn(fallback, stacklevel=2)
        with located(config, "test_config"):
            test_config, _ = test_config_of(settings(config, "test_config"))
        classes, palette = _classes_of(config)
        model = build_model(config, without_pretrained=True)
        load_weights(model, model_path, allow=allow)
        transforms = Compose(build_component(config, "val_dataset.transforms"))
        return cls(model, transforms, classes=classes, palette=palette, test_config=test_config)

    def __call__(self, image: Picture, *, prob: bool = False) -> Prediction:
        """Predicts a picture.

        Args:
            image: file, (H, W, 3) uint8 RGB array (OpenCV's are BGR: reverse the last axis), or Pillow image.
            prob: also keep the probabilities, 4 K H W bytes.

        Raises:
            DataError: if it is no picture, or the network has another number of classes than there are names.
        """
        import paddle.nn.functional as F

        from paddleseg_ext.engine.inference import labels_of, predict_scores

        pixels = as_rgb(image)
        sample = prepare_for_evaluation({"image": pixels, "meta": {"restore": []}}, self.transforms)
        scores = predict_scores(
            self.model, _as_batch(sample["image"]), self.test_config, restore=sample["meta"]["restore"]
        )
        num_classes = scores.shape[1]
        if self.classes and len(self.classes) != num_classes:
            raise DataError(
                f"the network has {num_classes} classes, the data set {len(self.classes)}; expected the same number; "
                "check model.num_classes and val_dataset of the configuration"
            )
        kept = None
        if prob:
            averaged = self.test_config is not None and self.test_config.softmax_average
            kept = (scores if averaged else F.softmax(scores, axis=1))[0].astype("float32").numpy()
        return Prediction(
            image=pixels,
            label=labels_of(scores),
            prob=kept,
            classes=self.classes or tuple(map(str, range(num_classes))),
            palette=pictures.palette(num_classes) if self.palette is None else self.palette,
        )


def as_rgb(image: Picture) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of a file, an array or a Pillow image.

    Raises:
        DataError: if it is none of these.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise DataError(f"image: a {type(image).__name__}; expected a path, an (H, W, 3) uint8 array or a Pillow image")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"image: an array of {image.dtype} {image.shape}; expected uint8 (H, W, 3), red first")
    return image


def _as_batch(image: np.ndarray) -> Any:
    import paddle

    return paddle.to_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))


def _as_config(config: str | os.PathLike[str] | Mapping[str, Any] | Config) -> Config:
    if isinstance(config, Config):
        return config
    return Config.from_dict(config) if isinstance(config, Mapping) else load_config(config)


def _classes_of(config: Config) -> tuple[Sequence[str], np.ndarray | None]:
    """Names and colours of a configuration's data set, without reading it; none if they are not known."""
    section = config.data["val_dataset"]
    if section["type"] in _PUBLISHED:
        return _PUBLISHED[section["type"]]
    names, number = section.get("classes") or (), section.get("num_classes")
    return tuple(map(str, names)), voc_palette(number) if number else None
