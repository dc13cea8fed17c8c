"""Makes COCO's panoptic annotations ready for training: checks files and JSON, writes an index and lists.

python tools/data/prepare_coco_panoptic.py --root data/coco
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
from paddleseg_ext.data.prepare_coco import prepare_coco_panoptic, report_lines


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the folder; returns the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/coco", help="folder of COCO (default: %(default)s)")
    parser.add_argument("--modes", nargs="+", choices=("train", "val"), default=["train", "val"], help="default: both")
    parser.add_argument("--check_pixels", action="store_true", help="also read every PNG and compare its ids")
    parser.add_argument("--num_workers", type=int, default=2, help="processes for that (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)

    tasks: dict[str, int] = {}
    with Progress(transient=True, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step)
            bar.update(tasks[step], completed=done, total=total)

        counts = prepare_coco_panoptic(
            args.root,
            args.modes,
            check_pixels=args.check_pixels,
            num_workers=args.num_workers,
            progress=progress,
        )
    print("\n".join(report_lines(args.root, counts)))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
