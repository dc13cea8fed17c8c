"""Mistakes before the model, in the data pipeline, and after it, in post-processing."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Callable

import numpy as np

from parity.faults.fault import Fault, Patient, change_side, kind, set_attributes

Points = Mapping[str, np.ndarray]


def _is_image(name: str, value: np.ndarray) -> bool:
    return value.ndim == 3 and value.shape[0] == 3 and value.dtype.kind == "f"


def _is_label(name: str, value: np.ndarray) -> bool:
    return value.ndim == 2 and value.dtype.kind in "iu"


def _other(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape != other.shape or not np.array_equal(one, other)


def _points(names: list[str]) -> str:
    """What the points of these arrays of a sample, and of their shapes, are called."""
    return rf"({'|'.join(re.escape(name) for name in names)})(\.shape)?"


def _planted(patient: Patient, fault: Fault) -> Fault:
    """The fault with the points that it touches, which a run of the pipeline with it shows; "" if it touches none."""
    own = patient.data()
    try:
        with ExitStack() as stack:
            fault.plant(patient, stack)
            made = patient.case.port.data(0)
    except Exception:  # without a transform the next one may fail: planting it will say so
        return fault
    touched = [name for name, value in own.items() if name not in made or _other(value, made[name])]
    return dataclasses.replace(fault, point=_points(touched) if touched else "")


def _edited(name: str, text: str, edit: Callable[[np.ndarray], np.ndarray], which: Any, words: tuple[str, ...]) -> None:
    """A kind that changes every image, or every label map, that the pipeline makes."""

    def sites(patient: Patient) -> Iterator[Fault]:
        touched = [name for name, value in patient.data().items() if which(name, value) and _other(value, edit(value))]
        if not touched:
            return

        def plant(patient: Patient, stack: ExitStack) -> None:
            own = patient.case.port.data
            change_side(
                patient, stack, data=lambda seed: {k: edit(v) if which(k, v) else v for k, v in own(seed).items()}
            )

        yield Fault(name, "pipeline", plant, begins="data", point=_points(touched), words=words)

    kind(name, text)(sites)


_edited("data-bgr", "the pipeline keeps OpenCV's channel order", lambda x: x[::-1], _is_image, ("BGR|channels",))
_edited("data-scale", "pixels are not divided by 255", lambda x: x * 255, _is_image, ("255",))
_edited(
    "data-mirrored", "a flip mirrors the image but not its label", lambda x: x[:, :, ::-1], _is_image, ("mirrored",)
)
_edited(
    "data-label-shift", "label ids start at 1", lambda x: np.where(x == 255, x, x + 1), _is_label, ("1 more|one more",)
)
_edited(
    "data-ignore-0",
    "ignored pixels become class 0",
    lambda x: np.where(x == 255, 0, x),
    _is_label,
    ("ignores pixels", r"class, such as 0|class 0|255 is 0\b"),
)
_edited("data-offset", "the image is cut a pixel off", lambda x: np.roll(x, 1, axis=2), _is_image, ("shifted",))


def _transforms(patient: Patient) -> dict[str, type]:
    """Classes of the transforms that the case's pipeline applies."""
    if not patient.reaches("data"):
        return {}
    from paddleseg_ext.data.transforms.base import Compose

    used: dict[str, type] = {}
    own = Compose.replay

    def replay(pipeline: Any, *args: Any) -> Any:
        used.update({type(t).__name__: type(t) for t in pipeline.transforms})
        return own(pipeline, *args)

    Compose.replay = replay
    try:
        patient.case.port.data(0)
    finally:
        Compose.replay = own
    return used


def _constructed(name: str, text: str, change: Callable[[Any], dict[str, Any]], words: tuple[str, ...]) -> None:
    """A kind that normalises with other numbers."""

    def sites(patient: Patient) -> Iterator[Fault]:
        normalize = _transforms(patient).get("Normalize")
        if normalize is None:
            return

        def plant(patient: Patient, stack: ExitStack) -> None:
            own = normalize.__init__

            def init(self: Any, *args: Any, **kwargs: Any) -> None:
                arguments = dict(inspect.signature(own).bind(self, *args, **kwargs).arguments)
                arguments.update(change(arguments))
                own(**arguments)

            set_attributes(stack, normalize, __init__=init)

        yield _planted(patient, Fault(name, "Normalize", plant, begins="data", words=words))

    kind(name, text)(sites)


