from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from paddleseg_ext.config import Config, apply_flag, apply_opts, load_config, validate
from paddleseg_ext.errors import ConfigError

Edit = Callable[[str], str]


def problems(config: Config, command: str | None = None, **options: Any) -> list[str]:
    """What `validate` reports, one entry per problem."""
    try:
        validate(config, command, **options)
    except ConfigError as error:
        lines = str(error).splitlines()
        return lines[1:] if re.match(r"\d+ problems", lines[0]) else lines
    return []


@pytest.fixture
def edited(main_file) -> Callable[[str, str], Config]:
    """Replaces one piece of text in `main.yml`; gives the configuration that results."""

    def edit(old: str, new: str) -> Config:
        text = main_file.read_text()
        assert text.count(old) == 1
        main_file.write_text(text.replace(old, new))
        return load_config(main_file.name)

    return edit


@pytest.mark.parametrize("command", ["train", "val", "predict", "export", None])
def test_a_good_configuration_has_no_problem(main_file, components, command: str | None) -> None:
    validate(load_config("main.yml"), command, do_eval=True)
    assert components == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("batch_size: 4\n", "batch_sise: 4\n", "main.yml:2: batch_sise: unknown key. Did you mean 'batch_size'?"),
        (
            "num_classes: 19",
            "num_clases: 19",
            "main.yml:6: model.num_clases: Net takes no argument 'num_clases'. Did you mean 'num_classes'?"
            " It takes: num_classes, backbone, align_corners.",
        ),
        (
            "pretrained: null",
            "pretraind: null",
            "main.yml:10: model.backbone.pretraind: Stem takes no argument 'pretraind'. Did you mean 'pretrained'?",
        ),
        ("type: Stem", "type: stem", "main.yml:9: model.backbone.type: unknown backbone 'stem'. Did you mean 'Stem'?"),
        (
            "type: Stem",
            "tpye: Stem",
            "main.yml:9: model.backbone.tpye: a backbone needs a 'type'. Did you mean 'type'?",
        ),
        ("    type: Stem\n", "", "main.yml:8: model.backbone: a backbone needs a 'type'."),
        ("type: Net", "type: [Net]", "main.yml:5: model.type: unknown model ['Net']."),
        (
            "align_corners: false",
            "align_corners: no",
            "main.yml:7: model.align_corners: expected bool, got 'no'; write f",
        ),
        ("num_classes: 19", "num_classes: 0", "main.yml:6: model.num_classes: expected int >= 1, got 0."),
        ("num_classes: 19", "num_classes: true", "main.yml:6: model.num_classes: expected int, got true."),
        ("  num_classes: 19\n", "", "main.yml:4: model: Net needs the argument 'num_classes' (int); add it."),
        (
            "factors: [0.5, 2.0]",
            "factors: [0.5, x]",
            "main.yml:17: train_dataset.transforms.0.factors.1: expected float",
        ),
        (
            "size: [8, 8]",
            "size: 8",
            "main.yml:22: train_dataset.transforms.2.transforms.0.size: expected [int, int], got 8",
        ),
        ("transforms: []", "transforms: Crop", "main.yml:27: val_dataset.transforms: expected a list of transforms"),
        (
            "transforms: []",
            "transforms: [Crop]",
            "0: expected a transform ({type: ..., ...}), got 'Crop'; write {type: Crop}",
        ),
        ("mode: val", "mode: test", "main.yml:26: val_dataset.mode: expected 'train' or 'val', got 'test'."),
        ("kind: bias", "kind: bais", "main.yml:32: optimizer.param_groups.1.kind: expected 'norm' or 'bias' or"),
        ('name: "bn"', 'name: "(bn"', "main.yml:31: optimizer.param_groups.0.name: '(bn' is no regular expression"),
        ('name: "bn", ', "", "main.yml:31: optimizer.param_groups.0: the rule selects nothing; add a 'name'"),
        ("kind: bias, lr_mult", "kind: bias, lr_mul", "param_groups.1.lr_mul: unknown key. Did you mean 'lr_mult'?"),
        ("clip_norm: 35", "clip_norm: 0", "main.yml:33: optimizer.grad_clip.clip_norm: expected float > 0, got 0."),
        ("clip_norm: 35", "clip_nrom: 35", "main.yml:33: optimizer.grad_clip.clip_nrom: unknown key"),
        (", clip_norm: 35", "", "main.yml:33: optimizer.grad_clip: needs 'clip_norm'"),
        (
            "ClipGradByGlobalNorm",
            "ClipGradGlobalNorm",
            "unknown gradient clipping 'ClipGradGlobalNorm'. Did you mean 'Clip",
        ),
        ("    output: semantic\n", "", "main.yml:35: losses.0: needs 'output'"),
        (
            "    output: semantic\n",
            "    ouput: semantic\n",
            "main.yml:36: losses.0.ouput: CrossEntropy takes no argument 'ou",
        ),
        ("weight: 0.4", "weight: high", "main.yml:41: losses.1.weight: expected float, got 'high'."),
        (
            "name: loss_seg",
            "name: loss_aux16",
            "main.yml:41: losses.1: its name 'loss_aux16' is taken by the loss at main",
        ),
        ("scales: [0.75, 1.0]", "scales: [0]", "main.yml:44: test_config.scales.0: expected a number > 0, got 0."),
        ("scales: [0.75, 1.0]", "scales: 0.5", "test_config.scales: expected list of float > 0, got 0.5; write [0.5]."),
        ("scales: [0.75, 1.0]", "scales: [.nan]", "test_config.scales.0: expected float, got nan"),
        ("scales: [0.75, 1.0]", "scales: [.inf]", "test_config.scales.0: expected a number > 0, got inf"),
        (
            "  crop_size: [512, 1024]\n",
            "  is_slied: true\n",
            "main.yml:47: test_config.is_slied: unknown key. Did you mean",
        ),
        (
            "stride: [256, 512]",
            "stride: [513, 512]",
            "main.yml:48: test_config.stride: expected at most crop_size [512, ",
        ),
        ("log_iters: 10", "log_iters: 0", "main.yml:51: runtime.log_iters: expected int >= 1, got 0."),
        ("on_nan: stop", "on_nan: ignore", "main.yml:52: runtime.on_nan: expected 'stop' or 'skip', got 'ignore'."),
        ("{decay: 0.999}", "{decay: 1}", "main.yml:53: runtime.ema.decay: expected float >= 0 and < 1, got 1."),
        ("{decay: 0.999}", "{decya: 0.9}", "main.yml:53: runtime.ema.decya: unknown key. Did you mean 'decay'?"),
        ("{decay: 0.999}", "true", "main.yml:53: runtime.ema: expected mapping or null, got true"),
        ("batch_size: 4\n", "batch_size: 4.0\n", "main.yml:2: batch_size: expected int >= 1, got 4.0; write 4."),
        (
            "reference_batch_size: 48",
            "reference_batch_size: 0",
            "main.yml:3: reference_batch_size: expected int >= 1 or null, got 0",
        ),
    ],
)
def test_a_problem_has_file_line_path_and_advice(edited, components, old: str, new: str, expected: str) -> None:
    found = problems(edited(old, new), "train", do_eval=True)
    assert len(found) == 1
    assert expected in found[0]
    assert re.match(r"main\.yml:\d+: ", found[0])
    assert components == []


