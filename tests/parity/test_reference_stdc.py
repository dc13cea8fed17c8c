"""The torch reference of STDC-Seg against hand computations and facts about upstream, without a checkout of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from parity import fill
from parity.reference import optim, stdc

pytestmark = pytest.mark.parity

UPSTREAM = {  # MichaelFan01/STDC-Seg@59ff37f: keys, parameters, members of the five groups, parameters in no group
    "STDCNet813": (445, 12_048_928, [39, 14, 17, 16, 1], 62),
    "STDCNet1446": (733, 16_079_392, [63, 14, 17, 16, 1], 110),
}


@pytest.fixture(scope="module", params=list(UPSTREAM))
def model(request):
    return stdc.BiSeNet(request.param, 19, use_boundary_8=True)


@pytest.fixture(scope="module")
def trained():
    """STDC1-Seg, its losses and its outputs after one backward pass in float64."""
    net = stdc.BiSeNet("STDCNet813", 19, use_boundary_8=True)
    values = fill.state({name: tuple(tensor.shape) for name, tensor in net.state_dict().items()})
    net.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in values.items()}, strict=True)
    net.double().train()
    losses = stdc.STDCLosses(n_min=256)
    random = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=random)
    label = torch.randint(0, 19, (2, 64, 64), generator=random)
    before = {name: tensor.clone() for name, tensor in net.named_buffers()}
    outputs = net(image)
    terms = losses(outputs, {"label": label})
    sum(terms.values()).backward()
    return net, losses, outputs, terms, before


# --- keys, parameters, groups ---------------------------------------------------------------------------------------


def test_key_and_parameter_counts_are_upstreams(model):
    keys, parameters, _, _ = UPSTREAM[type(model.cp.backbone).__name__]
    assert len(model.state_dict()) == keys
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_every_backbone_feature_has_an_alias_key_that_wins_when_loading(model):
    state = model.state_dict()
    features = [key for key in state if key.startswith("cp.backbone.features.")]
    stages = ("x2.0", "x4.0", "x8.0", "x16.0", "x32.0")
    for key in features:
        index = key.removeprefix("cp.backbone.features.")
        aliases = [f"cp.backbone.{stage}.{index}" for stage in stages if f"cp.backbone.{stage}.{index}" in state]
        assert len(aliases) == 1
    net = stdc.BiSeNet(type(model.cp.backbone).__name__)
    changed = {key: value.clone() for key, value in net.state_dict().items()}
    changed["cp.backbone.features.0.conv.weight"].fill_(1.0)
    changed["cp.backbone.x2.0.0.conv.weight"].fill_(2.0)
    net.load_state_dict(changed, strict=True)
    assert torch.all(net.cp.backbone.features[0].conv.weight == 2.0)


def test_classifier_layers_and_all_detail_heads_are_in_the_state_dict(model):
    state = model.state_dict()
    assert state["cp.backbone.linear.weight"].shape == (1000, 1024)
    assert state["cp.backbone.fc.weight"].shape == (1024, 1024)
    assert "cp.backbone.conv_last.bn.num_batches_tracked" in state and "cp.backbone.bn.running_var" in state
    inputs = {"conv_out_sp2": 32, "conv_out_sp4": 64, "conv_out_sp8": 256, "conv_out_sp16": 512}
    assert {name: state[f"{name}.conv.conv.weight"].shape[1] for name in inputs} == inputs


def test_only_backbone_norms_count_batches(model):
    counted = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    assert counted and all(key.startswith("cp.backbone.") for key in counted)


def test_group_sizes_and_settings_are_upstreams(model):
    _, _, sizes, _ = UPSTREAM[type(model.cp.backbone).__name__]
    groups = stdc.parameter_groups(model, stdc.STDCLosses(n_min=1))
    assert [len(group["params"]) for group in groups] == sizes
    assert [group["lr_mult"] for group in groups] == [1, 1, 10, 10, 1]
    assert [group.get("weight_decay") for group in groups] == [None, 0, None, 0, None]


def test_parameters_in_no_group_are_the_backbones_batch_norms(model):
    *_, frozen = UPSTREAM[type(model.cp.backbone).__name__]
    groups = stdc.parameter_groups(model, stdc.STDCLosses(n_min=1))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    batch_norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    norms = {id(p) for module in model.modules() if isinstance(module, batch_norms) for p in module.parameters()}
    left = {id(parameter) for parameter in model.parameters()} - set(grouped)
    assert left == norms and len(left) == frozen


# --- forward and backward -------------------------------------------------------------------------------------------


def test_outputs_are_named_and_sized(trained):
    _, _, outputs, _, _ = trained
    shapes = {name: tuple(output.shape) for name, output in outputs.items()}
    full = (2, 19, 64, 64)
    assert shapes == {"semantic": full, "aux16": full, "aux32": full, "detail8": (2, 1, 8, 8)}


def test_gradient_is_missing_where_upstream_uses_no_output(trained):
    net, losses, _, _, _ = trained
    missing = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    prefixes = ("conv_out_sp2.", "conv_out_sp4.", "conv_out_sp16.")
    prefixes += tuple(f"cp.backbone.{name}." for name in ("conv_last", "fc", "bn", "linear"))
    assert missing == {name for name, _ in net.named_parameters() if name.startswith(prefixes)}
    assert len(missing) == 19
    assert torch.equal(losses.loss_detail.fuse_kernel.grad, torch.zeros(1, 3, 1, 1))


def test_unused_detail_heads_move_their_running_statistics(trained):
    net, _, _, _, before = trained
    for name in ("conv_out_sp2", "conv_out_sp4", "conv_out_sp16"):
        key = f"{name}.conv.bn.running_var"
        assert not torch.equal(dict(net.named_buffers())[key], before[key])
    key = "cp.backbone.conv_last.bn.running_var"
    assert torch.equal(dict(net.named_buffers())[key], before[key])


def test_loss_terms_are_named_and_in_the_models_precision(trained):
    _, _, _, terms, _ = trained
    assert list(terms) == ["loss_seg", "loss_aux16", "loss_aux32", "loss_detail_bce", "loss_detail_dice"]
    assert {term.dtype for term in terms.values()} == {torch.float64}


@pytest.mark.parametrize("flags", [(False,) * 3, (False, False, True), (False, True, True), (True, True, True)])
def test_flags_choose_the_detail_outputs(flags):
    names = [f"use_boundary_{stride}" for stride in (2, 4, 8)]
    net = stdc.BiSeNet("STDCNet813", 3, **dict(zip(names, flags)), use_boundary_16=True).eval()
    with torch.no_grad():
        outputs = net(torch.zeros(1, 3, 32, 32))
    details = [f"detail{stride}" for stride, flag in zip((2, 4, 8), flags) if flag]
    assert list(outputs) == ["semantic", "aux16", "aux32", *details]
    assert [outputs[name].shape[2] for name in details] == [32 // int(name[6:]) for name in details]


@pytest.mark.parametrize(
    "flags", [(True, False, False), (True, False, True), (True, True, False), (False, True, False)]
)
def test_flags_for_which_upstream_returns_none_are_an_error(flags):
    names = [f"use_boundary_{stride}" for stride in (2, 4, 8)]
    with pytest.raises(ValueError, match="returns None"):
        stdc.BiSeNet("STDCNet813", **dict(zip(names, flags)))


def test_unknown_backbone_is_an_error():
    with pytest.raises(ValueError, match="STDCNet813 or STDCNet1446"):
        stdc.BiSeNet("STDC1")


def test_pooled_skip_counts_the_padding():
    skip = stdc.CatBottleneck(8, 16, stride=2).skip
    pooled = skip(torch.ones(1, 1, 4, 4))[0, 0]
    torch.testing.assert_close(pooled, torch.tensor([[4 / 9, 6 / 9], [6 / 9, 1.0]]))


def test_bottleneck_concatenates_the_first_convolution_before_the_depthwise_one():
    block = stdc.CatBottleneck(8, 16, stride=2).eval()
    x = torch.rand(1, 8, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(block(x)[:, :8], torch.nn.functional.avg_pool2d(block.conv_list[0](x), 3, 2, 1))


def test_fusion_weighs_its_channels_between_one_and_two():
    ffm = stdc.FeatureFusionModule(6, 8).eval()
    x = torch.rand(2, 6, 3, 3)
    with torch.no_grad():
        mixed, fused = ffm.convblk(x), ffm(x[:, :2], x[:, 2:])
        attention = torch.sigmoid(ffm.conv2(torch.relu(ffm.conv1(mixed.mean((2, 3), keepdim=True)))))
    torch.testing.assert_close(fused, mixed * (1 + attention))


# --- the norm -------------------------------------------------------------------------------------------------------


def _norm(weight: float, bias: float = 0.5) -> stdc.AbsGammaBatchNorm2d:
    norm = stdc.AbsGammaBatchNorm2d(1).double()
    with torch.no_grad():
        norm.weight.fill_(weight)
        norm.bias.fill_(bias)
    return norm


def test_norm_epsilon_is_the_float32_number():
    norm = stdc.AbsGammaBatchNorm2d(1)
    assert norm.eps == float(np.float32(1e-5)) != 1e-5
    assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var"}


@pytest.mark.parametrize("weight", [1.5, -1.5, 0.0])
def test_norm_ignores_the_sign_of_its_weight(weight):
    x = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    eps = float(np.float32(1e-5))
    norm = _norm(weight)
    y = norm(x)
    size = (abs(weight) + eps) / math.sqrt(1 + eps)  # the batch has mean 2 and biased variance 1
    expected = torch.tensor([0.5 - size, 0.5 + size], dtype=torch.float64)
    torch.testing.assert_close(y.flatten(), expected, rtol=1e-14, atol=0)
    assert norm.running_mean.item() == pytest.approx(0.2, rel=1e-14)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 2.0, rel=1e-14)  # unbiased
    y[1].sum().backward()
    sign = (weight > 0) - (weight < 0)
    assert norm.weight.grad.item() == pytest.approx(sign / math.sqrt(1 + eps), rel=1e-14)
    assert norm.bias.grad.item() == 1.0


def test_norm_in_eval_mode_uses_running_statistics():
    norm = _norm(-2.0, bias=0.0).eval()
    with torch.no_grad():
        norm.running_mean.fill_(1.0)
        norm.running_var.fill_(4.0)
    eps = float(np.float32(1e-5))
    y = norm(torch.full((1, 1, 1, 1), 5.0, dtype=torch.float64))
    assert y.item() == pytest.approx(4.0 * (2.0 + eps) / math.sqrt(4.0 + eps), rel=1e-14)


def test_norm_refuses_one_value_per_channel_in_training():
    with pytest.raises(ValueError, match="one value per channel"):
        stdc.AbsGammaBatchNorm2d(4)(torch.zeros(1, 4, 1, 1))
    stdc.AbsGammaBatchNorm2d(4).eval()(torch.zeros(1, 4, 1, 1))


# --- hard pixels ----------------------------------------------------------------------------------------------------


def _two_class(*probs: float, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (1, 2, 1, W) that give class 0 these probabilities, and a label map of class 0."""
    p = torch.tensor(probs, dtype=dtype)
    return torch.stack([p.log(), (1 - p).log()])[None, :, None], torch.zeros(1, 1, len(probs), dtype=torch.int64)


