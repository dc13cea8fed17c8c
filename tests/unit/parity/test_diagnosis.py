"""What the diagnosis reads from numbers: relations between tensors, fitted optimizer steps, schedules."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch

from parity.compare import Finding
from parity.diagnosis import conditioning, data, glue, leaf, losses, metrics, rates, runs, updates, values
from parity.diagnosis.calls import Call, Pass
from parity.traces import Trace, digest

RANDOM = np.random.RandomState(0)
IMAGE = RANDOM.standard_normal((2, 3, 5, 7))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[..., ::-1], "mirrored"),
        (lambda x: x[..., ::-1, :], "upside down"),
        (lambda x: x[:, ::-1], "BGR for RGB"),
        (lambda x: x[:, [1, 0, 2]], "another order (channel 0 is the original's 1)"),
        (lambda x: 0.25 * x, "0.25 times"),
        (lambda x: np.maximum(x, 0), "relu"),
        (lambda x: np.roll(x, 1, axis=3), "shifted by 1 columns"),
    ],
)
def test_what_was_done_to_a_tensor_is_recognised(change, said):
    assert said in values.relation(IMAGE, change(IMAGE))


def test_one_changed_element_is_found_and_located():
    changed = IMAGE.copy()
    changed[1, 2, 3, 4] += 1e-6
    assert values.relation(IMAGE, changed) == "differs in 1 of 210 elements only, first at [1, 2, 3, 4]"


def test_a_dropout_is_recognised_by_its_holes_and_what_makes_up_for_them():
    holes = np.random.RandomState(1).uniform(size=IMAGE.shape) < 0.25
    said = values.relation(IMAGE, np.where(holes, 0.0, IMAGE / 0.75))
    assert f"is 0 in {100 * holes.mean():.3g} % of its elements and 1.33333 times" in said
    assert said.endswith("a dropout of 0.25 that is on")
    assert "dropout" not in values.relation(IMAGE, np.where(holes, 0.0, 0.75 * IMAGE))


def test_a_line_of_a_tensor_is_recognised():
    assert values.line(IMAGE, 0.5 * IMAGE + 0.25) == "is 0.5 times the reference's +0.25"
    assert values.line(IMAGE, IMAGE**2) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: np.concatenate([w[2:], w[:2]]), "output channels in another order: 3 parts"),
        (lambda w: np.concatenate([w[3:], w[:3]]), "output channels in another order: 2 parts"),
        (lambda w: np.concatenate([w[:, 2:], w[:, :2]], axis=1), "input channels in another order: 2 parts"),
        (lambda w: w[..., ::-1, ::-1], "mirrored"),
    ],
)
def test_what_was_done_to_a_kernel_is_recognised(change, said):
    kernel = RANDOM.standard_normal((6, 4, 3, 3))
    assert said in leaf.origin(change(kernel), "w", {"w": kernel})


def test_unrelated_tensors_have_no_relation():
    assert values.relation(IMAGE, RANDOM.standard_normal(IMAGE.shape)) == ""


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky relu 0.01", "sigmoid"])
def test_the_function_between_two_tensors_is_named(name):
    x = 10 * IMAGE
    assert values.function_between(x, values.FUNCTIONS[name](x)) == name


# --- optimizers: each step is computed here by its definition -----------------------------------------------------


def sgd_step(gradient, before, *, rate=0.1, decay=0.0, scale=1.0, momentum=0.9, nesterov=False):
    total = scale * gradient + decay * before
    update = -rate * (total + momentum * total if nesterov else total)
    return {"learning_rate/w": rate, "optimizer/w.velocity": total, "update/w": update}


def adam_step(gradient, before, *, rate=0.1, decay=0.0, decoupled=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8, scale=1.0):
    total = scale * gradient + decay * before
    moment1, moment2 = (1 - beta1) * total, (1 - beta2) * total**2
    update = -rate * (moment1 / (1 - beta1) / (np.sqrt(moment2 / (1 - beta2)) + epsilon)) - rate * decoupled * before
    numbers = {"optimizer/w.moment1": moment1, "optimizer/w.moment2": moment2}
    return {"learning_rate/w": rate, "update/w": update, **numbers}


GRADIENT, BEFORE = RANDOM.standard_normal((2, 60, 5))


def test_what_most_parameters_have_is_told_before_what_seems_so_in_one():
    plain = {name: updates.Rule(1.0, 0.0) for name in "abc"}
    decaying = {**{name: updates.Rule(1.0, 1e-4) for name in "ab"}, "c": updates.Rule(0.002, 1e-4)}
    assert updates.compare_rules(decaying, plain).startswith("weight decay 0.0001, reference 0, of all 3 parameters")


def test_of_two_numbers_no_decay_is_fitted():
    gradient, before = GRADIENT[0, :2], BEFORE[0, :2]
    rules = [updates.read("w", adam_step(gradient, before, epsilon=e), gradient, before) for e in (1e-6, 1e-8)]
    assert [rule.decoupled for rule in rules] == [0.0, 0.0]


def said_of(step, ours, theirs):
    rules = [{"w": updates.read("w", step(GRADIENT, BEFORE, **how), GRADIENT, BEFORE)} for how in (ours, theirs)]
    return updates.compare_rules(*rules)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({"decay": 5e-4}, {}, "weight decay 0.0005, reference 0"),
        ({}, {"decay": 1e-4}, "weight decay 0, reference 0.0001"),
        ({"scale": 0.02}, {}, "0.02 times the reference's"),
        ({"nesterov": True}, {}, "the port's momentum is Nesterov's"),
        ({}, {"nesterov": True}, "the reference's momentum is Nesterov's"),
    ],
)
def test_a_step_of_sgd_is_fitted(ours, theirs, said):
    assert said in said_of(sgd_step, ours, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({"beta1": 0.95}, {}, "beta1 0.95, reference 0.9"),
        ({"beta2": 0.99}, {}, "beta2 0.99, reference 0.999"),
        ({"decay": 1e-4}, {"decay": 0.0}, "weight decay 0.0001, reference 0"),
        ({"decoupled": 0.01}, {}, "AdamW"),
        ({"epsilon": 1e-3}, {"epsilon": 1e-5}, "epsilon 0.001, reference 1e-05"),
        ({"epsilon": 1e-6}, {}, "epsilon 1e-06, reference 1e-08"),
        ({"scale": 1.2e-5}, {}, "1.2e-05 times the reference's"),
    ],
)
def test_a_step_of_adam_is_fitted(ours, theirs, said):
    assert said in said_of(adam_step, ours, theirs)


def test_a_parameter_without_a_gradient_says_nothing_of_adam():
    zero = np.zeros_like(GRADIENT)
    told = {"w": updates.read("w", adam_step(GRADIENT, BEFORE), GRADIENT, BEFORE)}
    assert (
        updates.read("z", {k.replace("/w", "/z"): v for k, v in adam_step(zero, BEFORE).items()}, zero, BEFORE) is None
    )
    assert updates.compare_rules({**told, "z": None}, {**told, "z": None}) == ""


def test_rows_without_a_gradient_leave_adams_epsilon_to_the_others():
    sparse = GRADIENT.copy()
    sparse[0] = 0.0
    rules = [{"w": updates.read("w", adam_step(sparse, BEFORE, epsilon=e), sparse, BEFORE)} for e in (1e-3, 1e-5)]
    assert "epsilon 0.001, reference 1e-05" in updates.compare_rules(*rules)


def test_gradients_that_adam_gets_scaled_are_told_from_other_betas():
    ours = {"w": updates.read("w", adam_step(0.02 * GRADIENT, BEFORE), GRADIENT, BEFORE)}
    theirs = {"w": updates.read("w", adam_step(GRADIENT, BEFORE), GRADIENT, BEFORE)}
    assert "0.02 times the reference's" in updates.compare_rules(ours, theirs)


@pytest.mark.parametrize("step", [sgd_step, adam_step])
def test_equal_steps_say_nothing(step):
    assert said_of(step, {"decay": 1e-4}, {"decay": 1e-4}) == ""


def test_a_step_that_no_rule_makes_is_not_read():
    step = {**sgd_step(GRADIENT, BEFORE), "optimizer/w.velocity": GRADIENT**2}
    assert updates.read("w", step, GRADIENT, BEFORE) is None


def test_another_momentum_is_read_from_the_second_step():
    second = RANDOM.standard_normal(GRADIENT.shape)
    steps = [{"optimizer/w.velocity": second + momentum * GRADIENT} for momentum in (0.9, 0.95)]
    first = {"optimizer/w.velocity": GRADIENT}
    said = updates.compare_momentum(tuple(steps), (first, first), ["w"], 0.9)
    assert said.startswith("momentum 0.95, reference 0.9")


def adam_moments(gradients, *, lost=False, kept=False):
    """Moments after the second of two steps of torch's Adam, and after the first."""
    parameters = {
        name: torch.nn.Parameter(torch.zeros(value.shape, dtype=torch.float64)) for name, value in gradients[0].items()
    }
    adam = torch.optim.Adam(parameters.values())
    steps = []
    for index, step in enumerate(gradients):
        for name, parameter in parameters.items():
            gradient = step[name] + (gradients[0][name] if kept and index else 0.0)
            parameter.grad = torch.from_numpy(gradient)
            if lost and index:
                adam.state[parameter]["exp_avg"].zero_(), adam.state[parameter]["exp_avg_sq"].zero_()
        adam.step()
        kinds = {"moment1": "exp_avg", "moment2": "exp_avg_sq"}
        steps.append(
            {
                f"optimizer/{name}.{kind}": adam.state[parameter][key].numpy().copy()
                for name, parameter in parameters.items()
                for kind, key in kinds.items()
            }
        )
    return steps[1], steps[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lost": True}, "differs by -0.9 times that of the step before, in 3"),
        ({"kept": True}, "added once more, in 3"),
    ],
)
def test_moments_of_adam_that_are_lost_or_gradients_that_are_kept_are_told(wrong, said):
    random = np.random.RandomState(1)
    gradients = [{name: random.standard_normal((3, 4)) for name in "abc"} for _ in range(2)]
    (reference, before), (own, _) = adam_moments(gradients), adam_moments(gradients, **wrong)
    assert said in updates.compare_momentum((reference, own), (before, before), list("abc"), None)


