"""One side recorded, the other elsewhere: the verdict is that of a run in place, finding by finding."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from parity import offline, run, torch_old
from parity.case import STAGES
from parity.errors import CaseError
from parity.recording import Recorded, Store, decode, digest, encode
from parity.traces import Trace

pytestmark = pytest.mark.parity

ROOT = Path(__file__).resolve().parents[2]

PAIR = """
import numpy as np
from parity import Case, Probe, Rename, Schedule, Side, inputs

EPSILON, GAIN, CRASH = 1e-5, 1.0, False


def torch_model():
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.drop = nn.Dropout(0.5)
            self.head = nn.Conv2d(8, 5, 1)

        def forward(self, x):
            return self.head(self.drop(self.norm(self.conv1(x)).relu()))

    return Net()


def torch_losses(targets):
    import torch.nn.functional as F
    return lambda outputs, targets: {"loss": F.cross_entropy(outputs["0"], targets["label"], ignore_index=255)}


def torch_optimizer(model, losses, schedule):
    import torch
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def paddle_model():
    from paddle import nn

    class Net(nn.Layer):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2D(3, 8, 3, padding=1, bias_attr=False), nn.BatchNorm2D(8, epsilon=EPSILON)
            )
            self.drop = nn.Dropout(0.5)
            self.head = nn.Conv2D(8, 5, 1)

        def forward(self, x):
            if CRASH:
                raise ValueError("no luck")
            return self.head(self.drop(nn.functional.relu(self.stem(x)))) * GAIN

    return Net()


def paddle_losses(targets):
    import paddle.nn.functional as F
    return lambda outputs, targets: {"loss": F.cross_entropy(outputs["0"], targets["label"], ignore_index=255, axis=1)}


def paddle_optimizer(model, losses, schedule):
    import paddle
    return paddle.optimizer.Momentum(0.05, 0.9, parameters=model.parameters(), weight_decay=1e-3)


def probes(seed, size):
    outputs = {"0": np.random.RandomState(seed).standard_normal((2, 5, *size))}
    return {"corner": Probe(outputs, {"label": inputs.labels(2, 5).make("corner", size, seed)})}


def rate(iteration, schedule):
    return 0.05 * (1 - iteration / schedule.iters)


