"""Plots losses, learning rate and metrics of one or several training runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddleseg_ext.config import Parser, run_main
from paddleseg_ext.plots import curves, plot, read_log


def main(argv: Sequence[str] | None = None) -> int:
    """Plots what the command line asks for; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="*", default=["output/demo"], metavar="RUN", help="folders, or train.jsonl files")
    parser.add_argument("--keys", nargs="+", metavar="NAME", help="loss, lr, mIoU, 'IoU car' ...; default: the usual")
    parser.add_argument("--legend", nargs="+", metavar="TEXT", help="a name for each run")
    parser.add_argument("--out", metavar="FILE", help="PNG, SVG or PDF; default: curves.png beside the first log")
    parser.add_argument("--list", action="store_true", help="print the names of all curves, with first and last value")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    names = args.legend or args.runs
    if len(names) != len(args.runs) or len(set(names)) != len(names):
        parser.error(f"--legend: {len(names)} names for {len(args.runs)} runs; expected one of its own for each")
    found = {name: curves(read_log(run)) for name, run in zip(names, args.runs)}
    for name, run_curves in found.items() if args.list else ():
        for key, (steps, values) in run_curves.items():
            print(f"{name}: {key}: {values[0]:.6g} at {steps[0]}, {values[-1]:.6g} at {steps[-1]}")
    first = Path(args.runs[0])
    out = args.out or (first if first.is_dir() else first.parent) / "curves.png"
    if args.out or not args.list:
        print(f"curves in {plot(found, args.keys, out)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
