"""What HRNet's ImageNet weights and Panoptic-DeepLab's checkpoints hold beside the network."""

from __future__ import annotations

import numpy as np
import pytest

from parity import chain, layouts
from parity.traces import Recording

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def classifier_keys() -> list[str]:
    """The 126 names that upstream's classification network has beside the backbone's 1830."""
    keys = []
    for branch in range(4):
        block = f"incre_modules.{branch}.0"
        for part in ("1", "2", "3"):
            keys += [f"{block}.conv{part}.weight", *(f"{block}.bn{part}.{kind}" for kind in NORM)]
        keys += [f"{block}.downsample.0.weight", *(f"{block}.downsample.1.{kind}" for kind in NORM)]
    for path in ("downsamp_modules.0", "downsamp_modules.1", "downsamp_modules.2", "final_layer"):
        keys += [f"{path}.0.weight", f"{path}.0.bias", *(f"{path}.1.{kind}" for kind in NORM)]
    return [*keys, "classifier.weight", "classifier.bias"]


@pytest.fixture(scope="module")
def upstream() -> dict[str, np.ndarray]:
    """Upstream's names for Panoptic-DeepLab on HRNet-W48, as recorded from its own classes."""
    layout = Recording.load(chain.RECORDINGS / "panoptic_deeplab_hrnet48").state_dict
    return {name: np.zeros(()) for name in layout}


def test_imagenet_weights_are_the_recorded_backbone_and_a_classifier(upstream):
    prefix = "backbone."
    backbone = {name[len(prefix) :]: value for name, value in upstream.items() if name.startswith(prefix)}
    extra = dict.fromkeys(classifier_keys(), np.zeros(()))
    assert (len(backbone), len(extra)) == (1830, 126)
    notes: list[str] = []
    assert list(layouts.without_surplus({**backbone, **extra}, notes)) == list(backbone)
    assert notes == ["126 tensors such as incre_modules.0.0.conv1.weight are left out: the classifier of ImageNet"]


def test_a_classifier_of_another_network_stays():
    state = {"conv1.weight": np.zeros(()), "classifier.weight": np.zeros(())}
    assert layouts.without_surplus(state, []) == state


def test_older_checkpoints_lose_the_pixels_statistics(upstream):
    notes: list[str] = []
    state = {"pixel_mean": np.zeros((3, 1, 1)), "pixel_std": np.ones((3, 1, 1)), **upstream}
    assert list(layouts.without_surplus(state, notes)) == list(upstream)
    assert len(notes) == 1 and notes[0].startswith("2 tensors such as pixel_mean are left out")


def test_nothing_else_is_left_out(upstream):
    notes: list[str] = []
    state = {**upstream, "sem_seg_head.classifier.weight": np.zeros(())}
    assert layouts.without_surplus(state, notes) == state and not notes