CASE = Case(
    name="pair",
    reference=Side(torch_model, torch_losses, torch_optimizer, rate,
                   postprocess=lambda outputs: {"pred": outputs["0"].argmax(1)}),
    port=Side(paddle_model, paddle_losses, paddle_optimizer, rate,
              postprocess=lambda outputs: {"pred": outputs["0"].argmax(1).numpy()}),
    inputs={"image": inputs.image(2), "label": inputs.labels(2, 5)},
    size=(9, 13),
    weights=(Rename(r"^conv1\\.", "stem.0."), Rename(r"^norm\\.", "stem.1.")),
    probes=probes,
    trajectory=Schedule(steps=4),
)
"""


@pytest.fixture
def pair(tmp_path):
    """(changes to the port) -> the case."""

    def load(**changes):
        path = tmp_path / "pair.py"
        path.write_text(PAIR)
        spec = importlib.util.spec_from_file_location("pair", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, value in changes.items():
            setattr(module, name, value)
        return module.CASE

    return load


@pytest.fixture
def both(tmp_path):
    """Case -> both its recordings."""

    def record(case, **options):
        offline.record_reference(case, tmp_path / "reference.npz", **options)
        reference = Recorded(tmp_path / "reference.npz")
        offline.record_port(case, tmp_path / "port.npz", reference)
        return reference, Recorded(tmp_path / "port.npz")

    return record


def verdict(result):
    """Everything that a result says but how long it took and, for a first divergence, why."""
    report = result.to_dict()
    for timed in (report, *report["stages"]):
        timed.pop("seconds")
    findings = {stage.stage: [dataclasses.astuple(finding) for finding in stage.findings] for stage in result.stages}
    return report, findings


def assert_same(one, other):
    (report, findings), (expected_report, expected_findings) = verdict(one), verdict(other)
    assert findings == expected_findings
    for stage, expected in zip(report["stages"], expected_report["stages"]):
        if "more experiments need both sides" in stage["cause"]:  # which may find more, or say it otherwise
            stage["cause"] = expected["cause"]
        assert stage["cause"] == expected["cause"]
    assert report == expected_report


CHANGES = {
    "right": {},
    "a setting": {"EPSILON": 1e-3},
    "the output": {"GAIN": 1.0 + 1e-6},
    "a crash": {"CRASH": True},
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_verdict_on_two_recordings_is_that_of_a_run_in_place(pair, both, name):
    case = pair(**CHANGES[name])
    found = offline.compare(*both(case))
    expected = run(case)
    ran = {stage.stage for stage in expected.stages if not stage.reason}
    assert ran == set(STAGES) - {"initial", "data", "metrics"}
    assert expected.passed == (name == "right")
    if name in ("the output", "a crash"):  # the experiments that find these causes need both sides
        for result in (found, expected):
            for stage in result.stages:
                stage.cause = ""
    assert_same(found, expected)


def test_a_recorded_reference_is_compared_with_a_port_that_runs_here(pair, both):
    case = pair(EPSILON=1e-3)
    reference, _ = both(case)
    result = offline.compare_live(reference, case)
    assert_same(result, run(case))
    assert "epsilon 0.001, reference 1e-05" in result.first[0].cause


def test_weights_seed_size_and_stages_of_a_recording_are_kept(pair, both):
    case = pair()
    options = {"stages": ["forward", "gradients"], "seed": 3, "size": (7, 5), "float32": False}
    random = np.random.RandomState(1)
    from parity.torch_side import TorchSide

    shapes = TorchSide(case.reference).shapes()
    weights = {n: np.abs(random.standard_normal(s)).astype(np.float32) if s else np.int64(0) for n, s in shapes.items()}
    found = offline.compare(*both(case, weights=weights, **options))
    assert_same(found, run(case, weights=weights, **options))
    assert found.settings == {"seed": 3, "size": [7, 5], "weights": "given"}
    assert [stage.stage for stage in found.stages] == ["weights", "forward", "gradients"]


def test_calibrated_statistics_are_recorded(pair, both):
    case = dataclasses.replace(pair(), calibrate=True)
    found = offline.compare(*both(case, stages=["forward", "step"]))
    assert_same(found, run(case, stages=["forward", "step"]))
    assert "calibrated" in found.settings["weights"]


def test_what_the_port_alone_gives_is_recorded(pair, both, monkeypatch):
    case = pair()
    calls = []

    def data(seed):
        calls.append(seed)
        return {"image": np.full((2, 3), 0.5)}

    case = dataclasses.replace(case, port=dataclasses.replace(case.port, data=data))
    from parity import bench
    from parity.traces import Run

    recorded = Run((9, 13), 5, "float64")
    recorded.add(Trace({"image": np.full((2, 3), 0.5)}))
    monkeypatch.setattr(bench, "recorded_data", lambda case: recorded)
    reference, port = both(case, stages=["data"], float32=False)
    assert calls == [5]
    found = offline.compare(reference, port)
    assert calls == [5] and found.stages[-1].stage == "data" and found.stages[-1].passed


def test_initial_values_are_recorded(pair, both):
    case = pair()
    sides = {side: dataclasses.replace(getattr(case, side), initial=True) for side in ("reference", "port")}
    case = dataclasses.replace(case, **sides)
    assert_same(offline.compare(*both(case, stages=["initial"])), run(case, stages=["initial"]))


def test_a_port_that_was_recorded_against_another_reference_is_refused(pair, both, tmp_path):
    case = pair()
    _, port = both(case)
    offline.record_reference(case, tmp_path / "other.npz", weights=_doubled(case))
    with pytest.raises(CaseError, match="against another reference"):
        offline.compare(Recorded(tmp_path / "other.npz"), port)
    offline.record_reference(case, tmp_path / "other.npz", seed=1)
    with pytest.raises(CaseError, match="against another reference"):
        offline.compare(Recorded(tmp_path / "other.npz"), port)


def _doubled(case):
    from parity import fill
    from parity.torch_side import TorchSide

    state = fill.state(TorchSide(case.reference).shapes(), 0)
    return {name: value * 2 for name, value in state.items()}


def test_recordings_of_two_cases_are_refused(pair, both, tmp_path):
    reference, port = both(pair())
    other = dataclasses.replace(pair(), name="other")
    with pytest.raises(CaseError, match="another case, or another version"):
        offline.record_port(other, tmp_path / "x.npz", reference)
    with pytest.raises(CaseError, match=r"of the reference; expected the port's"):
        offline.compare(reference, reference)
    with pytest.raises(CaseError, match=r"of the port; expected the reference's"):
        offline.compare(port, port)


# --- the file -------------------------------------------------------------------------------------------------------


def test_values_come_back_as_they_were():
    store = Store()
    value = {"a": [1, 2.5, float("nan"), True, None], 3: ("x", np.float32([1, 2])), "t": Trace({"p": np.zeros((0, 2))})}
    back = decode(json.loads(json.dumps(encode(value, store))), store.arrays.__getitem__)
    assert back["a"][:2] == [1, 2.5] and np.isnan(back["a"][2]) and back["a"][3:] == [True, None]
    assert back[3][0] == "x" and back[3][1].dtype == np.float32 and back["t"].points["p"].shape == (0, 2)
    assert digest(back) == digest(value)


def test_an_array_is_kept_once_and_another_shape_or_type_is_another_array():
    store = Store()
    for array in (np.zeros(4), np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32)):
        encode(array, store)
    assert len(store.arrays) == 3


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["text"])])
def test_what_is_no_number_or_text_is_not_recorded(value):
    with pytest.raises(CaseError, match="cannot be recorded"):
        encode(value, Store())


def write(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def header(**fields):
    return np.frombuffer(json.dumps(fields).encode(), np.uint8)


HEADER = {
    "schema": 1,
    "side": "reference",
    "settings": {"seed": 0, "size": [9, 9], "weights": "generated", "stages": ["weights"], "float32": True},
    "chain": {"status": "unverified", "upstream": "", "detail": "", "worst": 0.0, "points": 0},
    "case": {"said": {}, "given": {"reference": [], "port": []}, "inputs": [], "probes": False, "metrics": []},
    "logs": {"case": [], "float64": [["shapes", "", ["value", 5]]]},
}
WRONG = [
    *({"side": value} for value in (None, "both", 3)),
    *({"settings": value} for value in (None, {}, [], "x")),
    *({"settings": {**HEADER["settings"], "size": value}} for value in (None, "ab", [9], [0, 9], [9, 9.5], [9, True])),
    *({"settings": {**HEADER["settings"], "stages": value}} for value in (None, [], ["_restore"], [["weights"]])),
    *({"settings": {**HEADER["settings"], "seed": value}} for value in (None, 0.5, float("nan"), True)),
    *({"chain": value} for value in (None, {}, {"a": 1}, {**HEADER["chain"], "points": "many"})),
    *({"case": value} for value in (None, "x", {**HEADER["case"], "inputs": [1]})),
    *({"logs": value} for value in (None, [], {}, {"case": [], "float64": 5}, {"case": [1], "float64": []})),
    *({"logs": {"case": [["a", "b", outcome]], "float64": []}} for outcome in ([], ["value"], ["raised", 1, 2], "ab")),
    {"side": "port"},
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_header_that_is_not_as_it_is_written_is_refused(tmp_path, number):
    write(tmp_path / "x.npz", header=header(**HEADER))
    assert Recorded(tmp_path / "x.npz").header == HEADER
    write(tmp_path / "x.npz", header=header(**{**HEADER, **WRONG[number]}))
    with pytest.raises(CaseError, match=r"x.npz: not a recording: .*expected .*; record it again"):
        Recorded(tmp_path / "x.npz")


DEEP = "[" * 100000
ANSWERS = [
    5,
    {"a": 1, "b": 2},
    {"part": ["Evil", {}]},
    {"array": 9},
    {"scalar": "x"},
    {"float": "1e999999"},
    {"list": 3},
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_was_never_written_is_refused(tmp_path, answer):
    logs = {"case": [], "float64": [["shapes", "", ["value", answer]]]}
    write(tmp_path / "x.npz", header=header(**{**HEADER, "logs": logs}))
    with pytest.raises(CaseError, match=r"x.npz: damaged: .*record it again"):
        Recorded(tmp_path / "x.npz").player("float64").shapes()


def npy(shape, content=bytes(64), kind="<f8"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


SHAPES = ("(1000000000000,)", "(9223372036854775807, 9)", "(-8,)", "(-2, -4)", "'x'", "(9,)", "(7,)")


@pytest.mark.parametrize("shape", SHAPES)
def test_an_array_that_claims_more_or_less_than_there_is_is_refused(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("header.npy", npy(f"({len(bytes(header(**HEADER)))},)", bytes(header(**HEADER)), "|u1"))
        archive.writestr("a0.npy", npy(shape))
        archive.writestr("a1.npy", npy("(2, 4)"))
    assert Recorded(tmp_path / "x.npz").array(1).shape == (2, 4)
    with pytest.raises(CaseError, match=r"x.npz: damaged"):
        Recorded(tmp_path / "x.npz").array(0)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("header.npy", npy(shape, b"{}", "|u1"))
    with pytest.raises(CaseError, match=r"x.npz: not a recording"):
        Recorded(tmp_path / "x.npz")


def test_a_deep_header_and_an_encrypted_archive_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    write(path, header=np.frombuffer(DEEP.encode(), np.uint8))
    with pytest.raises(CaseError, match="not a recording"):
        Recorded(path)
    write(path, header=header(**HEADER))
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.find(mark) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(CaseError, match=r"not a recording.*encrypted"):
        Recorded(path)


def test_recordings_that_fit_together_but_make_no_case_are_refused(tmp_path):
    described = {**HEADER["case"], "said": {"nonsense": 1}}
    write(tmp_path / "x.npz", header=header(**{**HEADER, "case": described}))
    write(tmp_path / "y.npz", header=header(**{**HEADER, "case": described, "side": "port", "causes": {}}))
    with pytest.raises(CaseError, match=r"x.npz, .*y.npz: cannot be judged: .*record it again"):
        offline.compare(Recorded(tmp_path / "x.npz"), Recorded(tmp_path / "y.npz"))


def test_each_sides_own_version_of_a_package_is_shown(pair, both, monkeypatch):
    from parity.torch_side import TorchSide

    case = pair()
    ordinary = run(case, stages=["forward"]).versions
    monkeypatch.setattr(TorchSide, "versions", lambda self: {"torch": "1.4.0", "numpy": "1.18.5"})
    found = offline.compare(*both(case, stages=["forward"])).versions
    paddle = {"paddlepaddle": ordinary["paddlepaddle"], "numpy (port)": ordinary["numpy"]}
    assert found == {"torch": "1.4.0", "numpy (reference)": "1.18.5", **paddle}


def test_a_file_that_is_no_recording_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "canary"), "w")

    path = tmp_path / "x.npz"
    with pytest.raises(CaseError, match="there is no such file"):
        Recorded(path)
    for content in (b"", b"PK\x03\x04rubbish", b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(CaseError, match="not a recording"):
            Recorded(path)
    write(path, header=np.array([Evil()], object))
    with pytest.raises(CaseError, match="not a recording"):
        Recorded(path)
    write(path, header=header(schema=99))
    with pytest.raises(CaseError, match="schema 99"):
        Recorded(path)
    write(path, header=header(**HEADER), a0=np.array([Evil()], object), a1=np.array(["text"]))
    for number in (0, 1, 2):
        with pytest.raises(CaseError, match=r"x.npz: damaged: .*; record it again"):
            Recorded(path).array(number)
    with open(path, "wb") as file:
        np.savez_compressed(file, header=header(schema=1))
    with pytest.raises(CaseError, match="compressed"):
        Recorded(path)
    assert not (tmp_path / "canary").exists()


# --- an old environment ---------------------------------------------------------------------------------------------

ALONE = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is not here")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, {root!r})
import torch
if {old!r}:
    del torch.nn.Module.get_submodule, torch.optim.Optimizer.register_step_pre_hook, torch.nn.Dropout1d
from parity.cli import main
code = main(["record", {case!r}, "--side", "reference", "--out", {out!r}])
modules = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "parity" and getattr(m, "__file__", None)]
json.dump([code, modules], open({result!r}, "w"))
"""
BLOCKED = ("paddle", "paddleseg_ext", "rich", "cv2", "yaml", "PIL", "matplotlib", "reprod_log", "safetensors")


