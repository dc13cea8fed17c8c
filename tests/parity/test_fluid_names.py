"""Every variable of PaddlePaddle/models' DeepLabv3+ has one place in the reference, and every place a variable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from parity.fluid import torch_name
from parity.reference.deeplabv3p import DeepLabV3Plus

pytestmark = pytest.mark.parity

NORMS = {
    "gn": ("GroupNorm", ("gamma", "beta")),
    "bn": ("BatchNorm", ("gamma", "beta", "moving_mean", "moving_variance")),
}


def variables(norm: str) -> Iterator[str]:
    """The paths of all variables, written down from the program's structure."""
    scope, kinds = NORMS[norm]

    def convolution(path: str) -> Iterator[str]:
        yield f"{path}/weights"
        for kind in kinds:
            yield f"{path}/{scope}/{kind}"

    def separable(path: str) -> Iterator[str]:
        yield from convolution(f"{path}/depthwise")
        yield from convolution(f"{path}/pointwise")

    blocks = [(f"entry_flow/block{number}", True) for number in (1, 2, 3)]
    blocks += [(f"middle_flow/block{number}", False) for number in range(1, 17)]
    blocks += [("exit_flow/block1", True), ("exit_flow/block2", False)]
    for name in ("entry_flow/conv1", "entry_flow/conv2"):
        yield from convolution(f"xception_65/{name}")
    for name, has_shortcut in blocks:
        for number in (1, 2, 3):
            yield from separable(f"xception_65/{name}/separable_conv{number}")
        if has_shortcut:
            yield from convolution(f"xception_65/{name}/shortcut")
    for name in ("encoder/image_pool", "encoder/aspp0", "encoder/concat", "decoder/concat"):
        yield from convolution(name)
    for name in (
        "encoder/aspp1",
        "encoder/aspp2",
        "encoder/aspp3",
        "decoder/separable_conv1",
        "decoder/separable_conv2",
    ):
        yield from separable(name)
    yield from ("logit/weights", "logit/biases")


@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_variables_and_tensors_of_the_reference_are_one_to_one(norm: str) -> None:
    paths = list(variables(norm))
    names = [torch_name(path) for path in paths]
    assert len(set(names)) == len(names)
    with torch.device("meta"):
        expected = DeepLabV3Plus(norm=norm, fluid=True).state_dict()
    assert set(names) == {name for name in expected if not name.endswith("num_batches_tracked")}


def test_there_are_146_norms_of_which_one_has_38_groups() -> None:
    assert sum(path.endswith("gamma") for path in variables("gn")) == 146
    with torch.device("meta"):
        model = DeepLabV3Plus(norm="gn", fluid=True)
    groups = {name: m.num_groups for name, m in model.named_modules() if isinstance(m, torch.nn.GroupNorm)}
    assert [name for name, number in groups.items() if number == 38] == ["decoder.fuse.0.0.1"]
    assert set(groups.values()) == {24, 28, 32, 38}
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.GroupNorm)} == {1e-5}
