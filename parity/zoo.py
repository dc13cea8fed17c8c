"""The table of models: what is proven of each, what others report, what was measured here.

`parity/zoo.yml` has the figures, a check the verdicts. A reported PQ has to be the mean over things and stuff where
all three are given; one that cannot be is shown as reported, and said to be inconsistent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.errors import CaseError
from parity.markup import md

ZOO = Path(__file__).with_suffix(".yml")
HEAD = ("model", "backbone", "parity", "upstream = reference", "data", "reported, by whom", "measured here")
_KEYS = {"model", "backbone", "case", "config", "dataset", "reported", "measured"}
_FIGURES = ("mIoU", "PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP")
_FACTS = ("setting", "source", "command", "date")


def load(path: Path = ZOO) -> dict[str, Any]:
    """The data file: `{datasets, models}`.

    Raises:
        CaseError: naming a model and what is wrong with it.
    """
    import yaml

    try:
        zoo = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CaseError(f"{path}: cannot be read: {error}") from error
    for row in zoo["models"]:
        name = row.get("case", row.get("model"))
        wrong = sorted(set(row) - _KEYS)
        if wrong or not {"model", "backbone", "case", "dataset"} <= set(row):
            raise CaseError(f"{path}: {name}: has {sorted(row)}; expected model, backbone, case, dataset, and {_KEYS}")
        for entry in [*row.get("reported", ()), *row.get("measured", ())]:
            if "source" not in entry or not set(entry) <= {*_FIGURES, *_FACTS}:
                raise CaseError(f"{path}: {name}: {entry}; expected a source, and of {', '.join(_FIGURES + _FACTS)}")
    return zoo


def expected_pq(figures: Mapping[str, float], kinds: Mapping[str, int]) -> float | None:
    """The PQ that things and stuff give, if it contradicts the reported one; else None.

    Args:
        figures: in per cent, rounded; PQ, PQ_things and PQ_stuff if known.
        kinds: number of classes: `things` and `stuff`.
    """
    if not all(key in figures for key in ("PQ", "PQ_things", "PQ_stuff")):
        return None
    things, stuff = kinds["things"], kinds["stuff"]
    mean = (things * figures["PQ_things"] + stuff * figures["PQ_stuff"]) / (things + stuff)
    keys = ("PQ", "PQ_things", "PQ_stuff")
    decimals = min(len(repr(float(figures[key])).partition(".")[2]) for key in keys)
    rounding = 10.0**-decimals  # half a digit of the mean, and half a digit of its parts
    return None if abs(mean - figures["PQ"]) <= rounding * (1 + 1e-9) else mean


def figures(entries: Sequence[Mapping[str, Any]], kinds: Mapping[str, int]) -> str:
    """Figures for a cell, a line for each source: "PQ 60.3, mIoU 78.2: detectron2's README"; "-" if there are none."""
    lines: dict[str, list[str]] = {}
    for entry in entries:
        parts = [f"{key.replace('_', ' ')} {entry[key]}" for key in _FIGURES if key in entry]
        text = ", ".join(parts) + (f" ({entry['setting']})" if "setting" in entry else "")
        other = expected_pq(entry, kinds)
        if other is not None:
            text += f" (as reported; inconsistent: things and stuff give PQ {other:.2f})"
        lines.setdefault(entry["source"], []).append(text)
    return "<br>".join(md(f"{', '.join(texts)}: {source}") for source, texts in lines.items()) or "-"


def verdict(case: Mapping[str, Any] | None) -> str:
    """What a check found for a cell: "equal in 9 stages; no data"."""
    if case is None:
        return "not checked"
    passed = sum(stage["passed"] for stage in case["stages"])
    missing = [stage["stage"] for stage in case["stages"] if stage["reason"]]
    failed = [stage["stage"] for stage in case["stages"] if not stage["passed"] and not stage["reason"]]
    text = f"**differs in {', '.join(failed)}**" if failed else f"equal in {passed} stages"
    return text + (f"; without {', '.join(missing)}" if missing else "")


def chain(case: Mapping[str, Any] | None) -> str:
    """How the reference relates to upstream, for a cell: "verified, MichaelFan01/STDC-Seg@59ff37f"."""
    if case is None:
        return "-"
    return f"{case['chain']['status']}, {case['chain']['upstream']}".rstrip(", ")


def table(data: Mapping[str, Any], zoo: Mapping[str, Any]) -> str:
    """The Markdown table; a case that the data file does not know has a row without figures.

    Args:
        data: `report.summary` of a check.
        zoo: from `load`.
    """
    checked = {case["case"]: case for case in data["cases"]}
    known = [row["case"] for row in zoo["models"]]
    extra = [{"model": name, "backbone": "-", "case": name, "dataset": "-"} for name in checked if name not in known]
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for row in [*zoo["models"], *extra]:
        kinds, case = zoo["datasets"].get(row["dataset"], {}), checked.get(row["case"])
        name = f"[{md(row['model'])}](configs/{row['config']})" if "config" in row else md(row["model"])
        numbers = [figures(row.get(key, ()), kinds) for key in ("reported", "measured")]
        cells = [name, md(row["backbone"]), verdict(case), md(chain(case)), md(row["dataset"]), *numbers]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
