"""`from parity import Case, run` on a small pair of somebody's own, written out here."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as PF
import pytest
import torch
import torch.nn.functional as TF

from parity import Case, CaseError, Drop, Rename, Schedule, Side, Transpose, inputs, run
from parity.paddle_side import PaddleSide
from parity.torch_side import TorchSide

pytestmark = pytest.mark.parity

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 5
QUICK = {"float32": False, "upstream": False}


class TorchNet(torch.nn.Module):
    """The original: two convolutions, a batch norm and a ReLU that run again, a square and an oblong linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.act = torch.nn.ReLU()
        self.conv2 = torch.nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.drop = torch.nn.Dropout(0.5)
        self.hidden = torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.act(self.norm(self.conv1(x)))
        x = self.act(self.norm(self.conv2(x)))
        x = self.drop(self.act(self.hidden(x.mean((2, 3)))))
        return self.head(x)


class PaddleNet(paddle.nn.Layer):
    """Its port: the stem is a container, and two layers have other names."""

    def __init__(self):
        super().__init__()
        self.stem = paddle.nn.Sequential(
            paddle.nn.Conv2D(3, 8, 3, padding=1, bias_attr=False), paddle.nn.BatchNorm2D(8), paddle.nn.ReLU()
        )
        self.conv2 = paddle.nn.Conv2D(8, 8, 3, stride=2, padding=1)
        self.drop = paddle.nn.Dropout(0.5)
        self.fc1 = paddle.nn.Linear(8, 8)
        self.head = paddle.nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        x = self.stem[2](self.stem[1](self.conv2(x)))
        x = self.drop(self.stem[2](self.fc1(x.mean([2, 3]))))
        return self.head(x)


RULES = (
    Rename(r"^conv1\.", "stem.0."),
    Rename(r"^norm\.", "stem.1."),
    Rename(r"^act\.", "stem.2."),
    Rename(r"^hidden\.", "fc1."),
)


def torch_losses(targets):
    return lambda outputs, targets: {"loss": TF.cross_entropy(outputs["0"], targets["label"][:, 0, 0])}


def paddle_losses(targets):
    return lambda outputs, targets: {"loss": PF.cross_entropy(outputs["0"], targets["label"][:, 0, 0])}


def torch_sgd(model, losses, schedule):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def paddle_sgd(model, losses, schedule):
    return paddle.optimizer.Momentum(0.05, 0.9, parameters=model.parameters(), weight_decay=1e-3)


def minimal(**fields):
    own = {"name": "mine", "reference": TorchNet, "port": PaddleNet, "inputs": {"image": inputs.image(4)}}
    return Case(**{**own, "size": (9, 13), "weights": RULES, **fields})


def stage(result, name):
    return next(stage for stage in result.stages if stage.stage == name)


def trained(reference=TorchNet, port=PaddleNet, *, optimizers=(torch_sgd, paddle_sgd), **fields):
    """The case with losses and optimizers."""
    return minimal(
        reference=Side(reference, torch_losses, optimizers[0]),
        port=Side(port, paddle_losses, optimizers[1]),
        inputs={"image": inputs.image(4), "label": inputs.labels(4, CLASSES, ignore=0)},
        trajectory=Schedule(steps=4),
        **fields,
    )


def changed(build, change):
    """A builder of the same model with a change made to it."""

    def model():
        built = build()
        change(built)
        return built

    return model


# --- what passes ----------------------------------------------------------------------------------------------------


def test_a_minimal_case_passes_and_says_why_other_stages_are_not_possible():
    result = run(minimal())
    assert result.passed and bool(result) and result.exit_code == 0
    assert [s.stage for s in result.stages if s.passed] == ["weights", "forward", "forward_train"]
    assert stage(result, "loss").reason == "the case gives no `losses`"
    assert stage(result, "postprocess").reason == "the case gives no `postprocess`"
    assert result.chain.status == "unverified" and "names no upstream" in result.chain.detail
    assert str(result) == "mine: passed 3 stages"
    json.dumps(result.to_dict(), allow_nan=False)


