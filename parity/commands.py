"""The harness's other commands: `python -m parity probe`, `record`, `compare` and `init`.

Each is a function of its parsed arguments that returns an exit code. What a command needs is imported when it runs, so
that `record` works where only numpy and torch are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity import guard
from parity.errors import SideError
from parity.guard import EXIT_CRASH

EXIT_MISMATCH = 1


def build_parser() -> argparse.ArgumentParser:
    """All commands' arguments."""
    parser = argparse.ArgumentParser(prog="python -m parity", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (add_arguments, _, description) in COMMANDS.items():
        command = commands.add_parser(name, description=description, help=description, allow_abbrev=False)
        add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit code: 0 equal, 1 a mismatch, 2 bad usage, 3 a side crashed."""
    options = build_parser().parse_args(arguments)
    return guard.guarded(lambda: _run(options), debug=options.debug)


def _run(options: argparse.Namespace) -> int:
    outputs = {f"--{name}": getattr(options, name, None) for name in ("out", "json", "md", "html")}
    guard.check_outputs(outputs)
    return COMMANDS[options.command][1](options)


def _probe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="probes to run, by (part of) their names; default all")
    parser.add_argument("--json", metavar="PATH", help="write the readings as JSON; - for standard output")
    parser.add_argument("--record", action="store_true", help="put the readings on record for the installed versions")
    parser.add_argument("--known", type=Path, metavar="FILE", help="the record (default: the one that comes with this)")


def _probe(options: argparse.Namespace) -> int:
    from paddleseg_ext import threads
    from parity import probes
    from parity.cli import _quieten_paddle
    from parity.errors import CaseError

    threads.configure(None)
    _quieten_paddle()
    if options.record and options.names:
        raise CaseError("--record: only some probes are selected; expected all of them; leave the names out")
    path = options.known or probes.KNOWN
    readings, against = probes.measure(probes.read_known(path), options.names)
    if options.record:
        probes.record(readings, path)
        print(f"{len(readings)} readings of {probes.versions()} are on record in {path}")
        return 0
    data = {"schema": 1, "versions": probes.versions(), "recorded": against, "probes": [r.to_dict() for r in readings]}
    if options.json:
        write_json(data, options.json)
    if options.json != "-":
        print_readings(readings, versions=data["versions"], against=against)
    return EXIT_MISMATCH if any(reading.status == "changed" for reading in readings) else 0


def write_json(data: object, path: str) -> None:
    """Writes JSON to a file, or to standard output if `path` is "-"."""
    text = json.dumps(data, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        guard.write(path, text)


def print_readings(readings: Sequence, *, versions: str, against: str) -> None:
    """The table of `probe`, and what changed, on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    table = Table(title=f"{versions}, compared with the record of {against or 'nothing'}", show_lines=False)
    for column in ("probe", "torch", "Paddle", "", "record", "in a port"):
        table.add_column(column, overflow="fold")
    for r in readings:
        style = {"changed": "bold red", "new": "yellow"}.get(r.status, "dim")
        alike = Text("same", style="dim") if r.alike else Text("DIFFER", style="yellow")
        rule = Text(r.rule, style="dim" if r.alike else "")
        table.add_row(Text(r.name), Text(shown(r.torch)), Text(shown(r.paddle)), alike, Text(r.status, style), rule)
    console.print(table)
    for r in readings:
        if r.status == "changed":
            before = f"torch {shown(r.expected[0])}, Paddle {shown(r.expected[1])}"
            console.print(
                f"CHANGED {r.name}: torch {shown(r.torch)}, Paddle {shown(r.paddle)}; on record {before}"
                + (f"; correct the entry {r.ledger!r} of parity/known.py" if r.ledger else "; correct its rule"),
                markup=False,
                soft_wrap=True,
            )
    differ = sum(not r.alike for r in readings)
    changed, new = (sum(r.status == status for r in readings) for status in ("changed", "new"))
    console.print(f"{len(readings)} probes: {differ} differ between the frameworks; {changed} changed, {new} new")


def shown(answer: object) -> str:
    """An answer as text."""
    if isinstance(answer, list):
        return " ".join(shown(item) for item in answer)
    return f"{answer:.5g}" if isinstance(answer, float) else str(answer)


def _record_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", metavar="CASE", help="a FILE.py with a CASE, or the name of a case")
    parser.add_argument("--side", choices=("reference", "port"), required=True, help="the torch or the Paddle side")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="where to write it")
    parser.add_argument("--against", type=Path, metavar="FILE.npz", help="the recorded reference, for --side port")
    parser.add_argument("--stage", nargs="+", metavar="NAME", help="stages to run (default: all)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint of the reference")
    parser.add_argument("--seed", type=int, default=0, help="of the generated weights and inputs (default 0)")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="input size (default: the case's)")
    parser.add_argument(
        "--report-dtype", choices=("float32", "none"), default="float32", help="also record in this precision"
    )


