"""What is read out of the other parity tools' reports, and what counts as naming the right place."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

import rival_tools
from rival_tools import Said, is_localised, read_padiff, read_reprod_log

FORWARD = """[AutoDiff] FAILED !!!
[AutoDiff]     Diff found in `Forward  Stage` in step: 40, net_id is 9 vs 9
[AutoDiff]     Type of layer is  : Conv2d vs Conv2D
"""
TREE = """Paddle Model
    (net) Port  (Port)
     |--- (net) STDCSeg  (Port.model)
     |     +--- (net) Conv2D  (Port.model.cp.conv)    <---  *** HERE ***
"""
GRADS = """=========================
After training, grad value is different.
between paddle: `Conv2D(3, 8, kernel_size=[3, 3], data_format=NCHW)`, torch: `Conv2d(3, 8)`
paddle path:
    Port.model.cp.conv.weight
torch path:
    Reference.model.cp.conv.weight
"""
REPROD = """[2026/01/01 00:00:00] root INFO: semantic:{space}
[2026/01/01 00:00:00] root INFO: \tmean diff: check passed: {semantic}, value: 0.1
[2026/01/01 00:00:00] root INFO: loss_1:{space}
[2026/01/01 00:00:00] root INFO: \tmean diff: check passed: {loss}, value: 0.1
[2026/01/01 00:00:00] root INFO: diff check {end}
"""


@dataclass
class Planted:
    site: str
    begins: str = "forward"
    stages: tuple[str, ...] = ("forward", "forward_train")

    def expects(self, stage):
        return stage in self.stages


def same(route):
    return route


def test_padiffs_mark_in_the_tree_is_the_layer_it_names():
    said = read_padiff(FORWARD, {"paddle_struct.log": TREE}, "evaluation", same)
    assert (said.stage, said.names) == ("forward", ("cp.conv",)) and "Forward" in said.text
    assert read_padiff(FORWARD, {"paddle_struct.log": TREE}, "training", same).stage == "forward_train"


def test_padiffs_root_is_the_model_itself():
    tree = TREE.replace("    <---  *** HERE ***", "").replace("(Port)\n", "(Port)    <---  *** HERE ***\n")
    assert read_padiff(FORWARD, {"paddle_struct.log": tree}, "evaluation", same).names == ("",)


@pytest.mark.parametrize(
    ("printed", "log", "stage"),
    [
        ("[AutoDiff] Diff found in model grad after backward, check report `x`.", "grad_diff.log", "gradients"),
        ("[AutoDiff] Diff found in model weights after optimizer step, check report `x`.", "weight_diff.log", "step"),
        ("[AutoDiff] Diff found when compare grads, please check report \n x", "grads_diff", "gradients"),
    ],
)
def test_padiffs_log_of_parameters_names_the_ports(printed, log, stage):
    said = read_padiff(printed, {log: GRADS}, "evaluation", same)
    assert said.stage == stage and "cp.conv.weight" in said.names and "cp.conv" not in said.names


def test_padiffs_loss_is_named_as_the_loss():
    said = read_padiff("[AutoDiff] *** Diff found in loss, Checkout your loss function! ***", {}, "evaluation", same)
    assert (said.stage, said.names) == ("loss", ("loss",))


@pytest.mark.parametrize(
    ("semantic", "loss", "end", "names"),
    [(True, True, "passed", None), (False, False, "failed", ("semantic",)), (True, False, "failed", ())],
)
def test_reprod_logs_report_names_the_keys_that_fail_and_an_iteration_names_nothing(semantic, loss, end, names):
    said = read_reprod_log(REPROD.format(space=" ", semantic=semantic, loss=loss, end=end))
    assert (None if said is None else said.names) == names


@pytest.mark.parametrize(
    ("planted", "expected", "said", "right"),
    [
        (Planted("cp.arm.conv"), r"cp\.arm\.conv(\.output)?", Said("forward", ("cp.arm.conv",), ""), True),
        (Planted("cp.arm.relu"), r"cp\.arm\.relu", Said("forward", ("cp.arm",), ""), True),
        (Planted("cp.arm.relu"), r"cp\.arm\.relu", Said("forward", ("cp.next.conv",), ""), False),
        (Planted("conv"), "conv", Said("forward", ("",), ""), False),
        (Planted("model: interpolate 3"), "output/a", Said("forward", ("",), ""), True),
        (Planted("cp: mean 6"), r"cp\.avg", Said("forward", ("cp",), ""), True),
        (Planted("semantic"), "output/(semantic)", Said("forward", ("output/semantic",), ""), True),
        (Planted("cp.conv"), r"cp\.conv", Said("gradients", ("cp.conv",), ""), False),
        (Planted("a.weight, b.weight", "weights", ("weights",)), ".*", Said("forward", ("b",), ""), True),
        (Planted("a.weight, b.weight", "weights", ("weights",)), ".*", Said("forward", ("",), ""), False),
        (Planted("cp.conv", "gradients", ("gradients",)), ".*", Said("gradients", ("stem.weight",), ""), False),
        (Planted("cp.conv", "gradients", ("gradients",)), ".*", Said("gradients", ("cp.conv.weight",), ""), True),
        (Planted("loss_aux", "loss", ("loss",)), "(.*/)?(loss_aux|d_.*)", Said("loss", ("loss",), ""), True),
        (Planted("group 1", "step", ("step",)), ".*", Said("step", ("conv.weight",), ""), True),
        (Planted("group 1", "step", ("step",)), ".*", Said("step", (), ""), False),
        (Planted("pipeline", "data", ("data",)), ".*", Said("", (), "crash"), False),
    ],
)
def test_naming_the_place_or_the_block_that_holds_it_is_localising(planted, expected, said, right):
    assert is_localised(said, planted, expected) is right


def test_a_limit_is_raised_tenfold_until_the_correct_port_passes():
    tried = []

    def run(limit):
        tried.append(limit)
        return None if limit > 5e-4 else Said("forward", (), "differs")

    assert rival_tools._lowest(run, 1e-6) == 1e-3 and tried == [1e-6, 1e-5, 1e-4, 1e-3]
    with pytest.raises(RuntimeError, match="fails the correct port"):
        rival_tools._lowest(lambda limit: Said("forward", (), "differs"), 1e-6)
