"""The HTML report: what it says first, that it loads nothing, and that nothing from a case becomes markup."""

from __future__ import annotations

import base64
import copy
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from parity import drawings, page
from parity.compare import Finding, StageResult
from parity.errors import CaseError
from parity.evidence import _differing, _relative, worst_values
from parity.page_style import STYLE
from parity.traces import Trace

VOID = {"meta", "img", "br", "wbr"}
HOSTILE = '<script>alert("1")</script>\'"&'


def stage(name, *findings, **fields):
    return StageResult(name, list(findings), **fields).to_dict()


GOOD = Finding("forward/conv", "pass", 2e-15, 1e-9)
BAD = Finding(
    "forward/bn", "fail", 2.8e-3, 1e-9, "max rel 2.8e-03 > 1e-09 at [0, 3, 1, 2]: reference 4.476, port 4.473"
)
DRIFT = [
    {"point": "conv", "layer": "Conv2D", "passed": True, "error": 2e-15, "reference32": 1e-7, "port32": 1.2e-7},
    {"point": "bn", "layer": "BatchNorm2D", "passed": False, "error": 2.8e-3, "reference32": 1e-7, "port32": 2e-3},
    {"point": "act", "layer": "ReLU", "passed": False, "error": 3e-3},
    {"point": "output/0", "layer": "", "passed": False, "error": 0.6},
]
CHAIN = {
    "status": "verified",
    "upstream": "owner/name@0123456",
    "detail": "12 points at 9x9",
    "worst": 3e-12,
    "points": 12,
}


def case(name, *stages, passed=True):
    return {
        "case": name,
        "passed": passed,
        "chain": CHAIN,
        "stages": list(stages),
        "coverage": {"tensors": 3, "leaves": 2, "leaves_never_run": ["unused"], "relus": 1, "relus_one_sided": []},
        "versions": {"torch": "2.13.0"},
        "settings": {"seed": 0, "size": [9, 17], "weights": "generated"},
        "seconds": 1.5,
        "picture": "",
    }


def data(*cases):
    machine = {"cpu": "some", "python": "3.11", "system": "Linux"}
    return {"schema": 1, "machine": machine, "cases": list(cases)}


def broken(name="wrong"):
    return case(name, stage("forward", GOOD, BAD, cause="epsilon 0.001, reference 1e-05"), passed=False)


def evidence():
    picture = base64.b64encode(b"png").decode()
    curves = {"loss": {"reference": [3.0, 2.0, 1.0], "port": [3.0, 2.5, 1.0]}}
    differing = {"forward": _differing(StageResult("forward", [GOOD, BAD]))}
    return {"drift": {"forward": copy.deepcopy(DRIFT)}, "curves": curves, "differing": differing, "picture": picture}