PROBS = (0.9, 0.5, 0.95, 0.6)  # two are below 0.7


@pytest.mark.parametrize(
    ("n_min", "kept"),
    [(1, (0.5, 0.6)), (2, (0.5, 0.6)), (3, (0.5, 0.6, 0.9))],  # more than n_min hard ones; as many; fewer
)
def test_ohem_keeps_the_hard_pixels_or_the_n_min_hardest(n_min, kept):
    loss = stdc.OhemCELoss(n_min=n_min)(*_two_class(*PROBS))
    assert loss.item() == pytest.approx(-sum(map(math.log, kept)) / len(kept), rel=1e-14)


def test_ohem_counts_ignored_pixels_as_zeros():
    logits, label = _two_class(*PROBS)
    label[0, 0, [0, 1, 2]] = 255
    assert stdc.OhemCELoss(n_min=3)(logits, label).item() == pytest.approx(-math.log(0.6) / 3, rel=1e-14)


def test_ohem_of_ignored_pixels_alone_is_zero_with_zero_gradient():
    logits, label = _two_class(*PROBS)
    logits.requires_grad_()
    loss = stdc.OhemCELoss(n_min=2)(logits, torch.full_like(label, 255))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.count_nonzero(logits.grad) == 0


def test_ohem_threshold_is_a_float32_number():
    threshold = stdc.OhemCELoss(n_min=1).threshold
    assert threshold == float(np.float32(threshold))
    assert threshold == pytest.approx(-math.log(0.7), abs=1e-7) and threshold != -math.log(0.7)


