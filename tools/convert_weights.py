"""Converts weights between torch and Paddle by the rules of a parity case, and checks what it wrote.

python tools/convert_weights.py --case stdc2 --input upstream.pth --output stdc2.pdparams
python tools/convert_weights.py --case stdc2 --input stdc2.pdparams --output upstream.pth --reverse
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddleseg_ext import threads
from paddleseg_ext.config.arguments import Parser, run_main
from paddleseg_ext.errors import WeightError
from parity.errors import ParityError


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(description="Converts weights between torch and Paddle, and checks the forward pass.")
    parser.add_argument("--case", required=True, help="whose rules: a name (parity/check.py --list) or a FILE.py")
    parser.add_argument(
        "--input", type=Path, required=True, help=".pth, .pt, .tar, .pkl, .safetensors, .pdparams, .npz"
    )
    parser.add_argument("--output", type=Path, required=True, help="the format follows the suffix")
    parser.add_argument("--reverse", action="store_true", help="from Paddle to torch")
    parser.add_argument("--part", default="", help="the file holds this sub-module alone, such as cp.backbone")
    parser.add_argument("--template", type=Path, help="with --reverse: where tensors that the case drops come from")
    parser.add_argument("--no_check", action="store_true", help="skip the comparison of forward passes")
    parser.add_argument("--num_threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    options = build_parser().parse_args(argv)
    threads.configure(options.num_threads)
    from parity import cli, convert

    if options.input.resolve() == options.output.resolve():
        raise WeightError(f"--output {options.output}: is the input; expected another file")
    try:
        (case,) = cli.select([options.case])
        if options.reverse:
            result = convert.revert(case, options.input, options.output, part=options.part, template=options.template,
                                    check=not options.no_check)  # fmt: skip
        else:
            result = convert.convert(case, options.input, options.output, part=options.part, check=not options.no_check)
    except ParityError as error:
        raise WeightError(str(error)) from error
    turned = sum(entry["transposed"] for entry in result.tensors)
    print(f"{result.target}: {len(result.tensors)} tensors, {turned} transposed, {len(result.dropped)} left out")
    for note in result.notes:
        print(f"  {note}")
    checked = "not checked" if result.worst is None else f"forward check: worst relative difference {result.worst:.0e}"
    print(f"  {checked}; every tensor is listed in {result.record}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