def record_alone(tmp_path, name, *, old):
    (tmp_path / "pair.py").write_text(PAIR)
    paths = {key: str(tmp_path / file) for key, file in (("case", "pair.py"), ("out", f"{name}.npz"), ("result", name))}
    script = ALONE.format(blocked=BLOCKED, root=str(ROOT), old=old, **paths)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code, modules = json.loads((tmp_path / name).read_text())
    assert code == 0, done.stderr
    return Recorded(tmp_path / f"{name}.npz"), [path for path in modules if path.startswith(str(ROOT))]


def test_a_reference_is_recorded_with_numpy_and_an_torch_old_alone(tmp_path, pair):
    case = pair()
    new, modules = record_alone(tmp_path, "new", old=False)
    old, _ = record_alone(tmp_path, "old", old=True)
    assert new.header == old.header
    offline.record_port(case, tmp_path / "port.npz", old)
    assert offline.compare(old, Recorded(tmp_path / "port.npz")).passed
    needed = [Path(path) for path in modules if "diagnos" not in path]  # which `old_python` leaves out
    too_new = {path.name: complaint for path in needed for complaint in newer_than_38(path.read_text())}
    assert too_new == {} and len(modules) > 15


def newer_than_38(source):
    """What of a module Python 3.8 would not understand, or refuse when it runs."""
    try:
        tree = ast.parse(source, feature_version=(3, 8))
    except SyntaxError as error:
        return [str(error)]
    annotations = set()
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            part = getattr(node, field, None)
            annotations.update(id(inner) for inner in ast.walk(part) if part is not None) if part is not None else None
    generic = {"dict", "list", "tuple", "set", "frozenset", "type", "OrderedDict"}  # `old_python` sees to the others
    found = []
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in generic:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and _names_types(node):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Attribute) and node.attr in {"removeprefix", "removesuffix", "pairwise", "cache"}:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and any(k.arg in {"strict", "kw_only", "slots"} for k in node.keywords):
            if ast.unparse(node.func) in {"zip", "dataclass", "dataclasses.dataclass"}:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def _names_types(union):
    """Whether one side of a `|` is a type, such as `str`, or None."""
    types = {"str", "bytes", "int", "float", "bool", "dict", "list", "tuple", "set", "Any", "None", "Callable"}
    return any(ast.unparse(side).partition("[")[0] in types for side in (union.left, union.right))