def _record(options: argparse.Namespace) -> int:
    from parity.errors import CaseError

    if options.out.suffix != ".npz":
        raise CaseError(f"--out {options.out}: expected a name that ends in .npz")
    case = _one_case(options.case)
    if options.side == "reference":
        result = _record_reference(case, options)
    else:
        result = _record_port(case, options)
    for stage in result.stages:
        if stage.crash:
            print(f"{stage.stage}: {stage.crash.splitlines()[0]}", file=sys.stderr)
    size = options.out.stat().st_size / 2**20
    print(f"{options.out}: the {options.side} of {case.name}, {size:.1f} MiB")
    return EXIT_CRASH if any(stage.crash for stage in result.stages) else 0


def _record_reference(case: Any, options: argparse.Namespace) -> Any:
    from parity import offline
    from parity.errors import CaseError

    if options.against:
        raise CaseError("--against: only a port is recorded against something; leave it out for the reference")
    weights = None
    if options.weights:
        from parity.cli import _read_weights

        weights = _read_weights(options.weights)
    return offline.record_reference(
        case,
        options.out,
        stages=options.stage,
        seed=options.seed,
        size=tuple(options.size) if options.size else None,
        weights=weights,
        float32=options.report_dtype == "float32",
    )


def _record_port(case: Any, options: argparse.Namespace) -> Any:
    from paddleseg_ext import threads
    from parity import offline, recording
    from parity.cli import _quieten_paddle
    from parity.errors import CaseError

    if not options.against:
        raise CaseError("--side port: it is fed what the reference computed; give its recording, --against FILE.npz")
    if options.stage or options.size or options.seed or options.weights:
        raise CaseError("--side port: stages, size, seed and weights are those of --against; leave them out")
    threads.configure(None)
    _quieten_paddle()
    return offline.record_port(case, options.out, recording.Recorded(options.against))


def _one_case(name: str) -> Any:
    from parity import cli
    from parity.errors import CaseError

    found = cli.select([name])
    if len(found) != 1:
        names = ", ".join(case.name for case in found)
        raise CaseError(f"{name}: has {len(found)} cases ({names}); expected one; give a file with a single CASE")
    return found[0]


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "reference",
        type=Path,
        metavar="REFERENCE.npz",
        help="the recorded torch side; also a .npy of reprod-log, or a folder of them",
    )
    parser.add_argument(
        "port", type=Path, metavar="PORT", help="the recorded Paddle side, or a FILE.py with the case, to run it here"
    )
    parser.add_argument("--json", metavar="PATH", help="write the results as JSON; - for standard output")
    parser.add_argument("--md", type=Path, metavar="PATH", help="write the table as Markdown")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as one HTML page")


def _compare(options: argparse.Namespace) -> int:
    if options.reference.is_dir() or options.reference.suffix == ".npy":
        return _compare_logs(options)
    from parity import evidence, offline, page, recording, report

    reference = recording.Recorded(options.reference)
    machine = "recorded"
    if options.port.suffix == ".py":
        from paddleseg_ext import threads
        from parity.cli import _quieten_paddle

        machine = threads.configure(None)
        _quieten_paddle()
        result = offline.compare_live(reference, _one_case(str(options.port)))
    else:
        result = offline.compare(reference, recording.Recorded(options.port))
    if options.html:
        shown = {result.case: evidence.collect(result, float32=False)}
        page.write(options.html, report.summary([result], machine=machine), shown, None)
    result.release()
    report.write([result], machine=machine, json_path=options.json, md_path=options.md)
    return result.exit_code


