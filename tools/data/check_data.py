"""Reads every image and label of a data set and names each file that would stop or mislead training.

python tools/data/check_data.py --config configs/_base_/datasets/cityscapes.yml
python tools/data/check_data.py --dataset_root data/cityscapes --mode val
python tools/data/check_data.py --type Dataset --dataset_root data/mine --opts num_classes=4 train_path=train.txt
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.progress import Progress

from paddleseg_ext.config import Config, Parser, apply_opts, build_component, load_config, run_main
from paddleseg_ext.data import SegmentationDataset
from paddleseg_ext.data.check import CheckReport, check_dataset, report_lines
from paddleseg_ext.errors import DataError
from paddleseg_ext.registry import DATASETS


def parts(args: argparse.Namespace) -> dict[str, Callable[[], SegmentationDataset]]:
    """What opens each data set that the command line names."""
    if args.config:
        config = apply_opts(load_config(args.config), args.opts)
        names = [name for name in ("train_dataset", "val_dataset") if name in config.data]
    else:
        DATASETS.get(args.type)
        common, names = {"type": args.type, "dataset_root": args.dataset_root}, args.mode
        config = Config.from_dict({mode: {**common, "mode": mode} for mode in names}, "command line")
        config = apply_opts(config, [f"{mode}.{opt}" for mode in names for opt in args.opts])
    return {name: functools.partial(build_component, config, name, registry=DATASETS) for name in names}


def check(open_dataset: Callable[[], SegmentationDataset], num_workers: int) -> CheckReport:
    """Checks one data set; one that cannot be opened is one problem."""
    try:
        dataset = open_dataset()
    except DataError as e:
        return CheckReport.of_problem(str(e))
    with Progress(transient=True, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading", total=len(dataset))
        return check_dataset(dataset, num_workers=num_workers, progress=lambda: bar.advance(task))


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the data; returns the exit code, 2 if there are problems."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="configuration whose train_dataset and val_dataset to check")
    parser.add_argument("--dataset_root", metavar="DIR", help="without --config: the data set's folder")
    parser.add_argument("--type", default="Cityscapes", help="without --config: the data set (default: %(default)s)")
    parser.add_argument("--mode", nargs="+", default=["train", "val"], help="without --config: parts (train val)")
    parser.add_argument("--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="further arguments")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that read (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    if (args.config is None) == (args.dataset_root is None):
        parser.error("give either --config or --dataset_root")
    reports = {name: check(open_dataset, args.num_workers) for name, open_dataset in parts(args).items()}
    if args.json:
        text = json.dumps({name: report.as_dict() for name, report in reports.items()}, indent=2)
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    for name, report in reports.items():
        print("\n".join(report_lines(name, report)))
    return 0 if reports and all(reports.values()) else 2


if __name__ == "__main__":
    sys.exit(run_main(main))
