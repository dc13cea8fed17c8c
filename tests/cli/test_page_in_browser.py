"""The HTML report in a real browser: at desktop and phone width, light and dark, nothing sticks out or is too faint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from parity import page
from parity.compare import Finding, StageResult
from parity.evidence import _differing

pytestmark = pytest.mark.cli

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SCHEMES = {"dark": 0, "light": 1}  # of Chromium's preferredColorScheme
STAGES = ("weights", "forward", "forward_train", "loss", "gradients", "step", "trajectory", "data", "postprocess")
LAYER = "backbone.bottom_up.res5.2.conv_list.3.shortcut.norm"
LONG = "deeplabv3plus_xception65_of_somebody_who_gave_it_a_very_long_name_indeed"
CAUSE = f"{LAYER} is set differently: epsilon 0.001, reference 1e-05; with epsilon 1e-05, the difference falls"

MEASURE = """<!doctype html><body><iframe id="f" src="page.html" style="border:0;width:%dpx;height:900px"></iframe>
<script>
window.onload = () => {
  const frame = document.getElementById("f"), doc = frame.contentDocument, view = frame.contentWindow;
  const shown = e => e.getClientRects().length > 0 && !e.closest(".scroll");
  const out = [...doc.querySelectorAll("main *")].filter(shown).filter(
    e => e.getBoundingClientRect().right > frame.clientWidth + 1).map(e => e.outerHTML.slice(0, 120));
  const colour = (name, kind) => {
    const found = [...doc.querySelectorAll(name)].find(e => e.getClientRects().length > 0);
    return found ? view.getComputedStyle(found)[kind] : "";
  };
  const verdict = doc.querySelector(".verdict").getBoundingClientRect();
  document.body.textContent = "RESULT" + JSON.stringify({
    out, width: doc.documentElement.scrollWidth, verdict: verdict.bottom,
    ground: view.getComputedStyle(doc.body).backgroundColor, card: colour(".card.bad", "backgroundColor"),
    ink: view.getComputedStyle(doc.body).color, quiet: colour(".quiet", "color"), bad: colour(".tag.bad", "color"),
    chart: colour("svg text", "fill"), dot: colour("svg circle.bad", "fill"),
  }) + "END";
};
</script>"""


def case(name, *stages):
    chain = {"status": "verified", "upstream": "somebody/something@0123456", "detail": "", "worst": 1e-12, "points": 9}
    return {
        "case": name,
        "passed": all(stage["passed"] for stage in stages),
        "chain": chain,
        "stages": list(stages),
        "coverage": {"tensors": 3, "leaves": 2, "leaves_never_run": [LAYER] * 9, "relus": 1, "relus_one_sided": []},
        "versions": {"torch": "2.13.0"},
        "settings": {"seed": 0, "size": [9, 17], "weights": "generated"},
        "seconds": 1.5,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    text = "max rel 2.8e-03 > 1e-09 at [0, 3, 1, 2]: reference 4.47612345, port 4.47312345"
    findings = [Finding("forward/conv", "pass", 2e-15, 1e-9), Finding(f"forward/{LAYER}", "fail", 3e-3, 1e-9, text)]
    good = [StageResult(name, findings[:1]).to_dict() for name in STAGES]
    bad = [*good[:1], StageResult("forward", findings, cause=CAUSE).to_dict(), *good[2:]]
    crash = [StageResult("forward", crash="the port raised ValueError: " + "shape[0]=4," * 20).to_dict()]
    drift = [
        {
            "point": point,
            "layer": "BatchNorm2D",
            "passed": error < 1e-9,
            "error": error,
            "reference32": 1e-7,
            "port32": 2e-7,
        }
        for point, error in (("conv", 2e-15), ("act", 1e-14), (LAYER, 3e-3), ("output/semantic", 4e-3))
    ]
    curves = {"loss_seg": {"reference": [3.0, 2.0, 1.0], "port": [3.0, 2.5, 1.0]}}
    shown = {"drift": {"forward": drift}, "curves": curves, "picture": ""}
    shown["differing"] = {"forward": _differing(StageResult("forward", findings))}
    data = {"machine": {"cpu": "some"}, "cases": [case(LONG, *bad), case("crashed", *crash), case("right", *good)]}
    kinds = {"one-kind-of-mistake": {"caught": 1, "localised": 1, "explained": 1, "count": 1}}
    path = tmp_path_factory.mktemp("page")
    page.write(path / "page.html", data, {LONG: shown, "right": shown}, {"kinds": kinds, "false_alarms": 0})
    return path


def measured(folder, width, scheme):
    (folder / "measure.html").write_text(MEASURE % width)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
    command += [f"--window-size={width + 40},1000", (folder / "measure.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    found = re.search("RESULT(.*)END", unescape(done.stdout))
    assert found, done.stderr[-500:]
    return json.loads(found[1])


def luminance(colour):
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """As WCAG defines it, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_and_everything_can_be_read(folder, width, scheme):
    seen = measured(folder, width, scheme)
    assert seen["out"] == [] and seen["width"] <= width
    assert seen["verdict"] < 500  # the sentence that says what is wrong is on the first screen
    assert (luminance(seen["ground"]) < 0.2) == (scheme == "dark")
    for name in ("ink", "quiet", "chart"):
        assert contrast(seen[name], seen["ground"]) >= 4.5, name
    assert contrast(seen["ink"], seen["card"]) >= 4.5 and contrast(seen["bad"], seen["card"]) >= 4.5
    assert contrast(seen["dot"], seen["ground"]) >= 3
