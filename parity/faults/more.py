"""More mistakes in layers, in functions between them, in losses and in pipelines, each as a list of mistakes has it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import paddle
from paddle import nn

from parity.faults import data
from parity.faults.between import call_fault, calls_of, with_keywords
from parity.faults.fault import Fault, Patient, kind, layer_point, set_attributes, wrap_forward
from parity.faults.layers import _differ, _setting, _trained_norms
from parity.faults.losses import _Around, _edited, _fault, _settings
from parity.paddle_side import _pair

# --- layers ---------------------------------------------------------------------------------------------------------


@kind("gelu-tanh", "GELU is approximated by tanh, or is not")
def gelu_tanh(patient: Patient) -> Iterator[Fault]:
    """`approximate`."""
    for path, layer in patient.layers(nn.GELU):
        own = bool(layer._approximate)
        yield _setting("gelu-tanh", path, layer, ("approximate|tanh", "gelu|approximate"), _approximate=not own)


@kind("pool-padding", "pooling is padded on one side only")
def pool_padding(patient: Patient) -> Iterator[Fault]:
    """All the padding at the bottom and on the right."""
    for path, layer in patient.layers(nn.AvgPool2D, nn.MaxPool2D):
        own = _pair(layer.padding)
        if any(own):
            other = [0, 2 * own[0], 0, 2 * own[1]]
            yield _setting("pool-padding", path, layer, (_differ("padding", tuple(other), own),), padding=other)


@kind("dropout-channels", "a dropout drops whole channels, or single elements where it should drop channels")
def dropout_channels(patient: Patient) -> Iterator[Fault]:
    """`Dropout2D` for `Dropout`."""
    for path, settings in patient.port.dropout.items():
        other = [settings[0], 1.0 - settings[1], *settings[2:]]

        def plant(patient: Patient, stack: ExitStack, path: str = path, other: Any = other) -> None:
            stack.callback(patient.port.dropout.__setitem__, path, patient.port.dropout[path])
            patient.port.dropout[path] = other

        words = (f"drops whole channels {other[1]:g}, reference {settings[1]:g}",)
        point = layer_point(path)
        yield Fault("dropout-channels", path, plant, stages=("forward_train",), point=point, words=words)


@kind("bn-variance", "the running variance follows the unbiased variance of the batch, as torch's does")
def bn_variance(patient: Patient) -> Iterator[Fault]:
    """Times n / (n - 1); Paddle's own is biased, which the comparison allows for."""
    for path, layer in _trained_norms(patient):

        def plant(patient: Patient, stack: ExitStack, layer: Any = layer) -> None:
            def wrong(own: Any, x: Any) -> Any:
                kept = layer._momentum * layer._variance
                out = own(x)
                count = x.size // x.shape[1]
                if layer.training and count > 1:
                    with paddle.no_grad():
                        layer._variance.set_value(kept + (layer._variance - kept) * (count / (count - 1)))
                return out

            wrap_forward(stack, layer, wrong)

        words = ("running_var", "biased")
        yield Fault("bn-variance", path, plant, stages=("forward_train",), point=layer_point(path), words=words)


# --- functions between layers ---------------------------------------------------------------------------------------


@kind("resize-size", "the size of a resize is (width, height)")
def resize_size(patient: Patient) -> Iterator[Fault]:
    """What follows may raise."""
    for made in calls_of(patient, "resize"):
        size = tuple(made[0].output.shape[2:])
        if len(size) == 2 and size[0] != size[1]:
            alter = with_keywords(size=list(size[::-1]), scale_factor=None)
            yield call_fault("resize-size", made, alter, ("size|shape|height", rf"{size[1]}, {size[0]}"))


@kind("topk-smallest", "the smallest elements are chosen, not the largest")
def topk_smallest(patient: Patient) -> Iterator[Fault]:
    """`largest`."""
    for made in calls_of(patient, "topk"):
        yield call_fault("topk-smallest", made, with_keywords(largest=False), ("topk", "largest False|smallest"))