def test_all_problems_are_reported_in_one_run(main_file) -> None:
    text = main_file.read_text()
    text = text.replace("num_classes: 19", "num_classes: x").replace("type: Maybe", "type: Mabye")
    text = text.replace("{type: Crop, size: [8, 8]}", "{type: Crop, sise: [8, 8]}").replace("seed: 0", "seed: -1")
    main_file.write_text(text)
    found = problems(load_config("main.yml"), "train")
    assert [line.split(": ")[:2] for line in found] == [
        ["main.yml:6", "model.num_classes"],
        ["main.yml:19", "train_dataset.transforms.2.type"],
        ["main.yml:22", "train_dataset.transforms.2.transforms.0.sise"],
        ["main.yml:50", "runtime.seed"],
    ]


def test_a_problem_in_a_base_names_the_base(main_file, write_file) -> None:
    base = (main_file.parent / "base/schedule.yml").read_text()
    write_file("base/schedule.yml", base.replace("power: 0.9", "power: fast"))
    assert problems(load_config("main.yml")) == ["base/schedule.yml:9: lr_scheduler.power: expected float, got 'fast'."]


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("train", ["model", "losses", "optimizer", "lr_scheduler", "train_dataset", "iters", "batch_size"]),
        ("val", ["model", "val_dataset"]),
        ("predict", ["model", "val_dataset"]),
        ("export", ["model"]),
    ],
)
def test_each_command_needs_its_sections(write_file, command: str, needed: list[str]) -> None:
    write_file("a.yml", "meta: {}\n")
    found = problems(load_config("a.yml"), command)
    assert [line.split(":")[:3] for line in found] == [["a.yml", "1", f" {key}"] for key in needed]
    assert all(f"missing, but '{command}' needs it; add {line.split(': ')[1]}: " in line for line in found)


