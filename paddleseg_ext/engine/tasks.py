"""What a configuration's `task` means for training and evaluation: what is measured, and which figure decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Union

from paddle import nn
from rich.console import Group

from paddleseg_ext.config import Config, located, settings
from paddleseg_ext.data import EvalLoader, SegmentationDataset
from paddleseg_ext.engine.evaluate import eval_record, evaluate, test_config_of
from paddleseg_ext.engine.inference import TestConfig
from paddleseg_ext.engine.panoptic import Result, check_dataset, evaluate_panoptic, panoptic_record
from paddleseg_ext.metrics import SegmentationResult


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation has found.

    Attributes:
        result: all figures.
        record: those that logs keep, by name.
        table: by class, for rich.
        summary: lines of text.
    """

    result: SegmentationResult | Result
    record: Mapping[str, Any]
    table: Any
    summary: str

    def to_dict(self) -> dict[str, Any]:
        """All figures as data for JSON."""
        return self.result.to_dict()


@dataclass(frozen=True)
class SemanticTask:
    """A class for each pixel.

    Attributes:
        test_config: scales, flips, sliding window.
        remark: what the settings mean, if that needs words.
        convention: how absent classes count, see `metrics.confusion`.
    """

    test_config: TestConfig
    remark: str | None = None
    convention: str = "present"
    metric = "mIoU"

    def check(self, dataset: SegmentationDataset) -> None:
        """Every data set will do."""

    def evaluate(
        self,
        model: nn.Layer,
        loader: EvalLoader,
        *,
        visit: Callable[..., None] | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> Evaluation:
        """Measures a model; arguments as those of `engine.evaluate.evaluate`."""
        matrix = evaluate(model, loader, self.test_config, visit=visit, advance=advance)
        classes = loader.dataset.classes
        result = matrix.result(classes, convention=self.convention)
        record = eval_record(matrix, classes, self.convention)
        return Evaluation(result, record, result.table(), result.summary())


@dataclass(frozen=True)
class PanopticTask:
    """A segment for each pixel.

    Attributes:
        settings: the section `postprocess`.
    """

    settings: Mapping[str, Any]
    metric = "PQ"
    remark = None

    def check(self, dataset: SegmentationDataset) -> None:
        """Raises a ConfigError unless the data set tells objects apart."""
        check_dataset(dataset)

    def evaluate(
        self,
        model: nn.Layer,
        loader: EvalLoader,
        *,
        visit: Callable[..., None] | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> Evaluation:
        """Measures a model; arguments as those of `engine.panoptic.evaluate_panoptic`."""
        result = evaluate_panoptic(model, loader, self.settings, visit=visit, advance=advance)
        table = Group(*(part.table() for part in (result.panoptic, result.instance, result.semantic)))
        return Evaluation(result, panoptic_record(result), table, result.summary())


Task = Union[SemanticTask, PanopticTask]


def task_of(config: Config, convention: str = "present") -> Task:
    """The task of a validated configuration.

    Args:
        config: with `task`, `test_config` and `postprocess`.
        convention: how absent classes count in semantic figures.
    """
    if is_panoptic(config):
        return PanopticTask(settings(config, "postprocess"))
    with located(config, "test_config"):
        return SemanticTask(*test_config_of(settings(config, "test_config")), convention)


def is_panoptic(config: Config) -> bool:
    """Whether a configuration's task is panoptic segmentation."""
    return config.get("task") == "panoptic"