# --- losses ---------------------------------------------------------------------------------------------------------


@kind("loss-mean-all", "a mean over valid pixels is divided by all pixels")
def loss_mean_all(patient: Patient) -> Iterator[Fault]:
    """`reduction="mean"` of a loss that is 0 where it is ignored."""
    labels = [v for v in patient.targets.values() if v.dtype.kind in "iu" and (v == 255).any()]
    for term in patient.terms() if labels else ():
        share = float((labels[0] != 255).mean())
        words = (r"valid|all pixels|ignored", re.escape(f"{share:.8f}"[:6]))
        yield _edited("loss-mean-all", term, lambda value, _, share=share: value * share, words)


@kind("loss-per-image", "hard pixels are chosen in each image, not in the batch")
def loss_per_image(patient: Patient) -> Iterator[Fault]:
    """The mean of the images' losses."""
    sizes = {value.shape[0] for value in patient.targets.values() if value.ndim}
    count = sizes.pop() if len(sizes) == 1 else 0
    for path, attribute, _ in _settings(patient, "min_kept", "n_min", "top_k", "top_k_percent"):
        term = path.partition(".")[0]
        if count < 2 or term not in patient.terms():
            continue

        def change(losses: Any, targets: Any, term: str = term) -> Any:
            def through(own: Any, o: Any, t: Any) -> Any:
                parts = [own(_image(o, i, count), _image(t, i, count))[term] for i in range(count)]
                return {**own(o, t), term: sum(parts) / count}

            return _Around(losses, through)

        yield _fault("loss-per-image", f"{path}.{attribute}", change, (rf"over the {count} images",), term)


def _image(values: Any, index: int, count: int) -> dict[str, Any]:
    """One image of a batch; what is no batch stays whole."""
    return {k: v[index : index + 1] if v.shape and v.shape[0] == count else v for k, v in values.items()}


@kind("points-label", "labels are sampled between pixels, not at the nearest")
def points_label(patient: Patient) -> Iterator[Fault]:
    """Cast to float, sampled bilinearly, and cut off."""
    module = sys.modules.get("paddleseg_ext.losses.point")
    if module is None or not patient.reaches("loss") or not any("point" in term for term in patient.terms()):
        return

    def plant(patient: Patient, stack: ExitStack) -> None:
        from paddleseg_ext.models.layers.points import sample_points

        def wrong(label: Any, coords: Any) -> Any:
            sampled = sample_points(label.astype(coords.dtype).unsqueeze(1), coords)
            return sampled.squeeze(1).astype(label.dtype)

        set_attributes(stack, module, sample_labels=wrong)

    yield Fault("points-label", "sample_labels", plant, begins="loss", words=("label", "interpolat|nearest|between"))


# --- pipelines ------------------------------------------------------------------------------------------------------

data._edited(
    "data-reduce-zero",
    "label ids are one less, and class 0 is ignored",
    lambda x: np.where((x == 255) | (x == 0), 255, x - 1),
    data._is_label,
    (r"one less|1 less|reduce_zero_label",),
)


@kind("data-resize-cv2", "images are resized by OpenCV, not by PIL")
def data_resize_cv2(patient: Patient) -> Iterator[Fault]:
    """PIL averages when it makes an image smaller."""
    from paddleseg_ext.data.transforms import resize

    def plant(patient: Patient, stack: ExitStack) -> None:
        own = resize.resize_pil
        for module in [m for key, m in sys.modules.items() if key.startswith("paddleseg_ext.data")]:
            if getattr(module, "resize_pil", None) is own:
                set_attributes(stack, module, resize_pil=resize.resize_cv2)

    if data._transforms(patient):
        words = ("interpolat|resize", "PIL|OpenCV|cv2")
        fault = data._planted(patient, Fault("data-resize-cv2", "pipeline", plant, begins="data", words=words))
        if fault.point:
            yield fault
