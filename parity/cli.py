"""The command: which cases, what with, and where the report goes."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from parity import guard
from parity.case import STAGES, Case
from parity.errors import CaseError


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from parity import commands

    parser = argparse.ArgumentParser(
        prog="python parity/check.py",
        allow_abbrev=False,
        description="Loads converted PyTorch weights into Paddle ports and compares them stage by stage in float64. "
        "Exit codes: 0 equal, 1 a mismatch, 2 a bad argument or case, 3 a side crashed.",
        epilog=f"Other commands: {', '.join(commands.COMMANDS)}; each explains itself: python -m parity init --help",
    )
    parser.add_argument("cases", nargs="*", metavar="FILE.py", help="files of your own with a CASE or CASES")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--case", nargs="+", default=[], metavar="NAME", help="cases to run; a FILE.py works too")
    parser.add_argument("--stage", nargs="+", metavar="NAME", help=f"stages to run, of {', '.join(STAGES)}")
    parser.add_argument(
        "--input", type=Path, metavar="IMAGE", help="a photograph to run on, and to draw the picture of"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint of the reference (one case only)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated weights and inputs (default 0)")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="input size (default: the case's)")
    parser.add_argument("--json", metavar="PATH", help="write the results as JSON; - for standard output")
    parser.add_argument("--md", type=Path, metavar="PATH", help="write the table as Markdown, for a pull request")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as one HTML page")
    parser.add_argument("--fault-score", type=Path, metavar="FILE", help="JSON of --self-test, for the HTML page")
    parser.add_argument(
        "--self-test", nargs="*", metavar="KIND", help="plant mistakes (default: all kinds), and score what is found"
    )
    parser.add_argument(
        "--spread", action="store_true", help="with --self-test: each kind in one case of each family, by the seed"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="with --self-test: runs of each correct port (default 3)"
    )
    parser.add_argument("--reprod-log", type=Path, metavar="DIR", help="write both sides as reprod-log .npy files")
    parser.add_argument(
        "--report-dtype",
        choices=("float32", "none"),
        default="float32",
        help="precision of the numerics report beside the float64 verdict",
    )
    parser.add_argument("--report-dir", type=Path, default=Path("parity_report"), help="where the pictures go")
    parser.add_argument("--isolate", action="store_true", help="run each side in a process of its own")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="cases to check at the same time (default: one for each core)"
    )
    parser.add_argument(
        "--num_threads", type=int, help="CPU threads of each job (default: 1 with several jobs, else all cores)"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    from parity import commands

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in commands.COMMANDS:
        return commands.main(arguments)
    options = build_parser().parse_args(arguments)
    return guard.guarded(lambda: _run(options), debug=options.debug)


def _run(options: argparse.Namespace) -> int:
    from paddleseg_ext import threads
    from parity import workers

    cases = select(options.case + options.cases)
    if options.list:
        for case in cases:
            print(f"{case.name:32} {case.upstream or 'no upstream named'}")
        return 0
    _check(options, cases)
    if options.self_test is not None:
        return _self_test(options, cases)
    jobs = workers.number(options.jobs, len(cases))
    machine = threads.configure(options.num_threads or (1 if jobs > 1 else None))
    machine += f" in each of {jobs} processes" if jobs > 1 else ""
    _quieten_paddle()
    from parity import page, report

    faults = page.read_faults(options.fault_score) if options.fault_score else None
    checked = _check_cases(options, cases, jobs)
    results = [result for result, _ in checked]
    if options.html:
        shown = {result.case: evidence for result, evidence in checked}
        page.write(options.html, report.summary(results, machine=machine), shown, faults)
    report.write(results, machine=machine, json_path=options.json, md_path=options.md, debug=options.debug)
    return max(result.exit_code for result in results)


def _self_test(options: argparse.Namespace, cases: Sequence[Case]) -> int:
    from paddleseg_ext import threads
    from parity import workers
    from parity.faults import command

    jobs = 1 if options.spread else workers.number(options.jobs, len(cases))
    threads.configure(options.num_threads or (1 if jobs > 1 else None))
    _quieten_paddle()
    size = tuple(options.size) if options.size else None

    def plant(cases: Sequence[Case], **told: Any) -> Any:
        from parity.faults import self_test

        kinds = options.self_test or None
        settings = {"seed": options.seed, "seeds": options.seeds, "size": size, "spread": options.spread}
        return self_test(cases, kinds=kinds, **settings, **told)

    return command.run(cases, plant, jobs=jobs, json_path=options.json, md_path=options.md)


def _check_cases(options: argparse.Namespace, cases: Sequence[Case], jobs: int) -> list[tuple[Any, Any]]:
    """(result, evidence for the HTML report or None) of each case."""
    from parity import report, stages, workers

    stages.keep_memory()
    weights = _read_weights(options.weights) if options.weights else None
    photo = report.photograph(options.input)

    def check(index: int, progress: Callable[[str, str], None]) -> tuple[Any, Any]:
        return _check_case(options, cases[index], weights, photo, progress)

    def died(index: int, stage: str, message: str) -> tuple[Any, Any]:
        return stages.crashed(cases[index], stage, message), None

    names, quiet = [case.name for case in cases], options.json == "-"
    if jobs > 1:
        with workers.Pool(check, jobs) as pool, report.progress(quiet=quiet) as progress:
            return pool.run(
                names,
                progress=progress,
                died=died,
                needs=[stages.memory_needed(case) for case in cases],
                times=[stages.time_expected(case) for case in cases],
                memory=0.85 * workers.physical_memory(),
            )
    checked = []
    with report.progress(quiet=quiet) as progress:
        for index, name in enumerate(names):
            checked.append(check(index, progress))
            progress(name, "")
    return checked


def _check_case(
    options: argparse.Namespace, case: Case, weights: Any, photo: Any, progress: Callable[[str, str], None]
) -> tuple[Any, Any]:
    from parity import evidence, report, stages

    result = stages.run(
        case,
        stages=options.stage,
        seed=options.seed,
        size=tuple(options.size) if options.size else None,
        weights=weights,
        inputs=report.photo_inputs(case, photo, options) if options.input else None,
        float32=options.report_dtype == "float32",
        isolate=options.isolate,
        progress=progress,
    )
    if photo is not None:
        progress(case.name, "picture")
        result.picture = report.draw(result, case, photo, options.report_dir)
    if options.reprod_log:
        report.write_reprod_log(result, options.reprod_log)
    shown = evidence.collect(result, float32=options.report_dtype == "float32") if options.html else None
    result.release()
    return result, shown


def select(names: Sequence[str]) -> list[Case]:
    """Cases by name or by file; all of this repository's when none is named.

    Raises:
        CaseError: for an unknown name or a file without a case.
    """
    from parity import cases

    if not names:
        return list(cases.load().values())
    selected: list[Case] = []
    for name in names:
        selected.extend(_from_file(Path(name)) if name.endswith(".py") else [cases.get(name)])
    return selected


def _from_file(path: Path) -> list[Case]:
    from parity.commands import import_file

    if not path.is_file():
        raise CaseError(f"{path}: there is no such file; expected a Python file with a CASE or CASES")
    module = import_file(path, f"parity_case_{path.stem}")
    found = getattr(module, "CASES", None) or [getattr(module, "CASE", None)]
    if not isinstance(found, (list, tuple)) or not all(isinstance(case, Case) for case in found):
        raise CaseError(f"{path}: defines no CASE or CASES; expected `CASE = parity.Case(name=..., ...)`")
    return list(found)


def _check_files(options: argparse.Namespace) -> None:
    """Refuses files that cannot be read or written, before anything is done."""
    for name in ("weights", "input", "fault_score"):
        path, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if path and not path.is_file():
            what = "is a folder; expected a file" if path.is_dir() else "there is no such file"
            raise CaseError(f"{option} {path}: {what}; correct the path")
    if options.fault_score and not options.html:
        raise CaseError(f"--fault-score {options.fault_score}: is shown by the HTML page alone; give --html FILE too")
    guard.check_outputs(
        {"--json": options.json, "--md": options.md, "--html": options.html}, {"--reprod-log": options.reprod_log}
    )


def _check_self_test(options: argparse.Namespace) -> None:
    """Refuses what goes without --self-test only, and what goes with it only."""
    if options.self_test is None:
        if options.spread:
            raise CaseError("--spread: deals out planted mistakes; expected --self-test beside it")
        return
    for name in ("stage", "weights", "input", "html", "fault_score", "reprod_log", "isolate"):
        if getattr(options, name):
            raise CaseError(f"--{name.replace('_', '-')}: is no option of --self-test; leave it out")
    if options.spread and (options.jobs or 1) > 1:
        raise CaseError(f"--jobs {options.jobs}: --spread goes from case to case; expected one job; leave --jobs out")


def _check(options: argparse.Namespace, cases: Sequence[Case]) -> None:
    _check_self_test(options)
    if options.weights and len(cases) != 1:
        raise CaseError(f"--weights: {len(cases)} cases are selected; expected one; name it with --case")
    _check_files(options)
    if options.size and min(options.size) < 1:
        raise CaseError(f"--size {options.size[0]} {options.size[1]}: expected two positive numbers, height and width")
    if options.num_threads is not None and options.num_threads < 1:
        raise CaseError(f"--num_threads {options.num_threads}: expected a positive number")
    if options.jobs is not None and options.jobs < 1:
        raise CaseError(f"--jobs {options.jobs}: expected a positive number")
    if options.seeds < 1:
        raise CaseError(f"--seeds {options.seeds}: expected a positive number")
    if any(case.why_not("postprocess") is None for case in cases):
        guard.check_outputs({}, {"--report-dir": options.report_dir})
    for module in ("torch", "paddle"):
        if importlib.util.find_spec(module) is None:
            raise CaseError(f"{module} is not installed; run `make setup`, or pip install paddleseg-ext[parity]")


def _read_weights(path: Path) -> Any:
    """Name -> array of a checkpoint.

    Raises:
        CaseError: if it cannot be read.
    """
    from paddleseg_ext.errors import PaddlesegExtError
    from parity import torch_files

    try:
        return torch_files.load_any(path)
    except PaddlesegExtError as error:
        raise CaseError(str(error)) from error


def _quieten_paddle() -> None:
    os.environ.setdefault("GLOG_minloglevel", "2")
    import warnings

    for message in ("No ccache found", "When training, we now always track"):
        warnings.filterwarnings("ignore", message=message)