# --- schedules: a polynomial with a warm-up, by its definition ------------------------------------------------------


def polynomial(iteration, *, base=0.01, power=0.9, end=0.0, warmup=100, start=1e-5, kind="geometric", iters=1000):
    if iteration < warmup:
        part = iteration / warmup
        return start * (base / start) ** part if kind == "geometric" else start + (base - start) * part
    return (base - end) * (1 - (iteration - warmup) / (iters - warmup)) ** power + end


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (lambda i: polynomial(i, power=1.0), "power 1, reference 0.9"),
        (lambda i: 2 * polynomial(i), "2 times the reference's at every iteration"),
        (lambda i: polynomial(i + 1), "1 step ahead of the reference's"),
        (lambda i: polynomial(max(i - 1, 0)) if i else 0.0, ""),
        (lambda i: polynomial(i, kind="linear"), "the warm-up is linear, the reference's geometric"),
        (lambda i: polynomial(i, warmup=0), "no warm-up"),
        (lambda i: polynomial(i, end=1e-4), "ends at 0.0001"),
    ],
)
def test_a_schedule_is_told_from_another(ours, said):
    where = [0, 1, 2, 3, 50, 98, 99, 100, 101, 102, 400, 401, 402, 900, 996, 997]
    found = rates.explain_schedule(
        {i: ours(i) for i in where}, {i: polynomial(i) for i in where}, iters=1000, warmup=100
    )
    assert said in found and found