@pytest.mark.parametrize("n_min", [4, 5])
def test_ohem_needs_more_pixels_than_n_min(n_min):
    with pytest.raises(ValueError, match="with 4 pixels"):
        stdc.OhemCELoss(n_min=n_min)(*_two_class(*PROBS))


# --- detail ---------------------------------------------------------------------------------------------------------


def _detail(kernel: tuple[float, float, float] = (0.6, 0.3, 0.1)) -> stdc.DetailAggregateLoss:
    loss = stdc.DetailAggregateLoss()
    with torch.no_grad():
        loss.fuse_kernel.copy_(torch.tensor(kernel).reshape(1, 3, 1, 1))
    return loss


def _dot(row: int, column: int) -> torch.Tensor:
    label = torch.zeros(1, 5, 5, dtype=torch.int64)
    label[0, row, column] = 1
    return label


def _pixels(target: torch.Tensor) -> set[tuple[int, int]]:
    assert target.dtype == torch.float32 and set(target.unique().tolist()) <= {0.0, 1.0}
    return {(row, column) for row, column in target[0, 0].nonzero().tolist()}


def test_detail_target_joins_the_boundaries_of_strides_1_and_2():
    # Stride 1 sees the dot itself; stride 2 has its middle on it, and its 3 x 3 map covers rows 2-3 there at 5 x 5.
    assert _pixels(_detail().target(_dot(2, 2))) == {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert _pixels(_detail((0.6, 0.09, 0.1)).target(_dot(2, 2))) == {(2, 2)}


def test_detail_target_leaves_out_a_boundary_of_stride_4_alone():
    # Stride 4 has middles on 0 and 4, and its 2 x 2 map covers rows 3-4 with the second: 0.1 > 0.1 is false.
    assert _pixels(_detail().target(_dot(4, 4))) == {(4, 4)}
    assert _pixels(_detail((0.6, 0.3, 0.11)).target(_dot(4, 4))) == {(3, 3), (3, 4), (4, 3), (4, 4)}


def test_detail_target_of_a_uniform_label_is_the_image_border():
    target = _detail((0.6, 0.0, 0.0)).target(torch.full((1, 5, 5), 255))
    assert _pixels(target) == {(r, c) for r in range(5) for c in range(5) if {r, c} & {0, 4}}
    assert not _pixels(_detail().target(torch.zeros(1, 5, 5, dtype=torch.int64)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(5, 5), (2, 3)])
def test_detail_loss_of_zero_logits(dtype, size):
    bce, dice = _detail()(torch.zeros(1, 1, *size, dtype=dtype), _dot(2, 2))
    assert bce.dtype == dice.dtype == dtype
    assert bce.item() == pytest.approx(math.log(2), rel=1e-6 if dtype == torch.float32 else 1e-14)
    assert dice.item() == pytest.approx(1 - (2 * 2 + 1) / (12.5 + 4 + 1), rel=1e-6 if dtype == torch.float32 else 1e-14)


def test_fuse_kernel_gets_a_gradient_of_zero():
    loss = _detail()
    sum(loss(torch.randn(1, 1, 2, 2), _dot(2, 2))).backward()
    assert loss.fuse_kernel.dtype == torch.float32
    assert torch.equal(loss.fuse_kernel.grad, torch.zeros(1, 3, 1, 1))


def test_several_detail_outputs_are_summed():
    losses = stdc.STDCLosses(n_min=2)
    logits = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
    outputs = {"semantic": logits, "aux16": logits, "aux32": logits}
    targets = {"label": _dot(2, 2)}
    assert list(losses(outputs, targets)) == ["loss_seg", "loss_aux16", "loss_aux32"]
    details = {name: torch.zeros(1, 1, 3, 3, dtype=torch.float64) for name in ("detail4", "detail8")}
    terms = losses({**outputs, **details}, targets)
    assert terms["loss_detail_bce"].item() == pytest.approx(2 * math.log(2), rel=1e-14)
    assert terms["loss_detail_dice"].item() == pytest.approx(2 * (1 - 5 / 17.5), rel=1e-14)


# --- optimizer ------------------------------------------------------------------------------------------------------


def _upstream_schedule(iteration: int) -> float:
    return optim.warmup_poly(
        iteration, base_lr=1e-2, warmup_iters=1000, warmup_start_lr=1e-5, max_iters=60_000, power=0.9
    )


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(0, 1e-5), (500, 3.1623e-4), (1000, 1e-2), (30_000, 5.4405e-3), (59_999, 5.084e-7), (60_000, 0.0)],
)
def test_schedule_values_are_upstreams(iteration, rate):
    assert _upstream_schedule(iteration) == pytest.approx(rate, rel=1e-4)


