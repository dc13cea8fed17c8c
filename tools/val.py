"""Evaluates a model. Without --config: the demo's, on the generated city, with the best weights it has trained."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from paddleseg_ext import threads
from paddleseg_ext.config import (
    Parser,
    add_config_arguments,
    add_flag_arguments,
    add_weights_arguments,
    import_components,
    load_from_arguments,
    run_main,
    validate,
)

FLAGS = "--num_workers --aug_eval --scales --flip_horizontal --flip_vertical --is_slide --crop_size --stride".split()


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    add_weights_arguments(parser)
    parser.add_argument("--random_weights", action="store_true", help="evaluate the model as it is built")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--save_dir", metavar="DIR", help="write a picture of each image with its prediction there")
    parser.add_argument(
        "--format_only",
        nargs="?",
        const="output/format_only",
        metavar="DIR",
        help="only write predictions, in the ids that test servers want (default: output/format_only)",
    )
    parser.add_argument("--paddleseg-metrics", action="store_true", help="count absent classes as PaddleSeg does")
    add_flag_arguments(parser, FLAGS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates and prints the figures; returns the exit code."""
    args = make_parser().parse_args(argv)
    threads.configure(args.num_threads)
    import_components()
    from paddleseg_ext.engine import demo
    from paddleseg_ext.engine.val import ValOptions, val

    if args.config is None:
        print(f"no --config: using {demo.CONFIG}, on the generated city in {demo.ROOT}")
    config = load_from_arguments(args, default=demo.CONFIG)
    validate(config, "val")
    if args.config is None and args.model_path is None and not args.random_weights:
        args.model_path = demo.default_weights()
    options = ValOptions(
        model_path=args.model_path,
        random_weights=args.random_weights,
        allow=tuple(args.allow),
        device=args.device,
        json_path=args.json,
        save_dir=args.save_dir,
        format_dir=args.format_only,
        convention="paddleseg" if args.paddleseg_metrics else "present",
    )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    val(config, options, console.print)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
