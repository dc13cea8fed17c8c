"""The parity command, run as people run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cli

ROOT = Path(__file__).resolve().parents[2]

MINE = """
import numpy as np
from parity import Case, Side, inputs


def reference():
    from torch import nn
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def port():
    from paddle import nn
    {port}


CASE = Case(name="mine", reference=reference, port=port, inputs={{"image": inputs.image(2)}}, size=(17, 33))
"""
RIGHT = "return nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU(), nn.Conv2D(8, 4, 1))"
WRONG = RIGHT.replace("nn.BatchNorm2D(8)", "nn.BatchNorm2D(8, epsilon=1e-3)")
CRASHING = RIGHT.replace("nn.Conv2D(8, 4, 1)", "nn.Conv2D(8, 4, 1), nn.Flatten(2, 9)")


def check(*arguments, cwd):
    command = [sys.executable, str(ROOT / "parity" / "check.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.fixture
def mine(tmp_path):
    def write(port):
        path = tmp_path / "my_case.py"
        path.write_text(MINE.format(port=port))
        return path

    return write


def test_list_names_the_cases_from_any_folder(tmp_path):
    done = check("--list", cwd=tmp_path)
    assert done.returncode == 0
    assert ["stdc1", "MichaelFan01/STDC-Seg@59ff37f"] in [line.split() for line in done.stdout.splitlines()]


def test_python_m_parity_is_the_same_command(tmp_path):
    command = [sys.executable, "-m", "parity", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "stdc2" in done.stdout


def test_my_own_port_passes_and_reports(tmp_path, mine):
    done = check(mine(RIGHT), "--json", "-", "--report-dir", tmp_path / "pictures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    assert case["passed"] and case["chain"]["status"] == "unverified"
    reasons = {stage["stage"]: stage["reason"] for stage in case["stages"] if stage["reason"]}
    assert set(reasons) == {"loss", "gradients", "step", "trajectory", "initial", "data", "postprocess", "metrics"}
    forward = next(stage for stage in case["stages"] if stage["stage"] == "forward")
    assert forward["points"] == 5 and 0 < forward["worst"] < 1e-9


def test_a_mismatch_exits_1_and_names_layer_and_cause(tmp_path, mine):
    done = check(mine(WRONG), "--md", "table.md", "--report-dtype", "none", cwd=tmp_path)
    assert done.returncode == 1
    assert "FAIL mine forward/1: first divergence" in done.stdout
    assert "epsilon 0.001, reference 1e-05" in done.stdout
    assert "**FAIL**" in (tmp_path / "table.md").read_text()


def test_a_crash_exits_3_and_says_where(tmp_path, mine):
    done = check(mine(CRASHING), "--report-dtype", "none", cwd=tmp_path)
    assert done.returncode == 3
    assert "the port raised" in done.stdout


def test_isolated_sides_give_the_same_verdict(tmp_path, mine):
    plain = check(mine(WRONG), "--json", "plain.json", "--report-dtype", "none", cwd=tmp_path)
    apart = check(mine(WRONG), "--isolate", "--json", "apart.json", "--report-dtype", "none", cwd=tmp_path)
    assert plain.returncode == apart.returncode == 1, apart.stderr
    stages = [json.loads((tmp_path / name).read_text())["cases"][0]["stages"] for name in ("plain.json", "apart.json")]
    for one, other in zip(*stages):
        for stage in (one, other):
            stage.pop("seconds")
            stage["cause"] = stage["cause"].partition(";")[0]  # experiments need both sides in one process
        assert one == other


SEVERAL = MINE.replace("CASE =", "def dying():\n    import os\n    os._exit(9)\n\n\nright =")
SEVERAL += """
import dataclasses
crash = dataclasses.replace(right, name="crash", port=Side(model=dying))
other = dataclasses.replace(right, name="other", size=(9, 17))
CASES = {cases}
"""


def test_jobs_change_neither_verdicts_nor_their_order(tmp_path):
    (tmp_path / "several.py").write_text(SEVERAL.format(port=WRONG, cases="(right, other)"))
    found = []
    for jobs in (1, 2):
        done = check("several.py", "--jobs", jobs, "--json", f"{jobs}.json", "--report-dtype", "none", cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert "checking mine ..." in done.stderr and "checking other ..." in done.stderr
        found.append(json.loads((tmp_path / f"{jobs}.json").read_text()))
    assert found[1]["machine"]["cpu"].startswith("1 thread") and "2 processes" in found[1]["machine"]["cpu"]
    for one, other in zip(*(report["cases"] for report in found)):
        for case in (one, other):
            for part in (case, *case["stages"]):
                part.pop("seconds")
        assert one == other
    assert [case["case"] for case in found[0]["cases"]] == ["mine", "other"]


def test_a_worker_that_dies_is_a_crash_of_its_case_alone(tmp_path):
    (tmp_path / "several.py").write_text(SEVERAL.format(port=RIGHT, cases="(right, crash, other)"))
    done = check("several.py", "--jobs", 2, "--report-dtype", "none", cwd=tmp_path)
    assert done.returncode == 3
    assert "the process of the case ended with exit code 9" in done.stdout and "2 of 3 cases passed" in done.stdout
    assert "Traceback" not in done.stderr


def test_reprod_log_files_hold_both_sides(tmp_path, mine):
    done = check(mine(RIGHT), "--reprod-log", "logs", "--report-dtype", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    from reprod_log import ReprodDiffHelper

    helper = ReprodDiffHelper()
    ours = helper.load_info(str(tmp_path / "logs" / "mine" / "forward_paddle.npy"))
    theirs = helper.load_info(str(tmp_path / "logs" / "mine" / "forward_ref.npy"))
    assert set(ours) == set(theirs) == {"0", "1", "2", "3", "output/0"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--case", "stcd1"], "Did you mean 'stdc1'?"),
        (["--case", "nowhere.py"], "there is no such file"),
        (["--stage", "forwards"], "unknown stage 'forwards'"),
        (["--case", "stdc1", "--weights", "none.pth"], "there is no such file"),
        (["--weights", "none.pth"], "expected one; name it with --case"),
        (["--input", "none.jpg"], "there is no such file"),
        (["--case", "stdc1", "--size", "0", "5"], "expected two positive numbers"),
        (["--cases", "stdc1"], "unrecognized arguments"),
        (["--jobs", "0"], "expected a positive number"),
        (["--self-test", "--seeds", "0"], "--seeds 0: expected a positive number"),
        (["--case", "stdc1", "--weights", "."], "--weights .: is a folder; expected a file"),
        (["--input", "."], "--input .: is a folder; expected a file"),
        (["--json", "nowhere/x"], "--json nowhere/x: there is no folder nowhere"),
        (["--md", "nowhere/x"], "--md nowhere/x: there is no folder nowhere"),
        (["--html", "."], "--html .: is a folder; expected a file"),
        (["--reprod-log", str(ROOT / "setup.py")], "setup.py is a file; expected a folder"),
        (["--report-dir", str(ROOT / "setup.py")], "setup.py is a file; expected a folder"),
        (["--html", "x.html", "--fault-score", "none.json"], "--fault-score none.json: there is no such file"),
        (["--html", "x.html", "--fault-score", str(ROOT / "setup.py")], "not a score of planted faults"),
        (["--fault-score", str(ROOT / "setup.py")], "give --html FILE too"),
        (["--self-test", "--html", "x.html"], "--html: is no option of --self-test; leave it out"),
        (["--self-test", "--stage", "forward"], "--stage: is no option of --self-test"),
        (["--self-test", "--spread", "--jobs", "2"], "--jobs 2: --spread goes from case to case"),
        (["--self-test", "no-such-kind", "--jobs", "2"], "there is no kind of fault 'no-such-kind'"),
        (["--spread"], "--spread: deals out planted mistakes; expected --self-test"),
    ],
)
def test_bad_usage_exits_2_with_one_message(tmp_path, arguments, expected):
    done = check(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr and "checking" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_several_ports_are_tested_beside_each_other_as_one_after_the_other(tmp_path, mine):
    path = mine(RIGHT)
    path.write_text(
        path.read_text() + "\nimport dataclasses\nCASES = [CASE, dataclasses.replace(CASE, name='other')]\n"
    )
    command = [path, "--self-test", "bn-epsilon", "conv-padding", "relu-missing", "momentum", "--seeds", "2"]
    apart = check(*command, "--jobs", "1", "--json", "one.json", cwd=tmp_path)
    beside = check(*command, "--jobs", "2", "--json", "two.json", "--md", "score.md", cwd=tmp_path)
    assert apart.returncode == beside.returncode == 0, beside.stdout + beside.stderr
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    for score in (one, two):
        for timed in (*score["faults"], *score["cases"].values()):
            timed.pop("seconds")
    assert one == two and set(two["cases"]) == {"mine", "other"} and two["clean_runs"] == 4
    text = (tmp_path / "score.md").read_text()
    assert text.startswith("# The harness's own score\n")
    assert "| other | 3 | 3 | 3 | 3 | 0 | 0 | 1 | 0 |" in text and "| relu-missing | " in text
    assert "mine: no place for 1 of" in text and "false alarms 0 of 4 correct runs" in text


def test_a_port_whose_process_dies_fails_the_self_test_and_the_others_go_on(tmp_path, mine):
    path = mine(RIGHT)
    text = path.read_text().replace("def port():", "def dies():\n    import os\n    os._exit(9)\n\n\ndef port():")
    text += "\nimport dataclasses\nCASES = [CASE, dataclasses.replace(CASE, name='other', port=dies)]\n"
    path.write_text(text)
    done = check(path, "--self-test", "bn-epsilon", "--seeds", "1", "--jobs", "2", "--json", "score.json", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["problems"] == ["other: the process of the case ended with exit code 9, at correct port, seed 0"]
    assert score["totals"]["explained"] == [1, 1] and "FAILED: other: the process of the case ended" in done.stdout


def test_a_file_without_a_case_exits_2(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    empty, broken = check("empty.py", cwd=tmp_path), check("broken.py", cwd=tmp_path)
    assert empty.returncode == broken.returncode == 2
    assert "defines no CASE or CASES" in empty.stderr
    assert "No module named 'nothing_like_this'" in broken.stderr


def test_what_ends_the_program_in_a_case_file_exits_2(tmp_path):
    (tmp_path / "ending.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "none.py").write_text("CASES = []\n")
    ending, none = check("ending.py", cwd=tmp_path), check("none.py", cwd=tmp_path)
    assert ending.returncode == none.returncode == 2
    assert "ending.py:2: importing it raised SystemExit: 0" in ending.stderr
    assert "defines no CASE or CASES" in none.stderr


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ("exit(0)", "the port cannot be built: SystemExit: 0"),
        (RIGHT.replace("nn.ReLU()", "Ends()"), "SystemExit: 0"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--isolate"]])
def test_what_ends_the_program_in_a_model_exits_3(tmp_path, mine, port, said, arguments):
    path = mine(port)
    ends = "    class Ends(nn.Layer):\n        def forward(self, x):\n            raise SystemExit(0)\n\n    "
    path.write_text(path.read_text().replace("from paddle import nn\n    ", f"from paddle import nn\n\n{ends}"))
    done = check(path, "--report-dtype", "none", "--stage", "forward", *arguments, cwd=tmp_path)
    assert done.returncode == 3
    assert said in done.stdout and "Traceback" not in done.stderr


def test_weights_of_other_shapes_are_refused(tmp_path, mine):
    import torch

    names = {"0": (9, 8), "1": (8, 8), "3": (4, 4)}
    state = {
        f"{n}.{what}": torch.zeros(size) for n, sizes in names.items() for what, size in zip(("weight", "bias"), sizes)
    }
    state.update(
        {"1.running_mean": torch.zeros(8), "1.running_var": torch.ones(8), "1.num_batches_tracked": torch.tensor(0)}
    )
    torch.save(state, tmp_path / "other.pth")
    done = check(mine(RIGHT), "--weights", "other.pth", "--report-dtype", "none", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    expected = (
        "mine: the weights are not those of its reference: 0.weight is (9,), expected (8, 3, 3, 3) (2 such in all)"
    )
    assert expected in done.stderr


def test_an_error_that_nobody_foresaw_exits_3_in_one_line(tmp_path, mine):
    path = mine(RIGHT)
    path.write_text(path.read_text().replace("size=(17, 33)", "size=(17, 33), weights=None"))
    done = check(path, "--report-dtype", "none", cwd=tmp_path)
    assert done.returncode == 3 and done.stderr.count("\n") == 2  # the other line says what was checked
    assert "error: TypeError: " in done.stderr and "--debug shows the traceback" in done.stderr
    assert "Traceback" in check(path, "--debug", cwd=tmp_path).stderr


def test_a_hostile_checkpoint_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "canary"), "w")

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}))
    done = check("--case", "stdc1", "--weights", "evil.pth", cwd=tmp_path)
    assert done.returncode == 2
    assert "evil.pth" in done.stderr and not (tmp_path / "canary").exists()


def test_a_photograph_of_mine_is_used_and_drawn(tmp_path):
    import cv2
    import numpy as np

    photo = np.random.RandomState(0).randint(0, 255, (60, 90, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    done = check("--case", "stdc1", "--stage", "forward", "--input", "photo.png", "--size", "65", "65",
                 "--report-dtype", "none", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    picture = cv2.imread(str(tmp_path / "parity_report" / "stdc1.png"))
    assert picture is not None and picture.shape[1] > 3 * picture.shape[0] / 2