class Reader(HTMLParser):
    """Checks that tags nest, and collects them with the text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, text):
        self.text += text


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_opens_with_which_port_is_wrong_where_and_why():
    reader = read(page.render(data(broken(), case("right", stage("forward", GOOD))), {"wrong": evidence()}))
    text = re.sub(r"\s+", " ", reader.text)
    start = text[text.index("1 of 2 ports is not equal: wrong", 60) :][:1200]
    assert "Where bn (BatchNorm2D) in the forward pass, point 2 of 4; the 1 before it agree" in start.replace(
        "Where", "Where "
    )
    assert "epsilon 0.001, reference 1e-05" in start
    assert "reference 4.476, port 4.473 at [0, 3, 1, 2]; off by 2.8e-03" in start
    assert "right is proven equal" in start


def test_a_second_rise_of_the_error_is_remarked_and_a_first_is_not():
    text = read(page.render(data(broken()), {"wrong": evidence()})).text
    assert "at output/0 the error is 200 times what it was before" in text
    once = evidence()
    once["drift"]["forward"][3]["error"] = 5e-3
    assert "times what it was" not in read(page.render(data(broken()), {"wrong": once})).text


def test_every_verdict_is_in_the_matrix():
    stages = [
        stage("forward", GOOD),
        stage("loss", crash="the port raised ValueError: no"),
        stage("step", reason="the case gives no `optimizer`"),
    ]
    text = read(page.render(data(case("one", *stages, passed=False)), {})).text
    for shown in ("2e-15", "crashed", "not possible", "NOT EQUAL", "the port raised ValueError: no"):
        assert shown in text


def hostile(value, key=""):
    """The same document with every text replaced, but for words that the page branches on."""
    if isinstance(value, dict):
        return {k if k not in ("loss",) else HOSTILE: hostile(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    return HOSTILE if isinstance(value, str) and value and key not in ("stage", "status", "verdict") else value


def test_nothing_from_a_case_becomes_markup():
    cases = data(
        broken(), case("crashed", stage("forward", crash="boom"), passed=False), case("fine", stage("loss", GOOD))
    )
    score = {"kinds": {HOSTILE: {"caught": 1, "localised": 1, "explained": 1, "count": 1}}, "false_alarms": HOSTILE}
    text = page.render(hostile(cases), {HOSTILE: hostile(evidence())}, score)
    reader = read(text)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert "alert" not in re.sub(r"&lt;script&gt;alert\(&quot;1&quot;\)", "", text)
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]


def test_the_page_loads_nothing():
    text = page.render(data(broken()), {"wrong": evidence()})
    reader = read(text)
    loading = ("src", "href", "data", "srcset", "poster", "action", "xlink:href")
    found = [attributes[key] for _, attributes in reader.tags for key in loading if key in attributes]
    assert found and all(value.startswith("data:image/png;base64,") for value in found)
    assert not re.search(r"url\(|@import|@font-face", text)
    assert {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "embed"} == set()


def test_the_style_sheet_closes_what_it_opens_and_defines_what_it_uses():
    depth = 0
    for character in STYLE:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")[0], STYLE.split("prefers-color-scheme: dark")[1]
    defined = set(re.findall(r"(--[a-z-]+):", light))
    assert set(re.findall(r"var\((--[a-z-]+)\)", STYLE + page.render(data(broken()), {"wrong": evidence()}))) <= defined
    assert defined == set(re.findall(r"(--[a-z-]+):", dark.split("} }")[0]))


def test_an_error_at_the_limit_is_drawn_on_the_line_of_the_limit():
    points = [{"point": "a", "layer": "", "passed": True, "error": error} for error in (1e-9, 0.0, 1e-12)]
    drawn = drawings.drift(points, width=500, label="x", ends=("a", "b"))
    limit = float(re.search(r'class="limit".*?y1="([\d.]+)"', drawn)[1])
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', drawn)]
    assert heights[0] == limit and heights[1] > heights[2] > heights[0]


def test_points_that_cannot_be_compared_are_drawn_at_the_top():
    points = [{"point": "a", "layer": "", "passed": False, "error": None}] * 2
    drawn = drawings.drift(points, width=500, label="x", ends=("a", "b"))
    assert "not comparable" in drawn and 'cy="12.0"' in drawn


def test_a_curve_of_one_step_is_not_drawn():
    assert drawings.curves({"loss": {"reference": [1.0], "port": [1.0]}}, width=300, label="x") == ""


def test_float32_errors_are_relative_to_the_rms_of_the_truth():
    truth = Trace({"a": np.array([3.0, -3.0]), "b": np.zeros(0)})
    own, theirs = Trace({"a": np.array([3.0, -3.3])}), Trace({"a": np.array([3.6, -2.4])})
    errors = _relative(truth, own, theirs)
    np.testing.assert_allclose(errors["a"], (0.1 / np.sqrt(2), 0.2))
    assert list(errors) == ["a"]


def test_values_are_taken_from_a_findings_text():
    assert worst_values(BAD.text) == ("[0, 3, 1, 2]", "4.476", "4.473")
    assert worst_values("shape (1, 2); reference (2, 1)") is None


def score(false_alarms="0", **row):
    row = {"caught": "1", "localised": "1", "explained": "1", "count": "1", **row}
    cells = ", ".join(f'"{key}": {value}' for key, value in row.items())
    return f'{{"kinds": {{"a": {{{cells}}}}}, "false_alarms": {false_alarms}}}'


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"kinds": {"a": {"caught": 1}}}', '{"kinds": [1]}', "[" * 100000, '{"kinds": {}}'),
        *(score(caught=value) for value in ("NaN", "Infinity", "1.5", "1.0", '"1"', "null", "true", "[1]", "-5", "7")),
        *(score(false_alarms=value) for value in ("NaN", "-1", '{"<b>": 1}', "0.5")),
    ],
)
def test_a_score_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "score.json"
    path.write_text(content)
    with pytest.raises(CaseError, match=r"not a score of planted faults: .*; write it with"):
        page.read_faults(path)


def test_a_score_is_read_as_it_is_written(tmp_path):
    path = tmp_path / "score.json"
    path.write_text(score(count="3"))
    assert page.read_faults(path)["kinds"]["a"]["count"] == 3


def test_the_score_of_planted_faults_is_shown(tmp_path):
    path = tmp_path / "score.json"
    row = {"caught": 5, "localised": 4, "explained": 3, "count": 5}
    path.write_text(json.dumps({"kinds": {"layers": row}, "false_alarms": 0}))
    text = read(page.render(data(case("right", stage("forward", GOOD))), {}, page.read_faults(path))).text
    assert "5 of 5" in text and "4 of 5" in text and "3 of 5" in text and "false alarms on correct ports: 0" in text


def verdict(case, shown=None):
    text = page.render(data(case), {case["case"]: shown or {}})
    return read(re.search(r'<p class="verdict">(.*?)</p>', text)[1]).text


def test_one_sentence_says_the_port_the_stage_the_layer_and_the_cause():
    bad = broken()
    assert (
        verdict(bad, evidence())
        == "wrong goes wrong in the forward pass at bn (BatchNorm2D): epsilon 0.001, reference 1e-05."
    )
    bad["stages"][0]["cause"] = "bn is set differently: epsilon 0.001, reference 1e-05; with epsilon 1e-05, it falls"
    expected = "wrong goes wrong in the forward pass at bn, which is set differently: epsilon 0.001, reference 1e-05."
    assert verdict(bad) == expected
    bad["stages"][0]["cause"] = ""
    assert verdict(bad) == "wrong goes wrong in the forward pass at bn, for a reason not found."


def test_the_sentence_of_a_crash_and_of_a_broken_reference():
    crashed = case("one", stage("loss", crash="the port raised ValueError: no\nmore"), passed=False)
    assert verdict(crashed) == "one crashed in the loss terms: the port raised ValueError: no."
    alone = {
        **case("one", stage("loss", GOOD), passed=False),
        "chain": {**CHAIN, "status": "broken", "detail": "0.1 off"},
    }
    assert verdict(alone) == "one: its reference does not compute what its upstream repository computed: 0.1 off."


def test_what_is_wrong_comes_first_and_what_is_equal_is_folded():
    right = case("right", stage("forward", GOOD))
    text = page.render(data(right, broken()), {"wrong": evidence(), "right": evidence()})
    table = text[text.index('<table class="matrix">') :]
    assert table.index("<th>wrong</th>") < table.index("<th>right</th>")
    assert "<details><summary>right: equal</summary>" in text and "<h3>wrong: not equal</h3>" in text
    assert text.index("wrong: difference along the network") < text.index("Every case, every stage")


@pytest.mark.parametrize("place", [0, 60, 119])
def test_the_name_of_the_first_divergence_fits_into_the_chart(place):
    name = "cp.backbone.features.6.conv_list.0.bn"
    points = [{"point": f"p{i}", "layer": "", "passed": i < place, "error": 1e-3} for i in range(120)]
    points[place]["point"] = name
    drawn = drawings.drift(points, width=350, label="x", ends=("a", "b"))
    x, anchor, shown = re.search(
        r'<text class="first-text" x="([\d.]+)".*?text-anchor="(\w+)">(.*?)</text>', drawn
    ).groups()
    room = 350 - float(x) if anchor == "start" else float(x)
    assert len(shown) * drawings.LETTER <= room and shown.endswith("0.bn")
    assert shown == name or shown.startswith("...")