def test_a_group_without_its_multiplier_is_told_from_the_schedule():
    reference = {"a.weight": 0.1, "b.weight": 0.1, "head.weight": 1.0}
    said = rates.explain_groups({**reference, "head.weight": 0.1}, reference)
    assert "head.weight" in said and "0.1 times" in said and "multiplier" in said
    assert rates.explain_groups({name: 2 * rate for name, rate in reference.items()}, reference) == ""


def test_a_parameter_in_no_group_is_named():
    said = rates.explain_groups({"a": 0.1}, {"a": 0.1, "b": 0.1})
    assert "b" in said and "in no group of the port's optimizer" in said


# --- data -----------------------------------------------------------------------------------------------------------


def said_of_data(own, truth):
    recorded = {name: (value.shape, digest(value)) for name, value in truth.items()}
    return data.explain(Finding(f"data/{next(iter(own))}", "fail"), own, recorded)


def test_what_is_wrong_with_an_image_is_read_from_digests():
    truth = RANDOM.standard_normal((3, 20, 31))
    said = said_of_data({"0/image": truth[::-1]}, {"0/image": truth})
    assert "BGR for RGB" in said
    std = np.array([0.2, 0.3, 0.4])[:, None, None]
    assert "another mean and std" in said_of_data({"0/image": (truth - 0.5) / std}, {"0/image": truth})


