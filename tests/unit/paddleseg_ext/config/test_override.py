from __future__ import annotations

import pytest

from paddleseg_ext.config import Config, apply_flag, apply_opts, load_config
from paddleseg_ext.errors import ConfigError


@pytest.mark.parametrize(
    ("opt", "path", "value"),
    [
        ("optimizer.weight_decay=1e-3", "optimizer.weight_decay", 0.001),
        ("losses.1.weight=2", "losses.1.weight", 2),
        ("train_dataset.transforms.2.transforms.0.size.1=16", "train_dataset.transforms.2.transforms.0.size", [8, 16]),
        ("train_dataset.transforms.0={type: Crop, size: [4, 4]}", "train_dataset.transforms.0.size", [4, 4]),
        ("test_config.scales=[0.75, 1.0, 1.25]", "test_config.scales", [0.75, 1.0, 1.25]),
        ("model.backbone.pretrained=None", "model.backbone.pretrained", None),
        ("model.backbone.pretrained=null", "model.backbone.pretrained", None),
        ("model.backbone.pretrained='None'", "model.backbone.pretrained", "None"),
        ("model.align_corners=True", "model.align_corners", True),
        ("meta.note=a=b=c", "meta.note", "a=b=c"),
        ("meta.note=''", "meta.note", ""),
        ("meta.url=https://example.org/x", "meta.url", "https://example.org/x"),
        ("optimizer.param_groups.0.name=^(conv|bn)\\..*$", "optimizer.param_groups.0.name", "^(conv|bn)\\..*$"),
        ("meta.new.deeper.still=1", "meta.new", {"deeper": {"still": 1}}),
        ("runtime.vis_interval=5", "runtime.vis_interval", 5),
    ],
)
def test_an_override_sets_one_value_and_its_origin(main_file, opt: str, path: str, value: object) -> None:
    config = load_config("main.yml")
    changed = apply_opts(config, [opt])
    assert changed.get(path) == value
    assert changed.where(opt.split("=")[0]) == f"--opts {opt}"
    assert config.data == load_config("main.yml").data
    again = apply_opts(changed, [f"{opt.split('=')[0]}=0"])
    assert again.get(opt.split("=")[0]) == 0


def test_later_overrides_win_and_others_keep_their_origin(main_file) -> None:
    config = apply_opts(load_config("main.yml"), ["iters=5", "model.num_classes=2", "iters=6"])
    assert config.data["iters"] == 6
    assert config.where("iters") == "--opts iters=6"
    assert config.where("model.num_classes") == "--opts model.num_classes=2"
    assert config.where("model.type") == "main.yml:5"


def test_a_setting_that_is_null_can_be_given_keys() -> None:
    config = apply_opts(Config.from_dict({"runtime": {"ema": None}}), ["runtime.ema.decay=0.9"])
    assert config.data == {"runtime": {"ema": {"decay": 0.9}}}


@pytest.mark.parametrize(
    ("opt", "message"),
    [
        ("iters", "--opts iters: expected KEY=VALUE"),
        ("=5", "--opts =5: expected KEY=VALUE"),
        ("a..b=5", "--opts a..b=5: expected KEY=VALUE"),
        ("iters=", "--opts iters=: there is no value; write null, or ''"),
        ("iters= # comment", "there is no value"),
        ("losses.2.weight=1", "--opts losses.2.weight=1: losses is a list; expected an index (0 to 1), got '2'"),
        ("losses.-1.weight=1", "losses is a list; expected an index (0 to 1), got '-1'"),
        ("losses.weight=1", "losses is a list; expected an index (0 to 1), got 'weight'"),
        ("val_dataset.transforms.0.type=Crop", "expected an index (none, it is empty), got '0'"),
        ("iters.x=1", "--opts iters.x=1: iters is 80000 (base/schedule.yml:1); it has no key 'x'"),
        ("a=[1, 2", "--opts a=[1, 2: not YAML"),
        ("a=*x", """quote text with special characters twice: KEY='"..."'"""),
        ("a=!!python/name:os.system", "the tag !!python/name:os.system is refused"),
        ("a={b: 1, b: 2}", "the key 'b' is here twice"),
    ],
)
def test_a_malformed_override_is_refused_as_typed(main_file, opt: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_opts(load_config("main.yml"), [opt])
    assert message in str(caught.value)
    assert str(caught.value).startswith("--opts ")


def test_all_malformed_overrides_are_reported_in_one_run(main_file) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_opts(load_config("main.yml"), ["iters", "batch_size=2", "iters.x=1"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (0, "--flag 0"),
        (0.0, "--flag 0.0"),
        ([1, 2], "--flag 1 2"),
        ((0.5,), "--flag 0.5"),
        ("fp16", "--flag fp16"),
        (True, "--flag"),
    ],
)
def test_a_flag_sets_any_value_and_its_origin(main_file, value: object, typed: str) -> None:
    config = apply_flag(load_config("main.yml"), "runtime.seed", value, "--flag")
    assert config.data["runtime"]["seed"] == (list(value) if isinstance(value, tuple) else value)
    assert config.where("runtime.seed") == typed


def test_a_flag_creates_the_section_it_needs() -> None:
    config = apply_flag(Config.from_dict({}), "lr_scheduler.learning_rate", 0.0, "--learning_rate")
    assert config.data == {"lr_scheduler": {"learning_rate": 0.0}}
