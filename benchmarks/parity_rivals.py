"""The faults of `parity/check.py --self-test`, given to other parity tools too: `python benchmarks/parity_rivals.py`.

PaDiff and reprod_log get the ports that the harness gets: one mistake each, planted at the same place, by the same
seed, at the same size. They run in float32, as their users do, through their documented functions, with the options
that their documents show, and are helped where a user would help: both models have the right weights, their layers
are defined in the same order, dropout is off, PaDiff looks in evaluation and in training mode. Where a tool alarms on
the correct port, its limit is raised tenfold until it does not; the table says to what.

caught       a tool says that the port differs, and does not say so of the correct port
localised    it names the layer, call, loss or parameter of the mistake, or the block that directly holds it
explained    it says what the mistake is; neither has words for that
false alarm  it fails a correct port, with any of three seeds

Each tool runs in a process of its own. `pip install padiff` comes first; without it, its rows say so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rival_tools import TOOLS, Pair, is_localised

ROOT = Path(__file__).resolve().parent.parent
SEEDS = 3


def work(tool: str, name: str, faults: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Gives a tool the correct port, with some seeds, and then each fault.

    Args:
        tool: of `TOOLS`.
        name: of the case.
        faults: outcomes of the self-test.
        seed: of the first correct port, and of the faults.
    """
    from parity import cases
    from parity.faults.selftest import smaller

    case = smaller(cases.get(name), None)
    pair = Pair(case, seed)
    driver = TOOLS[tool](pair)
    result = {"version": driver.version, "limits": driver.limits, "alarms": [], "clean_runs": SEEDS, "faults": []}
    for other in range(seed, seed + SEEDS):
        driver.pair = pair if other == seed else Pair(case, other)
        said = driver.check(None)
        if said is not None:
            result["alarms"].append(f"{name}, seed {other}: {said.text}")
    driver.pair = pair
    if result["alarms"] and not driver.limits:
        return {**result, "status": "not scored: it fails the correct port"}
    for index, given in enumerate(faults):
        started = time.perf_counter()
        outcome = {"kind": given["kind"], "site": given["site"], **_outcome(driver, given)}
        if outcome.get("stage") == "":  # the port raised, and PaDiff leaves its hooks in both models then
            driver.pair = Pair(case, seed)
        outcome["seconds"] = round(time.perf_counter() - started, 2)
        result["faults"].append(outcome)
        print(f"{tool}: {index + 1} of {len(faults)}, {given['kind']}", file=sys.stderr, flush=True)
    return {**result, "status": "ran"}


