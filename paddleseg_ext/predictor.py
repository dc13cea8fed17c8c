"""Predictions in three lines.

    from paddleseg_ext.predictor import Predictor
    predictor = Predictor.from_config("configs/demo/stdc1_demo_256x128.yml", "output/demo/best_model")
    prediction = predictor("street.png")

`prediction.label` is the map of class ids, `prediction.overlay()` a picture. With a configuration of `task: panoptic`
the result is a `PanopticPrediction`, whose `ids` and `segments` tell objects apart.

Importing this module does not import paddle, so that the number of threads can still be chosen.
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
from paddleseg_ext.data.coco_classes import COCO_CATEGORIES, COCO_PALETTE
from paddleseg_ext.data.datasets.cityscapes_panoptic import CATEGORIES as CITYSCAPES_CATEGORIES
from paddleseg_ext.data.image_io import read_image
from paddleseg_ext.data.loader import prepare_for_evaluation
from paddleseg_ext.data.transforms import Compose
from paddleseg_ext.errors import ConfigError, DataError
from paddleseg_ext.panoptic_prediction import PanopticPrediction
from paddleseg_ext.segments import Category

if TYPE_CHECKING:
    from paddleseg_ext.engine.inference import Model, TestConfig

Picture = Union[str, "os.PathLike[str]", np.ndarray, Image.Image]
_PUBLISHED = {
    "Cityscapes": (CITYSCAPES_CLASSES, CITYSCAPES_PALETTE),
    "ADE20K": (ADE20K_CLASSES, ADE20K_PALETTE),
    "PascalVOC": (VOC_CLASSES, VOC_PALETTE),
}
_PANOPTIC = {
    "CityscapesPanoptic": (CITYSCAPES_CATEGORIES, CITYSCAPES_PALETTE),
    "COCOPanoptic": (COCO_CATEGORIES, COCO_PALETTE),
}


@dataclass(frozen=True)
class PanopticSettings:
    """What a predictor needs to tell objects apart.

    Attributes:
        categories: K classes.
        postprocess: the section of a configuration: threshold, nms_kernel, top_k, stuff_area.
    """

    categories: tuple[Category, ...]
    postprocess: Mapping[str, Any]


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
        panoptic: tells objects apart too; the model then also gives `center` and `offset`.
    """

    def __init__(
        self,
        model: Model,
        transforms: Compose,
        *,
        classes: Sequence[str] = (),
        palette: np.ndarray | None = None,
        test_config: TestConfig | None = None,
        panoptic: PanopticSettings | None = None,
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
        self.panoptic = panoptic

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
        panoptic = _panoptic_of(config)
        return cls(model, transforms, classes=classes, palette=palette, test_config=test_config, panoptic=panoptic)

    def __call__(self, image: Picture, *, prob: bool = False) -> Prediction | PanopticPrediction:
        """Predicts a picture.

        Args:
            image: file, (H, W, 3) uint8 RGB array (OpenCV's are BGR: reverse the last axis), or Pillow image.
            prob: also keep the probabilities, 4 K H W bytes; of a semantic model only.

        Raises:
            ConfigError: if `prob` is wanted of a panoptic model.
            DataError: if it is no picture, or the network has another number of classes than there are names.
        """
        import paddle.nn.functional as F

        from paddleseg_ext.engine.inference import labels_of, predict_scores

        pixels = as_rgb(image)
        sample = prepare_for_evaluation({"image": pixels, "meta": {"restore": []}}, self.transforms)
        if self.panoptic is not None:
            if prob:
                raise ConfigError("prob: a panoptic prediction has scores of objects instead; leave it out")
            return self._segments(pixels, sample)
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

    def _segments(self, pixels: np.ndarray, sample: Mapping[str, Any]) -> PanopticPrediction:
        from paddleseg_ext.engine.panoptic import predict_panoptic

        categories = self.panoptic.categories
        thing_ids = [k for k, category in enumerate(categories) if category.is_thing]
        output = predict_panoptic(
            self.model,
            _as_batch(sample["image"]),
            thing_ids,
            self.panoptic.postprocess,
            restore=sample["meta"]["restore"],
        )
        if output.label.max() >= len(categories):
            raise DataError(
                f"the network predicts class {output.label.max()}, the data set has {len(categories)}; expected the "
                "same classes; check model.num_classes and val_dataset of the configuration"
            )
        return PanopticPrediction(
            image=pixels,
            ids=output.ids,
            segments=tuple(output.segments),
            label=output.label,
            categories=categories,
            palette=pictures.palette(len(categories)) if self.palette is None else self.palette,
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
    if section["type"] in _PANOPTIC:
        categories, palette = _PANOPTIC[section["type"]]
        return tuple(category.name for category in categories), palette
    names, number = section.get("classes") or (), section.get("num_classes")
    return tuple(map(str, names)), voc_palette(number) if number else None


def _panoptic_of(config: Config) -> PanopticSettings | None:
    """What a configuration with `task: panoptic` says; None with another task.

    Raises:
        ConfigError: if the classes of its data set are not known.
    """
    if config.get("task") != "panoptic":
        return None
    name = config.data["val_dataset"]["type"]
    if name not in _PANOPTIC:
        raise ConfigError(
            f"{config.where('val_dataset.type')}: val_dataset: {name} does not tell objects apart; expected, with "
            f"task: panoptic, {' or '.join(_PANOPTIC)}"
        )
    return PanopticSettings(_PANOPTIC[name][0], settings(config, "postprocess"))
