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

from parity import drawings, policy
from parity.case import STAGES
from parity.errors import CaseError
from parity.evidence import worst_values
from parity.page_style import STYLE

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
UNCOVERED = {
    "leaves_never_run": "layers that never ran",
    "relus_one_sided": "ReLUs that saw one sign only",
    "parameters_without_gradient": "parameters without a gradient on either side",
}


def write(path: Path, data: Mapping[str, Any], evidence: Mapping[str, Any], faults: Mapping[str, Any] | None) -> None:
    """Writes the report.

    Args:
        path: of the file.
        data: `report.summary`.
        evidence: case -> `evidence.collect`.
        faults: score of the planted faults, or None.
    """
    Path(path).write_text(render(data, evidence, faults), encoding="utf-8")


def read_faults(path: Path) -> dict[str, Any]:
    """The score of the planted faults: `{kinds: {kind: {caught, localised, explained, count}}, false_alarms}`.

    Raises:
        CaseError: if the file is missing or is something else.
    """
    try:
        score = json.loads(path.read_text(encoding="utf-8"))
        for row in score["kinds"].values():
            [int(row[key]) for key in ("caught", "localised", "explained", "count")]
        return score
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaseError(f"{path}: not a score of planted faults: {error}; write it with --self-test --json") from error


def render(data: Mapping[str, Any], evidence: Mapping[str, Any], faults: Mapping[str, Any] | None = None) -> str:
    """The report as text; arguments as for `write`."""
    cases = data["cases"]
    failed = [case for case in cases if not case["passed"]]
    title = _title(cases, failed)
    body = [
        f"<h1>{_t(title)}</h1>",
        "<p class='quiet'>A <b>port</b> is a model rewritten in PaddlePaddle; its <b>reference</b> is the PyTorch "
        "original. Both got the same weights and inputs, and every layer's output, every gradient and every training "
        "step was compared in float64. A port is equal to its reference if no number differs by more than "
        f"{policy.RELATIVE:.0e} of its tensor's size (rms).</p>",
        *[_finding(case, evidence.get(case["case"]) or {}) for case in failed],
        _passed(cases),
        "<h2>Every case, every stage</h2>",
        _matrix(cases),
        "<h2>Why the references can be trusted</h2>",
        *[_chain(case) for case in cases],
        "<h2>Case by case</h2>",
        *[_case(case, evidence.get(case["case"]) or {}) for case in [*failed, *[c for c in cases if c["passed"]]]],
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


def _finding(case: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """Which port is wrong, where, and why."""
    stage = next((s for s in case["stages"] if s["first"] is not None), None)
    crashes = [s for s in case["stages"] if s["crash"]]
    rows = [("Port", f"<b>{_t(case['case'])}</b>")]
    if stage is None and crashes:
        rows += [("Where", _t(STAGE_WORDS.get(crashes[0]["stage"], crashes[0]["stage"])))]
        rows += [("What", f"<code>{_t(crashes[0]['crash'].splitlines()[0])}</code>")]
    elif stage is None:
        rows += [("What", f"the reference {_t(case['chain']['detail'] or case['chain']['status'])}")]
    else:
        rows += _where(stage, evidence)
        rows += [("Crash", f"<code>{_t(s['crash'].splitlines()[0])}</code> in {_t(s['stage'])}") for s in crashes[:1]]
    others = [s["stage"] for s in case["stages"] if s["first"] is not None and s is not stage]
    if others:
        rows.append(("Follows", f"{_t(', '.join(others))} differ as well, which the same cause can explain"))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f'<section class="card bad"><span class="tag bad">NOT EQUAL</span><dl>{listed}</dl></section>'


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
    stages = [name for name in STAGES if any(name == s["stage"] for case in cases for s in case["stages"])]
    head = "".join(f"<th>{_t(name)}</th>" for name in ("case", "verdict", *stages))
    rows = []
    for case in cases:
        by_name = {stage["stage"]: stage for stage in case["stages"]}
        cells = "".join(_cell(by_name.get(name)) for name in stages)
        verdict = '<td class="good">equal</td>' if case["passed"] else '<td class="bad">NOT EQUAL</td>'
        rows.append(f"<tr><th>{_t(case['case'])}</th>{verdict}{cells}</tr>")
    note = (
        "<p class='quiet'>Each cell: the largest difference relative to its tensor, how many points were compared, "
        "and how many times as far Paddle's float32 is from the truth as PyTorch's own (f32; up to "
        f"{policy.NUMERICS_RATIO:.0f} is usual, more is a remark about rounding and no failure).</p>"
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{note}'
    )


def _cell(stage: Mapping[str, Any] | None) -> str:
    if stage is None:
        return '<td class="none">not run</td>'
    if stage["reason"]:
        return f'<td class="none" title="{_t(stage["reason"])}">not possible</td>'
    if stage["crash"]:
        return f'<td class="bad" title="{_t(stage["crash"])}">&#10007; crashed</td>'
    worst = "differs" if stage["worst"] is None else "equal" if stage["worst"] == 0 else f"{stage['worst']:.0e}"
    if not stage["passed"]:
        return f'<td class="bad">&#10007; {worst}<small>{stage["differing"]} of {stage["points"]} points</small></td>'
    single = f"<small>f32 {stage['numerics']['ratio']:.1f}x</small>" if stage["numerics"] else ""
    return f'<td class="good">&#10003; {worst}<small>{stage["points"]} points</small>{single}</td>'


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
    parts = [f"<h3 id='case-{_t(case['case'])}'>{_t(case['case'])}</h3>"]
    for name, points in evidence.get("drift", {}).items():
        parts.append(_drift(case["case"], name, points))
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
    return "\n".join(part for part in parts if part)


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
        f"<p><b>Difference along the network, {_t(STAGE_WORDS.get(stage, stage))}</b>, from {ends[0]} to {ends[1]}, "
        f"relative to each tensor's size</p>{drawn}<ul class='key'>{''.join(key)}</ul>"
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
            for key in ("caught", "localised", "explained")
        )
        rows.append(f"<tr><th>{_t(kind)}</th>{cells}</tr>")
    alarms = score.get("false_alarms", "unknown")
    shown = "".join(f"<th>{h}</th>" for h in ("mistake planted in", "caught", "in the right place", "cause named"))
    return (
        f"{head}<p>Typical mistakes were planted in correct ports, one at a time; false alarms on correct ports: "
        f"<b>{_t(_plain(alarms))}</b>.</p><div class='scroll'><table><thead><tr>{shown}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
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


def _t(text: Any) -> str:
    return html.escape(str(text), quote=True)
