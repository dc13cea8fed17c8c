"""What people see: progress, the table, Markdown, JSON, reprod-log files and the pictures."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import numpy as np

from parity import guard, pictures, policy, zoo
from parity.case import STAGES, Case
from parity.compare import StageResult
from parity.errors import CaseError
from parity.markup import md

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, RGB, of images in 0..1


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str, str], None]]:
    """Shows which cases and stages are running, on standard error; one line that is overwritten on a terminal.

    What it gives is called with a case and a stage, and with an empty stage when the case is done.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        seen: set[str] = set()

        def plain(case: str, stage: str) -> None:
            if not quiet and case not in seen:
                print(f"checking {case} ...", file=sys.stderr, flush=True)
            seen.add(case)

        yield plain
        return
    running: dict[str, str] = {}
    with console.status("") as status:

        def line(case: str, stage: str) -> None:
            running[case] = stage
            if not stage:
                del running[case]
            status.update(Text("   ".join(f"{name}: {at}" for name, at in running.items())))

        yield line


def write(
    results: Sequence[Any], *, machine: str, json_path: str | None, md_path: Path | None, debug: bool = False
) -> None:
    """Prints the table, and writes what was asked for."""
    data = summary(results, machine=machine)
    if json_path:
        text = json.dumps(data, indent=1) + "\n"
        if json_path == "-":
            sys.stdout.write(text)
        else:
            guard.write(json_path, text)
    if md_path:
        write_markdown(data, md_path)
    if json_path != "-":
        print_table(data)
    if debug:
        for result in results:
            for stage in result.stages:
                if stage.crash:
                    print(f"{result.case} {stage.stage}: {stage.crash}", file=sys.stderr)


def summary(results: Sequence[Any], *, machine: str) -> dict[str, Any]:
    """All results as one JSON-able document."""
    return {
        "schema": 1,
        "policy": {"float64_relative": policy.RELATIVE, "float32_ratio": policy.NUMERICS_RATIO},
        "machine": {"cpu": machine, "python": platform.python_version(), "system": platform.system()},
        "cases": [{**result.to_dict(), "picture": result.picture} for result in results],
    }