def test_the_search_for_newer_python_finds_it():
    for source in (
        "T = str | Callable[[int], str]",
        "T = None | x",
        "match x:\n    case 1: pass",
        "T = dict[str, int]",
        "zip(a, b, strict=True)",
        "x.removeprefix('a')",
    ):
        assert newer_than_38(source), source
    assert newer_than_38("from __future__ import annotations\ndef f(x: dict[str, int]) -> int | None: y = a | b") == []


def test_what_an_torch_old_lacks_behaves_like_todays():
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.ReLU()))
    net.add_module("again", net[1])
    for duplicates in (True, False):
        expected = list(net.named_modules(remove_duplicate=duplicates))
        assert list(torch_old.named_modules(net, remove_duplicate=duplicates)) == expected
    for path in ("", "0", "1.0"):
        assert torch_old.get_submodule(net, path) is net.get_submodule(path)
    with pytest.raises(AttributeError, match="has no module 'x'"):
        torch_old.get_submodule(net, "1.x")
    optimizer, seen = torch.optim.SGD(net.parameters(), lr=0.1), []
    torch_old.register_step_pre_hook(optimizer, lambda *arguments: seen.append(arguments[0]))
    optimizer.step()
    assert seen == [optimizer]
    assert torch_old.prepare() == []


def test_what_explains_is_left_out_under_an_old_python_and_abstract_classes_can_be_subscripted():
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from parity import old_python
absent = old_python._Absent()
assert absent.find_module("parity.bench") is None and absent.find_module("parity.diagnosis.leaf") is absent
module = absent.load_module("parity.diagnosis.leaf")
assert module.explain(1, two=2) == "" and module.__path__ == []
old_python.prepare()
from collections import abc
assert abc.Mapping[str, int] and abc.Sequence[int]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