def test_what_is_wrong_with_a_label_is_read_from_digests():
    truth = RANDOM.randint(0, 19, (20, 31))
    truth[:3] = 255
    assert "one more" in said_of_data({"0/label": np.where(truth == 255, 255, truth + 1)}, {"0/label": truth})
    assert "ignore" in said_of_data({"0/label": np.where(truth == 255, 0, truth)}, {"0/label": truth})


# --- what the traces of a forward pass say --------------------------------------------------------------------------


def trace(*names, **points):
    return Trace({**{name: np.zeros(1) for name in names}, **points})


def test_a_layer_that_runs_less_often_is_told():
    missing = Finding("forward/fc@2", "missing")
    said = runs.explain_missing(missing, (trace("fc", "fc@2"), trace("fc")))
    assert said.startswith("fc runs 1 time in the port, the reference's 2")
    assert runs.explain_missing(missing, (trace("fc"), trace("fc"))) == ""
    assert runs.explain_missing(Finding("forward/fc", "fail"), (trace("fc", "fc@2"), trace("fc"))) == ""


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (0.0, 1.0, "updated in training by the port, not by the reference"),
        (1.0, 0.0, "updated in training by the reference, not by the port"),
        (1.0, 2.0, ""),
    ],
)
def test_a_statistic_that_moves_on_one_side_only_is_told(theirs, ours, said):
    finding = Finding("forward_train/buffer/n.running_mean", "fail")
    traces = tuple(Trace({"buffer/n.running_mean": np.full(2, value)}) for value in (theirs, ours))
    found = runs.explain_buffer(finding, {"n.running_mean": np.zeros(2)}, traces)
    assert said in found and bool(found) == bool(said)


def test_a_buffer_that_is_a_parameter_is_told():
    finding = Finding("forward_train/buffer/n.weight", "missing")
    traces = (Trace({"buffer/n.weight": np.ones(2)}), Trace())
    assert "n.weight is a buffer in the reference and a parameter in the port" in runs.explain_buffer(
        finding, {"n.weight": np.ones(2)}, traces
    )


