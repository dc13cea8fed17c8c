"""Generates a small city in the layout of Cityscapes, for trying everything without a download."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.progress import Progress

from paddleseg_ext.config import Parser, run_main
from paddleseg_ext.data.demo import DEFAULT_ROOT, DemoSettings, make_demo


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the city; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--root", default=DEFAULT_ROOT, help="folder to make (default: %(default)s)")
    parser.add_argument("--train", type=int, default=200, help="training scenes (default: %(default)s)")
    parser.add_argument("--val", type=int, default=40, help="validation scenes (default: %(default)s)")
    parser.add_argument("--test", type=int, default=4, help="scenes without labels (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 128), metavar=("W", "H"), help="width and height (default: 256 128)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that paint (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace a city generated with other settings")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)

    width, height = args.size
    settings = DemoSettings(args.train, args.val, args.test, height=height, width=width, seed=args.seed)
    start = time.perf_counter()
    with Progress(transient=True, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("painting", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        root = make_demo(args.root, settings, num_workers=args.num_workers, force=args.force, progress=progress)
    print(
        f"{root}: {args.train} training, {args.val} validation and {args.test} test scenes of {width} x {height} "
        f"(seed {args.seed}), {time.perf_counter() - start:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