def test_val_dataset_is_needed_to_train_only_with_do_eval(edited) -> None:
    config = edited("val_dataset:\n  type: Pictures\n  dataset_root: data/city\n  mode: val\n  transforms: []\n", "")
    assert problems(config, "train") == []
    assert problems(config, "train", do_eval=True)[0].startswith(
        "main.yml:1: val_dataset: missing, but 'train with do_eval' needs it"
    )


def test_predict_needs_transforms(edited) -> None:
    config = edited("  mode: val\n  transforms: []\n", "  mode: val\n")
    assert problems(config, "val") == []
    assert problems(config, "predict") == [
        "main.yml:23: val_dataset: has no 'transforms', which 'predict' needs as its preprocessing"
    ]


def test_a_section_that_is_null_counts_as_missing(edited) -> None:
    config = apply_opts(edited("meta:", "meta:"), ["val_dataset=null"])
    assert problems(config, "train") == []
    assert "val_dataset" in problems(config, "val")[0]


def test_a_misspelt_section_is_not_reported_as_missing_too(edited) -> None:
    found = problems(edited("losses:", "loses:"), "train")
    assert len(found) == 1
    assert found[0].startswith("main.yml:34: loses: unknown key. Did you mean 'losses'?")


def test_a_transforms_argument_of_the_dataset_itself_is_checked_too(main_file, monkeypatch) -> None:
    from paddleseg_ext import registry

    class Pictures:
        def __init__(self, dataset_root: str, transforms: list | None = None, mode: str = "train") -> None: ...

    monkeypatch.setitem(registry.DATASETS._entries, "Pictures", Pictures)
    assert problems(load_config("main.yml"), "train") == []
    main_file.write_text(main_file.read_text().replace("type: Scale", "type: Scael"))
    assert "unknown transform 'Scael'. Did you mean 'Scale'?" in problems(load_config("main.yml"))[0]


def test_arguments_inherited_for_another_type_say_how_to_drop_them(edited) -> None:
    config = edited("optimizer:\n", "optimizer:\n  type: AdamW\n")
    assert problems(config) == [
        "base/schedule.yml:4: optimizer.momentum: AdamW takes no argument 'momentum': gradient descent with momentum is"
        " {type: Momentum, momentum: 0.9}. It takes: beta1, weight_decay, param_groups, grad_clip. It is inherited;"
        " `_inherited_: false` beside `type` (main.yml:29) drops what the bases have."
    ]


def test_a_typed_type_says_how_to_replace_the_section(main_file) -> None:
    found = problems(apply_opts(load_config("main.yml"), ["optimizer.type=AdamW"]))
    assert found[0].startswith("base/schedule.yml:4: optimizer.momentum: AdamW takes no argument 'momentum'")
    assert found[0].endswith("To replace the whole section: --opts optimizer='{type: AdamW, ...}'.")


