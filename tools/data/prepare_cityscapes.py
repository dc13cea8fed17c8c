"""Makes Cityscapes ready for training: extracts its archives, makes training ids and lists, counts what is there.

python tools/data/prepare_cityscapes.py leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip --root data/cityscapes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.progress import Progress

from paddleseg_ext.config import Parser, run_main
from paddleseg_ext.data.prepare import prepare_cityscapes, report_lines
from paddleseg_ext.data.prepare_panoptic import write_cityscapes_panoptic


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the folder; returns the exit code, 2 if something is still missing."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="archives, or folders with leftImg8bit and gtFine; none: in place")
    parser.add_argument("--root", default="data/cityscapes", help="folder to fill (default: %(default)s)")
    parser.add_argument("--separator", default=",", help="between image and label in the lists (default: %(default)r)")
    parser.add_argument("--num_workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="make training ids again where there are some")
    parser.add_argument(
        "--panoptic",
        nargs="?",
        const="ids",
        choices=("ids", "train_ids"),
        help="also write panoptic PNG and JSON for other tools, with label ids (default) or training ids",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)

    tasks: dict[str, int] = {}
    with Progress(transient=True, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step)
            bar.update(tasks[step], completed=done, total=total)

        report = prepare_cityscapes(
            args.root,
            args.sources,
            separator=args.separator,
            num_workers=args.num_workers,
            force=args.force,
            progress=progress,
        )
        written = []
        if args.panoptic:
            written = write_cityscapes_panoptic(
                args.root, train_ids=args.panoptic == "train_ids", num_workers=args.num_workers, progress=progress
            )
    print("\n".join(report_lines(report, args.root)))
    for path in written:
        print(f"  panoptic {path}")
    for problem in report.problems:
        print(f"error: {args.root}: {problem}", file=sys.stderr)
    return 0 if report else 2


if __name__ == "__main__":
    sys.exit(run_main(main))
