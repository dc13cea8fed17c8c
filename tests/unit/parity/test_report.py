"""The report: what it says of float32, and that nothing from a case becomes Markdown or leaves its folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from parity import page, pictures, policy, report, zoo
from parity.compare import Finding, StageResult
from parity.errors import CaseError
from parity.markup import md

NUMERICS = {"ratio": 2 * policy.NUMERICS_RATIO, "point": "bn", "worst": 1e-5, "reference_worst": 1e-6}
GOOD = Finding("forward/conv", "pass", 2e-15, 1e-9)
BAD = Finding("forward/bn", "fail", 2.8e-3, 1e-9, "max rel 2.8e-03 > 1e-09 at [0]: reference 4.476, port 4.473")


def case(*findings, **fields):
    stage = StageResult("forward", list(findings), numerics=dict(NUMERICS), **fields).to_dict()
    chain = {"status": "verified", "upstream": "owner/name@0123456", "detail": "", "worst": 3e-12, "points": 12}
    coverage = {"leaves_never_run": [], "relus_one_sided": [], "parameters_without_gradient": []}
    names = {"case": "one", "passed": stage["passed"], "chain": chain, "coverage": coverage, "picture": ""}
    return {**names, "stages": [stage]}


def test_a_float32_error_of_a_stage_that_agrees_is_rounding():
    lines = report.findings(case(GOOD))
    assert any("float32 forward" in line and "rounding, not logic" in line for line in lines)
    assert "f32 6.0x" in report.cell(case(GOOD)["stages"][0])


@pytest.mark.parametrize("failure", [{"cause": "epsilon 0.001, reference 1e-05"}, {"crash": "the port raised"}])
def test_a_float32_error_of_a_stage_that_fails_is_not_called_rounding(failure):
    broken = case(GOOD, BAD, **failure)
    assert not [line for line in report.findings(broken) if "rounding" in line or "float32" in line]
    assert "f32" not in report.cell(broken["stages"][0])
    assert "f32" not in page._cell(broken["stages"][0])[2]
    assert "rounding" not in report.markdown({"cases": [broken]})


# --- nothing from a case becomes Markdown ---------------------------------------------------------------------------

HOSTILE = "<img src=x onerror=alert(1)>|`*[a](javascript:alert(2))\\|</table>\n\n# head __x__ ~~y~~ &lt;"


def hostile():
    broken = case(GOOD, BAD, cause=HOSTILE, crash=HOSTILE)
    broken["case"] = HOSTILE
    broken["chain"] = {**broken["chain"], "status": "unverified", "upstream": f"a/b@{HOSTILE}", "detail": HOSTILE}
    broken["stages"].append(StageResult("loss", reason=HOSTILE).to_dict())
    broken["coverage"]["leaves_never_run"] = [HOSTILE]
    return broken


def obeyed(line):
    """What Markdown would obey in a line or a row, but for what the report itself means."""
    text = re.sub(r"\\[\\`*|\[\]~_]", "x", line)
    text = re.sub(r"^ *- |(^| )\|(?= |$)|<br>|\*\*(FAIL|differs in [a-z, ]*)\*\*", " ", text)
    return re.findall(r"[<>`*|\[\]~]|(?<![^\W_])_|_(?![^\W_])|^#|&(?!lt;|gt;|amp;)", text)


def bars(row):
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", row))


def test_nothing_from_a_case_becomes_markdown():
    text = report.markdown({"cases": [hostile(), case(GOOD)]})
    assert "alert(1)" in text and "javascript:alert(2)" in text
    lines = [line for line in text.splitlines() if "|---" not in line and "`max" not in line]
    assert {line: obeyed(line) for line in lines if obeyed(line)} == {}
    assert len({bars(line) for line in text.splitlines() if line.startswith("| ")}) == 1


def test_nothing_from_a_case_becomes_markdown_in_the_table_of_models():
    head, _, row = zoo.table({"cases": [hostile()]}, {"models": [], "datasets": {}}).splitlines()
    assert obeyed(row) == [] and bars(row) == bars(head)


def test_what_the_readme_shows_needs_no_escaping():
    text = (Path(__file__).resolve().parents[3] / "README.md").read_text()
    table = text.partition("<!-- check:begin -->\n")[2].partition("<!-- check:end -->")[0]
    cells = [cell for row in table.strip().splitlines()[2:] for cell in row.strip("| ").split(" | ")]
    assert cells and all(md(cell.replace("<br>", "\n")) == cell for cell in cells)


def test_what_follows_a_finding_is_below_it_and_no_block_of_code():
    lines = report.markdown({"cases": [case(GOOD, BAD, cause="epsilon")]}).splitlines()
    assert "  - 0 later points differ too. epsilon" in lines


def test_a_name_of_a_case_is_no_markup_of_the_terminal_and_no_path(capsys, tmp_path):
    named = {**case(GOOD), "case": "[/x] ../../[red]one", "seconds": 1.0}
    report.print_table({"cases": [named]})
    assert "[/x] ../../[red]one" in " ".join(capsys.readouterr().out.split())
    assert report._file_name("../../a b/<c>") == "_.._a_b_c_"
    assert report._file_name("deeplabv3p_xception65_bn") == "deeplabv3p_xception65_bn"


@pytest.mark.parametrize("content", [b"", b"x"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(CaseError, match="not an image that can be read"):
        report.photograph(tmp_path / "photo.png")


def test_an_image_that_is_written_is_read(tmp_path):
    image = np.random.RandomState(0).randint(0, 255, (5, 7, 3), np.uint8)
    pictures.write(tmp_path / "photo.png", image)
    np.testing.assert_array_equal(report.photograph(tmp_path / "photo.png"), image)


def test_a_report_that_cannot_be_finished_leaves_the_older_one(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("before")
    monkeypatch.setattr(report.guard.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.write_markdown({"cases": [case(GOOD)]}, tmp_path / "README.md")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "before"


def test_settings_that_no_number_shows_are_said_of_a_port_that_passes():
    made = case(GOOD)
    made["coverage"] = {
        "set_differently": ["pool: ceil_mode False, reference True"],
        "not_finite": ["forward/output/0"],
    }
    lines = report.findings(made)
    assert "one: set differently, though no number of this run shows it: pool: ceil_mode False, reference True" in lines
    assert "one: not covered: 1 points have numbers that are NaN or infinite on both sides (forward/output/0)" in lines
    assert not any("set differently" in line for line in report.findings({**made, "passed": False}))


def test_initial_values_are_alike_and_not_equal():
    stage = StageResult("initial", [Finding("initial/conv.weight", "pass")]).to_dict()
    assert report.agreement(stage) == "alike" and report.agreement({**stage, "stage": "weights"}) == "equal"


def test_a_stage_that_compared_nothing_says_so():
    empty = {**case(GOOD), "passed": False, "stages": [StageResult("forward").to_dict()]}
    assert "FAIL one forward: nothing was compared, which counts as a failure" in report.findings(empty)