def _outcome(driver: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    fault = driver.pair.find(given["kind"], given["site"])
    if fault is None:
        return {"verdict": "not planted", "localised": False, "explained": False, "said": "no place in float32"}
    with driver.pair.planted(fault):
        said = driver.check(fault)
    if said is None:
        return {"verdict": "missed", "localised": False, "explained": False, "said": ""}
    found = {"stage": said.stage, "names": list(said.names), "said": said.text}
    return {"verdict": "caught", "localised": is_localised(said, fault, given["expected"]), "explained": False, **found}


def run_tool(tool: str, args: argparse.Namespace, score: Path) -> dict[str, Any]:
    """A tool's result, from a process of its own."""
    names = {"PADIFF_API_CHECK": "ON" if "defaults" in tool else "OFF", "PADIFF_PATH_LOG": "ON"}
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **names, "GLOG_minloglevel": "2", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory(prefix="parity_rivals_") as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", tool, "--score", str(score.resolve())]
        command += ["--case", args.case, "--seed", str(args.seed), "--json", str(out)]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        if not out.exists():
            return {"status": f"does not run: its process ended with code {done.returncode}", "faults": []}
        return json.loads(out.read_text(encoding="utf-8"))


def worker(args: argparse.Namespace) -> None:
    """Runs one tool, and writes its result; why it does not run is a result too."""
    sys.path.insert(0, os.getcwd())  # PaDiff writes its logs to the first folder of the path
    faults = [o for o in json.loads(args.score.read_text())["faults"] if o["verdict"] in ("caught", "missed")]
    try:
        from paddleseg_ext import threads

        threads.configure(1)
        result = work(args.worker, args.case, faults, args.seed)
    except ImportError as error:
        result = {"status": f"does not run: {error}", "faults": []}
    except Exception as error:
        result = {"status": f"does not run: {type(error).__name__}: {error}", "faults": []}
    Path(args.json).write_text(json.dumps(result), encoding="utf-8")


# --- the command -------------------------------------------------------------------------------------------------


def own_score(path: Path, args: argparse.Namespace) -> None:
    """Writes the harness's own score, by the command that everybody uses."""
    command = [sys.executable, str(ROOT / "parity" / "check.py"), "--self-test", "--case", args.case]
    subprocess.run([*command, "--seed", str(args.seed), "--json", str(path)], stdout=subprocess.DEVNULL)
    if not path.exists():
        raise SystemExit(f"error: the self-test of {args.case} wrote no score; run {' '.join(command[1:])}")


def totals(result: Mapping[str, Any], kind: str | None = None) -> dict[str, int]:
    """How many faults were caught, localised and explained, of `count`."""
    faults = [f for f in result["faults"] if f["verdict"] in ("caught", "missed") and kind in (None, f["kind"])]
    found = {what: sum(f[what] for f in faults) for what in ("localised", "explained")}
    return {"caught": sum(f["verdict"] == "caught" for f in faults), **found, "count": len(faults)}


def print_tables(tools: Mapping[str, Mapping[str, Any]], texts: Mapping[str, str], title: str) -> None:
    """Per kind, and in total, on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    ran = {name: result for name, result in tools.items() if result["faults"]}
    table = Table(title=f"{title}: caught / localised / explained")
    table.add_column("kind")
    table.add_column("what is done wrong", max_width=60)
    for name in ("planted", *ran):
        table.add_column(name, justify="right")
    for kind in dict.fromkeys(f["kind"] for result in ran.values() for f in result["faults"]):
        rows = [totals(result, kind) for result in ran.values()]
        cells = [f"{row['caught']} / {row['localised']} / {row['explained']}" if row["count"] else "" for row in rows]
        table.add_row(kind, texts.get(kind, ""), str(max(row["count"] for row in rows)), *cells)
    console.print(table)
    table = Table(title="in total")
    for column in ("tool", "version", "caught", "localised", "explained", "false alarms", "s"):
        table.add_column(column, justify="left" if column in ("tool", "version") else "right")
    for name, result in tools.items():
        row = totals(result)
        cells = [
            f"{row[what]} of {row['count']}" if row["count"] else "-" for what in ("caught", "localised", "explained")
        ]
        alarms = f"{len(result.get('alarms', ()))} of {result.get('clean_runs', 0)}"
        seconds = sum(f["seconds"] for f in result["faults"])
        table.add_row(name, result.get("version", ""), *cells, alarms, f"{seconds:.0f}")
    console.print(table)
    for name, result in tools.items():
        if result.get("limits"):
            shown = ", ".join(f"{step} {limit:.0e}" for step, limit in result["limits"].items())
            console.print(f"{name}: limits {shown}", markup=False, soft_wrap=True)
        if result["status"] != "ran":
            console.print(f"{name} {result['status']}", markup=False, soft_wrap=True)
        for alarm in result.get("alarms", ()):
            console.print(f"FALSE ALARM {name}: {alarm}", markup=False, soft_wrap=True)


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    found = {"python": sys.version.split()[0]}
    for name in ("paddlepaddle", "torch", "numpy", "padiff", "reprod-log"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main() -> None:
    """Scores every tool on the same faults."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--case", default="stdc1", metavar="NAME", help="whose port the faults are planted in")
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and places")
    parser.add_argument("--score", type=Path, metavar="FILE", help="JSON of --self-test, if there is one already")
    parser.add_argument("--tool", nargs="+", choices=list(TOOLS), default=list(TOOLS), help="tools to run")
    parser.add_argument("--json", metavar="FILE", help="write the scores as JSON")
    parser.add_argument("--worker", choices=list(TOOLS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        score = args.score or Path(folder) / "score.json"
        if args.score is None:
            print("parity: running its self-test", file=sys.stderr, flush=True)
            own_score(score, args)
        own = json.loads(score.read_text(encoding="utf-8"))
        tools = {"parity": {**own, "version": "float64", "status": "ran", "limits": {"all": 1e-9}}}
        tools.update({tool: run_tool(tool, args, score) for tool in args.tool})
    if args.json:
        keys = ("status", "version", "limits", "alarms", "clean_runs", "faults")
        shown = {n: {**{k: r[k] for k in keys if k in r}, "totals": totals(r)} for n, r in tools.items()}
        text = json.dumps({"versions": versions(), "case": args.case, "seed": args.seed, "tools": shown}, indent=1)
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    from parity.faults import KINDS

    print_tables(tools, {name: kind.text for name, kind in KINDS.items()}, f"{args.case}, seed {args.seed}")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))


if __name__ == "__main__":
    main()
