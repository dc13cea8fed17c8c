"""The table of models, and the check of what others report."""

from __future__ import annotations

import pytest

from parity import CaseError, cases, zoo
from parity.report import write_markdown

COCO = {"things": 80, "stuff": 53}


def case(name, *, status="verified", failed=(), missing=()):
    stages = [
        {"stage": s, "passed": s not in failed and s not in missing, "reason": "why" if s in missing else ""}
        for s in ("weights", "forward", "data")
    ]
    return {"case": name, "chain": {"status": status, "upstream": "owner/repo@0123456"}, "stages": stages}


def row(**fields):
    return {"model": "M", "backbone": "B", "case": "m", "dataset": "COCO val 2017", **fields}


ZOO = {"datasets": {"COCO val 2017": COCO}}


def cells(data, *rows):
    lines = zoo.table({"cases": data}, {**ZOO, "models": list(rows)}).splitlines()[2:]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


# --- PQ = (things * PQ_things + stuff * PQ_stuff) / all -------------------------------------------------------------


@pytest.mark.parametrize(
    ("pq", "things", "stuff", "expected"),
    [
        (42.5, 48.6, 33.4, None),  # UPSNet on R-50 reports these: 42.54
        (37.6, 49.8, 35.4, 44.06),  # a table that cannot be
        (42.6, 48.6, 33.4, None),
        (42.7, 48.6, 33.4, 42.54),
    ],
)
def test_a_reported_pq_has_to_be_the_mean_of_things_and_stuff(pq, things, stuff, expected):
    found = zoo.expected_pq({"PQ": pq, "PQ_things": things, "PQ_stuff": stuff}, COCO)
    assert found is None if expected is None else found == pytest.approx(expected, abs=0.005)


def test_figures_with_two_decimals_are_held_to_them():
    figures = {"PQ": 42.54, "PQ_things": 48.60, "PQ_stuff": 33.41}
    assert zoo.expected_pq(figures, COCO) is None
    assert zoo.expected_pq({**figures, "PQ": 42.57, "PQ_things": 48.61}, COCO) == pytest.approx(42.553, abs=0.001)


def test_nothing_is_said_where_a_part_is_unknown():
    assert zoo.expected_pq({"PQ": 60.3, "PQ_things": 55.0}, COCO) is None


def test_an_inconsistent_figure_is_shown_as_reported_and_said_to_be_so():
    entry = {"PQ": 37.6, "PQ_things": 49.8, "PQ_stuff": 35.4, "source": "a document"}
    assert zoo.figures([entry], COCO) == (
        "PQ 37.6, PQ things 49.8, PQ stuff 35.4 (as reported; inconsistent: things and stuff give PQ 44.06): a document"
    )


# --- the table ------------------------------------------------------------------------------------------------------


def test_a_row_has_verdicts_and_whose_figures_are_whose():
    reported = [
        {"mIoU": 72.22, "setting": "half size", "source": "its README"},
        {"mIoU": 74.5, "setting": "full size", "source": "its README"},
        {"mIoU": 70.0, "source": "somebody else"},
    ]
    (found,) = cells([case("m", missing=["data"])], row(reported=reported, config="m/m.yml"))
    assert found == [
        "| [M](configs/m/m.yml)",
        "B",
        "equal in 2 stages; without data",
        "verified, owner/repo@0123456",
        "COCO val 2017",
        "mIoU 72.22 (half size), mIoU 74.5 (full size): its README<br>mIoU 70.0: somebody else",
        "- |",
    ]


def test_a_case_that_differs_and_one_that_was_not_checked_are_not_equal():
    first, second = cells([case("m", status="broken", failed=["forward"])], row(), row(case="other"))
    assert first[2] == "**differs in forward**" and first[3].startswith("broken")
    assert second[2:4] == ["not checked", "-"]


def test_a_case_without_figures_has_a_row_too():
    assert cells([case("new")])[0][0] == "| new"


def test_each_row_is_of_another_case_that_exists_and_so_does_its_config():
    data = zoo.load()
    names = [row["case"] for row in data["models"]]
    assert len(set(names)) == len(names) and set(names) <= set(cases.load())
    for row in data["models"]:
        assert "config" not in row or (zoo.ZOO.parents[1] / "configs" / row["config"]).exists(), row["config"]
        assert row["dataset"] in data["datasets"]


def test_what_is_reported_of_them_is_consistent():
    data = zoo.load()
    for row in data["models"]:
        for entry in row.get("reported", ()):
            assert zoo.expected_pq(entry, data["datasets"][row["dataset"]]) is None, row["case"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: [{model: M, backbone: B, case: m}]", "m: has"),
        ("models: [{model: M, backbone: B, case: m, dataset: D, miou: 3}]", "miou"),
        ("models: [{model: M, backbone: B, case: m, dataset: D, reported: [{mIoU: 3}]}]", "expected a source"),
        ("models: [{model: M, backbone: B, case: m, dataset: D, reported: [{mAP: 3, source: x}]}]", "mAP"),
        ("models: [", "cannot be read"),
    ],
)
def test_a_data_file_that_cannot_be_used_says_why(tmp_path, text, expected):
    (tmp_path / "zoo.yml").write_text(f"datasets: {{}}\n{text}\n")
    with pytest.raises(CaseError, match=expected):
        zoo.load(tmp_path / "zoo.yml")


# --- into the README ------------------------------------------------------------------------------------------------


def full(name):
    made = case(name)
    for stage in made["stages"]:
        stage.update(crash="", worst=0.0, points=1, numerics={})
    made["chain"].update(worst=0.0, points=1, detail="")
    return {**made, "passed": True}


def test_both_tables_go_between_their_markers_and_the_rest_stays(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(
        "a\n<!-- zoo:begin -->\nold\n<!-- zoo:end -->\nb\n<!-- check:begin -->\nold\n<!-- check:end -->\nc\n"
    )
    write_markdown({"cases": [full(name) for name in cases.load()]}, path)
    text = path.read_text()
    assert "old" not in text and text.startswith("a\n<!-- zoo:begin -->\n| model |") and text.endswith("-->\nc\n")
    assert text.index("| case | upstream = reference |") > text.index("\nb\n")


def test_a_check_of_some_cases_leaves_the_table_of_all_models_alone(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("<!-- zoo:begin -->\nold\n<!-- zoo:end -->\n<!-- check:begin -->\n<!-- check:end -->\n")
    write_markdown({"cases": [full("stdc1")]}, path)
    assert "<!-- zoo:begin -->\nold\n<!-- zoo:end -->" in path.read_text()
