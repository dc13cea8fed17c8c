"""Traces in memory, digests on disk: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from parity import CaseError
from parity.traces import SAMPLE, Recording, Run, Trace, _weights, digest, sample_index

RANDOM = np.random.RandomState(0)


# --- traces ---------------------------------------------------------------------------------------------------------


def test_points_keep_the_order_in_which_they_were_added():
    trace = Trace()
    for name in ("conv", "bn", "act"):
        trace.add(name, np.zeros(1))
    assert list(trace.points) == ["conv", "bn", "act"]


def test_a_module_that_runs_again_gets_points_of_its_own():
    trace = Trace()
    for value in range(3):
        trace.add("relu", np.full(1, value))
    assert {name: int(value[0]) for name, value in trace.points.items()} == {"relu": 0, "relu@2": 1, "relu@3": 2}


def test_traces_share_no_state():
    first = Trace()
    first.add("conv", np.zeros(1))
    first.meta["leaves"] = {}
    assert Trace().points == {} and Trace().meta == {}


# --- digests --------------------------------------------------------------------------------------------------------


def test_digest_of_a_small_tensor_holds_all_of_it():
    values = np.array([[3.0, -4.0], [0.0, 0.0]])
    assert digest(values)[:2] == pytest.approx([2.5, 4.0])  # rms, largest magnitude
    assert np.array_equal(digest(values)[3:], [3.0, -4.0, 0.0, 0.0])


def test_digest_of_a_large_tensor_samples_its_ends_and_in_between():
    index = sample_index(10_001)
    assert len(index) == SAMPLE and index[0] == 0 and index[-1] == 10_000
    assert len(set(np.diff(index))) <= 2 and len(digest(np.zeros(10_001))) == 3 + SAMPLE


def test_projection_weights_are_made_of_the_splitmix64_hash():
    published = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)  # first outputs for seed 0
    expected = [(1 if z & 1 else -1) * (1 + (z >> 11) / 2**53) for z in published]
    assert np.array_equal(_weights(3), expected)


def test_projection_weights_are_all_different_and_do_not_drown_an_element():
    weights = _weights(100_000)
    assert len(np.unique(weights)) == 100_000
    assert np.abs(weights).min() >= 1.0 and np.abs(weights).max() < 2.0
    assert abs(weights.mean()) < 0.02


@pytest.mark.parametrize("size", [1, 2, 24, 25, 1000])
def test_digest_changes_with_any_single_element(size):
    values = RANDOM.standard_normal(size)
    original = digest(values)
    for index in range(size):
        changed = values.copy()
        changed[index] += 1e-3
        assert np.max(np.abs(digest(changed) - original)) > 1e-5


def test_digest_changes_with_any_two_elements_swapped():
    values = RANDOM.standard_normal(120)
    original = digest(values)
    for i in range(120):
        for j in range(i):
            swapped = values.copy()
            swapped[[i, j]] = swapped[[j, i]]
            assert np.max(np.abs(digest(swapped) - original)) > 1e-9


@pytest.mark.parametrize(
    "rearrange",
    [
        lambda x: x.transpose(0, 1, 3, 2),
        lambda x: x[:, ::-1],
        lambda x: x[::-1],
        lambda x: x[..., ::-1],
        lambda x: x[:, [1, 0, *range(2, 16)]],
        lambda x: -x,
        lambda x: np.roll(x, 1, axis=-1),
    ],
)
def test_digest_changes_when_axes_channels_or_signs_are_rearranged(rearrange):
    values = RANDOM.standard_normal((2, 16, 32, 32))
    assert abs(digest(rearrange(values))[2] - digest(values)[2]) > 1e-3


def test_digest_does_not_change_with_precision_or_memory_layout():
    values = np.float32(RANDOM.standard_normal((4, 6)))
    assert np.array_equal(digest(values), digest(values.astype(np.float64)))
    assert np.array_equal(digest(values), digest(np.asfortranarray(values)))


def test_digest_of_nothing_is_zeros_and_nan_shows():
    assert np.array_equal(digest(np.zeros(0)), np.zeros(3))
    values = np.zeros(1000)
    values[501] = np.nan
    assert np.isnan(digest(values)[0])


# --- recordings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def recording():
    run = Run(size=(33, 65), seed=1, dtype="float64")
    trace = Trace({"forward/conv": RANDOM.standard_normal((2, 3, 5, 7)), "gradients/w": np.zeros(0)})
    trace.add("forward/scalar", np.float64(0.1))
    run.add(trace)
    other = Run(size=(64, 96), seed=0, dtype="float32")
    other.add(Trace({"forward/conv": np.float32(RANDOM.standard_normal(9))}))
    return Recording(
        case="mine",
        upstream="owner/repository@abc123",
        versions={"torch": "2.0"},
        state_dict={"conv.weight": (3, 3, 1, 1), "bn.num_batches_tracked": ()},
        runs={"small": run, "float32": other},
        notes={"groups": [3, 4]},
    )


def test_a_recording_is_read_as_it_was_written(recording, tmp_path):
    recording.save(tmp_path / "mine")
    again = Recording.load(tmp_path / "mine")
    for attribute in ("case", "upstream", "versions", "state_dict", "notes"):
        assert getattr(again, attribute) == getattr(recording, attribute)
    assert list(again.runs) == ["small", "float32"]
    for name, run in recording.runs.items():
        read = again.runs[name]
        assert (read.size, read.seed, read.dtype) == (run.size, run.seed, run.dtype)
        assert list(read.points) == list(run.points)
        for point, (shape, numbers) in run.points.items():
            assert read.points[point][0] == shape
            assert np.array_equal(read.points[point][1], numbers)  # to the last bit


def test_the_order_of_the_state_dict_is_kept(recording, tmp_path):
    recording.state_dict = {"z": (1,), "a": (2,), "m": (3,)}
    recording.save(tmp_path / "mine")
    assert list(Recording.load(tmp_path / "mine").state_dict) == ["z", "a", "m"]


def test_the_header_is_json_with_a_line_per_point(recording, tmp_path):
    recording.save(tmp_path / "mine")
    text = (tmp_path / "mine.json").read_text(encoding="utf-8")
    assert json.loads(text)["schema"] == 1
    assert sum("forward/" in line for line in text.splitlines()) == 3


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_half_a_recording_is_refused(recording, tmp_path, suffix):
    recording.save(tmp_path / "mine")
    (tmp_path / "mine").with_suffix(suffix).unlink()
    with pytest.raises(CaseError, match="no recorded trace"):
        Recording.load(tmp_path / "mine")


def test_changed_numbers_are_refused(recording, tmp_path):
    recording.save(tmp_path / "mine")
    with np.load(tmp_path / "mine.npz") as archive:
        values = archive["values"]
    values[4] += 1e-3
    np.savez_compressed(tmp_path / "mine.npz", values=values)
    with pytest.raises(CaseError, match="sha256"):
        Recording.load(tmp_path / "mine")


def test_one_changed_byte_is_refused(recording, tmp_path):
    recording.save(tmp_path / "mine")
    content = bytearray((tmp_path / "mine.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "mine.npz").write_bytes(bytes(content))
    with pytest.raises(CaseError, match="sha256"):
        Recording.load(tmp_path / "mine")


def test_another_schema_is_refused(recording, tmp_path):
    recording.save(tmp_path / "mine")
    header = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))
    header["schema"] = 99
    (tmp_path / "mine.json").write_text(json.dumps(header), encoding="utf-8")
    with pytest.raises(CaseError, match="schema 99; expected 1"):
        Recording.load(tmp_path / "mine")


def test_a_header_that_is_no_json_is_refused(recording, tmp_path):
    recording.save(tmp_path / "mine")
    (tmp_path / "mine.json").write_text("{", encoding="utf-8")
    with pytest.raises(CaseError, match="not JSON"):
        Recording.load(tmp_path / "mine")


def test_a_header_that_lists_other_points_than_there_are_numbers_is_refused(recording, tmp_path):
    recording.save(tmp_path / "mine")
    header = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))
    header["runs"]["float32"]["points"].pop()
    (tmp_path / "mine.json").write_text(json.dumps(header), encoding="utf-8")
    with pytest.raises(CaseError, match=r"numbers; mine\.json lists"):
        Recording.load(tmp_path / "mine")


class _Payload:
    """Would create a file if anybody unpickled it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_in_place_of_numbers_is_not_run(recording, tmp_path):
    import hashlib

    recording.save(tmp_path / "mine")
    bait = tmp_path / "bait"
    for name, content in (("object array", None), ("bare pickle", pickle.dumps(_Payload(bait)))):
        if content is None:
            np.savez(tmp_path / "mine.npz", values=np.array([_Payload(bait)], dtype=object))
            bait.unlink(missing_ok=True)
        else:
            (tmp_path / "mine.npz").write_bytes(content)
        header = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))
        header["sha256"] = hashlib.sha256((tmp_path / "mine.npz").read_bytes()).hexdigest()
        (tmp_path / "mine.json").write_text(json.dumps(header), encoding="utf-8")
        with pytest.raises(CaseError, match="not an archive of numbers"):
            Recording.load(tmp_path / "mine")
        assert not bait.exists(), name
