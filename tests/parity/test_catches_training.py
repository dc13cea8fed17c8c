"""Porting mistakes in losses, training and data, planted one at a time in the port of STDC1.

Every mistake is made in a port that is correct otherwise, and the first divergence has to be the loss term, the rate,
the accumulator or the update where the mistake is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_ext.losses import build_losses
from paddleseg_ext.optim import PolynomialDecay, build_optimizer
from parity import Case
from parity.cases import engine, stdc

pytestmark = pytest.mark.parity

FEATURES = "cp.backbone.features"


# --- ways to make a mistake -----------------------------------------------------------------------------------------


def editing(**changes: Any) -> Callable[[Any, Any], Any]:
    """Sets attributes of the three cross-entropies."""

    def change(losses: Any, targets: Any) -> Any:
        for name in ("loss_seg", "loss_aux16", "loss_aux32"):
            for attribute, value in changes.items():
                assert hasattr(getattr(losses, name), attribute)
                setattr(getattr(losses, name), attribute, value)
        return losses

    return change


def wrong_terms(wrong: Callable[..., dict[str, Any]]) -> Callable[[Any, Any], Any]:
    """Losses whose terms are `wrong(own losses, outputs, targets)`."""
    return lambda losses, _: lambda outputs, targets: wrong(losses, outputs, targets)


def detail(part: str, wrong: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Replaces one part of the detail loss by `wrong(upsampled logits, target)`."""

    def terms(losses: Any, outputs: Any, targets: Any) -> dict[str, Any]:
        label = targets["label"]
        logits = F.interpolate(outputs["detail8"], label.shape[1:], mode="bilinear", align_corners=True)
        target = losses.loss_detail.target(label).astype(logits.dtype).detach()
        return {**losses(outputs, targets), f"loss_detail_{part}": wrong(logits, target)}

    return wrong_terms(terms)


def count_ignored_pixels(losses: Any, outputs: Any, targets: Any) -> dict[str, Any]:
    label = targets["label"]
    return losses(outputs, {"label": paddle.where(label == 255, paddle.zeros_like(label), label)})


def sum_over_hard_pixels(losses: Any, outputs: Any, targets: Any) -> dict[str, Any]:
    terms = losses(outputs, targets)
    return {name: value * targets["label"].size if name == "loss_seg" else value for name, value in terms.items()}


def exchange_aux_outputs(losses: Any, outputs: Any, targets: Any) -> dict[str, Any]:
    return losses({**outputs, "aux16": outputs["aux32"], "aux32": outputs["aux16"]}, targets)


def dice_of_the_batch(logits: Any, target: Any) -> Any:
    prob = F.sigmoid(logits)
    return 1.0 - (2.0 * (prob * target).sum() + 1.0) / (prob.sum() + target.sum() + 1.0)


def set_fuse_kernel(*values: float) -> Callable[[Any, Any], Any]:
    def change(losses: Any, targets: Any) -> Any:
        losses.loss_detail.fuse_kernel.set_value(np.float32(values).reshape(1, 3, 1, 1))
        return losses

    return change


def fixed_fuse_kernel(losses: Any, targets: Any) -> Any:
    ohem = {"type": "OhemCrossEntropy", "thresh": 0.7, "min_kept": stdc.min_kept(targets)}
    names = {"semantic": "loss_seg", "aux16": "loss_aux16", "aux32": "loss_aux32"}
    terms = [{**ohem, "output": output, "name": name} for output, name in names.items()]
    return build_losses([*terms, {"type": "DetailAggregateLoss", "output": "detail8", "name": "loss_detail"}])


def polynomial(schedule: Any, **changes: Any) -> PolynomialDecay:
    """The case's schedule, but for what is given."""
    own = {"learning_rate": 0.01, "power": 0.9, "warmup": "multiplicative", "warmup_start_lr": 1e-5}
    return PolynomialDecay(**{**own, "iters": schedule.iters, "warmup_iters": schedule.warmup_iters, **changes})