def print_table(data: Mapping[str, Any]) -> None:
    """The table, the findings and the closing line, on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    stages = [stage for stage in STAGES if any(stage == s["stage"] for case in data["cases"] for s in case["stages"])]
    table = Table(title="worst relative difference in float64 (limit 1e-09), points compared", show_lines=True)
    for column in ("case", "upstream = reference", *stages, "verdict", "s"):
        table.add_column(column, justify="left" if column in ("case", "upstream = reference") else "right")
    for case in data["cases"]:
        by_name = {stage["stage"]: stage for stage in case["stages"]}
        cells = [Text(cell(by_name.get(stage)), style=_style(by_name.get(stage))) for stage in stages]
        verdict = Text("pass", style="green") if case["passed"] else Text("FAIL", style="bold red")
        chain = Text(chain_cell(case["chain"]), style="green" if case["chain"]["status"] == "verified" else "yellow")
        table.add_row(Text(case["case"]), chain, *cells, verdict, f"{case['seconds']:.0f}")
    console.print(table)
    for case in data["cases"]:
        for line in findings(case):
            console.print(line, markup=False, soft_wrap=True)
    console.print(closing_line(data), markup=False, soft_wrap=True)


def cell(stage: Mapping[str, Any] | None) -> str:
    """One stage of one case, for a table."""
    if stage is None:
        return "not run"
    if stage["reason"]:
        return "not possible"
    if stage["crash"]:
        return "crashed"
    text = f"{agreement(stage)}\n{stage['points']} points"
    if stage["numerics"] and stage["passed"]:
        text += f"\nf32 {stage['numerics']['ratio']:.1f}x"
    return text


def agreement(stage: Mapping[str, Any]) -> str:
    """How well the two sides of a stage that ran agree, in a word or as the worst relative difference."""
    if stage["worst"] is None:
        return "differs"
    if stage["worst"] == 0:
        return "alike" if stage["stage"] == "initial" else "equal"  # drawn by generators that have nothing in common
    return f"{stage['worst']:.0e}"


def chain_cell(chain: Mapping[str, Any]) -> str:
    """The chain of trust, for a table."""
    commit = chain["upstream"].partition("@")[2]
    number = f"\n{chain['worst']:.0e}\n{chain['points']} points" if chain["status"] == "verified" else ""
    return f"{chain['status']}{' @' + commit if commit else ''}{number}"


def findings(case: Mapping[str, Any]) -> list[str]:
    """What a reader has to know about a case beyond the table, a line each."""
    lines = []
    if case["chain"]["status"] != "verified":
        lines.append(
            f"{case['case']}: reference {case['chain']['status']}: {case['chain']['detail'] or 'not compared'}"
        )
    failed = [stage for stage in case["stages"] if not stage["passed"] and not stage["reason"]]
    for index, stage in enumerate(failed):
        first = stage["first"]
        if index == 0 and first is not None:
            others = stage["differing"] - 1
            lines.append(f"FAIL {case['case']} {first['point']}: first divergence. {first['text']}")
            lines.append(f"     {others} later points differ too. {stage['cause'] or 'No cause was found.'}")
        elif first is not None:
            lines.append(f"     {stage['stage']} differs as well, first at {first['point']}")
        elif not stage["crash"] and not stage["points"]:
            lines.append(f"FAIL {case['case']} {stage['stage']}: nothing was compared, which counts as a failure")
        if stage["crash"]:
            lines.append(f"     {stage['stage']}: {stage['crash'].splitlines()[0]}")
    for stage in case["stages"]:
        if stage["reason"]:
            lines.append(f"{case['case']}: {stage['stage']} is not possible: {stage['reason']}")
        ratio = stage["numerics"].get("ratio", 0.0)
        if stage["passed"] and ratio > policy.NUMERICS_RATIO:  # of a stage that fails, it measures the mistake
            n = stage["numerics"]
            lines.append(
                f"{case['case']}: float32 {stage['stage']}: at {n['point']} Paddle is {ratio:.0f} times as far from"
                f" float64 as torch (worst point {n['worst']:.0e}, torch {n['reference_worst']:.0e}): rounding, not"
                " logic"
            )
    lines.extend(_coverage_lines(case))
    if case["picture"]:
        lines.append(f"{case['case']}: picture {case['picture']}")
    return lines


def _coverage_lines(case: Mapping[str, Any]) -> list[str]:
    wording = {
        "leaves_never_run": "layers never ran",
        "relus_one_sided": "ReLUs saw one sign only",
        "parameters_without_gradient": "parameters get no gradient on either side",
        "not_finite": "points have numbers that are NaN or infinite on both sides",
    }
    lines = []
    for key, text in wording.items():
        names = case["coverage"].get(key) or []
        if names:
            groups = sorted({".".join(name.split(".")[:3]) for name in names})
            shown = ", ".join(groups[:4]) + (", ..." if len(groups) > 4 else "")
            lines.append(f"{case['case']}: not covered: {len(names)} {text} ({shown})")
    for layer in (case["coverage"].get("set_differently") or [])[:4] if case["passed"] else []:
        lines.append(f"{case['case']}: set differently, though no number of this run shows it: {layer}")
    return lines


def closing_line(data: Mapping[str, Any]) -> str:
    """How many cases and stages passed, failed, or could not run."""
    cases = data["cases"]
    stages = [stage for case in cases for stage in case["stages"]]
    passed = sum(case["passed"] for case in cases)
    verified = sum(case["chain"]["status"] == "verified" for case in cases)
    return (
        f"{passed} of {len(cases)} cases passed, {verified} with a verified reference; "
        f"stages: {sum(s['passed'] for s in stages)} passed, "
        f"{sum(not s['passed'] and not s['reason'] for s in stages)} failed, "
        f"{sum(bool(s['reason']) for s in stages)} not possible"
    )


def write_markdown(data: Mapping[str, Any], path: Path) -> None:
    """Writes the Markdown report; into a file with markers, only the tables.

    The table of the check goes between `<!-- check:begin -->` and `<!-- check:end -->`; that of all models between
    `<!-- zoo:begin -->` and `<!-- zoo:end -->`, if all of them were checked.
    """
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    text = between(old, "check", markdown_table(data))
    if text is None:
        text = markdown(data)
    elif "<!-- zoo:begin -->" in text and zoo.ZOO.exists():
        models = zoo.load()
        if {row["case"] for row in models["models"]} <= {case["case"] for case in data["cases"]}:
            text = between(text, "zoo", zoo.table(data, models)) or text
    guard.write(path, text)


def between(text: str, name: str, table: str) -> str | None:
    """The text with a table between the markers of this name, `<!-- name:begin -->` and `:end`; None without them."""
    head, begin, rest = text.partition(f"<!-- {name}:begin -->")
    _, end, tail = rest.partition(f"<!-- {name}:end -->")
    return f"{head}{begin}\n{table}\n{end}{tail}" if end else None


def markdown(data: Mapping[str, Any]) -> str:
    """The report people paste into a pull request."""
    lines = [
        markdown_table(data),
        "",
        "Worst `max|port-reference| / rms(reference)` in float64 (limit 1e-9), number of points compared, and",
        "the largest ratio of Paddle's float32 error to torch's own.",
        "",
    ]
    for case in data["cases"]:
        lines += [f"{'  ' * line.startswith(' ')}- {md(line.strip())}" for line in findings(case)]
    return "\n".join([*lines, closing_line(data), ""])


def markdown_table(data: Mapping[str, Any]) -> str:
    """One row per case, one column per stage."""
    stages = [stage for stage in STAGES if any(stage == s["stage"] for case in data["cases"] for s in case["stages"])]
    head = ["case", "upstream = reference", *stages, "verdict"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case in data["cases"]:
        by_name = {stage["stage"]: stage for stage in case["stages"]}
        cells = [case["case"], chain_cell(case["chain"]), *[cell(by_name.get(stage)) for stage in stages]]
        row = [*map(md, cells), "pass" if case["passed"] else "**FAIL**"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _style(stage: Mapping[str, Any] | None) -> str:
    if stage is None or stage["reason"]:
        return "yellow"
    return "green" if stage["passed"] else "bold red"


def photograph(path: Path | None) -> np.ndarray | None:
    """The photograph to draw pictures of, (H, W, 3) uint8 RGB.

    Without a path it is the portrait of Grace Hopper that matplotlib ships as sample data (a public-domain photograph
    by the US Navy), or None where matplotlib is not installed.

    Raises:
        CaseError: if the file is no image.
    """
    if path is None:
        spec = importlib.util.find_spec("matplotlib")
        if spec is None:
            return None
        path = Path(spec.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
        if not path.exists():
            return None
    image = pictures.read(path)
    if image is None:
        raise CaseError(f"--input {path}: not an image that can be read; expected a JPEG or PNG; name another file")
    return image


def normalised(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A photograph as a network gets it: resized, scaled to ImageNet statistics, (1, 3, H, W) float32."""
    resized = pictures.resize(image, size).astype(np.float64) / 255.0
    values = (resized - MEAN) / STD
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None]).astype(np.float32)


