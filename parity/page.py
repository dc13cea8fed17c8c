"""The HTML report: one file that says which port is wrong, where and why, and shows what the verdict rests on.

It loads nothing: no scripts, no fonts, no images but those inside. Everything that comes from a case, a model or a
message is escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity import drawings, guard, policy
from parity.case import STAGES
from parity.errors import CaseError
from parity.evidence import worst_values
from parity.page_style import STYLE
from parity.report import agreement

WIDE, NARROW = 1040, 350
SECOND_RISE = 30.0  # of an error, over what it was before: more than a layer amplifies
STAGE_WORDS = {
    "weights": "carrying the weights over",
    "forward": "the forward pass",
    "forward_train": "the forward pass in training mode",
    "loss": "the loss terms",
    "gradients": "the gradients",
    "step": "the optimizer's steps",
    "trajectory": "a longer training run",
    "initial": "the initial values",
    "data": "the data pipeline",
    "postprocess": "post-processing",
    "metrics": "the metrics",
}
CHAIN_WORDS = {
    "verified": ("good", "computes what its upstream repository computed"),
    "broken": ("bad", "does not compute what its upstream repository computed"),
    "unverified": ("none", "was not compared with its upstream repository"),
    "unchecked": ("none", "was not compared with its upstream repository in this run"),
}
WHATS = ("caught", "localised", "explained")  # of planted faults
UNCOVERED = {
    "leaves_never_run": "layers that never ran",
    "relus_one_sided": "ReLUs that saw one sign only",
    "parameters_without_gradient": "parameters without a gradient on either side",
    "not_finite": "points with numbers that are NaN or infinite on both sides",
    "set_differently": "layers that are set differently, some of which no number of this run may show",
}


def write(path: Path, data: Mapping[str, Any], evidence: Mapping[str, Any], faults: Mapping[str, Any] | None) -> None:
    """Writes the report.

    Args:
        path: of the file.
        data: `report.summary`.
        evidence: case -> `evidence.collect`.
        faults: score of the planted faults, or None.
    """
    guard.write(path, render(data, evidence, faults))


def read_faults(path: Path) -> dict[str, Any]:
    """The score of the planted faults: `{kinds: {kind: {caught, localised, explained, count}}, false_alarms}`.

    Raises:
        CaseError: if the file is missing or is something else.
    """
    try:
        score = json.loads(path.read_text(encoding="utf-8"))
        for kind, row in score["kinds"].items():
            count = _count(row["count"], f"count of {kind}")
            for key in WHATS:
                if _count(row[key], f"{key} of {kind}") > count:
                    raise ValueError(f"{key} of {kind} is {row[key]}, of {count}")
        _count(score["false_alarms"], "false_alarms")
        return score
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise CaseError(f"{path}: not a score of planted faults: {what}; write it with --self-test --json") from error


def _count(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{what} is {value!r:.40}; expected a number of faults")
    return value


def render(data: Mapping[str, Any], evidence: Mapping[str, Any], faults: Mapping[str, Any] | None = None) -> str:
    """The report as text; arguments as for `write`."""
    cases = data["cases"]
    failed, passed = ([case for case in cases if case["passed"] is state] for state in (False, True))
    title = _title(cases, failed)
    body = [
        f"<h1>{_t(title)}</h1>",
        *[_finding(case, evidence.get(case["case"]) or {}) for case in failed],
        _passed(cases),
        "<p class='quiet'>A <b>port</b> is a model rewritten in PaddlePaddle; its <b>reference</b> is the PyTorch "
        "original. Both got the same weights and inputs, and every layer's output, every gradient and every training "
        "step was compared in float64. A port is equal to its reference if no number differs by more than "
        f"{policy.RELATIVE:.0e} of its tensor's size (rms).</p>",
        *[_first_drift(case, evidence.get(case["case"]) or {}) for case in failed],
        "<h2>Every case, every stage</h2>",
        _matrix([*failed, *passed]),
        "<h2>Why the references can be trusted</h2>",
        *[_chain(case) for case in cases],
        "<h2>Case by case</h2>",
        *[_case(case, evidence.get(case["case"]) or {}) for case in [*failed, *passed]],
        _faults(faults),
        _settings(data),
    ]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_t(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
    return head + "\n".join(part for part in body if part) + "\n</main>\n</body>\n</html>\n"


def _title(cases: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, Any]]) -> str:
    names = ", ".join(case["case"] for case in failed)
    if not failed:
        return (
            f"All {len(cases)} ports are equal to their originals"
            if len(cases) > 1
            else (f"The port {cases[0]['case']} is equal to its original" if cases else "No case was run")
        )
    if len(cases) == 1:
        return f"The port {names} is not equal to its original"
    return f"{len(failed)} of {len(cases)} ports {'is' if len(failed) == 1 else 'are'} not equal: {names}"


def _sentence(case: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """Which port is wrong, in which stage, at which layer, and why; as short as it can be said."""
    name = f"<b>{_t(case['case'])}</b>"
    stage = next((s for s in case["stages"] if s["first"] is not None), None)
    crash = next((s for s in case["stages"] if s["crash"]), None)
    if stage is None and crash is not None:
        where = _t(STAGE_WORDS.get(crash["stage"], crash["stage"]))
        return f"{name} crashed in {where}: <code>{_t(crash['crash'].splitlines()[0])}</code>."
    if stage is None:
        detail = f": {_t(case['chain']['detail'])}" if case["chain"]["detail"] else ""
        return f"{name}: its reference does not compute what its upstream repository computed{detail}."
    point = stage["first"]["point"].partition("/")[2]
    layer = next((p["layer"] for p in evidence.get("drift", {}).get(stage["stage"], ()) if p["point"] == point), "")
    kind = f" ({_t(layer)})" if layer else ""
    where = _t(STAGE_WORDS.get(stage["stage"], stage["stage"]))
    why = stage["cause"].partition("\n")[0].partition("; ")[0]
    if why.startswith(f"{point} is "):
        why = f", which {why[len(point) + 1 :]}"
    elif why:
        why = f": {why}"
    return f"{name} goes wrong in {where} at <code>{_t(point)}</code>{kind}{_t(why or ', for a reason not found')}."


def _finding(case: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """Which port is wrong, where, and why, with the values of both sides."""
    stage = next((s for s in case["stages"] if s["first"] is not None), None)
    crashes = [s for s in case["stages"] if s["crash"]]
    rows = []
    if stage is not None:
        rows += _where(stage, evidence)
        rows += [("Crash", f"<code>{_t(s['crash'].splitlines()[0])}</code> in {_t(s['stage'])}") for s in crashes[:1]]
    others = [s["stage"] for s in case["stages"] if s["first"] is not None and s is not stage]
    if others:
        differ = "differs" if len(others) == 1 else "differ"
        rows.append(("Follows", f"{_t(', '.join(others))} {differ} as well, which the same cause can explain"))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return (
        f'<section class="card bad"><span class="tag bad">NOT EQUAL</span> '
        f'<p class="verdict">{_sentence(case, evidence)}</p>{f"<dl>{listed}</dl>" if rows else ""}</section>'
    )


def _first_drift(case: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """How the error goes on from the first divergence, in its stage."""
    stage = next((s["stage"] for s in case["stages"] if s["first"] is not None), "")
    drift = evidence.get("drift", {}).get(stage)
    return _drift(case["case"], stage, drift) if drift else ""


def _where(stage: Mapping[str, Any], evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    first, name = stage["first"], stage["stage"]
    point = first["point"].partition("/")[2]
    place = next(
        (i for i, p in enumerate(evidence.get("drift", {}).get(name, ())) if not p["passed"] and p["point"] == point),
        None,
    )
    drift = evidence.get("drift", {}).get(name, ())
    layer = f" ({_t(drift[place]['layer'])})" if place is not None and drift[place]["layer"] else ""
    order = f", point {place + 1} of {len(drift)}; the {place} before it agree" if place else ""
    if stage["points"] and not order:
        order = f"; {stage['differing']} of {stage['points']} points differ"
    rows = [("Where", f"<code><b>{_t(point)}</b></code>{layer} in {_t(STAGE_WORDS.get(name, name))}{order}")]
    rows.append(("Why", f"<b>{_t(stage['cause'])}</b>" if stage["cause"] else "no cause was found"))
    rows += _again(drift) if name == "forward" else []
    values = worst_values(first["text"])
    if values:
        error = "" if first["error"] is None else f"; off by {first['error']:.1e} of the tensor's size"
        index, expected, actual = (_t(value) for value in values)
        rows.append(
            (
                "Worst value",
                f"reference <code>{expected}</code>, port <code>{actual}</code> at <code>{index}</code>{error}",
            )
        )
    else:
        rows.append(("What", f"<code>{_t(first['text'])}</code>"))
    return rows


def _again(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """A remark if the error rises again, far above all that the first divergence led to."""
    worst = 0.0
    for point in points:
        error = 0.0 if point["passed"] else point["error"] or 0.0
        if worst and error > SECOND_RISE * worst:
            text = f"at <code>{_t(point['point'])}</code> the error is {error / worst:.0f} times what it was before"
            return [("Perhaps also", f"{text}: a second mistake may be there")]
        worst = max(worst, error)
    return []


def _passed(cases: Sequence[Mapping[str, Any]]) -> str:
    names = [case["case"] for case in cases if case["passed"]]
    if not names:
        return ""
    listed = ", ".join(f"<b>{_t(name)}</b>" for name in names)
    word = "is" if len(names) == 1 else "are"
    text = f"{listed} {word} proven equal in every stage that ran."
    return f'<section class="card good"><span class="tag good">EQUAL</span> {text}</section>'


def _matrix(cases: Sequence[Mapping[str, Any]]) -> str:
    """A table; on a phone, whose width it does not fit, a list of stages for each case."""
    stages = [name for name in STAGES if any(name == s["stage"] for case in cases for s in case["stages"])]
    head = "".join(f"<th>{_broken(name)}</th>" for name in ("case", "verdict", *stages))
    rows, lists = [], []
    for case in cases:
        by_name = {stage["stage"]: stage for stage in case["stages"]}
        cells = {name: _cell(by_name.get(name)) for name in stages}
        kind, words = ("good", "equal") if case["passed"] else ("bad", "NOT EQUAL")
        columns = "".join(f'<td class="{colour}"{title}>{text}</td>' for colour, title, text in cells.values())
        rows.append(f'<tr><th>{_broken(case["case"])}</th><td class="{kind}">{words}</td>{columns}</tr>')
        items = "".join(
            f'<li class="{colour}"{title}><span>{_broken(name)}</span>{text}</li>'
            for name, (colour, title, text) in cells.items()
        )
        name = f'{_t(case["case"])} <span class="tag {kind}">{words}</span>'
        unfolded = "" if case["passed"] else " open"
        lists.append(f"<details{unfolded}><summary>{name}</summary><ul>{items}</ul></details>")
    note = (
        "<p class='quiet'>In each: the largest difference relative to its tensor, how many points were compared, "
        "and how many times as far Paddle's float32 is from the truth as PyTorch's own (f32; up to "
        f"{policy.NUMERICS_RATIO:.0f} is usual, more is a remark about rounding and no failure).</p>"
    )
    table = f'<table class="matrix"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll wide">{table}</div><div class="narrow stages">{"".join(lists)}</div>{note}'


def _cell(stage: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """(colour, title attribute or "", text) of one stage of one case."""
    if stage is None:
        return "none", "", "not run"
    if stage["reason"]:
        return "none", f' title="{_t(stage["reason"])}"', "not possible"
    if stage["crash"]:
        return "bad", f' title="{_t(stage["crash"])}"', "&#10007; crashed"
    mark = "&#10003;" if stage["passed"] else "&#10007;"
    number = f'<span class="number">{mark} {agreement(stage)}</span>'
    if not stage["passed"]:
        return "bad", "", f"{number}<small>{stage['differing']} of {stage['points']} points</small>"
    single = f"<small>f32 {stage['numerics']['ratio']:.1f}x</small>" if stage["numerics"] else ""
    return "good", "", f"{number}<small>{stage['points']} points</small>{single}"


def _chain(case: Mapping[str, Any]) -> str:
    chain = case["chain"]
    kind, words = CHAIN_WORDS.get(chain["status"], ("none", chain["status"]))
    upstream = _t(chain["upstream"] or "no upstream repository named")
    compared = f" ({_t(chain['detail'])})" if chain["detail"] else ""
    worst = f", worst difference {chain['worst']:.0e}" if chain["status"] == "verified" else ""
    verdict = ("good", "equal") if case["passed"] else ("bad", "not equal")
    return (
        f'<div class="chain"><b>{_t(case["case"])}</b> <span class="step">{upstream}</span> &rarr; '
        f'<span class="step">reference <span class="tag {kind}">{_t(chain["status"])}</span></span> &rarr; '
        f'<span class="step">Paddle port <span class="tag {verdict[0]}">{verdict[1]}</span></span></div>'
        f'<p class="quiet">The reference {words}{compared}{worst}.</p>'
    )


def _case(case: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """What else is known of a case; of an equal one it is folded."""
    first = next((s["stage"] for s in case["stages"] if s["first"] is not None), "")
    parts = []
    for name, points in evidence.get("drift", {}).items():
        parts += [_drift(case["case"], name, points)] if name != first else []  # that one is beside the finding
    parts.append(_differing(evidence.get("differing", {})))
    if evidence.get("picture"):
        parts.append("<h3>What both sides see in a photograph</h3><div class='scroll'>")
        parts.append(
            f'<img class="picture" alt="input, prediction of the reference, prediction of the port, where they differ, '
            f'for {_t(case["case"])}" src="data:image/png;base64,{_t(evidence["picture"])}"></div>'
        )
    parts.append(_curves(case["case"], evidence.get("curves", {})))
    parts.append(_coverage(case))
    settings = ", ".join(f"{_t(key)} {_t(_plain(value))}" for key, value in case["settings"].items())
    parts.append(f"<p class='quiet'>Settings: {settings}; {case['seconds']:.0f} s.</p>")
    body = "\n".join(part for part in parts if part)
    if case["passed"]:
        return f"<details><summary>{_t(case['case'])}: equal</summary>{body}</details>"
    return f"<h3>{_t(case['case'])}: not equal</h3>\n{body}"


def _drift(case: str, stage: str, points: Sequence[Mapping[str, Any]]) -> str:
    label = f"{case}: difference of each point of {STAGE_WORDS.get(stage, stage)}, in order of execution"
    ends = ("first layer", "output") if stage == "forward" else ("loss", "input")
    drawn = "".join(
        f'<div class="{kind}">{drawings.drift(points, width=width, label=label, ends=ends)}</div>'
        for kind, width in (("wide", WIDE), ("narrow", NARROW))
    )
    key = ["<li><i class='dot' style='background:var(--good)'></i>agrees in float64</li>"]
    if any(not point["passed"] for point in points):
        key.append("<li><i class='dot' style='background:var(--bad)'></i>differs in float64</li>")
    if any("port32" in point for point in points):
        key.append("<li><i style='background:var(--blue)'></i>Paddle's float32 error</li>")
        key.append("<li><i style='background:var(--band)'></i>PyTorch's own float32 error, 3 times more or less</li>")
    return (
        f"<p><b>{_t(case)}: difference along the network, {_t(STAGE_WORDS.get(stage, stage))}</b>, from {ends[0]} to "
        f"{ends[1]}, relative to each tensor's size</p>{drawn}<ul class='key'>{''.join(key)}</ul>"
    )


def _differing(stages: Mapping[str, Any]) -> str:
    parts = []
    for name, entry in stages.items():
        rows = []
        for point in entry["points"]:
            values = worst_values(point["text"])
            cells = values if values else ("", point["text"], "")
            error = "" if point["error"] is None else f"{point['error']:.1e}"
            shown = "".join(f"<td><code>{_t(cell)}</code></td>" for cell in cells)
            rows.append(f"<tr><td><code>{_t(point['point'])}</code></td><td>{error}</td>{shown}</tr>")
        more = entry["count"] - len(entry["points"])
        note = f"<p class='quiet'>and {more} more</p>" if more else ""
        head = "".join(f"<th>{h}</th>" for h in ("point", "difference", "at", "reference", "port"))
        parts.append(
            f"<details><summary>{_t(name)}: {entry['count']} points differ</summary>"
            f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
            f"</table></div>{note}</details>"
        )
    return "\n".join(parts)


def _curves(case: str, terms: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    label = f"{case}: loss terms of both sides by training step"
    drawn = [
        (kind, drawings.curves(terms, width=width, label=label)) for kind, width in (("wide", 700), ("narrow", NARROW))
    ]
    if not all(text for _, text in drawn):
        return ""
    colours = ("blue", "orange", "purple", "good", "rose", "teal")
    key = "".join(
        f"<li><i style='background:var(--{colours[index % drawings.COLOURS]})'></i>{_t(name)}</li>"
        for index, name in enumerate(terms)
    )
    charts = "".join(f'<div class="{kind}">{text}</div>' for kind, text in drawn)
    return (
        "<p><b>Loss while training</b>: the reference's is broad, the port's dashed on top of it</p>"
        f"{charts}<ul class='key'>{key}</ul>"
    )


def _coverage(case: Mapping[str, Any]) -> str:
    coverage = case["coverage"]
    missing = [(text, coverage.get(key) or []) for key, text in UNCOVERED.items()]
    skipped = [f"{_t(s['stage'])} is not possible: {_t(s['reason'])}" for s in case["stages"] if s["reason"]]
    skipped += [
        f"{len(names)} {text}: <code>{_t(', '.join(names[:6]))}{' ...' if len(names) > 6 else ''}</code>"
        for text, names in missing
        if names
    ]
    ran = [f"{coverage['tensors']} tensors"] if "tensors" in coverage else []
    ran += [f"{coverage['leaves']} layers"] if "leaves" in coverage else []
    ran += [f"{coverage['relus']} ReLUs"] if coverage.get("relus") else []
    has = f"<p>Covered: {', '.join(ran)}.</p>" if ran else ""
    listed = "".join(f"<li>{line}</li>" for line in skipped)
    return has + (f"<p><b>Not covered</b></p><ul>{listed}</ul>" if listed else "")


def _faults(score: Mapping[str, Any] | None) -> str:
    head = "<h2>Would this check notice a mistake?</h2>"
    if score is None:
        return f"{head}<p class='quiet'>The score of the planted faults was not given (--fault-score FILE).</p>"
    rows = []
    for kind, row in score["kinds"].items():
        cells = "".join(
            f'<td class="{"good" if row[key] == row["count"] else "bad"}">{row[key]:d} of {row["count"]:d}</td>'
            for key in WHATS
        )
        rows.append(f"<tr><th>{_t(kind)}</th>{cells}</tr>")
    count, *found = (sum(row[key] for row in score["kinds"].values()) for key in ("count", *WHATS))
    alarms = score.get("false_alarms", "unknown")
    shown = "".join(f"<th>{h}</th>" for h in ("mistake", "caught", "right place", "cause named"))
    return (
        f"{head}<p>{count:d} typical mistakes were planted in correct ports, one at a time: <b>{found[0]:d} were "
        f"caught</b>, {found[1]:d} in the right place, {found[2]:d} with their cause; false alarms on correct ports: "
        f"<b>{_t(_plain(alarms))}</b>.</p><details><summary>{len(rows)} kinds of mistakes</summary><div class='scroll'>"
        f"<table class='matrix'><thead><tr>{shown}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _settings(data: Mapping[str, Any]) -> str:
    versions: dict[str, str] = {}
    for case in data["cases"]:
        versions.update(case["versions"])
    entries = {**versions, **data["machine"]}
    listed = "".join(f"<dt>{_t(key)}</dt><dd>{_t(_plain(value))}</dd>" for key, value in entries.items())
    return f"<h2>Versions and machine</h2><dl>{listed}</dl>"


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " x ".join(map(str, value))
    return str(value)


def _broken(name: str) -> str:
    """A name that may go on in the next line after an underscore."""
    return _t(name).replace("_", "_<wbr>")


def _t(text: Any) -> str:
    return html.escape(str(text), quote=True)