def training(
    *, groups: Any = stdc.PARAM_GROUPS, shift: int = 0, rate: Any = None, **changes: Any
) -> Callable[..., Any]:
    """The case's optimizer, but for what is given."""

    def build(model: Any, losses: Any, schedule: Any) -> Any:
        config = {"type": "Momentum", "momentum": 0.9, "weight_decay": 5e-4, "param_groups": groups, **changes}
        optimizer = build_optimizer(config, polynomial(schedule, **(rate or {})), model=model, losses=losses)
        own = optimizer.schedule
        optimizer.schedule = lambda iteration: own(iteration + shift)
        return optimizer

    return build


def groups_with(index: int, **changes: Any) -> tuple[Any, ...]:
    """The case's parameter groups with one of them changed."""
    return tuple({**rule, **changes} if i == index else rule for i, rule in enumerate(stdc.PARAM_GROUPS))


def one_label(label: np.ndarray) -> np.ndarray:
    label = label.copy()
    label[37, 11] += 1
    return label


def forgetful(model: Any, losses: Any, schedule: Any) -> Any:
    """An optimizer that loses its accumulators once, as if it were resumed without its state."""
    optimizer = training()(model, losses, schedule)
    own = optimizer.step

    def step(iteration: int, scaler: Any = None) -> None:
        if iteration == schedule.start + 3:
            for value in optimizer.inner._accumulators["velocity"].values():
                value.zero_()
        own(iteration, scaler)

    optimizer.step = step
    return optimizer


def hoarding(model: Any, losses: Any, schedule: Any) -> Any:
    """An optimizer that never clears the gradients."""
    optimizer = training()(model, losses, schedule)
    optimizer.clear_grad = lambda: None
    return optimizer


def without_auxiliary(model: Any, losses: Any, optimizer: Any, inputs: Any, targets: Any, iteration: int) -> Any:
    """A training step that minimises the first term alone."""

    def first(outputs: Any, targets: Any) -> Any:
        return dict(list(losses(outputs, targets).items())[:1])

    terms = engine.train_step(model, first, optimizer, inputs, targets, iteration)
    return {**dict.fromkeys(("loss_aux16", "loss_aux32", "loss_detail_bce", "loss_detail_dice"), 0.0), **terms}