def test_schedule_ends_where_the_run_does():
    with pytest.raises(ValueError, match=r"iteration 60001"):
        _upstream_schedule(60_001)


def test_schedule_without_warmup_starts_at_the_base_rate():
    rate = optim.warmup_poly(0, base_lr=0.1, warmup_iters=0, warmup_start_lr=1e-5, max_iters=10, power=0.9)
    assert rate == 0.1


def test_sgd_follows_schedule_multiplier_momentum_and_decay():
    slow, fast = (torch.nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    groups = [{"params": [slow]}, {"params": [fast], "lr_mult": 10.0, "weight_decay": 0.0}]
    sgd = optim.ScheduledSGD(groups, schedule=lambda it: 0.1 * (it - 6), momentum=0.5, weight_decay=0.1, start=7)
    for _ in range(2):
        sgd.zero_grad()
        (slow + fast).sum().backward()
        sgd.step()
    # slow: 1 - .1 * 1.1 = .89, then velocity .5 * 1.1 + 1.089 = 1.639; fast: 1 - 1 * 1 = 0, then velocity 1.5
    assert slow.item() == pytest.approx(0.89 - 0.2 * 1.639, rel=1e-14)
    assert fast.item() == pytest.approx(0.0 - 2.0 * 1.5, rel=1e-14)
    assert sgd.iteration == 9
    assert [group["lr"] for group in sgd.optim.param_groups] == pytest.approx([0.2, 2.0])
    assert [group["lr_mult"] for group in sgd.optim.param_groups] == [1.0, 10.0]


def test_weight_decay_alone_moves_the_fuse_kernel():
    losses = stdc.STDCLosses(n_min=1)
    sgd = optim.ScheduledSGD(
        [{"params": [losses.loss_detail.fuse_kernel]}], schedule=lambda it: 0.1, momentum=0.9, weight_decay=0.5
    )
    sum(losses.loss_detail(torch.zeros(1, 1, 5, 5), _dot(2, 2))).backward()
    sgd.step()
    expected = torch.tensor([0.6, 0.3, 0.1]).reshape(1, 3, 1, 1) * (1 - 0.1 * 0.5)
    torch.testing.assert_close(losses.loss_detail.fuse_kernel.detach(), expected)
