"""Weight files: what is written is read back to the bit, and no file can do harm."""

from __future__ import annotations

import errno
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from paddleseg_ext import weight_files
from paddleseg_ext.errors import WeightError
from paddleseg_ext.weight_files import load_arrays, load_contents, save_arrays, unwrap

WRITTEN = (".pdparams", ".pdopt", ".safetensors", ".npz")


def sample_arrays() -> dict[str, np.ndarray]:
    """All types, ranks 0 to 4, an empty one, unsorted names, and bits that arithmetic would lose."""
    rng = np.random.default_rng(0)
    return {
        "stem.weight": rng.standard_normal((4, 3, 3, 3)).astype("f4"),
        "a.scalar": np.array(7, "i8"),
        "nan": np.array([0x7FC00001, 0xFFC00002, 0x80000000, 0x7F800000], "u4").view("f4"),
        "empty": np.zeros((0, 3), "f4"),
        "double": rng.standard_normal((2, 5)),
        "half": rng.standard_normal(3).astype("f2"),
        "flag": np.array([True, False]),
        "bytes": np.arange(5, dtype="u1"),
        "fortran": np.asfortranarray(rng.standard_normal((3, 4))),
        "file": np.array([[1]], "i4"),
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert found[name].tobytes() == value.tobytes(), name


# --- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_is_written_is_read_back_to_the_bit_and_in_order(tmp_path, suffix):
    save_arrays(tmp_path / f"new/w{suffix}", sample_arrays())
    found = load_arrays(tmp_path / f"new/w{suffix}")
    assert_same(found, sample_arrays())
    assert all(value.flags.writeable and value.flags.c_contiguous for value in found.values())
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == [f"w{suffix}"]


@pytest.mark.parametrize("suffix", WRITTEN)
def test_big_endian_arrays_keep_their_values(tmp_path, suffix):
    save_arrays(tmp_path / f"w{suffix}", {"x": np.array([1, -2], ">i4")})
    assert_same(load_arrays(tmp_path / f"w{suffix}"), {"x": np.array([1, -2], "i4")})
    for protocol in range(6):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps({"x": np.array([1, -2], ">i4")}, protocol))
        assert_same(load_arrays(tmp_path / "w.pkl"), {"x": np.array([1, -2], "i4")})


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    other = {"epoch": 3, "lr": 0.5, "names": ["x", ("y", None)], "set": {1, 2}, "best": np.float64(0.5), "big": 2**70,
             "raw": b"\x00\xff", "none": b"", "z": 1 + 2j, "yes": True}  # fmt: skip
    with open(tmp_path / "w.pkl", "wb") as file:
        pickle.dump(OrderedDict(model=sample_arrays(), other=other), file, protocol=protocol)
    contents = load_contents(tmp_path / "w.pkl")
    assert_same(contents.arrays, sample_arrays())
    assert contents.rest == {"other": other}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_state_dicts_saved_by_paddle_are_read(tmp_path, protocol):
    paddle = pytest.importorskip("paddle")
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    state = layer.state_dict()
    paddle.save(state, str(tmp_path / "w.pdparams"), protocol=protocol)
    paddle.save({"epoch": 3, "model": state}, str(tmp_path / "nested.pdparams"), protocol=protocol)
    expected = {name: value.numpy() for name, value in state.items()}
    assert_same(load_arrays(tmp_path / "w.pdparams"), expected)
    nested = load_contents(tmp_path / "nested.pdparams")
    assert_same(nested.arrays, expected)
    assert nested.rest == {"epoch": 3}


def test_optimizer_states_saved_by_paddle_are_read(tmp_path):
    paddle = pytest.importorskip("paddle")
    layer = paddle.nn.Linear(3, 2)
    schedule = paddle.optimizer.lr.PolynomialDecay(0.1, 10)
    optimizer = paddle.optimizer.Adam(schedule, parameters=layer.parameters())
    layer(paddle.ones([1, 3])).sum().backward()
    optimizer.step()
    paddle.save(optimizer.state_dict(), str(tmp_path / "w.pdopt"))
    contents = load_contents(tmp_path / "w.pdopt")
    state = optimizer.state_dict()
    scheduler = state.pop("LR_Scheduler")
    assert_same(contents.arrays, {name: value.numpy() for name, value in state.items()})
    assert contents.rest == {"LR_Scheduler": scheduler}