# --- the mistakes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """One mistake and what has to be said of it.

    Attributes:
        point: `<stage>/<name>` of the first divergence.
        losses: changes built losses, or builds wrong ones; called with the losses and the targets.
        optimizer: wrong one; called as the case's own, as are the next two.
        rate: wrong schedule.
        postprocess: wrong one.
        train_step: wrong one.
        data: changes what the data pipeline makes, by name.
        verdict: of the first finding.
        cause: what the diagnosis has to contain.
    """

    point: str
    losses: Callable[[Any, Any], Any] = lambda losses, targets: losses
    optimizer: Callable[[Any, Any, Any], Any] | None = None
    rate: Callable[[int, Any], float] | None = None
    postprocess: Callable[[Any], Any] | None = None
    train_step: Callable[..., Any] | None = None
    data: Callable[[str, np.ndarray], np.ndarray] | None = None
    verdict: str = "fail"
    cause: str = ""

    def planted_in(self, case: Case) -> Case:
        """The case with this mistake in its port."""
        own = case.port
        names = ("optimizer", "rate", "postprocess", "train_step")
        changes = {name: getattr(self, name) for name in names if getattr(self, name)}
        changes["losses"] = lambda targets: self.losses(own.losses(targets), targets)
        if self.data:
            changes["data"] = lambda seed: {name: self.data(name, value) for name, value in own.data(seed).items()}
        return dataclasses.replace(case, port=dataclasses.replace(own, **changes))


FAULTS = {
    # losses
    "OHEM threshold is 0.69": Fault(
        "loss/mixed/loss_seg", losses=editing(threshold=float(np.float32(-np.log(np.float32(0.69)))))
    ),
    "OHEM keeps one pixel more": Fault(
        "loss/confident/loss_seg",
        losses=lambda losses, targets: editing(min_kept=stdc.min_kept(targets) + 1)(losses, targets),
    ),
    "ignored pixels count as class 0": Fault("loss/loss_seg", wrong_terms(count_ignored_pixels)),
    "a loss is summed": Fault("loss/loss_seg", losses=wrong_terms(sum_over_hard_pixels)),
    "auxiliary outputs are exchanged": Fault("loss/loss_aux16", losses=wrong_terms(exchange_aux_outputs)),
    "the detail kernel is another": Fault("loss/loss_detail_bce", losses=set_fuse_kernel(0.6, 0.3, 0.12)),
    "dice is of the batch": Fault("loss/loss_detail_dice", losses=detail("dice", dice_of_the_batch)),
    "binary cross-entropy is Paddle's own": Fault(
        "loss/confident/d_detail8", losses=detail("bce", F.binary_cross_entropy_with_logits)
    ),
    # training
    "norms are decayed": Fault(
        "step/1/optimizer/cp.arm16.conv.bn.weight.velocity",
        optimizer=training(groups=stdc.PARAM_GROUPS[:3]),
        cause="weight decay",
    ),
    "biases of the heads are decayed": Fault(
        "step/1/optimizer/ffm.convblk.bn.bias.velocity",
        optimizer=training(groups=({"name": r"^(ffm|conv_out\w*)\..*bias$", "lr_mult": 10.0}, *stdc.PARAM_GROUPS)),
    ),
    "heads learn at the rate of the rest": Fault(
        "step/1/learning_rate/ffm.convblk.conv.weight", optimizer=training(groups=groups_with(2, lr_mult=1.0))
    ),
    "norms of the backbone are trained": Fault(
        f"step/1/update/{FEATURES}.0.bn.weight", optimizer=training(groups=stdc.PARAM_GROUPS[1:])
    ),
    "the detail kernel is not decayed": Fault(
        "step/1/learning_rate/losses.loss_detail.fuse_kernel", losses=fixed_fuse_kernel, verdict="missing"
    ),
    "the schedule is one step ahead": Fault(
        f"step/1/learning_rate/{FEATURES}.0.conv.weight", optimizer=training(shift=1)
    ),
    "the warm-up is linear": Fault(
        f"step/1/learning_rate/{FEATURES}.0.conv.weight", optimizer=training(rate={"warmup": "linear"})
    ),
    "the decay is linear": Fault(
        "step/schedule/1001",
        rate=lambda iteration, schedule: polynomial(schedule, power=1.0)(iteration),
        cause="power 1, reference 0.9",
    ),
    "momentum is 0.95": Fault(f"step/2/optimizer/{FEATURES}.0.conv.weight.velocity", optimizer=training(momentum=0.95)),
    "momentum is Nesterov's": Fault(
        f"step/1/update/{FEATURES}.0.conv.weight", optimizer=training(use_nesterov=True), cause="momentum is Nesterov's"
    ),
    "gradients are clipped": Fault(
        f"step/1/optimizer/{FEATURES}.0.conv.weight.velocity",
        optimizer=training(grad_clip={"type": "ClipGradByGlobalNorm", "clip_norm": 0.1}),
    ),
    "accumulators are forgotten at the fourth step": Fault("trajectory/5/loss/loss_seg", optimizer=forgetful),
    "gradients of the last step stay": Fault(
        f"step/2/optimizer/{FEATURES}.0.conv.weight.velocity", optimizer=hoarding, cause="not cleared"
    ),
    "the engine minimises one term alone": Fault("step/1/loss/loss_aux16", train_step=without_auxiliary),
    "the engine counts from 1": Fault(
        f"step/1/learning_rate/{FEATURES}.0.conv.weight",
        train_step=lambda *arguments: engine.train_step(*arguments[:-1], arguments[-1] + 1),
    ),
    # before and after the model
    "colours are in OpenCV's order": Fault("data/0/image", data=lambda name, x: x[::-1] if "image" in name else x),
    "one label of many is another": Fault(
        "data/3/label", data=lambda name, x: one_label(x) if "3/label" in name else x
    ),
    "the prediction is of another output": Fault(
        "postprocess/pred", postprocess=lambda outputs: {"pred": outputs["aux16"].argmax(1).numpy()}
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found_where_it_is(name, small_case, assert_found):
    fault = FAULTS[name]
    assert_found(fault.planted_in(small_case), fault.point, verdict=fault.verdict, cause=fault.cause)