def sampled(grid, features=IMAGE, where="head"):
    return Pass(calls=[Call("grid_sample", "grid_sample", where, 0, [features, grid], np.zeros(1))])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda grid: grid[..., ::-1],
            "grid_sample called by head gets (second tensor) has x and y exchanged",
        ),
        (lambda grid: grid / 2 + 0.5, "is 0.5 times the reference's +0.5"),
        (lambda grid: grid[:, :3], "has shape (2, 3, 1, 2), reference (2, 5, 1, 2)"),
        (lambda grid: grid**3, ""),
    ],
)
def test_points_that_are_read_otherwise_are_told(change, said):
    grid = RANDOM.uniform(-1, 1, (2, 5, 1, 2))
    passes = glue.Glue(sampled(grid), sampled(change(grid)), {}, {})
    found = glue.explain(Finding("forward/fc", "fail"), passes, [], None, None)
    assert said in found and bool(found) == bool(said)


def test_who_calls_the_sampling_does_not_matter_if_both_call_it_as_often():
    grid = RANDOM.uniform(-1, 1, (2, 5, 1, 2))
    passes = glue.Glue(sampled(grid, where=""), sampled(grid[..., ::-1]), {}, {})
    assert "x and y exchanged" in glue.explain(Finding("forward/fc", "fail"), passes, [], None, None)


def test_what_a_layer_leaves_out_after_the_layers_inside_it_is_told():
    relu = np.maximum(IMAGE, 0)
    theirs = Pass([Call("relu", "relu", "block", 0, [IMAGE], relu)], {"block": [2 * IMAGE]}, {"block": relu})
    theirs.outputs["block.norm"] = IMAGE
    ours = Pass([], {"block": [2 * IMAGE]}, {"block": IMAGE})
    found = glue.explain(Finding("forward/block", "fail"), glue.Glue(theirs, ours, {}, {}), [], None, None)
    assert found.endswith("what block returns is the output of block.norm, which the reference first puts through relu")


@pytest.mark.parametrize(("rate", "said"), [(0.5, "random on both sides"), (0.1, "p 0.5, reference 0.1")])
def test_a_dropout_between_layers_is_told(rate, said):
    holes = RANDOM.uniform(size=(2, *IMAGE.shape)) < 0.5
    calls = [Call("dropout", "dropout", "head", 0, [IMAGE], np.where(drop, 0, 2 * IMAGE), {"p": 0.5}) for drop in holes]
    calls[0].settings["p"] = rate
    passes = glue.Glue(Pass(calls=calls[:1]), Pass(calls=calls[1:]), {}, {})
    passes.reference.outputs["stem"] = IMAGE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glue, "_what_if", lambda *arguments: "")
        assert said in glue.explain(Finding("forward/fc", "fail"), passes, [], None, None)


# --- figures: each is computed here by its definition ---------------------------------------------------------------

TP, FP, FN, SQ = (np.array(v) for v in ([3, 2, 5], [1, 0, 2], [1, 4, 0], [0.7, 0.8, 0.6]))
PQ = SQ * TP / (TP + FP / 2 + FN / 2)
IOU = np.array([0.5, 0.25, 1.0])
OFFICIAL = {
    "PQ": PQ,
    "PQ all": np.array([PQ.mean(), SQ.mean(), (PQ / SQ).mean()]),
    "TP": TP,
    "FP": FP,
    "FN": FN,
    "IoU": IOU,
    "mean IoU": np.array([IOU.mean()]),
    "AP": np.array([0.1, 0.2]),
    "AP50": np.array([0.3, 0.4]),
}


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("AP", {"AP": OFFICIAL["AP50"]}, "AP is the official AP50"),
        ("IoU", {"IoU": np.array([2 / 3, 0.4, 1.0])}, "Dice"),
        ("mean IoU", {"mean IoU": np.array([0.4])}, "the classes' IoU agree"),
        ("PQ", {"PQ": SQ * TP / (TP + FP + FN)}, "in full, the official one by half"),
        ("PQ all", {"PQ all": OFFICIAL["PQ all"] * [0, 1, 1] + [SQ.mean() * (PQ / SQ).mean(), 0, 0]}, "product"),
        ("IoU", {"IoU": np.array([0.4, 0.25, 0.9])}, "to be ignored"),
        ("PQ", {"PQ": PQ * 0.9, "TP": TP - np.array([1, 0, 0]), "FN": FN + np.array([1, 0, 0])}, "-1 TP, +1 FN"),
        ("mean AP", {}, "only one side has"),
    ],
)
def test_what_is_wrong_with_a_figure_is_told(name, changed, said):
    assert said in metrics.explain(name, {**OFFICIAL, **changed}, OFFICIAL)