def test_paddle_reads_what_is_written(tmp_path):
    paddle = pytest.importorskip("paddle")
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    expected = {name: np.full(value.shape, 0.25, "f4") for name, value in layer.state_dict().items()}
    save_arrays(tmp_path / "w.pdparams", expected)
    assert_same(paddle.load(str(tmp_path / "w.pdparams"), return_numpy=True), expected)
    assert layer.set_state_dict(paddle.load(str(tmp_path / "w.pdparams"))) == ([], [])
    assert_same({name: value.numpy() for name, value in layer.state_dict().items()}, expected)


def test_the_safetensors_library_and_numpy_agree_both_ways(tmp_path):
    from safetensors.numpy import load_file, save_file

    expected = dict(sorted(sample_arrays().items()))
    save_arrays(tmp_path / "w.safetensors", expected)
    assert_same(dict(sorted(load_file(tmp_path / "w.safetensors").items())), expected)
    save_file({name: np.array(value, order="C") for name, value in expected.items()}, tmp_path / "v.safetensors")
    assert_same(dict(sorted(load_arrays(tmp_path / "v.safetensors").items())), expected)

    save_arrays(tmp_path / "w.npz", expected)
    with np.load(tmp_path / "w.npz") as found:
        assert_same(dict(found), expected)
    named = {name: value for name, value in expected.items() if name != "file"}  # numpy's own argument
    np.savez_compressed(tmp_path / "v.npz", **named)
    assert_same(load_arrays(tmp_path / "v.npz"), named)
    np.save(tmp_path / "stem.weight.npy", expected["fortran"])
    assert_same(load_arrays(tmp_path / "stem.weight.npy"), {"stem.weight": expected["fortran"]})


def test_python_2_pickles_are_read(tmp_path):
    minus_one = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNN" + minus_one + minus_one + b"K\x00tb"
    raw = np.array([1.5, -2.0], "<f4").tobytes()
    payload = b"\x80\x02}U\x06conv_wcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    (tmp_path / "w.pkl").write_bytes(payload + b"(K\x01K\x02\x85" + dtype + b"\x89U\x08" + raw + b"tbs.")
    assert_same(load_arrays(tmp_path / "w.pkl"), {"conv_w": np.array([1.5, -2.0], "f4")})


# --- wrappers and types ----------------------------------------------------------------------------------


def test_wrapped_state_dicts_are_found_and_a_prefix_is_reported():
    weight = np.ones(2)
    contents = unwrap({"model": {"module.w": weight, "module.b": weight}, "__author__": "x", "iteration": 5}, "f")
    assert list(contents.arrays) == ["module.w", "module.b"]
    assert contents.prefix == "module."
    assert contents.rest == {"__author__": "x", "iteration": 5}
    assert unwrap({"module.w": weight, "b": weight}, "f").prefix == ""
    assert unwrap({"state_dict": {"model": {"w": weight}}}, "f").arrays == {"w": weight}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "no arrays"),
        ({"epoch": 3}, "'epoch': int"),
        ({"model": {"w": np.ones(1)}, "state_dict": {"w": np.ones(1)}}, "several state dicts"),
        (np.ones(3), "a ndarray"),
        ({3: np.ones(3)}, "not text"),
    ],
)
def test_contents_without_one_state_dict_are_refused(content, found):
    with pytest.raises(WeightError, match=found):
        unwrap(content, "weights.pkl")


