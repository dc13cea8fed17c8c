from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data import image_io
from paddleseg_ext.errors import DataError

RGB = (np.arange(6 * 5 * 3) * 7 % 256).reshape(6, 5, 3).astype(np.uint8)
IDS = np.arange(30, dtype=np.uint8).reshape(6, 5) % 4


def png(width: int, height: int, *, depth: int, color: int, rows: list[bytes]) -> bytes:
    """A PNG by its specification, for kinds that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_reads_rgb_exactly(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert np.array_equal(image_io.read_image(tmp_path / "a.png"), RGB)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK"])
def test_other_image_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(RGB).convert("L" if mode == "LA" else "RGB").convert(mode)
    image.save(path)
    read = image_io.read_image(path)
    assert read.shape == (6, 5, 3)
    assert read.dtype == np.uint8


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([RGB, np.zeros((6, 5), np.uint8)])).save(tmp_path / "a.png")
    assert np.array_equal(image_io.read_image(tmp_path / "a.png"), RGB)


def test_16_bit_grey_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: the image holds 16-bit grey pixels; .* convert it to 8 bits"):
        image_io.read_image(tmp_path / "a.png")


def test_of_16_bit_rgb_the_upper_byte_is_kept_and_reported(tmp_path: Path) -> None:
    row = b"".join(struct.pack(">H", value) for value in (0x1234, 0xABCD, 0x00FF))
    (tmp_path / "a.png").write_bytes(png(1, 1, depth=16, color=2, rows=[row]))
    assert image_io.read_image(tmp_path / "a.png").tolist() == [[[0x12, 0xAB, 0x00]]]
    assert image_io.read_facts(tmp_path / "a.png").bit_depth == 16


def test_exif_orientation_is_reported_and_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert image_io.read_facts(tmp_path / "a.png").orientation == 6
    assert image_io.read_image(tmp_path / "a.png").shape == (6, 5, 3)


def test_palette_labels_give_indices_not_colours(tmp_path: Path) -> None:
    image_io.write_png(tmp_path / "a.png", IDS, palette=np.array([[9, 9, 9], [0, 200, 0], [1, 2, 3], [255, 0, 0]]))
    assert image_io.read_facts(tmp_path / "a.png").mode == "P"
    assert np.array_equal(image_io.read_label(tmp_path / "a.png"), IDS)


def test_one_bit_labels_give_0_and_1(tmp_path: Path) -> None:
    Image.fromarray((IDS > 1) * np.uint8(255)).convert("1").save(tmp_path / "a.png")
    assert np.array_equal(image_io.read_label(tmp_path / "a.png"), (IDS > 1).astype(np.uint8))


@pytest.mark.parametrize(("depth", "row", "ids"), [(2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])])
def test_2_and_4_bit_grey_labels_are_not_stretched(tmp_path: Path, depth: int, row: bytes, ids: list[int]) -> None:
    (tmp_path / "a.png").write_bytes(png(4, 1, depth=depth, color=0, rows=[row]))
    assert image_io.read_label(tmp_path / "a.png").tolist() == [ids]


def test_16_bit_labels_are_refused_with_a_guess(tmp_path: Path) -> None:
    image_io.write_png(tmp_path / "a.png", np.full((4, 4), 26001, np.int32))
    with pytest.raises(DataError, match=r"a\.png: the label has 16-bit values.*instance map"):
        image_io.read_label(tmp_path / "a.png")


def test_colour_labels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"colour image \(RGB\); expected one channel of class ids"):
        image_io.read_label(tmp_path / "a.png")


def test_instance_ids_survive_a_16_bit_file(tmp_path: Path) -> None:
    ids = np.array([[0, 7, 26000], [33001, 65535, 255]], np.int32)
    image_io.write_png(tmp_path / "a.png", ids)
    assert image_io.read_instances(tmp_path / "a.png").tolist() == ids.tolist()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, kind)
    path = tmp_path / "a.img"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    with pytest.raises(DataError, match=r"a\.img"):
        image_io.read_image(path)


def test_a_flipped_bit_fails_the_check_sum(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    data = bytearray(path.read_bytes())
    data[50] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged image"):
        image_io.verify(path)


def test_html_with_the_name_of_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(DataError, match=r"a\.jpg: no image, it starts with b'<!DOCTYPE html>"):
        image_io.read_image(tmp_path / "a.jpg")


def test_empty_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="empty"):
        image_io.read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="no such file"):
        image_io.read_image(tmp_path / "b.png")


@pytest.mark.parametrize("side", [9_500, 14_000, 60_000])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png(side, side, depth=8, color=0, rows=[b""]))
    with pytest.raises(DataError, match=r"a\.png: .*expected at most 89478485"):
        image_io.read_image(tmp_path / "a.png")


def test_postscript_is_never_interpreted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(DataError, match="no image"):
        image_io.read_image(tmp_path / "a.png")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), image_io.replacing(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