# --- losses ---------------------------------------------------------------------------------------------------------


class OneLoss:
    """A side with one loss term, -log of the probability of label 1 pixels that are not ignored."""

    def __init__(self, ignore_index, *, says=True):
        from parity.case import Side

        class Loss:
            def __init__(self):
                if says:
                    self.ignore_index = ignore_index

        self.side = Side(model=lambda: None, losses=lambda targets: Loss())
        self.hidden = ignore_index

    def evaluate_losses(self, outputs, targets):
        ignored = getattr(self.side.losses(targets), "ignore_index", self.hidden)
        return Trace({"ce": np.array(outputs["x"][targets["label"] != ignored].sum())})


def test_an_ignore_index_is_told_even_where_the_reference_has_no_such_setting():
    outputs, targets = {"x": np.arange(4.0)}, {"label": np.array([0, 1, 255, 2])}
    reference, port = OneLoss(255, says=False), OneLoss(0)
    traces = tuple(side.evaluate_losses(outputs, targets) for side in (reference, port))
    said = losses.explain(Finding("loss/ce", "fail"), reference, port, {"": (outputs, targets)}, traces)
    assert "ignore_index 0, reference 255" in said


class Mean:
    """A side whose one loss term is a function of the output x."""

    def __init__(self, function):
        from parity.case import Side

        self.side, self.function = Side(model=lambda: None, losses=lambda targets: object()), function

    def evaluate_losses(self, outputs, targets):
        return Trace({"l2": np.array(self.function(np.asarray(outputs["x"], np.float64)))})


def said_of_mean(function):
    outputs, targets = {"x": np.arange(1.0, 5.0)}, {"label": np.zeros((2, 2), np.int64)}
    reference, port = Mean(lambda x: (x**2).mean()), Mean(function)
    traces = tuple(side.evaluate_losses(outputs, targets) for side in (reference, port))
    return losses.explain(Finding("loss/l2", "fail"), reference, port, {"": (outputs, targets)}, traces)


def test_a_constant_factor_of_a_loss_is_told():
    assert "l2 is 0.4 times the reference's, whatever it gets" in said_of_mean(lambda x: 0.4 * (x**2).mean())


def test_one_number_is_not_taken_for_a_constant_factor():
    assert "whatever it gets" not in said_of_mean(lambda x: np.abs(x).mean())


class Hardest:
    """A side whose one loss term is the mean of a share of the outputs, the largest; the reference shows no number."""

    def __init__(self, share, says=True):
        from parity.case import Side

        class Loss:
            def __init__(self):
                if says:
                    self.top_k = share

        self.side, self.hidden = Side(model=lambda: None, losses=lambda targets: Loss()), share

    def evaluate_losses(self, outputs, targets):
        share = getattr(self.side.losses(targets), "top_k", self.hidden)
        return Trace({"ce": np.array(np.sort(outputs["x"])[::-1][: int(share * outputs["x"].size)].mean())})


@pytest.mark.parametrize("share", [0.2, 0.35, 0.7])
def test_a_number_of_a_loss_is_fitted_where_the_reference_shows_none(share):
    outputs, targets = {"x": np.random.RandomState(0).standard_normal(1000) + 3.0}, {}
    reference, port = Hardest(share, says=False), Hardest(0.5)
    traces = tuple(side.evaluate_losses(outputs, targets) for side in (reference, port))
    said = losses.explain(Finding("loss/ce", "fail"), reference, port, {"": (outputs, targets)}, traces)
    assert f"has top_k 0.5; with {share}, the difference falls" in said