def test_losses_and_plain_optimizers_need_no_wrapper():
    result = run(trained())
    assert result.passed, str(result)
    names = ["weights", "forward", "forward_train", "loss", "gradients", "step", "trajectory"]
    assert [s.stage for s in result.stages if s.passed] == names
    points = {finding.point for finding in stage(result, "step").findings}
    for point in ("learning_rate/head.bias", "optimizer/fc1.weight.velocity", "update/stem.0.weight"):
        assert f"step/3/{point}" in points
    assert not [point for point in points if "/learning_rate/" in point and "_mean" in point]


PAIRS = {
    "SGD": (
        lambda m, *_: torch.optim.SGD(m.parameters(), lr=0.05),
        lambda m, *_: paddle.optimizer.SGD(0.05, parameters=m.parameters()),
    ),
    "Adam": (
        lambda m, *_: torch.optim.Adam(m.parameters(), lr=0.01),
        lambda m, *_: paddle.optimizer.Adam(0.01, parameters=m.parameters()),
    ),
    "groups": (
        lambda m, *_: torch.optim.SGD(
            [
                {"params": m.head.parameters(), "lr": 0.5},
                {"params": [*m.conv1.parameters(), *m.conv2.parameters(), *m.norm.parameters()], "weight_decay": 0.0},
                {"params": m.hidden.parameters()},
            ],
            lr=0.05,
            momentum=0.9,
            weight_decay=1e-3,
        ),
        lambda m, *_: paddle.optimizer.Momentum(
            0.05,
            0.9,
            parameters=[
                {"params": m.head.parameters(), "learning_rate": 10.0},
                {"params": [*m.stem.parameters(), *m.conv2.parameters()], "weight_decay": 0.0},
                {"params": m.fc1.parameters()},
            ],
            weight_decay=1e-3,
        ),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_optimizers_of_both_frameworks_take_the_same_steps(name):
    result = run(trained(optimizers=PAIRS[name]), stages=["step", "trajectory"], **QUICK)
    assert result.passed, str(result)


def test_tensors_are_compared_as_torch_lays_them_out():
    case = trained()
    result = run(case, stages=["gradients", "step"], **QUICK)
    bench = result.bench
    for name, shape in (("fc1.weight", (8, 8)), ("head.weight", (CLASSES, 8))):
        for trace, point in (("gradients", name), ("step", f"2/optimizer/{name}.velocity")):
            port = bench.traces["port", trace].points[point]
            own = bench.traces["reference", trace].points[point.replace("fc1", "hidden")]
            assert port.shape == own.shape == shape
            np.testing.assert_allclose(port, own, rtol=1e-9, atol=1e-12)
            assert shape[0] != shape[1] or not np.allclose(port, own.T)


def test_a_layer_that_runs_twice_is_compared_both_times():
    result = run(minimal(), stages=["forward_train"], **QUICK)
    points = [finding.point for finding in stage(result, "forward_train").findings]
    for point in ("stem.1", "stem.1@2", "stem.2", "stem.2@2", "stem.2@3"):
        assert points.count(f"forward_train/{point}") == 1
    assert result.passed  # with the running variance predicted through both calls


def test_tuples_are_named_by_position():
    class TorchPair(TorchNet):
        def forward(self, x):
            return super().forward(x), self.conv1(x)

    class PaddlePair(PaddleNet):
        def forward(self, x):
            return super().forward(x), self.stem[0](x)

    result = run(minimal(reference=TorchPair, port=PaddlePair), stages=["forward"], **QUICK)
    points = [finding.point for finding in stage(result, "forward").findings]
    assert result.passed and points[-2:] == ["forward/output/0", "forward/output/1"]


def test_outputs_can_be_named_by_each_side():
    sides = [Side(build, outputs=lambda logits: {"logits": logits}) for build in (TorchNet, PaddleNet)]
    result = run(minimal(reference=sides[0], port=sides[1]), stages=["forward"], **QUICK)
    assert result.passed and stage(result, "forward").findings[-1].point == "forward/output/logits"


def test_a_model_can_have_several_inputs():
    class TorchTwo(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 1)

        def forward(self, image, ids):
            return self.conv(image) * ids[:, None]

    class PaddleTwo(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = paddle.nn.Conv2D(3, 4, 1)

        def forward(self, image, ids):
            return self.conv(image) * ids.unsqueeze(1).astype(image.dtype)

    case = minimal(
        reference=TorchTwo,
        port=PaddleTwo,
        inputs={"image": inputs.image(2), "ids": inputs.labels(2)},
        feed=("image", "ids"),
        weights=(),
    )
    result = run(case, **QUICK)
    assert result.passed, str(result)


def test_a_frozen_norm_in_a_training_model_keeps_its_statistics():
    def freeze(name):
        def change(model):
            own = model.train

            def train(*arguments):
                result = own(*arguments)
                (model.norm if name == "norm" else model.stem[1]).eval()
                return result

            model.train = train

        return change

    case = trained(changed(TorchNet, freeze("norm")), changed(PaddleNet, freeze("stem")))
    result = run(case, stages=["forward_train", "gradients", "step"], **QUICK)
    assert result.passed, str(result)
    half_frozen = dataclasses.replace(case, port=dataclasses.replace(case.port, model=PaddleNet))
    result = run(half_frozen, stages=["forward_train"], **QUICK)
    assert result.first[1].point == "forward_train/stem.1"


def test_frozen_parameters_get_no_gradient_on_both_sides():
    case = trained(
        changed(TorchNet, lambda model: model.conv1.weight.requires_grad_(False)),
        changed(PaddleNet, lambda model: setattr(model.stem[0].weight, "stop_gradient", True)),
    )
    result = run(case, stages=["gradients", "step"], **QUICK)
    assert result.passed, str(result)
    assert result.coverage["parameters_without_gradient"] == ["conv1.weight"]


def test_given_weights_and_inputs_are_used():
    random = np.random.RandomState(7)
    shapes = TorchSide(Side(TorchNet)).shapes()
    state = {n: np.abs(random.standard_normal(s)) if s else np.int64(0) for n, s in shapes.items()}
    image = random.standard_normal((4, 3, 9, 13)).astype(np.float32)
    result = run(minimal(), stages=["forward"], weights=state, inputs={"image": image}, **QUICK)
    assert result.passed and result.settings["weights"] == "given"
    with torch.no_grad():
        net = TorchNet().double().eval()
        net.norm.eps = float(np.float32(1e-5))
        net.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
        expected = net(torch.from_numpy(image).double()).numpy()
    np.testing.assert_allclose(result.bench.traces["port", "forward"].points["output/0"], expected, rtol=1e-9)


# --- what fails -----------------------------------------------------------------------------------------------------


def test_weights_of_another_model_are_refused():
    with pytest.raises(CaseError, match=r"the weights are not those of its reference: missing .*conv1\.weight"):
        run(minimal(), weights={"conv.weight": np.zeros(3)}, **QUICK)


def test_a_transposed_square_linear_weight_is_found_in_its_layer():
    result = run(minimal(weights=(*RULES, Transpose(r"^hidden\.weight$"))), stages=["forward"], **QUICK)
    assert not result.passed and result.first[1].point == "forward/fc1"
    assert "fc1 agrees" in result.first[0].cause and "when its kernel is transposed" in result.first[0].cause


def test_a_weight_that_is_not_carried_over_is_reported_with_a_rule_that_helps():
    result = run(minimal(weights=RULES[:3]), stages=["forward"], **QUICK)
    text = result.first[1].text
    assert result.exit_code == 1 and [s.stage for s in result.stages] == ["weights"]
    assert "hidden.weight (8, 8) has no target" in text and r'add Rename(r"^hidden\.", "fc1.")' in text


def test_rename_rules_that_merge_two_layers_are_refused():
    class TorchTwice(TorchNet):
        def __init__(self):
            super().__init__()
            self.act2 = torch.nn.ReLU()

        def forward(self, x):
            return self.act2(super().forward(x))

    case = minimal(reference=TorchTwice, weights=(*RULES, Rename(r"^act2\.", "stem.2.")))
    with pytest.raises(CaseError, match=r"two points the name stem\.2"):
        run(case, stages=["forward"], **QUICK)


def test_a_layer_that_only_one_side_has_is_missing_unless_it_is_declared():
    result = run(minimal(weights=RULES[:2] + RULES[3:]), stages=["forward"], **QUICK)
    assert result.first[1].point == "forward/act" and "add a Rename" in result.first[1].text
    ignored = ((r"/(act|stem\.2)(@\d)?$", "the port's activation is compared through what it feeds"),)
    assert run(minimal(weights=RULES[:2] + RULES[3:], ignored=ignored), stages=["forward"], **QUICK).passed


def test_dropped_weights_leave_their_layers_to_be_declared():
    class TorchMore(TorchNet):
        def __init__(self):
            super().__init__()
            self.aux = torch.nn.Conv2d(3, 2, 1)

        def forward(self, x):
            self.aux(x)
            return super().forward(x)

    drop = Drop(r"^aux\.", reason="its output is discarded")
    case = minimal(reference=TorchMore, weights=(*RULES, drop))
    assert run(case, stages=["forward"], **QUICK).first[1].point == "forward/aux"
    case = dataclasses.replace(case, ignored=((r"/aux$", drop.reason),))
    assert run(case, stages=["forward"], **QUICK).passed


DROPOUTS = {
    "rate": lambda: paddle.nn.Dropout(0.4),
    "mode": lambda: paddle.nn.Dropout(0.5, mode="downscale_in_infer"),
    "whole channels": lambda: paddle.nn.Dropout(0.5, axis=1),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_another_dropout_is_found_although_nothing_is_dropped(name):
    port = changed(PaddleNet, lambda model: setattr(model, "drop", DROPOUTS[name]()))
    result = run(minimal(port=port), stages=["forward", "forward_train"], **QUICK)
    assert result.first[1].point == "forward_train/dropout/drop"


def test_one_sided_relus_and_layers_that_never_run_are_reported():
    def add_unused(module):
        return lambda model: setattr(model, "unused", module())

    case = minimal(
        reference=changed(TorchNet, add_unused(lambda: torch.nn.Linear(2, 2))),
        port=changed(PaddleNet, add_unused(lambda: paddle.nn.Linear(2, 2))),
    )
    state = {name: np.abs(value) for name, value in _state(case).items()}  # nothing below zero behind `hidden`
    state["norm.bias"] = np.full(8, 100.0)
    result = run(case, stages=["forward"], weights=state, **QUICK)
    assert result.passed
    assert result.coverage["leaves_never_run"] == ["unused"] and result.coverage["relus_one_sided"] == ["act"]


def _state(case):
    from parity import fill

    return fill.state(TorchSide(case.reference).shapes(), 0)


# --- what crashes ---------------------------------------------------------------------------------------------------


def raising(message):
    def fail(*arguments):
        raise ValueError(message)

    return fail


def test_a_crash_names_the_last_layer_that_agreed_and_the_first_not_reached():
    port = changed(PaddleNet, lambda model: setattr(model.fc1, "forward", raising("bad shape")))
    result = run(minimal(port=port), stages=["forward"], **QUICK)
    forward = stage(result, "forward")
    assert result.exit_code == 3 and not result.passed
    assert forward.crash == "the port raised ValueError: bad shape"
    assert (forward.first.point, forward.first.verdict) == ("forward/fc1", "missing")
    good = [finding.point for finding in forward.findings if finding.passed]
    assert good[-1] == "forward/stem.2@2"


def test_a_crash_of_the_reference_is_told_apart():
    reference = changed(TorchNet, lambda model: setattr(model.head, "forward", raising("out of tune")))
    result = run(minimal(reference=reference), stages=["forward"], **QUICK)
    assert result.exit_code == 3 and stage(result, "forward").crash == "the reference raised ValueError: out of tune"


@pytest.mark.parametrize(
    ("part", "first_stage"), [("losses", "loss"), ("optimizer", "step"), ("postprocess", "postprocess")]
)
def test_a_crash_after_the_model_is_of_its_own_stage(part, first_stage):
    case = trained()
    nothing = {"postprocess": lambda outputs: {}}
    sides = {name: dataclasses.replace(getattr(case, name), **nothing) for name in ("reference", "port")}
    wrong = (lambda targets: raising("boom")) if part == "losses" else raising("boom")
    sides["port"] = dataclasses.replace(sides["port"], **{part: wrong})
    result = run(dataclasses.replace(case, **sides), **QUICK)
    crashed = [s.stage for s in result.stages if s.crash]
    assert result.exit_code == 3 and crashed[0] == first_stage
    assert stage(result, first_stage).crash == "the port raised ValueError: boom"
    assert stage(result, "forward_train").passed


@pytest.mark.parametrize("name", ["reference", "port"])
def test_a_model_that_cannot_be_built_is_a_crash_of_its_side(name):
    result = run(minimal(**{name: raising("no such backbone")}), **QUICK)
    assert result.exit_code == 3
    assert result.stages[0].crash == f"the {name} cannot be built: ValueError: no such backbone"


def test_a_diagnosis_that_fails_does_not_hide_the_verdict(monkeypatch):
    monkeypatch.setattr(PaddleSide, "attributes", raising("unknown layer"))
    port = changed(PaddleNet, lambda model: setattr(model.stem[1], "_epsilon", 1e-3))
    result = run(minimal(port=port), stages=["forward"], **QUICK)
    assert result.first[1].point == "forward/stem.1" and "the diagnosis raised ValueError" in result.first[0].cause


# --- processes of their own -----------------------------------------------------------------------------------------

SCRIPT = """
import importlib.util, json, sys
sys.path.insert(0, {root!r})

def part(side, what):
    def build(*arguments):  # in the process of that side
        spec = importlib.util.spec_from_file_location("pair", {file!r})
        pair = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(pair)
        return getattr(pair, side + what)(*arguments)
    return build

from parity import Case, Rename, Schedule, Side, inputs, run

case = Case(
    name="mine",
    reference=Side(part("Torch", "Net"), part("torch", "_losses"), part("torch", "_sgd")),
    port=Side(part("Paddle", "Net"), part("paddle", "_losses"), part("paddle", "_sgd")),
    inputs={{"image": inputs.image(4), "label": inputs.labels(4, 5, ignore=0)}},
    size=(9, 13),
    weights=(Rename("^conv1.", "stem.0."), Rename("^norm.", "stem.1."), Rename("^act.", "stem.2."),
             Rename("^hidden.", "fc1.")),
    trajectory=Schedule(steps=4),
)
result = run(case, isolate=True, float32=False)
result.release()
json.dump({{"result": result.to_dict(), "loaded": sorted({{"torch", "paddle"}} & set(sys.modules))}}, sys.stdout)
"""


def test_isolated_sides_give_the_same_verdict(tmp_path):
    script = tmp_path / "isolated.py"
    script.write_text(SCRIPT.format(root=str(ROOT), file=__file__), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    apart = json.loads(done.stdout)
    here = json.loads(json.dumps(run(trained(), float32=False).to_dict()))
    assert apart["loaded"] == []  # neither framework is in the process that compares
    for report in (apart["result"], here):
        del report["seconds"]
        for entry in report["stages"]:
            del entry["seconds"]
    assert apart["result"] == here


# --- what no sampled number would show ------------------------------------------------------------------------------


def dropping_at(milestone):
    return lambda iteration, schedule: 0.05 if iteration < milestone else 0.005


@pytest.mark.parametrize("milestone", [6043, 5999, 6001])
def test_a_milestone_that_is_one_iteration_off_is_found(milestone):
    case = trained(step=Schedule(steps=1, iters=10000))
    rates = [
        dataclasses.replace(side, rate=dropping_at(at)) for side, at in ((case.reference, 6000), (case.port, 6000))
    ]
    right = dataclasses.replace(case, reference=rates[0], port=rates[1])
    assert run(right, stages=["step"], **QUICK).passed
    wrong = dataclasses.replace(right, port=dataclasses.replace(case.port, rate=dropping_at(milestone)))
    result = run(wrong, stages=["step"], **QUICK)
    assert not result.passed and stage(result, "step").first.point == f"step/schedule/{min(milestone, 6000)}"


def test_a_network_that_computes_nothing_but_nan_does_not_pass():
    class Broken(TorchNet):
        def forward(self, x):
            return super().forward(x) * float("nan")

    class AlsoBroken(PaddleNet):
        def forward(self, x):
            return super().forward(x) * 2 * float("nan")

    result = run(minimal(reference=Broken, port=AlsoBroken), stages=["forward"], **QUICK)
    assert not result.passed and "NaN" in stage(result, "forward").first.text


def test_numbers_that_are_not_finite_on_both_sides_are_reported():
    def corner(x):
        x[:, 0] = float("inf")
        return x

    class Infinite(TorchNet):
        def forward(self, x):
            return corner(super().forward(x))

    class AlsoInfinite(PaddleNet):
        def forward(self, x):
            return corner(super().forward(x))

    result = run(minimal(reference=Infinite, port=AlsoInfinite), stages=["forward"], **QUICK)
    assert result.passed and result.coverage["not_finite"] == ["forward/output/0"]


def test_a_setting_that_shows_at_no_number_of_this_size_is_reported():
    def pooled(build, layer):
        return changed(build, lambda model: setattr(model, "drop", layer))

    pair = {"reference": pooled(TorchNet, torch.nn.MaxPool2d(2, ceil_mode=True))}
    pair["port"] = pooled(PaddleNet, paddle.nn.MaxPool2D(2))
    result = run(minimal(**pair), stages=["weights"], **QUICK)
    assert result.coverage["set_differently"] == ["drop: ceil_mode False, reference True"]
    assert run(minimal(), stages=["weights"], **QUICK).coverage["set_differently"] == []


def test_names_that_follow_from_a_layers_type_need_no_rule():
    def torch_net():
        layers = (torch.nn.Conv2d(3, 6, 3), torch.nn.InstanceNorm2d(6, affine=True), torch.nn.PReLU(6))
        return torch.nn.Sequential(
            *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, CLASSES)
        )

    def paddle_net():
        layers = (paddle.nn.Conv2D(3, 6, 3), paddle.nn.InstanceNorm2D(6), paddle.nn.PReLU(6))
        pooled = (paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten())
        return paddle.nn.Sequential(*layers, *pooled, paddle.nn.Linear(6, CLASSES))

    result = run(trained(torch_net, paddle_net, weights=()), **QUICK)
    assert result.passed, str(result)
    points = {finding.point for finding in stage(result, "step").findings}
    assert {"step/1/update/1.weight", "step/1/optimizer/2.weight.velocity"} <= points


def test_where_training_starts_is_compared_if_both_sides_ask_for_it():
    sides = [dataclasses.replace(side, initial=True) for side in (minimal().reference, minimal().port)]
    result = run(minimal(reference=sides[0], port=sides[1]), stages=["initial"], **QUICK)
    first = stage(result, "initial")
    assert not result.passed and first.first.point == "initial/stem.0.weight"
    assert "Paddle's default" in first.cause and "torch's default" in first.cause

    def like_torch(model):
        for layer in model.sublayers():
            if isinstance(layer, (paddle.nn.Conv2D, paddle.nn.Linear)):
                ins = layer.weight.shape[0] if isinstance(layer, paddle.nn.Linear) else np.prod(layer.weight.shape[1:])
                fill = paddle.nn.initializer.Uniform(-(ins**-0.5), ins**-0.5)
                for parameter in layer.parameters():
                    fill(parameter)

    mended = dataclasses.replace(sides[1], model=changed(PaddleNet, like_torch))
    assert run(minimal(reference=sides[0], port=mended), stages=["initial"], **QUICK).passed
    with pytest.raises(CaseError, match="only the reference gives `initial`"):
        run(minimal(reference=sides[0]), stages=["initial"], **QUICK)
    assert stage(run(minimal(), stages=["initial"], **QUICK), "initial").reason == "the case gives no `initial`"


def test_a_port_with_an_optimizer_of_its_own_names_parameters_as_paddle_does():
    """Its rates have Paddle's names, as `paddleseg_ext.optim` gives them; the harness compares torch's."""

    class Own:
        def __init__(self, model):
            self.inner = paddle.optimizer.Momentum(0.05, 0.9, parameters=model.parameters(), weight_decay=1e-3)
            self.names = [name for name, _ in model.named_parameters()]

        def step(self):
            self.inner.step()

        def learning_rates(self):
            return dict.fromkeys(self.names, 0.05)

    def torch_net():
        layers = (torch.nn.Conv2d(3, 6, 3), torch.nn.InstanceNorm2d(6, affine=True), torch.nn.PReLU(6))
        return torch.nn.Sequential(
            *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, CLASSES)
        )

    def paddle_net():
        layers = (paddle.nn.Conv2D(3, 6, 3), paddle.nn.InstanceNorm2D(6), paddle.nn.PReLU(6))
        return paddle.nn.Sequential(
            *layers, paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten(), paddle.nn.Linear(6, CLASSES)
        )

    case = trained(
        torch_net, paddle_net, optimizers=(torch_sgd, lambda model, losses, schedule: Own(model)), weights=()
    )
    result = run(case, **QUICK)
    assert result.passed, str(result)


# --- what a layer that is not run is called -------------------------------------------------------------------------


def test_a_layer_that_the_port_forgets_to_run_is_said_to_be_never_run():
    class Forgetful(PaddleNet):
        def forward(self, x):
            x = self.stem(x)
            x = self.stem[2](self.stem[1](self.conv2(x)))
            return self.head(self.stem[2](self.fc1(x.mean([2, 3]))))  # no dropout

    result = run(minimal(port=Forgetful), stages=["forward"], **QUICK)
    assert stage(result, "forward").cause.startswith("the port has the layer drop, but never runs it")


def test_what_is_no_model_or_no_tensor_is_named():
    crash = stage(run(minimal(port=lambda: None), **QUICK), "weights").crash
    assert "its function returns a NoneType; expected a paddle.nn.Layer" in crash

    class Nested(PaddleNet):
        def forward(self, x):
            return {"logits": (super().forward(x),)}

    result = run(minimal(port=Nested), stages=["forward"], **QUICK)
    assert "the model's output logits is a tuple; expected a tensor" in stage(result, "forward").crash


def test_what_counts_as_padding_does_not_matter_where_there_is_none():
    pair = {
        "reference": changed(TorchNet, lambda model: setattr(model, "drop", torch.nn.AvgPool2d(2))),
        "port": changed(PaddleNet, lambda model: setattr(model, "drop", paddle.nn.AvgPool2D(2))),
    }
    assert run(minimal(**pair), stages=["weights"], **QUICK).coverage["set_differently"] == []


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (torch.nn.ReLU(), paddle.nn.ReLU6(), ["stem.2: ReLU6, reference ReLU"]),
        (torch.nn.SiLU(), paddle.nn.Swish(), []),
        (torch.nn.Identity(), paddle.nn.Dropout(0.0), []),
    ],
)
def test_another_activation_that_computes_the_same_of_this_input_is_reported(theirs, ours, said):
    pair = {
        "reference": changed(TorchNet, lambda model: setattr(model, "act", theirs)),
        "port": changed(PaddleNet, lambda model: setattr(model.stem, "2", ours)),
    }
    assert run(minimal(**pair), stages=["weights"], **QUICK).coverage["set_differently"] == said