def test_bfloat16_is_refused_by_name(tmp_path):
    with open(tmp_path / "w.pdparams", "wb") as file:  # paddle.save stores bfloat16 as uint16
        pickle.dump({"head.w": np.ones(3, "u2")}, file)
    header = b'{"head.w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02cml_dtypes\nbfloat16\n.")
    for name in ("w.pdparams", "w.safetensors", "w.pkl"):
        with pytest.raises(WeightError, match=r"(?i)bfloat16|BF16"):
            load_arrays(tmp_path / name)
    with pytest.raises(WeightError, match="is uint16, which Paddle"):
        save_arrays(tmp_path / "v.pdparams", {"head.w": np.ones(3, "u2")})


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([None]), np.array(["2020"], "M8[D]")])
def test_types_that_are_no_numbers_are_not_written(tmp_path, value):
    with pytest.raises(WeightError, match="expected a numeric type"):
        save_arrays(tmp_path / "w.npz", {"x": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("missing.npz", None, "no such file"),
        ("w.pth", b"x", r"tools/convert_weights\.py"),
        ("w.xyz", b"x", r"expected one of \.pdparams"),
        ("w.pdparams", b"PK\x03\x04" + bytes(40), "probably a torch checkpoint"),
        ("w.pdparams", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02.", "a torch checkpoint"),
        ("w.pdparams", b"<!DOCTYPE html><html>", "a web page"),
        ("w.pdparams", b"\x80\x04}.extra", "ends at byte 4 of 9"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, name, content, found):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightError, match=found) as caught:
        load_arrays(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(WeightError, match="a folder"):
        load_arrays(tmp_path)


# --- hostile files ---------------------------------------------------------------------------------------


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def _evil(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> a pickle that makes `canary` when it is run, and the name that must be refused."""
    command = f"touch {canary}"
    system = _Call(os.system, command)
    payloads = {f"os.system, protocol {p}": (pickle.dumps(system, p), "posix.system") for p in range(6)}
    text = command.encode()
    short = bytes([len(text)]) + text
    payloads |= {
        "eval": (pickle.dumps(_Call(eval, f"__import__('os').system({command!r})")), "builtins.eval"),
        "exec, protocol 2": (pickle.dumps(_Call(exec, f"import os; os.system({command!r})"), 2), "__builtin__.exec"),
        "beside arrays": (pickle.dumps({"w": np.ones(3), "x": [({"y": system},)]}), "posix.system"),
        "in an object array": (pickle.dumps({"w": np.array([system, 1], object)}), "type 'O8'"),
        "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + short + b"\x85R.", "os.system"),
        "STACK_GLOBAL, dotted": (b"\x80\x04\x8c\x05numpy\x8c\x04os.x\x93\x8c" + short + b"\x85R.", "numpy.os.x"),
        "GLOBAL after a memo": (b"\x80\x02cposix\nsystem\nq\x00h\x00U" + short + b"\x85R.", "posix.system"),
        "INST": (b"(S'" + text + b"'\nios\nsystem\n.", "os.system"),
        "OBJ": (b"(cos\nsystem\nU" + short + b"o.", "os.system"),
        "NEWOBJ": (b"\x80\x02csubprocess\nPopen\nU" + short + b"\x85\x81.", "subprocess.Popen"),
        "getattr": (b"cbuiltins\ngetattr\n(cos\nsystem\nU\x08__call__tRU" + short + b"\x85R.", "builtins.getattr"),
        "runstring": (b"\x80\x02cnumpy.testing._private.utils\nrunstring\nU" + short + b"}\x86R.", "numpy.testing"),
        "numpy.load": (b"\x80\x02cnumpy\nload\nU" + short + b"\x85R.", "numpy.load"),
        "codec": (b"\x80\x02c_codecs\ndecode\nU" + short + b"\x85R.", "_codecs.decode"),
        "extension": (b"\x80\x02\x82\x01.", "EXT1"),
        "persistent": (b"Pabc\n.", "PERSID"),
    }  # fmt: skip
    return payloads


@pytest.mark.parametrize("suffix", [".pdparams", ".pdopt", ".pkl"])
def test_hostile_pickles_are_refused_by_name_and_not_run(tmp_path, suffix):
    canary = tmp_path / "canary"
    for kind, (payload, name) in _evil(canary).items():
        path = tmp_path / f"w{suffix}"
        path.write_bytes(payload)
        with pytest.raises(WeightError) as caught:
            load_arrays(path)
        assert name in str(caught.value), kind
        assert str(path) in str(caught.value) and "expected arrays" in str(caught.value), kind
        assert not canary.exists(), kind


def test_the_hostile_pickles_would_do_harm_if_they_were_run(tmp_path):
    canary = tmp_path / "canary"
    for kind, (payload, _) in _evil(canary).items():
        if kind.startswith(("os.system", "eval", "exec", "beside", "in an", "STACK_GLOBAL", "GLOBAL", "INST", "OBJ")):
            if "dotted" not in kind:
                pickle.loads(payload)
                assert canary.exists(), kind
                canary.unlink()


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80\x04cnumpy\nndarray\n}X\x08\x00\x00\x00__name__X\x01\x00\x00\x00xsb.",  # attributes of a class
        b"\x80\x04cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",  # numpy.ndarray((2**31 - 1,))
        b"\x80\x04c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",  # another codec
        b"\x80\x04cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",  # bytes(2**31 - 1)
        b"\x80\x04cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncbuiltins\nlist\nK\x00\x85C\x01b\x87R.",
        b"\x80\x04}cbuiltins\nlist\n]q\x00s.",
        b"\x80\x04K\x01K\x02.",
        b"\x80\xff.",
        b"\x80\x04h\x07.",
        b"\x80\x04u.",
    ],
)
def test_misuse_of_what_is_allowed_is_refused(tmp_path, payload):
    (tmp_path / "w.pkl").write_bytes(payload)
    with pytest.raises(WeightError, match=r"damaged|type 'O'"):
        load_arrays(tmp_path / "w.pkl")


def _bombs() -> dict[str, tuple[bytes, str]]:
    """Name -> a pickle that needs more memory or time than its size allows, and how it must be refused."""
    array = pickle.dumps(np.ones(4, "f4"), 2).replace(b"K\x04\x85", b"\x8a\x05\x00\xe4\x0bT\x02\x85")  # (10**10,)
    letters = b"X" + struct.pack("<I", 60_000) + b"a" * 60_000 + b"q\x00X\x06\x00\x00\x00latin1q\x01"
    items = b"(" + b"K\x01" * 10_000 + b"lq\x00"
    tera = struct.pack("<Q", 2**40) + b"x."
    lists = b"]q\x000" + b"".join(b"(h%ch%clq%c0" % (i, i, i + 1) for i in range(28)) + b"h\x1c"
    dicts = b"}q\x000" + b"".join(b"(U\x01ah%cU\x01bh%cdq%c0" % (i, i, i + 1) for i in range(28)) + b"h\x1c"
    return {
        "array of 40 GB": (array, "needs 40000000000 bytes, 16 are there"),
        "bytes of 1 TB": (b"\x80\x04\x8e" + tera, "truncated: needs 1099511627776 bytes"),
        "text of 1 TB": (b"\x80\x04\x8d" + tera, "truncated: needs 1099511627776 bytes"),
        "bytearray of 1 TB": (b"\x80\x05\x96" + tera, "truncated: needs 1099511627776 bytes"),
        "bytes of 4 GB": (b"\x80\x03B\xff\xff\xff\xffx.", "truncated: needs 4294967295 bytes"),
        "frame of 1 TB": (b"\x80\x04\x95" + tera, "damaged"),
        "integer of 2 GB": (b"\x80\x02\x8b\xff\xff\xff\x7fx.", "truncated: needs 2147483647 bytes"),
        "memo slot 2**31": (b"\x80\x02}r\xff\xff\xff\x7f.", "no arrays"),
        "30 000 nested lists": (b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b".", "nested deeper than 32"),
        "30 000 nested tuples": (b"\x80\x02)" + b"\x85" * 30_000 + b".", "nested deeper than 32"),
        "a deep key": (b"\x80\x02})" + b"\x85" * 30_000 + b"K\x01s.", "tuple in the wrong place"),
        "a list in itself": (b"\x80\x02]q\x00h\x00a.", "nested deeper than 32"),
        "lists that double": (b"\x80\x02" + lists + b".", "unfolds to more"),
        "dicts that double": (b"\x80\x02" + dicts + b".", "unfolds to more"),
        "a name that doubles": (b"\x80\x04" + lists + b"\x8c\x01x\x93.", "list in the wrong place"),
        "encoded again and again": (
            b"\x80\x02" + letters + b"](" + b"c_codecs\nencode\nh\x00h\x01\x86R" * 2_000 + b"e.", "unfolds to more"),
        "copied again and again": (
            b"\x80\x02" + items + b"](" + b"cbuiltins\ntuple\nh\x00\x85R" * 2_000 + b"e.", "unfolds to more"),
    }  # fmt: skip


def _assert_bounded(path: Path, found: str = r"damaged|unfold|holds") -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WeightError, match=found):
            load_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", _bombs())
def test_pickle_bombs_are_refused_in_little_memory(tmp_path, kind):
    payload, found = _bombs()[kind]
    (tmp_path / "w.pdparams").write_bytes(payload)
    _assert_bounded(tmp_path / "w.pdparams", found)


def _npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,), }\n", b"1234"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n", b"1234"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 4), }\n", b"1234"),
        _npy("{'descr': '|V2147483647', 'fortran_order': False, 'shape': (4,), }\n"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 5000 + ")" * 5000 + ", }\n"),
        _npy("__import__('os').system('true')\n"),
        _npy("{'descr': '<f4', 'shape': (\x00\n"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", b"1234", version=3),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    ],
)
def test_hostile_npy_headers_are_refused_in_little_memory(tmp_path, content):
    (tmp_path / "w.npy").write_bytes(content)
    _assert_bounded(tmp_path / "w.npy")
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("x.npy", content)
    _assert_bounded(tmp_path / "w.npz")


def test_pickled_objects_in_npy_and_npz_are_not_run(tmp_path):
    canary = tmp_path / "canary"
    value = np.array([_Call(os.system, f"touch {canary}")], object)
    np.save(tmp_path / "w.npy", value, allow_pickle=True)
    np.savez(tmp_path / "w.npz", x=value)
    for name in ("w.npy", "w.npz"):
        with pytest.raises(WeightError, match=r"type '?(O|object)"):
            load_arrays(tmp_path / name)
    assert not canary.exists()
    np.load(tmp_path / "w.npy", allow_pickle=True)
    assert canary.exists()


def test_archives_that_unfold_are_refused(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(100 << 20, "u1"))
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", buffer.getvalue())
    del buffer
    _assert_bounded(tmp_path / "w.npz")


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 8) + b"[[[[[[[[",
        struct.pack("<Q", 59) + b'{"x":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,4]}}'[:59] + bytes(4),
        struct.pack("<Q", 63) + b'{"x":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,4]}}' + bytes(4),
    ],
)
def test_hostile_safetensors_headers_are_refused_in_little_memory(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    _assert_bounded(tmp_path / "w.safetensors")


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*WRITTEN, ".pkl", ".npy"])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.5, 0.99])
def test_truncated_files_are_one_clear_error(tmp_path, suffix, fraction):
    path = tmp_path / f"w{suffix}"
    arrays = {"a": np.arange(5000, dtype="f4"), "b": np.ones((3, 3))}
    if suffix == ".npy":
        np.save(path, arrays["a"])
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": arrays}))
    else:
        save_arrays(path, arrays)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(WeightError, match=r"truncated|damaged") as caught:
        load_arrays(path)
    assert str(caught.value).startswith(str(path)) and "copy or download it again" in str(caught.value)


@pytest.mark.parametrize("suffix", [*WRITTEN, ".pkl"])
def test_a_flipped_bit_is_a_weight_error_or_changes_numbers_and_names_alone(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    arrays = {"a": np.arange(50, dtype="f4"), "b": np.ones((3, 3))}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": arrays}, 2))
    else:
        save_arrays(path, arrays)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for offset, bit in zip(rng.integers(0, len(content), 300), rng.integers(0, 8, 300)):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            found = load_arrays(path)
        except WeightError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
            continue
        assert sum(value.nbytes for value in found.values()) <= len(content)
        assert all(value.dtype.kind in "biufc" for value in found.values())
        if suffix == ".npz":  # whose sums guard the numbers
            assert sorted(value.tobytes() for value in found.values()) == sorted(v.tobytes() for v in arrays.values())
    assert 0 < refused < 300


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_failed_write_keeps_the_old_file(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"w{suffix}"
    save_arrays(path, {"a": np.arange(3)})

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(weight_files.os, "fsync", fail)
    with pytest.raises(WeightError, match=r"No space left.*needs 4096 bytes, \d+ are free"):
        save_arrays(path, {"a": np.zeros(512)})
    assert_same(load_arrays(path), {"a": np.arange(3)})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_file_in_the_place_of_the_folder_is_an_error_and_stays(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(WeightError, match="cannot be written"):
        save_arrays(tmp_path / "out/w.npz", {"a": np.ones(1)})
    assert (tmp_path / "out").read_text() == "mine"


def test_writing_through_a_symbolic_link_keeps_the_link(tmp_path):
    (tmp_path / "link.npz").symlink_to(tmp_path / "real.npz")
    save_arrays(tmp_path / "link.npz", {"a": np.ones(1)})
    assert (tmp_path / "link.npz").is_symlink() and (tmp_path / "real.npz").is_file()


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert weight_files.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