_constructed(
    "data-statistics-half",
    "images are normalised with PaddleSeg's 0.5 instead of ImageNet's statistics",
    lambda own: {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    ("mean", "std", "normalis"),
)
_constructed(
    "data-statistics-order",
    "the mean and std are in the order of BGR",
    lambda own: {"mean": tuple(own["mean"])[::-1], "std": tuple(own["std"])[::-1]},
    ("mean", "std", "normalis"),
)
_constructed("data-std-missing", "the std is forgotten", lambda own: {"std": (1.0, 1.0, 1.0)}, ("std", "normalis"))


@kind("data-label-interpolated", "label maps are resized bilinearly")
def data_label_interpolated(patient: Patient) -> Iterator[Fault]:
    """Ids are averaged."""
    from PIL import Image

    from paddleseg_ext.data.transforms import resize

    def plant(patient: Patient, stack: ExitStack) -> None:
        def interpolated(own: Any) -> Any:
            def resized(sample: Any, size: Any, **kwargs: Any) -> Any:
                out = own(sample, size, **kwargs)
                if sample.get("label") is None:
                    return out
                label = Image.fromarray(np.asarray(sample["label"], np.uint8))
                label = np.array(label.resize((size[1], size[0]), Image.Resampling.BILINEAR))
                return {**out, "label": label.astype(sample["label"].dtype)}

            return resized

        for name in ("resize_pil", "resize_cv2"):
            own = getattr(resize, name)
            for module in [m for key, m in sys.modules.items() if key.startswith("paddleseg_ext.data")]:
                if getattr(module, name, None) is own:
                    set_attributes(stack, module, **{name: interpolated(own)})

    if any("Scal" in name or "Resize" in name for name in _transforms(patient)):
        words = ("label", "interpolat")
        yield _planted(patient, Fault("data-label-interpolated", "pipeline", plant, begins="data", words=words))


@kind("data-draw-ignored", "a transform does nothing")
def data_draw_ignored(patient: Patient) -> Iterator[Fault]:
    """Such as a flip whose draw is not looked at."""
    for name, transform in _transforms(patient).items():

        def plant(patient: Patient, stack: ExitStack, transform: Any = transform) -> None:
            set_attributes(stack, transform, apply=lambda self, sample, draws: sample)

        yield _planted(
            patient, Fault("data-draw-ignored", name, plant, begins="data", words=(f"{name} has no effect",))
        )


# --- post-processing ------------------------------------------------------------------------------------------------


def _postprocess(name: str, text: str, change: Callable[[Any, Any], Any], words: tuple[str, ...], fits: Any) -> None:
    """A kind whose post-processing gets other outputs; `fits(name, output)` chooses them."""

    def sites(patient: Patient) -> Iterator[Fault]:
        if not patient.reaches("postprocess"):
            return
        for output in [key for key, value in patient.outputs(train=False).items() if fits(key, value)]:

            def plant(patient: Patient, stack: ExitStack, output: str = output) -> None:
                own = patient.case.port.postprocess
                change_side(patient, stack, postprocess=lambda o: own({**o, output: change(o[output], o)}))

            shown = tuple(word.format(output=output) for word in words)
            yield Fault(name, output, plant, begins="postprocess", words=shown)

    kind(name, text)(sites)


def _has_channels(name: str, value: np.ndarray) -> bool:
    return value.ndim == 4 and value.shape[1] > 2


_postprocess("pred-argmin", "the worst class is predicted", lambda v, o: -v, (r"negated", "{output}"), _has_channels)
_postprocess(
    "pred-flipped",
    "the prediction is mirrored",
    lambda v, o: v.flip([3]),
    (r"mirrored", "{output}"),
    _has_channels,
)
_postprocess(
    "offset-order",
    "offsets are read as (x, y)",
    lambda v, o: v.flip([1]),
    (r"channels", "{output}"),
    lambda name, value: value.ndim == 4 and value.shape[1] == 2,
)


@kind("pred-other-output", "the prediction is that of another output")
def pred_other_output(patient: Patient) -> Iterator[Fault]:
    """An auxiliary head's."""
    if not patient.reaches("postprocess"):
        return
    shapes = {name: value.shape for name, value in patient.outputs(train=False).items()}
    names = list(shapes)
    for other in names[1:]:
        if shapes[other] == shapes[names[0]]:

            def plant(patient: Patient, stack: ExitStack, one: str = names[0], other: str = other) -> None:
                own = patient.case.port.postprocess
                change_side(patient, stack, postprocess=lambda o: own({**o, one: o[other]}))

            yield Fault("pred-other-output", other, plant, begins="postprocess", words=(other,))


@contextmanager
def _merging_with(keyword: str, default: Any, other: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block whoever calls the panoptic merging, or what stands for it then, gives it another setting."""
    from paddleseg_ext import postprocess

    called = postprocess.panoptic_deeplab

    @functools.wraps(called)
    def merged(*args: Any, **kwargs: Any) -> Any:
        return called(*args, **{**kwargs, keyword: other(kwargs.get(keyword, default))})

    with ExitStack() as stack:
        for module in [m for key, m in sys.modules.items() if key.startswith(("paddleseg_ext", "parity.cases"))]:
            if getattr(module, "panoptic_deeplab", None) is called:
                set_attributes(stack, module, panoptic_deeplab=merged)
        yield


def _keyword(name: str, text: str, keyword: str, other: Callable[[Any], Any]) -> None:
    """A kind that calls the panoptic merging with another setting."""

    def sites(patient: Patient) -> Iterator[Fault]:
        try:
            from paddleseg_ext import postprocess
        except ImportError:
            return
        own = getattr(postprocess, "panoptic_deeplab", None)
        if not patient.reaches("postprocess") or not callable(own):
            return
        default = inspect.signature(own).parameters[keyword].default

        def plant(patient: Patient, stack: ExitStack) -> None:
            right = patient.case.port.postprocess

            def wrong(outputs: Any) -> Any:
                with _merging_with(keyword, default, other):
                    return right(outputs)

            change_side(patient, stack, postprocess=wrong)

        if "panoptic" in patient.case.name:
            yield Fault(name, keyword, plant, begins="postprocess", words=(keyword,))

    kind(name, text)(sites)


_keyword("center-threshold", "the threshold of centers is another", "threshold", lambda own: (own or 0.1) + 0.1)
_keyword("center-kernel", "the window of the centers' maximum is another", "nms_kernel", lambda own: (own or 7) + 2)
_keyword("center-top-k", "fewer centers are kept", "top_k", lambda own: 1)
_keyword("stuff-area", "the least area of stuff is another", "stuff_area", lambda own: 0)