def test_no_number_is_fitted_that_would_not_be_round():
    outputs, targets = {"x": np.random.RandomState(0).standard_normal(10**6) + 3.0}, {}
    reference, port = Hardest(0.2345678, says=False), Hardest(0.5)
    traces = tuple(side.evaluate_losses(outputs, targets) for side in (reference, port))
    said = losses.explain(Finding("loss/ce", "fail"), reference, port, {"": (outputs, targets)}, traces)
    assert "top_k" not in said


# --- rounding -------------------------------------------------------------------------------------------------------


def test_a_number_that_moves_with_its_inputs_last_bit_is_not_called_a_mistake():
    x = np.array([1.0, 1.0 + 2.0**-26, 0.5])

    def small_difference(inputs):
        value = np.asarray(inputs[0], np.float64)
        return np.array([value[1] - value[0]])  # 2^-26 of numbers that are known to 2^-53: to 7e-9

    expected = small_difference([x])
    moved = small_difference(conditioning.nudged([x]))
    said = conditioning.explain(Finding("forward/x", "fail", 3e-8), expected, [None, expected, moved])
    assert "moves by" in said and "last bit" in said


def test_a_difference_that_rounding_does_not_explain_is_looked_into():
    x = np.array([1.0, 2.0])
    moved = conditioning.nudged([x])[0] ** 2
    assert not np.array_equal(moved, x**2) and np.allclose(moved, x**2, rtol=1e-15)
    assert conditioning.explain(Finding("forward/x", "fail", 3e-8), x**2, [moved]) == ""


def test_weights_are_moved_by_their_last_bits_and_counts_stay():
    state = {"weight": np.ones((3, 4)), "num_batches_tracked": np.array(7)}
    moved = conditioning.nudged_state(state)
    assert set(np.unique(moved["weight"])) == {1.0 - 2.0**-52, 1.0 + 2.0**-52} and moved["num_batches_tracked"] == 7


def test_a_large_difference_is_never_rounding():
    found = conditioning.explain(Finding("forward/x", "fail", 1e-3), np.ones(2), [np.zeros(2)])
    assert found == ""


# --- values that look drawn, statistics that torch would keep -------------------------------------------------------


def test_a_weight_that_was_initialised_after_loading_is_said_to_be():
    paddle.seed(0)
    conv = paddle.nn.Conv2D(16, 32, 3)
    held = {"conv.weight": 0.3 * np.random.RandomState(0).standard_normal((32, 16, 3, 3))}
    said = leaf.origin(conv.weight.numpy(), "conv.weight", held)
    assert said.startswith("looks drawn (Kaiming normal of fan_in") and "initialised after loading" in said
    assert "drawn" not in leaf.origin(held["conv.weight"] + 0.1, "conv.weight", held)


def test_a_running_variance_that_is_torchs_is_told():
    random = np.random.RandomState(0)
    x = torch.from_numpy(random.standard_normal((4, 6, 5, 7)))
    norm = torch.nn.BatchNorm2d(6, momentum=0.25).double()
    norm.running_var.copy_(torch.from_numpy(random.uniform(0.5, 2.0, 6)))
    before = norm.running_var.numpy().copy()
    norm(x)
    paddles = 0.75 * before + 0.25 * x.numpy().var((0, 2, 3))
    traces = tuple(Trace({"buffer/bn.running_var": v}) for v in (paddles, norm.running_var.numpy()))
    said = runs.explain_buffer(
        Finding("forward_train/buffer/bn.running_var", "fail"), {"bn.running_var": before}, traces
    )
    assert "unbiased" in said and "n = 140" in said
    wrong = (traces[0], Trace({"buffer/bn.running_var": 1.01 * paddles}))
    assert (
        runs.explain_buffer(Finding("forward_train/buffer/bn.running_var", "fail"), {"bn.running_var": before}, wrong)
        == ""
    )
