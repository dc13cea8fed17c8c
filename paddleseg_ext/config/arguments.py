"""The command line that all tools share: the configuration's flags, strict parsing, errors in one message."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from paddleseg_ext.config.habits import flag_hint
from paddleseg_ext.config.load import Config, did_you_mean, load_config
from paddleseg_ext.config.override import apply_flag, apply_opts
from paddleseg_ext.config.schema import TABLES, TOP_LEVEL, Field
from paddleseg_ext.errors import ConfigError, PaddlesegExtError

# PaddleSeg's flags that stand for a key of the configuration.
FLAG_PATHS = {
    "--iters": "iters",
    "--batch_size": "batch_size",
    "--learning_rate": "lr_scheduler.learning_rate",
    "--save_interval": "runtime.save_interval",
    "--log_iters": "runtime.log_iters",
    "--keep_checkpoint_max": "runtime.keep_checkpoint_max",
    "--early_stop_intervals": "runtime.early_stop_intervals",
    "--seed": "runtime.seed",
    "--num_workers": "runtime.num_workers",
    "--precision": "runtime.precision",
    "--amp_level": "runtime.amp_level",
    "--aug_eval": "test_config.aug_eval",
    "--scales": "test_config.scales",
    "--flip_horizontal": "test_config.flip_horizontal",
    "--flip_vertical": "test_config.flip_vertical",
    "--is_slide": "test_config.is_slide",
    "--crop_size": "test_config.crop_size",
    "--stride": "test_config.stride",
}

_ALIASES = {"--aug_eval": ("--aug_pred",)}  # the name in PaddleSeg's predict.py
_LEARNING_RATE = Field("float", "base learning rate of the schedule")
_INTERRUPTED = 130
_BROKEN_PIPE = 141


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations, whose errors are one message and name the closest flag."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse's; what is left over is an error that says what was probably meant."""
        parsed, extras = self.parse_known_args(args, namespace)
        if extras:
            flags = [extra.split("=")[0] for extra in extras if extra.startswith("--")]
            options = [option for option in self._option_string_actions if option.startswith("--")]
            hints = "".join(dict.fromkeys(flag_hint(flag) or did_you_mean(flag, options) for flag in flags))
            self.error(f"unknown argument{'s' if len(extras) > 1 else ''} {' '.join(extras)}.{hints}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Prints one message and exits with 2."""
        end = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"error: {message}{end} Run with --help for all arguments.\n")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --config, --opts with its alias --cfg-options, --debug and --num_threads."""
    parser.add_argument("--config", metavar="FILE", help="configuration, a YAML file")
    parser.add_argument(
        "--opts",
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="values that replace the configuration's, such as optimizer.weight_decay=1e-4 losses.0.weight=0.5",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--num_threads", type=_positive, metavar="N", help="CPU threads; default: all cores")


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --model_path, --allow and --device, of the tools that use trained weights."""
    parser.add_argument("--model_path", metavar="PATH", help="weights: a file, or a checkpoint's folder")
    parser.add_argument("--allow", nargs="+", default=[], metavar="REGEX", help="names that the weights may lack")
    parser.add_argument("--device", metavar="NAME", help="cpu, gpu ...; default: a GPU if there is one")


def add_flag_arguments(parser: argparse.ArgumentParser, flags: Iterable[str]) -> None:
    """Adds flags of `FLAG_PATHS`; what they do not set stays as it is in the configuration."""
    for flag in flags:
        field = _field_of(flag)
        kind: dict[str, Any]
        if field.type == "bool":
            kind = {"action": "store_true", "default": None}
        elif field.type.startswith("Literal"):
            kind = {"metavar": "NAME"}
        elif field.type.startswith("tuple"):
            kind = {"nargs": 2, "type": int, "metavar": ("WIDTH", "HEIGHT")}
        elif field.type.startswith("list"):
            kind = {"nargs": "+", "type": float, "metavar": "X"}
        else:
            kind = {"type": float if field.type.startswith("float") else int, "metavar": "N"}
        parser.add_argument(flag, *_ALIASES.get(flag, ()), help=f"{field.help} [{FLAG_PATHS[flag]}]", **kind)


def load_from_arguments(args: argparse.Namespace, default: str | None = None) -> Config:
    """The configuration of a command line: the file, then flags of `FLAG_PATHS` that were given, then --opts.

    Args:
        args: parsed by a parser with `add_config_arguments`.
        default: file to use without --config; None makes --config required.

    Raises:
        ConfigError: if there is no file, or an override is malformed. Call `validate` next.
    """
    path = args.config or default
    if path is None:
        raise ConfigError("--config: missing; expected a YAML file, such as those in configs/")
    config = load_config(path)
    for flag, key in FLAG_PATHS.items():
        value = getattr(args, flag[2:], None)
        if value is not None:
            config = apply_flag(config, key, value, flag)
    return apply_opts(config, args.opts)


def run_main(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a tool's `main(argv)` and gives its exit code; a user's error is one message without a traceback.

    The code is 2 for an error of this package, or the error's own `exit_code`; 130 for Ctrl-C. With --debug the
    traceback is shown. Other exceptions are faults of the program and pass through.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = main(argv)
        sys.stdout.flush()
        return code or 0
    except PaddlesegExtError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has gone; keep the interpreter from flushing again
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _field_of(flag: str) -> Field:
    section, _, key = FLAG_PATHS[flag].rpartition(".")
    if section == "lr_scheduler":
        return _LEARNING_RATE
    return TABLES[section][key] if section else TOP_LEVEL[key]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number
