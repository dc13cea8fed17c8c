"""Prints a configuration with its bases and overrides merged, or what a configuration can hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddleseg_ext import threads
from paddleseg_ext.config import (
    Parser,
    add_config_arguments,
    import_components,
    load_from_arguments,
    run_main,
    validate,
)
from paddleseg_ext.config.describe import describe_component, describe_schema
from paddleseg_ext.config.schema import NEEDS


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what the command line asks for; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("file", nargs="?", metavar="FILE", help="configuration; the same as --config FILE")
    add_config_arguments(parser)
    parser.add_argument("--where", action="store_true", help="end each line with the place that its value came from")
    parser.add_argument("--command", choices=list(NEEDS), help="also check that it has what this command needs")
    parser.add_argument("--no_check", action="store_true", help="merge only; do not check keys and values")
    parser.add_argument("--schema", nargs="*", metavar="NAME", help="keys and components, or the arguments of some")
    args = parser.parse_args(argv)
    if args.file and args.config:
        parser.error(f"two configurations: {args.file} and --config {args.config}; give one")
    args.config = args.config or args.file

    if args.schema is not None or not args.no_check:
        threads.configure(args.num_threads)
        import_components()
    if args.schema is not None:
        print("\n\n".join(map(describe_component, args.schema)) if args.schema else describe_schema())
        return 0
    config = load_from_arguments(args)
    if not args.no_check:
        validate(config, args.command)
    sys.stdout.write(config.to_yaml(where=args.where))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
