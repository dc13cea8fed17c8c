"""Maps read fast, against Pillow's arrays and against the careful readers."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from paddleseg_ext.data import image_io, panoptic_format
from paddleseg_ext.errors import DataError
from paddleseg_ext.metrics.map_files import read_ahead, read_ids, read_instances, read_label

IDS = np.random.default_rng(0).integers(0, 200, (23, 37)).astype(np.uint8)
INSTANCES = IDS.astype(np.uint16) * 300
RGB = np.random.default_rng(1).integers(0, 256, (23, 37, 3)).astype(np.uint8)
CAREFUL = {
    read_label: (image_io, "read_label"),
    read_instances: (image_io, "read_instances"),
    read_ids: (panoptic_format, "read_ids"),
}


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunk(path: Path, name: bytes, body: bytes) -> None:
    """Inserts a chunk behind the header."""
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk(name, body) + data[33:])


def save_palette(path: Path) -> None:
    image = Image.fromarray(IDS)
    image.putpalette(np.random.default_rng(2).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path, transparency=3)


@pytest.fixture
def only_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """The careful readers fail."""
    for module, name in CAREFUL.values():
        monkeypatch.setattr(module, name, lambda path: pytest.fail(f"{path} was not plain"))


@pytest.mark.usefixtures("only_opencv")
def test_plain_files_are_read_by_opencv_exactly(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a street")
    Image.fromarray(IDS).save(tmp_path / "label.png", pnginfo=text, dpi=(72, 72))
    Image.fromarray(INSTANCES).save(tmp_path / "instance.png")
    Image.fromarray(RGB).save(tmp_path / "ids.png", transparency=tuple(RGB[0, 0].tolist()))
    red, green, blue = np.moveaxis(RGB.astype(np.uint32), -1, 0)
    for reader, name, expected in (
        (read_label, "label", IDS),
        (read_instances, "label", IDS),
        (read_instances, "instance", INSTANCES),
        (read_ids, "ids", red + 256 * green + 65536 * blue),
    ):
        found = reader(tmp_path / f"{name}.png")
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("only_opencv")
def test_of_a_palette_the_indices_are_read_and_never_the_colours(tmp_path: Path) -> None:
    save_palette(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), IDS)


@pytest.mark.usefixtures("only_opencv")
@pytest.mark.parametrize(("name", "body"), [(b"gAMA", struct.pack(">I", 100000)), (b"tRNS", b"\0\7"), (b"sBIT", b"\3")])
def test_what_is_said_about_colours_changes_no_id(tmp_path: Path, name: bytes, body: bytes) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.png")
    with_chunk(tmp_path / "a.png", name, body)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), IDS)


@pytest.mark.parametrize(("mode", "bits"), [("1", 1), ("P", 1), ("P", 2), ("P", 4)])
def test_ids_of_fewer_bits_are_not_stretched(tmp_path: Path, mode: str, bits: int) -> None:
    image = Image.fromarray(IDS % 2 * np.uint8(255 if mode == "1" else 1))
    if mode == "P":
        image.putpalette([7, 7, 7, 250, 0, 0])
        image.save(tmp_path / "a.png", bits=bits)
    else:
        image.convert("1").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), IDS % 2)


def test_other_formats_are_read_as_well(tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_label(tmp_path / "a.bmp"), IDS)


def test_a_chunk_that_a_decoder_has_to_know_is_left_to_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.png")
    with_chunk(tmp_path / "a.png", b"CgBI", b"\0\0\0\0")
    monkeypatch.setattr(image_io, "read_label", lambda path: f"Pillow read {path.name}")
    assert read_label(tmp_path / "a.png") == "Pillow read a.png"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.97])
@pytest.mark.parametrize(("reader", "pixels"), [(read_label, IDS), (read_instances, INSTANCES), (read_ids, RGB)])
def test_a_file_that_is_cut_off_is_refused_by_name(
    tmp_path: Path, reader: Callable, pixels: np.ndarray, share: float
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"a\.png: "):
        reader(path)


@pytest.mark.parametrize("place", [20, 60, 200, 400])
def test_a_changed_byte_is_treated_as_the_careful_reader_does(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(IDS).save(path)
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)
    try:
        expected = image_io.read_label(path)
    except DataError as e:
        with pytest.raises(DataError) as found:
            read_label(path)
        assert str(found.value) == str(e)
    else:
        np.testing.assert_array_equal(read_label(path), expected)


@pytest.mark.parametrize(
    ("reader", "pixels", "message"),
    [
        (read_label, RGB, "the label is a colour image"),
        (read_label, INSTANCES, "the label has 16-bit values"),
        (read_instances, RGB, "the instance map is RGB"),
    ],
)
def test_the_wrong_kind_of_map_is_refused(tmp_path: Path, reader: Callable, pixels: np.ndarray, message: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=message):
        reader(tmp_path / "a.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: there is no such file"):
        read_label(tmp_path / "none.png")


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_maps_come_in_order_whoever_is_first(tmp_path: Path, threads: int | None) -> None:
    files = []
    for number in range(9):
        size = (900, 900) if number % 3 == 0 else (2, 2)
        Image.fromarray(np.full(size, number, np.uint8)).save(tmp_path / f"{number}.png")
        files.append([(read_label, tmp_path / f"{number}.png"), (read_instances, tmp_path / f"{number}.png")])
    found = [[int(array[0, 0]) for array in arrays] for arrays in read_ahead(files, threads=threads)]
    assert found == [[number, number] for number in range(9)]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_when_it_is_its_images_turn(tmp_path: Path, threads: int) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.png")
    jobs = [[(read_label, tmp_path / name)] for name in ("a.png", "a.png", "none.png", "a.png")]
    maps = read_ahead(jobs, threads=threads)
    assert [len(next(maps)), len(next(maps))] == [1, 1]
    with pytest.raises(DataError, match=r"none\.png"):
        next(maps)


def test_only_a_few_images_are_read_ahead_and_threads_end_with_the_loop(tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.png")
    asked = []

    def jobs():
        for number in range(100):
            asked.append(number)
            yield [(read_label, tmp_path / "a.png")]

    before = threading.active_count()
    maps = read_ahead(jobs(), threads=2)
    next(maps)
    assert len(asked) == 3
    maps.close()
    assert threading.active_count() == before