@pytest.mark.parametrize(
    ("opt", "expected"),
    [
        (
            "optimizer.weight_decay=abc",
            "--opts optimizer.weight_decay=abc: expected float, got 'abc' (default 0.0001 from main.yml:29).",
        ),
        (
            "lr_scheduler.learning_rate=-1",
            "--opts lr_scheduler.learning_rate=-1: expected float >= 0, got -1 (default 0.01 from base/schedule.",
        ),
        ("model.backbone.width=wide", "--opts model.backbone.width=wide: expected float, got 'wide' (default 1.0)."),
        ("runtime.save_interval=0", "--opts runtime.save_interval=0: expected int >= 1, got 0 (default 1000)."),
        (
            "train_dataset.transforms.1.size.0=big",
            "--opts train_dataset.transforms.1.size.0=big: expected int, got 'big' (default 512 from main.yml:18).",
        ),
        ("optimzer.weight_decay=1", "--opts optimzer.weight_decay=1: optimzer: unknown key. Did you mean 'optimizer'?"),
        (
            "optimizer.weight_decy=1",
            "--opts optimizer.weight_decy=1: Momentum takes no argument 'weight_decy'. Did you m",
        ),
        (
            "losses.0.type=CrossEntrpy",
            "--opts losses.0.type=CrossEntrpy: unknown loss 'CrossEntrpy'. Did you mean 'Cross",
        ),
        ("test_config.scales=[1, -1]", "--opts test_config.scales=[1, -1]: test_config.scales.1: expected a number >"),
    ],
)
def test_a_wrong_override_is_named_as_typed_with_the_value_it_replaced(main_file, opt: str, expected: str) -> None:
    config = apply_opts(load_config("main.yml"), ["test_config.aug_eval=true", opt])
    assert problems(config, "train")[0].startswith(expected)


@pytest.mark.parametrize(
    ("path", "value", "flag", "expected"),
    [
        ("iters", 0, "--iters", "--iters 0: expected int >= 1, got 0 (default 80000 from base/schedule.yml:1)."),
        ("batch_size", 0, "--batch_size", "--batch_size 0: expected int >= 1, got 0 (default 4 from main.yml:2)."),
        ("test_config.scales", [1.0, 0.0], "--scales", "--scales 1.0 0.0: test_config.scales.1: expected a number > 0"),
        (
            "test_config.scales",
            [0.5, 0.75],
            "--scales",
            "--scales 0.5 0.75: has no effect without aug_eval; add --aug_eval, or remov",
        ),
        ("test_config.flip_vertical", True, "--flip_vertical", "--flip_vertical: has no effect without aug_eval"),
        ("test_config.stride", [2, 2], "--stride", "--stride 2 2: has no effect without is_slide; add --is_slide"),
        ("runtime.precision", "fp8", "--precision", "--precision fp8: expected 'fp32' or 'fp16' or 'bf16', got 'fp8'"),
    ],
)
def test_a_wrong_flag_is_named_as_typed(main_file, path: str, value: object, flag: str, expected: str) -> None:
    assert problems(apply_flag(load_config("main.yml"), path, value, flag))[0].startswith(expected)


@pytest.mark.parametrize("scales", [[0.5], [0.75]])
def test_one_scale_alone_needs_no_aug_eval_since_it_is_a_protocol_of_its_own(main_file, scales: list[float]) -> None:
    assert problems(apply_flag(load_config("main.yml"), "test_config.scales", scales, "--scales"), "val") == []


def test_a_learning_rate_of_zero_is_kept(main_file) -> None:
    config = apply_flag(load_config("main.yml"), "lr_scheduler.learning_rate", 0.0, "--learning_rate")
    assert problems(config, "train") == []
    assert config.data["lr_scheduler"]["learning_rate"] == 0.0


def test_a_sliding_window_needs_its_sizes(edited) -> None:
    config = edited("  is_slide: false\n  crop_size: [512, 1024]\n", "  is_slide: true\n")
    assert problems(config) == [
        "main.yml:46: test_config.is_slide: needs crop_size and stride, each [width, height] in pixels."
    ]


@pytest.mark.parametrize("value", ["3", "text", "[1, 2]", "null"])
@pytest.mark.parametrize(
    "section", ["model", "train_dataset", "optimizer", "lr_scheduler", "losses", "runtime", "test_config"]
)
def test_a_section_of_a_wrong_kind_is_one_problem(main_file, section: str, value: str) -> None:
    found = problems(apply_opts(load_config("main.yml"), [f"{section}={value}"]), "train")
    if value == "null" and section in ("runtime", "test_config"):
        assert found == []
    else:
        assert found
        assert all(f"--opts {section}={value}" in line for line in found)


def test_components_of_a_misplaced_key_are_refused(main_file, monkeypatch) -> None:
    found = problems(apply_opts(load_config("main.yml"), ["losses.0.class_weight={type: Stem}"]))
    assert "expected list of float or null, got {type: 'Stem'}" in found[0]


