"""What a configuration can hold, as tables: sections, settings with type, range, default and help.

The components (`{type: Name, ...}`) are not listed here: their keys are the arguments of the registered class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddleseg_ext.config.document import ConfigPath, show
from paddleseg_ext.config.load import Config
from paddleseg_ext.config.typecheck import Parameter, convert, mismatches, read_type
from paddleseg_ext.registry import (
    BACKBONES,
    DATASETS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    TRANSFORMS,
    Registry,
)


@dataclass(frozen=True)
class Field:
    """One setting.

    Attributes:
        type: annotation of its value.
        help: one line; says the unit and the order of numbers.
        default: its value if it is not given.
        required: whether it must be given.
        at_least: smallest number allowed, in the value itself or in a list; likewise `more_than` and `less_than`.
        more_than: see above.
        less_than: see above.
        fields: of a mapping, its own settings.
    """

    type: str
    help: str
    default: Any = None
    required: bool = False
    at_least: float | None = None
    more_than: float | None = None
    less_than: float | None = None
    fields: Mapping[str, Field] | None = None

    def expected(self) -> str:
        """Type and range in words: "int >= 1"."""
        if self.fields is not None:
            return "mapping or null" if "None" in self.type else "mapping"
        name, null, _ = str(read_type(self.type)).partition(" or null")
        return f"{name}{self._limits()}{null}"

    def _limits(self) -> str:
        bounds = [(">=", self.at_least), (">", self.more_than), ("<", self.less_than)]
        limits = " and ".join(f"{sign} {limit:g}" for sign, limit in bounds if limit is not None)
        return f" {limits}" if limits else ""

    def mismatches(self, value: Any) -> list[tuple[ConfigPath, str]]:
        """Where a value has a wrong type or is out of range: the place inside it, and "expected ..., got ..."."""
        declared = read_type(self.type)
        wrong_type = mismatches(value, declared)
        if wrong_type:
            before, after = f"expected {declared}", f"expected {self.expected()}"
            return [(path, text.replace(before, after, 1)) for path, text in wrong_type]
        return [
            (path, f"expected {f'a number{self._limits()}' if path else self.expected()}, got {show(number)}")
            for path, number in _numbers(value)
            if not self._allows(number)
        ]

    def _allows(self, number: float) -> bool:
        if (self.at_least, self.more_than, self.less_than) == (None, None, None):
            return True
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.more_than is None or number > self.more_than)
            and (self.less_than is None or number < self.less_than)
        )


def _numbers(value: Any, path: ConfigPath = ()) -> list[tuple[ConfigPath, float]]:
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in _numbers(item, (*path, i))]
    return [(path, value)] if type(value) in (int, float) else []


TOP_LEVEL = {
    "batch_size": Field("int", "images per process and step", required=True, at_least=1),
    "reference_batch_size": Field("int | None", "total batch that the schedule was tuned for", at_least=1),
    "iters": Field("int", "optimizer steps", required=True, at_least=1),
    "task": Field("Literal['semantic', 'panoptic']", "what is predicted and measured", "semantic"),
}

POSTPROCESS = {
    "threshold": Field("float", "heat that the centre of an object exceeds", 0.1),
    "nms_kernel": Field("int", "side of the window in which a centre is the largest, in pixels; odd", 7, at_least=1),
    "top_k": Field("int | None", "fewer centres than this in an image; null sets no limit", 200, at_least=1),
    "stuff_area": Field("int", "pixels that a stuff class needs to stay; less becomes void", 2048, at_least=0),
}

TEST_CONFIG = {
    "aug_eval": Field("bool", "average the logits over `scales` and flips", False),
    "scales": Field(
        "list[float]",
        "factors on the input size, with aug_eval; without it, one alone is STDC-Seg's protocol (0.5: m50, 0.75: m75)",
        (1.0,),
        more_than=0,
    ),
    "flip_horizontal": Field("bool", "also the mirrored image, with aug_eval", False),
    "flip_vertical": Field("bool", "also the image upside down, with aug_eval", False),
    "is_slide": Field("bool", "sliding window instead of the whole image; needs crop_size and stride", False),
    "crop_size": Field("tuple[int, int] | None", "window of is_slide in pixels: [width, height]", at_least=1),
    "stride": Field("tuple[int, int] | None", "step of the window in pixels: [width, height]", at_least=1),
    "softmax_average": Field("bool", "average probabilities instead of logits", False),
    "resize_align_corners": Field(
        "bool", "corners stay in place when image and logits are resized, as STDC-Seg", False
    ),
    "window_batch": Field("int", "windows of is_slide that go through the model at once", 1, at_least=1),
}

# Keys of test_config that mean nothing unless another is true.
NEEDS_SWITCH = {
    "scales": "aug_eval",
    "flip_horizontal": "aug_eval",
    "flip_vertical": "aug_eval",
    "crop_size": "is_slide",
    "stride": "is_slide",
}

EMA = {
    "decay": Field("float", "share of the old average kept at each step", 0.999, at_least=0, less_than=1),
}

RUNTIME = {
    "seed": Field("int | None", "seed of everything random; null draws one and logs it", 0, at_least=0),
    "log_iters": Field("int", "steps between two lines of the log", 10, at_least=1),
    "log_level": Field("Literal['info', 'warning']", "least of what the console shows; the files get all", "info"),
    "save_interval": Field("int", "steps between two checkpoints, and evaluations", 1000, at_least=1),
    "keep_checkpoint_max": Field("int", "newest checkpoints kept; 0 or less keeps all", 5),
    "on_nan": Field("Literal['stop', 'skip']", "what to do when the loss is not finite", "stop"),
    "max_nan_skips": Field("int", "skipped steps before training stops, with on_nan: skip", 10, at_least=0),
    "ema": Field("dict | None", "average of the weights over the steps; null keeps none", fields=EMA),
    "amp_level": Field("Literal['O1', 'O2']", "how much runs in the low precision", "O1"),
    "precision": Field("Literal['fp32', 'fp16', 'bf16']", "precision of training", "fp32"),
    "early_stop_intervals": Field("int | None", "evaluations without a better result before stopping", at_least=1),
    "num_workers": Field("int", "processes that load data; 0 loads in this one", 0, at_least=0),
    "skip_bad": Field("int", "different training samples that may be unreadable before training stops", 0, at_least=0),
    "cudnn_benchmark": Field("bool", "try cuDNN's algorithms and take the fastest; runs then differ in bits", False),
    "sync_bn": Field("bool", "batch norm over all GPUs of a run; on a CPU there is none", True),
    "vis_interval": Field("int", "steps between two pictures in VisualDL; 0 draws none", 0, at_least=0),
}

TABLES: dict[str, Mapping[str, Field]] = {"test_config": TEST_CONFIG, "postprocess": POSTPROCESS, "runtime": RUNTIME}

LOSS_KEYS = {
    "output": Field("str | list[str]", "name of the model output, or several whose losses are summed", required=True),
    "target": Field("str", "name of the target in the batch", "label"),
    "weights": Field("str | None", "name of the target that holds a factor for each pixel, if the loss takes one"),
    "weight": Field("float", "factor of the term in the total", 1.0),
    "name": Field("str", "under which the term is logged; loss_<output> by default"),
}

PARAM_GROUP_KEYS = {
    "name": Field("str | None", "regular expression searched in the parameter's name"),
    "kind": Field("Literal['norm', 'bias', 'depthwise', 'weight', None]", "kind of parameter"),
    "lr_mult": Field("float", "factor on the learning rate", 1.0, at_least=0),
    "weight_decay_mult": Field("float", "factor on the weight decay", 1.0, at_least=0),
    "trainable": Field("bool", "false leaves the parameters as they are", True),
}

GRAD_CLIPS: dict[str, Mapping[str, Field]] = {
    "ClipGradByGlobalNorm": {"clip_norm": Field("float", "largest norm of all gradients", required=True, more_than=0)},
    "ClipGradByNorm": {"clip_norm": Field("float", "largest norm of each gradient", required=True, more_than=0)},
    "ClipGradByValue": {
        "max": Field("float", "largest value", required=True),
        "min": Field("float", "smallest value; -max by default"),
    },
}

COMPONENTS: dict[str, Registry] = {
    "model": MODELS,
    "train_dataset": DATASETS,
    "val_dataset": DATASETS,
    "losses": LOSSES,
    "optimizer": OPTIMIZERS,
    "lr_scheduler": SCHEDULES,
}

# Keys under which a component's argument is a component again, or a list of them.
NESTED: dict[str, Registry] = {
    "backbone": BACKBONES,
    "model": MODELS,
    "dataset": DATASETS,
    "transform": TRANSFORMS,
}
NESTED_LISTS: dict[str, Registry] = {"datasets": DATASETS, "transforms": TRANSFORMS}

# Arguments of a constructor that the program gives, so that YAML does not.
SUPPLIED: dict[str, frozenset[str]] = {
    OPTIMIZERS.kind: frozenset({"groups", "grad_clip"}),
    SCHEDULES.kind: frozenset({"iters"}),
}

DATASET_KEYS = {"transforms": Field("list", "transforms of a sample, in order")}
OPTIMIZER_KEYS = {
    "param_groups": Field("list | None", "rules for some parameters; the first that matches decides"),
    "grad_clip": Field("dict | None", "gradient clipping: {type: ClipGradByGlobalNorm, clip_norm: 35}"),
}

# Keys of a component beside the arguments of its constructor.
_BESIDE: dict[str, Mapping[str, Field]] = {
    DATASETS.kind: DATASET_KEYS,
    LOSSES.kind: LOSS_KEYS,
    OPTIMIZERS.kind: OPTIMIZER_KEYS,
}

# Ranges of arguments whose annotation cannot tell them.
RANGES: dict[tuple[str, str], Field] = {
    (MODELS.kind, "num_classes"): Field("int", "classes", at_least=1),
    (DATASETS.kind, "num_classes"): Field("int", "classes", at_least=1),
    (OPTIMIZERS.kind, "weight_decay"): Field("float", "L2 factor", at_least=0),
    (OPTIMIZERS.kind, "momentum"): Field("float", "share of the last step", at_least=0, less_than=1),
    (SCHEDULES.kind, "learning_rate"): Field("float", "base rate", at_least=0),
    (SCHEDULES.kind, "end_lr"): Field("float", "rate at the end", at_least=0),
    (SCHEDULES.kind, "warmup_iters"): Field("int", "length of the warm-up", at_least=0),
    (SCHEDULES.kind, "warmup_start_lr"): Field("float", "rate of the first step", at_least=0),
}

HELP = {
    "model": "{type: a model, backbone: {type: ...}, ...}",
    "train_dataset": "{type: a dataset, transforms: [...], ...}",
    "val_dataset": "{type: a dataset, transforms: [...], ...}",
    "optimizer": "{type: Momentum, momentum: 0.9, weight_decay: 5.0e-4, param_groups: [...]}",
    "lr_scheduler": "{type: PolynomialDecay, learning_rate: 0.01, power: 0.9}",
    "losses": "[{type: CrossEntropy, output: semantic, target: label, weight: 1.0}, ...]",
    "test_config": "how an image is evaluated",
    "postprocess": "with task: panoptic, how centres and offsets become objects",
    "runtime": "how a run goes; nothing here changes what is learnt, except seed, ema and precision",
    "meta": "anything worth noting: paper, upstream, reported numbers",
}

TOP_KEYS = (*TOP_LEVEL, *HELP)

NEEDS: dict[str, tuple[str, ...]] = {
    "train": ("model", "losses", "optimizer", "lr_scheduler", "train_dataset", "iters", "batch_size"),
    "val": ("model", "val_dataset"),
    "predict": ("model", "val_dataset"),  # whose transforms are the preprocessing
    "export": ("model",),
}


def beside(registry: Registry) -> Mapping[str, Field]:
    """Keys that a component may have beside the arguments of its constructor."""
    return _BESIDE.get(registry.kind, {})


def argument_type(key: str, parameter: Parameter) -> str:
    """What an argument can be, in words: "int", "backbone", "list of transforms"."""
    if key in NESTED:
        return NESTED[key].kind
    return f"list of {NESTED_LISTS[key].kind}s" if key in NESTED_LISTS else str(parameter.type)


def settings(config: Config, section: str) -> dict[str, Any]:
    """All settings of `runtime`, `test_config` or `postprocess`, with defaults for those that are not given.

    Lists are tuples where the table says so; `crop_size` and `stride` keep their order (width, height).
    `runtime.ema` is None or a dict with all its keys.
    """
    return _filled(config.data.get(section) or {}, TABLES[section])


def _filled(data: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    values = {}
    for key, field in fields.items():
        value = data.get(key, field.default)
        if field.fields is not None and value is not None:
            values[key] = _filled(value, field.fields)
        else:
            values[key] = convert(list(value) if isinstance(value, tuple) else value, read_type(field.type))
    return values