def _compare_logs(options: argparse.Namespace) -> int:
    from parity import reprod
    from parity.errors import CaseError

    if options.md or options.html:
        raise CaseError("--md, --html: there is no table of reprod-log files; expected --json or nothing")
    results = reprod.compare_logs(options.reference, options.port)
    if options.json:
        write_json({"schema": 1, "stages": [result.to_dict() for result in results]}, options.json)
    if options.json != "-":
        for result in results:
            first = result.first
            differing = sum(not finding.passed for finding in result.findings)
            print(
                f"{'pass' if result.passed else 'FAIL'} {result.stage}: {len(result.findings)} points, "
                f"{differing} differ, worst {result.worst:.1e}"
                + (
                    f"; first {first.point}: {first.text}"
                    if first
                    else ""
                    if result.findings
                    else "; nothing to compare"
                )
            )
    return 0 if all(result.passed for result in results) else EXIT_MISMATCH


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", type=Path, metavar="MODELS.py", help="a file with functions reference() and port(); begun if missing"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.py", help="the case to write (default: MODELS_case.py)")


def _init(options: argparse.Namespace) -> int:
    from parity import matching
    from parity.errors import CaseError

    if not options.models.stem.isidentifier():
        name = options.models.stem
        raise CaseError(f"{options.models}: {name!r} cannot be imported; expected a name of letters, digits and _")
    path = options.models.with_suffix(".py")
    guard.check_outputs({"init": path})
    if not path.exists():
        path.write_text(matching.MODELS.format(name=path.stem, path=path), encoding="utf-8")
        print(f"{path}: begun; put your two models into it, then run `python -m parity init {path}` again")
        return 0
    target = options.out or path.with_name(f"{path.stem}_case.py")
    if target.exists():
        raise CaseError(f"{target}: exists already; expected a new file; name another with --out, or remove it")
    if target.resolve().parent != path.resolve().parent:
        raise CaseError(f"--out {target}: expected a file beside {path}, from which it imports the models")
    theirs, own = _modules(path)
    proposal = matching.propose(theirs, own)
    left = matching.unmatched(proposal, theirs, own)
    target.write_text(matching.source(path.stem, path.stem, proposal, left), encoding="utf-8")
    print(
        f"{target}: {len(theirs.shapes) - len(left)} of {len(theirs.shapes)} tensors carry over, by "
        f"{len(proposal.rules)} rules; {proposal.still_open} open: look for CHECK in it"
    )
    print(f"then: python -m parity {target}")
    return 0


def import_file(path: Path, name: str) -> Any:
    """The module that a file of the user's defines.

    Raises:
        CaseError: if it cannot be imported, with the line where.
    """
    from parity.errors import CaseError

    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == Path(spec.origin)]
        where = f"{path}:{lines[-1]}" if lines else f"{path}"
        said = error if isinstance(error, CaseError) else f"importing it raised {type(error).__name__}: {error}"
        raise CaseError(f"{where}: {said}") from error
    return module


def _modules(path: Path) -> tuple:
    """Both models of a file, as `matching.Modules`."""
    from parity.cli import _quieten_paddle

    _quieten_paddle()
    from parity.case import Side
    from parity.errors import CaseError
    from parity.matching import Modules
    from parity.paddle_side import PaddleSide
    from parity.torch_side import TorchSide

    module = import_file(path, path.stem)
    for name in ("reference", "port"):
        if not callable(getattr(module, name, None)):
            raise CaseError(
                f"{path}: has no function {name}(); expected reference() and port(), which return the models"
            )
    sides = []
    for name, kind in (("reference", TorchSide), ("port", PaddleSide)):
        try:
            sides.append(kind(Side(getattr(module, name))))
        except Exception as error:
            raise SideError(f"{path}: the {name} cannot be built: {type(error).__name__}: {error}") from error
    theirs, own = sides
    shapes = {name: shape for name, shape in theirs.shapes().items() if name not in theirs.framework_only()}
    tensors = {tensor.torch_name: tuple(tensor.shape) for tensor in own.tensors()}
    types = [{path: kind for path, kind in side.module_types().items() if path} for side in sides]
    return Modules(types[0], shapes), Modules(types[1], tensors)


COMMANDS = {
    "probe": (_probe_arguments, _probe, "measure what torch and Paddle do differently, on the installed versions"),
    "record": (_record_arguments, _record, "write what one side of a case computes, to compare it elsewhere"),
    "compare": (_compare_arguments, _compare, "compare two recordings, or a recorded reference with a port"),
    "init": (_init_arguments, _init, "begin a case: match two models' names, types and shapes"),
}
