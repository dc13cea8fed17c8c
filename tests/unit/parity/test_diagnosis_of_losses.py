"""What the diagnosis says of losses, gradients, labels and figures, and what it must not say."""

from __future__ import annotations

import numpy as np
import pytest

from parity.case import Side
from parity.compare import Finding
from parity.diagnosis import data, gradients, losses, metrics
from parity.traces import Trace, digest

RANDOM = np.random.RandomState(0)
LOGITS = RANDOM.standard_normal((3, 4, 6, 9))
LABEL = RANDOM.randint(0, 4, (3, 6, 9))
LABEL[RANDOM.uniform(size=LABEL.shape) < 0.3] = 255
CLASS_WEIGHTS = np.array([1.0, 2.0, 3.0, 0.5])


class One:
    """A side with one loss term, a function of the logits and the label."""

    def __init__(self, function):
        self.side, self.function = Side(model=lambda: None, losses=lambda targets: object()), function

    def evaluate_losses(self, outputs, targets):
        return Trace({"ce": np.array(self.function(np.asarray(outputs["x"], np.float64), targets["label"]))})


def entropies(x, label):
    """The cross-entropies of the valid pixels and their classes."""
    log = x - x.max(1, keepdims=True)
    log = np.moveaxis(log - np.log(np.exp(log).sum(1, keepdims=True)), 1, -1)
    valid = label != 255
    return -log[valid, label[valid]], label[valid]


def mean(x, label):
    return entropies(x, label)[0].mean()


def weighted(x, label):
    loss, ids = entropies(x, label)
    return (CLASS_WEIGHTS[ids] * loss).sum() / CLASS_WEIGHTS[ids].sum()


def said_of(ours, theirs=mean, label=LABEL):
    outputs, targets = {"x": LOGITS}, {"label": label}
    sides = One(theirs), One(ours)
    traces = tuple(side.evaluate_losses(outputs, targets) for side in sides)
    return losses.explain(Finding("loss/ce", "fail"), *sides, {"": (outputs, targets)}, traces)


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (lambda x, y: entropies(x, y)[0].sum() / y.size, "the share of valid pixels of label"),
        (lambda x, y: entropies(x, y)[0].sum(), "the valid pixels of label, so one is a sum"),
        (lambda x, y: len(y) * mean(x, y), "the number of images of label"),
    ],
)
def test_what_a_mean_is_divided_by_is_told_if_other_targets_confirm_it(ours, said):
    found = said_of(ours)
    assert f"for other targets as well it is {said}" in found and "weight" not in found


def test_a_constant_that_equals_a_count_by_chance_is_told_as_a_constant():
    found = said_of(lambda x, y: 3.0 * mean(x, y))  # as many images as that
    assert "3 times the reference's, whatever it gets: a constant, such as its weight" in found
    assert found.endswith("it equals the number of images of label")


def test_class_weights_in_one_sides_mean_are_not_called_the_terms_weight():
    found = said_of(lambda x, y: (CLASS_WEIGHTS[entropies(x, y)[1]] * entropies(x, y)[0]).mean(), weighted)
    assert "not for other targets" in found and "its weight" not in found


def test_a_number_that_is_none_is_no_factor():
    with np.errstate(invalid="ignore"):
        found = said_of(lambda x, y: 0.0 * x.sum(), lambda x, y: np.float64(0) / 0)
    assert "times" not in found and "weight" not in found


def test_a_mean_of_the_images_means_is_told():
    assert said_of(lambda x, y: np.mean([mean(x[i : i + 1], y[i : i + 1]) for i in range(3)])).startswith(
        "ce is the mean over the 3 images of what the reference makes of each"
    )


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "said"), [(0, "has frozen them"), (3, "or passes it through what has no slope")])
def test_a_gradient_of_zero_is_not_only_called_frozen(size, said):
    theirs, ours = Trace({"a.weight": np.ones(3)}), Trace({"a.weight": np.zeros(size)})
    assert said in gradients.frozen_differently((theirs, ours))


def test_what_is_frozen_is_told_before_what_gets_zeros_for_it():
    theirs = Trace({"n.weight": np.ones(3), "n.bias": np.ones(3)})
    ours = Trace({"n.weight": np.zeros(3), "n.bias": np.zeros(0)})  # as Paddle's batch norm with a frozen shift
    said = gradients.frozen_differently((theirs, ours))
    assert said.startswith("n.bias: a gradient on one side only, so the port has frozen them")


# --- data -----------------------------------------------------------------------------------------------------------

IDS = np.repeat(np.repeat(np.random.RandomState(3).randint(0, 6, (6, 8)), 7, 0), 7, 1)
IDS[:4] = 255


def said_of_data(own, truth, name="0/label"):
    recorded = {name: (truth.shape, digest(truth))}
    return data.explain(Finding(f"data/{name}", "fail"), {name: own}, recorded)


def test_a_mapping_of_ids_is_not_called_an_interpolation():
    reduced = np.where(IDS == 0, 255, np.where(IDS == 255, 255, IDS - 1))
    assert said_of_data(reduced, IDS).startswith("ids are one less and 0 is ignored (reduce_zero_label)")
    mapped = np.where(IDS == 255, 255, np.array([7, 11, 21, 4, 0, 2])[IDS % 6])
    assert said_of_data(mapped, IDS).startswith("ids are mapped otherwise: in every sampled pixel, upstream's 0 is 7")
    assert "ignores pixels (255) that the port gives another id" in said_of_data(np.where(IDS == 255, 9, IDS), IDS)


def test_an_interpolated_label_is_known_by_the_ids_at_its_edges():
    smooth = np.array(IDS, np.float64)
    for axis in (0, 1):
        smooth = (np.roll(smooth, 1, axis) + 2 * smooth + np.roll(smooth, -1, axis)) / 4
    assert "the label is interpolated" in said_of_data(smooth.astype(int), IDS)
    moved = said_of_data(np.roll(IDS, 3, axis=1), IDS)
    assert "interpolated" not in moved and "no cause found" in moved


def test_offsets_are_not_called_an_image():
    offset = RANDOM.standard_normal((2, 20, 31))
    assert said_of_data(offset[::-1], offset, "0/offset").startswith("offset has its 2 channels in reverse order")
    assert said_of_data(2 * offset, offset, "0/offset").startswith("offset is scaled or moved: its channels are 2 x +0")


def test_figures_that_are_not_below_the_official_ones_are_not_laid_on_ignored_pixels():
    official = {"IoU": np.array([0.5, 0.25]), "mean IoU": np.array([0.375])}
    said = metrics.explain("mean IoU", {"IoU": np.array([0.5, np.nan]), "mean IoU": np.array([0.5])}, official)
    assert said == "mean IoU is 1.33333 times the official one"