def photo_inputs(case: Case, photo: np.ndarray, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """The photograph as the case's first input: the batch holds it, mirrored every second time."""
    size = tuple(options.size) if options.size else case.size
    name = case.feed[0]
    batch = case.make_inputs(0, size)[name].shape[0]
    one = normalised(photo, size)
    return {name: np.concatenate([one if n % 2 == 0 else one[..., ::-1] for n in range(batch)])}


def draw(result: Any, case: Case, photo: np.ndarray, folder: Path) -> str:
    """Writes `<folder>/<case>.png`: the photograph, both predictions, and where they differ.

    Returns:
        Its path, or "" where the case has no class map to draw or did not get as far.
    """
    bench = result.bench
    if bench.plan is None or case.why_not("postprocess"):
        return ""
    height, width = photo.shape[:2]
    scale = 160 / max(height, width)  # float64 takes its time
    size = tuple(round(side * scale / 8) * 8 + 1 for side in (height, width))
    predictions = bench.predict(normalised(photo, size))
    if predictions is None:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_file_name(case.name)}.png"
    pictures.write(path, pictures.panel(pictures.resize(photo, size), *predictions, title=case.name))
    return os.path.relpath(path)


def write_reprod_log(result: Any, folder: Path) -> None:
    """Writes what was compared of both sides, by the port's names, as `<case>/<stage>_{ref,paddle}.npy`."""
    from reprod_log import ReprodLogger

    target = folder / _file_name(result.case)
    target.mkdir(parents=True, exist_ok=True)
    compared = {stage.stage: {f.point.partition("/")[2] for f in stage.findings} for stage in result.stages}
    for (side, stage), trace in result.bench.traces.items():
        if not compared.get(stage):
            continue
        if side == "reference" and stage != "loss":
            trace = result.bench.translated(trace)
        logger = ReprodLogger()
        for name, value in trace.points.items():
            if name in compared[stage]:
                logger.add(name, np.ascontiguousarray(value))
        logger.save(str(target / f"{stage}_{'ref' if side == 'reference' else 'paddle'}.npy"))


def _file_name(case: str) -> str:
    """The name of a case without what would lead out of its folder."""
    return re.sub(r"[^\w.+-]+", "_", case).lstrip(".") or "_"


def stage_named(result: Any, stage: str) -> StageResult:
    """The result of one stage."""
    return next(s for s in result.stages if s.stage == stage)
