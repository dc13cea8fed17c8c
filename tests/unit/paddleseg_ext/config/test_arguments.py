from __future__ import annotations

import re
from pathlib import Path

import pytest

from paddleseg_ext.config import (
    Parser,
    add_config_arguments,
    add_flag_arguments,
    habits,
    load_from_arguments,
    run_main,
    validate,
)
from paddleseg_ext.config.arguments import FLAG_PATHS
from paddleseg_ext.errors import CheckpointError, ConfigError

REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="tool.py")
    add_config_arguments(parser)
    add_flag_arguments(parser, FLAG_PATHS)
    return parser


def failure(parser: Parser, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a parser prints when it refuses."""
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sclaes", "0.5"], "error: unknown arguments --sclaes 0.5. Did you mean '--scales'?"),
        (["--scale=0.5"], "error: unknown argument --scale=0.5. Did you mean '--scales'?"),
        (["--Iters", "5"], "Did you mean '--iters'?"),
        (["--iter", "5"], "Did you mean '--iters'?"),
        (["--cfg-option", "a=1"], "Did you mean '--cfg-options'?"),
        (["--zzzz"], "error: unknown argument --zzzz. Run with --help for all arguments."),
        (["--work-dir", "out"], "error: unknown arguments --work-dir out. Write --save_dir instead."),
        (["--total_step=50", "--base_lr=1"], "Write --iters instead. Write --learning_rate instead."),
        (["--repeats", "2"], "--repeats has no counterpart here; remove it."),
        (["--aug_eval", "False"], "error: unknown argument False."),  # a flag takes no word for a truth value
        (["--scales"], "error: argument --scales: expected at least one argument."),
        (["--scales", "big"], "error: argument --scales: invalid float value: 'big'."),
        (["--crop_size", "512"], "error: argument --crop_size: expected 2 arguments."),
        (["--iters", "1e3"], "error: argument --iters: invalid int value: '1e3'."),
        (["--num_threads", "0"], "error: argument --num_threads: expected at least 1, got 0."),
    ],
)
def test_a_wrong_command_line_is_one_message_that_names_the_closest_flag(parser, capsys, arguments, message) -> None:
    printed = failure(parser, arguments, capsys)
    assert message in printed
    assert printed.count("\n") == 1


def test_every_flag_that_is_recommended_in_place_of_another_tools_exists() -> None:
    sources = [*(REPOSITORY / "tools").glob("*.py"), REPOSITORY / "paddleseg_ext/config/arguments.py"]
    tools = "".join(path.read_text(encoding="utf-8") for path in sources)
    known = {*FLAG_PATHS, *re.findall(r'"(--[\w-]+)"', tools), "--config", "--opts"}
    recommended = {flag for advice in habits._FLAGS.values() for flag in re.findall(r"(?<!\S)--[\w-]+", advice)}
    assert recommended - {"--nproc_per_node"} <= known
    assert not set(habits._FLAGS) & known


@pytest.mark.parametrize("scale", ["0", "nan", "-1", "inf"])
def test_a_scale_that_is_no_positive_number_is_refused(main_file, parser, scale: str) -> None:
    args = parser.parse_args(["--config", "main.yml", "--aug_eval", "--scales", "1", scale])
    with pytest.raises(ConfigError, match=r"^--scales 1\.0 .*: test_config\.scales\.1: expected "):
        validate(load_from_arguments(args), "val")


def test_flags_that_are_not_given_leave_the_configuration_as_it_is(main_file, parser) -> None:
    config = load_from_arguments(parser.parse_args(["--config", "main.yml"]))
    assert config.data["iters"] == 80000
    assert config.data["test_config"]["aug_eval"] is False


def test_every_flag_reaches_its_key(main_file, parser) -> None:
    values = {"--scales": ["0.5", "1"], "--crop_size": ["64", "32"], "--stride": ["32", "16"], "--learning_rate": ["0"]}
    values |= {flag: [] for flag in ("--aug_eval", "--flip_horizontal", "--flip_vertical", "--is_slide")}
    values |= {"--precision": ["fp16"], "--amp_level": ["O2"]}
    arguments = [text for flag in FLAG_PATHS for text in (flag, *values.get(flag, ["7"]))]
    config = load_from_arguments(parser.parse_args(["--config", "main.yml", *arguments]))
    validate(config, "train")
    expected = {"test_config.scales": [0.5, 1.0], "test_config.crop_size": [64, 32], "test_config.stride": [32, 16]}
    expected |= {"lr_scheduler.learning_rate": 0.0, "runtime.precision": "fp16", "runtime.amp_level": "O2"}
    for flag, path in FLAG_PATHS.items():
        assert config.get(path) == expected.get(path, 7 if flag in arguments and values.get(flag) is None else True), (
            flag
        )
        assert config.where(path).startswith(flag)


def test_aug_pred_is_aug_eval(main_file, parser) -> None:
    config = load_from_arguments(parser.parse_args(["--config", "main.yml", "--aug_pred"]))
    assert config.data["test_config"]["aug_eval"] is True


def test_options_win_over_flags_and_may_be_repeated(main_file, parser) -> None:
    arguments = ["--opts", "iters=1", "batch_size=2", "--cfg-options", "iters=3", "--iters", "5"]
    config = load_from_arguments(parser.parse_args(["--config", "main.yml", *arguments]))
    assert (config.data["iters"], config.data["batch_size"]) == (3, 2)


def test_a_configuration_is_required_unless_there_is_a_default(main_file, parser) -> None:
    with pytest.raises(ConfigError, match=r"^--config: missing"):
        load_from_arguments(parser.parse_args([]))
    assert load_from_arguments(parser.parse_args([]), default="main.yml").data["iters"] == 80000


def raising(error: BaseException):
    def main(argv: object) -> int:
        raise error

    return main


def test_a_users_error_is_one_message_and_exit_code_2(capsys) -> None:
    assert run_main(raising(ConfigError("a.yml:1: x: bad")), []) == 2
    assert capsys.readouterr().err == "error: a.yml:1: x: bad\n"


def test_debug_shows_the_traceback_too(capsys) -> None:
    assert run_main(raising(ConfigError("bad")), ["--debug"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith("error: bad\n")


def test_an_error_can_bring_its_own_exit_code() -> None:
    error = CheckpointError("full disk")
    error.exit_code = 5
    assert run_main(raising(error), []) == 5


def test_an_interrupt_is_130_and_a_fault_of_the_program_is_not_hidden(capsys) -> None:
    assert run_main(raising(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ZeroDivisionError):
        run_main(raising(ZeroDivisionError()), [])


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_what_main_returns(returned: int | None, code: int) -> None:
    assert run_main(lambda argv: returned, []) == code
