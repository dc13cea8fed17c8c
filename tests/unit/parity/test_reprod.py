"""reprod-log files: read without running them, and judged by the harness's rules, not by reprod-log's."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from parity import commands, reprod
from parity.errors import CaseError

X = np.linspace(-1.0, 2.0, 12).reshape(3, 4)


@pytest.fixture
def write(tmp_path):
    def save(name, **arrays):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        np.save(path, arrays)  # as ReprodLogger.save does
        return path

    return save


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
def test_a_file_is_read_as_numpy_wrote_it(write, dtype):
    arrays = {"a": X.astype(dtype), "b": np.zeros((0, 2), dtype), "c": np.array(1, dtype), "t": X.astype(dtype).T}
    found = reprod.read(write("x.npy", **arrays))
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype and np.array_equal(found[name], value)


def test_files_of_the_package_itself_are_read(tmp_path):
    logger = pytest.importorskip("reprod_log").ReprodLogger()
    logger.add("logits", X)
    logger.save(str(tmp_path / "forward_ref.npy"))
    assert np.array_equal(reprod.read(tmp_path / "forward_ref.npy")["logits"], X)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    path = tmp_path / "evil.npy"
    for content in ({"a": Evil()}, Evil(), {"a": np.array([Evil(), Evil()], object)}):
        np.save(path, np.array(content, object), allow_pickle=True)
        with pytest.raises(CaseError, match=r"to be run|not a file of reprod-log"):
            reprod.read(path)
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    header += "{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117).encode() + b"\n"
    path.write_bytes(header + pickle.dumps(Evil()))
    with pytest.raises(CaseError, match="to be run"):
        reprod.read(path)
    assert not canary.exists()


def test_what_is_no_dict_of_arrays_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    for content in (X, np.array([{}, {}], object), np.array({"a": 1.0}, object), np.array({1: X}, object)):
        np.save(path, content, allow_pickle=True)
        with pytest.raises(CaseError, match="not a file of reprod-log"):
            reprod.read(path)
    for content in (b"", b"\x93NUMPY\x01\x00", b"not numpy at all"):
        path.write_bytes(content)
        with pytest.raises(CaseError, match="not a file of reprod-log"):
            reprod.read(path)
    with pytest.raises(CaseError, match="not a file of reprod-log"):
        reprod.read(tmp_path / "none.npy")


def verdicts(write, theirs, own):
    (result,) = reprod.compare_logs(write("f_ref.npy", **theirs), write("f_paddle.npy", **own))
    return result


WRONG = {  # what reprod-log's own checker lets pass
    "nan": (X, np.where(X > 1.9, np.nan, X), "nonfinite"),
    "one pixel of many": (np.zeros(100000) + 1.0, 1.0 + 0.05 * (np.arange(100000) == 7), "fail"),
    "transposed": (X, X.T, "shape"),
    "broadcast": (X[:1], X, "shape"),
    "uint8": (np.uint8([3]), np.uint8([4]), "fail"),
    "integers for floats": (np.ones(3), np.ones(3, np.int64), "kind"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_reprod_log_itself_lets_pass_fails(write, name):
    theirs, own, verdict = WRONG[name]
    result = verdicts(write, {"x": theirs}, {"x": own})
    assert not result.passed and result.first.verdict == verdict


def test_float64_is_judged_to_1e_9_and_float32_to_1e_5(write):
    rms = float(np.sqrt(np.mean(X * X)))
    for dtype, limit in (("float64", 1e-9), ("float32", 1e-5)):
        for share, passes in ((0.5, True), (2.0, False)):
            other = X.copy()
            other[0, 1] += share * limit * rms
            result = verdicts(write, {"x": X.astype(dtype)}, {"x": other.astype(dtype)})
            assert result.passed == passes, (dtype, share)
    assert "> 1e-05" in result.first.text


def test_nothing_in_common_and_nothing_at_all_fail(write):
    texts = [finding.text for finding in verdicts(write, {"x": X}, {"y": X}).findings]
    assert len(texts) == 2 and all(text.endswith(".npy has no such array") for text in texts)
    assert not verdicts(write, {}, {}).passed


def test_folders_are_paired_by_name_and_what_one_lacks_fails(write, tmp_path, capsys):
    write("logs/forward_ref.npy", x=X), write("logs/forward_paddle.npy", x=X)
    write("logs/loss_ref.npy", x=X), write("logs/loss_paddle.npy", x=X + 1e-3)
    results = {result.stage: result for result in reprod.compare_logs(tmp_path / "logs", tmp_path / "logs")}
    assert {name: result.passed for name, result in results.items()} == {"forward": True, "loss": False}
    assert commands.main(["compare", str(tmp_path / "logs"), str(tmp_path / "logs")]) == 1
    assert "FAIL loss: 1 points, 1 differ" in capsys.readouterr().out
    write("logs/loss_paddle.npy", x=X)
    assert commands.main(["compare", str(tmp_path / "logs"), str(tmp_path / "logs")]) == 0
    write("logs/metric_ref.npy", x=X)
    assert commands.main(["compare", str(tmp_path / "logs"), str(tmp_path / "logs")]) == 1
    assert "has no counterpart of metric_ref.npy" in capsys.readouterr().out


def test_a_folder_with_a_file_or_without_files_is_bad_usage(write, tmp_path, capsys):
    path = write("a.npy", x=X)
    (tmp_path / "empty").mkdir()
    assert commands.main(["compare", str(path), str(tmp_path / "empty")]) == 2
    assert commands.main(["compare", str(tmp_path / "empty"), str(tmp_path / "empty")]) == 2
    assert "no .npy files" in capsys.readouterr().err