# What PaddleSeg's users write.


def test_paddleseg_loss_is_shown_in_our_form_with_the_users_entries(edited) -> None:
    config = edited(
        "meta:\n",
        "loss:\n  types:\n    - {type: OhemCrossEntropyLoss, min_kept: 10000}\n"
        "    - {type: MixedLoss, losses: [{type: CrossEntropyLoss}], coef: [0.5]}\n  coef: [1, 0.4]\nmeta:\n",
    )
    assert problems(config) == [
        "main.yml:54: loss: unknown key: losses are bound to the model's outputs by name, not by position; write",
        "losses:",
        "  - {type: OhemCrossEntropy, output: semantic, target: label, weight: 1.0, min_kept: 10000}",
        "  - {type: CrossEntropy, output: OUTPUT_1, target: label, weight: 0.2}",
        "(an OUTPUT is a name that the model's forward returns)",
    ]


def test_one_paddleseg_loss_stands_for_all_its_coefficients(main_file) -> None:
    opt = "loss={types: [{type: CrossEntropyLoss}], coef: [1, 0.4]}"
    found = problems(apply_opts(load_config("main.yml"), [opt]))
    assert [line for line in found if line.startswith("  -")] == [
        "  - {type: CrossEntropy, output: semantic, target: label, weight: 1.0}",
        "  - {type: CrossEntropy, output: OUTPUT_1, target: label, weight: 0.4}",
    ]


def test_paddleseg_loss_under_our_key_is_shown_in_our_form(main_file) -> None:
    opt = "losses={types: [{type: CrossEntropyLoss}], coef: [1]}"
    found = problems(apply_opts(load_config("main.yml"), [opt]))
    assert found[1:] == ["losses:", "  - {type: CrossEntropy, output: semantic, target: label, weight: 1.0}"]


def test_a_loss_in_place_of_losses_is_not_reported_as_missing_too(main_file) -> None:
    text = main_file.read_text()
    start, end = text.index("losses:"), text.index("test_config:")
    main_file.write_text(text[:start] + "loss: 3\n" + text[end:])
    found = problems(load_config("main.yml"), "train")
    assert "missing" not in "\n".join(found)
    assert "  - {type: CrossEntropy, output: semantic, target: label, weight: 1.0}" in found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.02", "lr_scheduler: {type: PolynomialDecay, learning_rate: 0.02, power: 0.9}"),
        (
            "{value: 0.05, decay: {type: poly, power: 0.8, end_lr: 0.0}}",
            "lr_scheduler: {type: PolynomialDecay, learning_rate: 0.05, power: 0.8, end_lr: 0.0}",
        ),
    ],
)
def test_a_top_level_learning_rate_is_shown_as_a_schedule(main_file, value: str, expected: str) -> None:
    found = problems(apply_opts(load_config("main.yml"), [f"learning_rate={value}"]))
    assert found[1] == expected


@pytest.mark.parametrize(
    ("opt", "expected"),
    [
        ("optimizer.custom_cfg=[]", "write param_groups: [{name: a regular expression, lr_mult: 10}, ...]"),
        ("optimizer.grad_clip_cfg={name: ClipGradByNorm}", "write grad_clip: {type: ClipGradByGlobalNorm"),
        ("optimizer.type=sgd", "unknown optimizer 'sgd'. Did you mean 'SGD'?"),
        ("optimizer.type=SGD", "gradient descent with momentum is {type: Momentum, momentum: 0.9}"),
        ("lr_scheduler.decay_steps=100", "the schedule runs over the top-level iters"),
        ("lr_scheduler.iters=100", "the schedule runs over the top-level iters"),
        ("test_config.auc_roc=true", "there is no AUC here; remove it"),
        ("save_interval=500", "runtime: {save_interval: 500}"),
        ("to_static_training=true", "PaddleSeg's key, which means nothing here; remove it"),
        ("losses.0.coef=1", "write weight"),
        ("model.backbone.pretrained='\"None\"'", "expected str or null, got 'None'; write null"),
    ],
)
def test_a_habit_is_answered_with_what_to_write(main_file, opt: str, expected: str) -> None:
    opt = opt.replace("'\"", '"').replace("\"'", '"')
    assert expected in "\n".join(problems(apply_opts(load_config("main.yml"), [opt])))
