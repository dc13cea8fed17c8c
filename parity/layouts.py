"""Names in the checkpoints that detectron2 reads, as its models spell them.

- MSRA's R-50.pkl and R-101.pkl have Caffe2's names: `res2_0_branch2a_w`, `res2_0_branch2a_bn_s`. Their batch norms are
  folded into scale and shift; detectron2 leaves its running statistics as built: mean 0 and variance 1 - 1e-5, which
  with epsilon is 1.
- DeepLab's R-52.pkl and R-103.pkl have detectron2's names, without batch counters.
- Both hold a classifier for ImageNet, and the stem of MSRA's a bias, that no model of detectron2's has: they are left
  out, and so are `pixel_mean` and `pixel_std`, settings that older checkpoints of whole models hold.

`without_surplus` does the same for what is not a ResNet: HRNet's ImageNet weights, and whole Panoptic-DeepLabs.

Facts: facebookresearch/detectron2@02b5c4e detectron2/checkpoint/c2_model_loading.py, detectron2/layers/batch_norm.py;
HRNet/HRNet-Image-Classification@f760c98 lib/models/cls_hrnet.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

EPSILON = 1e-5
_CAFFE2 = re.compile(r"^res\d_\d+_branch")
_BLOCK = re.compile(r"^(?P<stage>res\d)_(?P<block>\d+)_branch(?P<branch>1|2a|2b|2c)_(?P<kind>w|bn_s|bn_b)$")
_CONVS = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_KINDS = {"w": "weight", "bn_s": "norm.weight", "bn_b": "norm.bias"}
_STEM = {"conv1_w": "stem.conv1.weight", "res_conv1_bn_s": "stem.conv1.norm.weight",
         "res_conv1_bn_b": "stem.conv1.norm.bias", "conv1_b": "stem.conv1.bias"}  # fmt: skip
_SURPLUS = (
    (re.compile(r"^(stem\.)?(fc|fc1000|linear|pred)[._](weight|bias|w|b)$"), "the classifier of ImageNet"),
    (re.compile(r"^stem\.conv1\.bias$"), "a bias of the stem's first convolution, before a batch norm"),
    (re.compile(r"^pixel_(mean|std)$"), "mean and deviation of the pixels, which the data pipeline has"),
    (re.compile(r"_momentum$"), "momenta of the training"),
)


def to_detectron2(state: Mapping[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    """A state dict with detectron2's names; one that has others, of any other repository, as it is.

    Args:
        state: name -> value, as read from a file.
        notes: gets a sentence for everything that is not as the file has it.
    """
    caffe2 = any(_CAFFE2.match(name) for name in state)
    if not caffe2 and not any(re.search(r"(^|\.)res2\.0\.conv1\.norm\.weight$", name) for name in state):
        return dict(state)
    names = {name: _translated(name) if caffe2 else name for name in state}
    kept = {}
    for name, value in state.items():
        reason = next((text for pattern, text in _SURPLUS if pattern.search(names[name])), None)
        if reason is None:
            kept[names[name]] = value
        else:
            notes.append(f"{name} is left out: {reason}")
    if caffe2:
        notes.append("Caffe2's names; running statistics, which it folds into scale and shift, are 0 and 1 - 1e-5")
        kept.update(_statistics(kept))
    return kept


def _translated(name: str) -> str:
    """A Caffe2 name in detectron2's spelling; unknown ones stay, and are named as unexpected later."""
    match = _BLOCK.match(name)
    if match is None:
        return _STEM.get(name, name)
    return f"{match['stage']}.{match['block']}.{_CONVS[match['branch']]}.{_KINDS[match['kind']]}"


def _statistics(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for name, value in state.items():
        path, _, last = name.rpartition(".norm.")
        if last == "weight":
            found[f"{path}.norm.running_mean"] = np.zeros(value.shape, np.float32)
            found[f"{path}.norm.running_var"] = np.ones(value.shape, np.float32) - np.float32(EPSILON)
    return found


# a name that tells which file it is -> what that file holds beside the network, and what that is
_SURPLUS_OF = {
    re.compile(r"^stage4\.0\.branches\.0\."): (
        re.compile(r"^(incre_modules|downsamp_modules|final_layer|classifier)\."), "the classifier of ImageNet",
    ),
    re.compile(r"^ins_embed_head\."): (
        re.compile(r"^pixel_(mean|std)$"), "mean and deviation of the pixels, which the data pipeline has",
    ),
}  # fmt: skip


def without_surplus(state: Mapping[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    """A state dict without what HRNet's ImageNet weights, or detectron2's older files, hold beside the network.

    Args:
        state: name -> value.
        notes: gets a sentence for each kind of what is left out.
    """
    kept = dict(state)
    for sign, (surplus, reason) in _SURPLUS_OF.items():
        names = [name for name in kept if surplus.match(name)] if any(map(sign.match, kept)) else []
        if names:
            notes.append(f"{len(names)} tensors such as {names[0]} are left out: {reason}")
        kept = {name: value for name, value in kept.items() if name not in names}
    return kept
