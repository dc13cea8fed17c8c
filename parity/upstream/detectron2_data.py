"""The training data of detectron2's projects, for `record_detectron2.py`; imported once detectron2 can be.

Files go through the mapper that the project's own train script makes from its configuration, of which only sizes are
set otherwise, and through upstream's SemanticSegmentor, which normalises: what it hands to its backbone and its head is
recorded. Random numbers are the case's: upstream asks in its order, and gets them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import detectron2
import detectron2.projects.point_rend.color_augmentation as color
import torch
from detectron2.modeling.meta_arch.semantic_seg import SemanticSegmentor
from PIL import Image

from parity.cases.pipelines import CROP_SIZE, DRAWS, MAX_SIZE, SHORT_EDGES, Draws, sample
from parity.traces import Run, Trace
from parity.upstream.record_detectron2 import replaced

PROJECTS = Path(detectron2.__file__).resolve().parents[1] / "projects"


class Script:
    """Returns given values one after the other, whatever it is asked for."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = list(values)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self._values.pop(0)


def record_data(project: str, cfg: Any, seed: int = 0) -> Run:
    """What a project's training pipeline makes of the sample with each of `DRAWS`.

    Args:
        project: its folder's name.
        cfg: upstream's configuration.
        seed: of the sample.
    """
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.CROP.SIZE = SHORT_EDGES, MAX_SIZE, CROP_SIZE[::-1]
    mapper = _mapper(project, cfg)
    image, label = sample(seed)
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        files = {"file_name": f"{folder}/image.png", "sem_seg_file_name": f"{folder}/label.png"}
        for path, pixels in zip(files.values(), (image, label)):
            Image.fromarray(pixels).save(path)
        for index, drawn in enumerate(DRAWS):
            with _scripted(drawn):
                mapped = mapper(files)
            for name, value in _entering(cfg, mapped).items():
                trace.add(f"{index}/{name}", value[0].numpy())
    run = Run(image.shape[:2], seed, "float32")
    run.add(trace)
    return run


def _mapper(project: str, cfg: Any) -> Any:
    """The mapper that the train script gives to its loader."""
    spec = importlib.util.spec_from_file_location(f"train_net_{project}", PROJECTS / project / "train_net.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with replaced(script, build_detection_train_loader=lambda cfg, mapper: mapper):
        return script.Trainer.build_train_loader(cfg)


def _entering(cfg: Any, mapped: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What upstream's model hands on of a mapped sample, without the padding that a backbone's stride asks for."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    model = SimpleNamespace(device="cpu", training=True, pixel_mean=mean, pixel_std=std)
    model.backbone = _Layer(lambda image: image)
    model.sem_seg_head = _Layer(lambda image, label: (None, {"image": image, "label": label}))
    model.sem_seg_head.ignore_value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    return SemanticSegmentor.forward(model, [mapped])


class _Layer:
    """A backbone or head that passes on what it gets."""

    size_divisibility = 0
    padding_constraints = None

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def _scripted(drawn: Draws) -> Any:
    """While it is entered, upstream draws what the case says."""
    windows = iter(drawn.windows())

    def chosen(lengths: Sequence[int]) -> int:
        return lengths[lengths.index(drawn.short_edge)]

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch("numpy.random.choice", chosen))
    stack.enter_context(mock.patch("numpy.random.randint", lambda room: int(next(windows) * room)))
    stack.enter_context(mock.patch("numpy.random.uniform", lambda *_: 0.0 if drawn.flip else 1.0))
    stack.enter_context(replaced(color, random=_scripted_colors(drawn.color)))
    return stack


def _scripted_colors(drawn: Mapping[str, Any]) -> SimpleNamespace:
    """Stands for the module `random` in upstream's colours: asks in upstream's order, answers by the case's draws."""
    order = ["contrast", "saturation", "hue"] if drawn["contrast_first"] else ["saturation", "hue", "contrast"]
    happens = [int("brightness" in drawn), int(drawn["contrast_first"]), *(int(name in drawn) for name in order)]
    factors = [drawn[name] for name in ("brightness", *order) if name in drawn and name != "hue"]
    shifts = [drawn["hue"]] if "hue" in drawn else []
    return SimpleNamespace(randrange=Script(happens), uniform=Script(factors), randint=Script(shifts))
