"""One bad or odd file in a data set: what the check says, and what training does."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from paddleseg_ext.data import Cityscapes, TrainLoader
from paddleseg_ext.data import transforms as T
from paddleseg_ext.data.check import check_dataset
from paddleseg_ext.data.image_io import read_image
from paddleseg_ext.errors import DataError

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def upside_down() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


def bomb() -> bytes:
    """A PNG of 40000 x 40000 pixels in 60 bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


RGB = Image.fromarray(PICTURE)
PNG, JPEG = encoded(RGB, "PNG"), encoded(RGB, "JPEG")

BAD_IMAGES = {
    "truncated PNG": (PNG[: len(PNG) // 2], "damaged image"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "damaged image"),
    "0 bytes": (b"", "the file is empty"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "no image, it starts with b'<!DOCTYPE"),
    "16-bit grey": (encoded(Image.fromarray(np.full((32, 64), 999, np.uint16)), "PNG"), "16-bit grey"),
    "decompression bomb": (bomb(), "expected at most"),
    "another size": (encoded(RGB.resize((32, 64)), "PNG"), "expected the same size"),
}
BAD_LABELS = {
    "16-bit": (encoded(Image.fromarray(np.full((32, 64), 26001, np.uint16)), "PNG"), "16-bit values"),
    "colours": (PNG, "colour image (RGB)"),
    "label ids": (encoded(Image.fromarray(np.full((32, 64), 24, np.uint8)), "PNG"), "has values {24} in 2048 pixels"),
    "254": (encoded(Image.fromarray(np.full((32, 64), 254, np.uint8)), "PNG"), "has values {254}"),
    "a web page": (b"<html>", "no image"),
}
ODD_IMAGES = {
    "CMYK JPEG": (encoded(RGB.convert("CMYK"), "JPEG"), "mode CMYK is converted to RGB"),
    "upside down": (encoded(RGB, "JPEG", exif=upside_down()), "EXIF orientation 3 is ignored"),
    "with alpha": (encoded(RGB.convert("RGBA"), "PNG"), "alpha dropped"),
}


@pytest.fixture
def root(city: Path, tmp_path: Path) -> Path:
    shutil.copytree(city, tmp_path / "cityscapes")
    return tmp_path / "cityscapes"


@pytest.fixture
def loader(root: Path) -> Callable[..., TrainLoader]:
    def build(**options: int) -> TrainLoader:
        crop = T.RandomPaddingCrop((32, 16))
        dataset = Cityscapes(str(root), "train", [crop, T.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
        return TrainLoader(dataset, batch_size=7, seed=0, **options)  # a batch is the whole set

    return build


BAD = [("image", kind) for kind in BAD_IMAGES] + [("label", kind) for kind in BAD_LABELS]


@pytest.mark.parametrize(("part", "kind"), BAD)
def test_a_bad_file_is_named_by_the_check_and_stops_training_unless_it_may_be_skipped(
    root: Path, loader: Callable[..., TrainLoader], part: str, kind: str
) -> None:
    content, found = (BAD_IMAGES if part == "image" else BAD_LABELS)[kind]
    path = Path(getattr(Cityscapes(str(root), "train").pairs[3], part))
    path.write_bytes(content)
    (problem,) = check_dataset(Cityscapes(str(root), "train")).problems
    assert path.name in problem and found in problem
    with pytest.raises(DataError) as error:
        next(loader())
    assert path.name in str(error.value) and found in str(error.value)
    patient = loader(skip_bad=1)
    assert all(3 not in batch["index"] for batch in islice(patient, 2))
    assert list(patient.skipped) == [3] and path.name in patient.skipped[3]


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_an_odd_image_is_noted_by_the_check_and_trains(
    root: Path, loader: Callable[..., TrainLoader], kind: str
) -> None:
    content, found = ODD_IMAGES[kind]
    path = Path(Cityscapes(str(root), "train").pairs[3].image)
    path.write_bytes(content)
    report = check_dataset(Cityscapes(str(root), "train"))
    assert report
    assert any(str(path) in note and found in note for note in report.notes)
    assert next(loader())["image"].shape == (7, 3, 16, 32)


def test_cmyk_becomes_the_rgb_that_pillow_computes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(ODD_IMAGES["CMYK JPEG"][0])
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.array(image.convert("RGB"))
    assert np.array_equal(read_image(tmp_path / "a.jpg"), expected)


@pytest.mark.parametrize("content", [PNG, JPEG], ids=["PNG", "JPEG"])
def test_truncated_files_are_refused_even_if_another_library_lets_pillow_fill_them_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "a.img"
    path.write_bytes(content[: len(content) // 2])
    with Image.open(path) as image:
        image.load()  # what the switch does
    with pytest.raises(DataError, match="damaged image"):
        read_image(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
