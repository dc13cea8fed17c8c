"""Images and label maps in and out of files, with every doubt about a file turned into an error that names it.

Pixels come from Pillow, because it refuses truncated files, which OpenCV returns half grey. Files are treated as
hostile: only the raster formats below are opened, and the size in the header is checked before any pixel is decoded.

What is not plain 8-bit RGB is converted where the meaning is clear, and refused where it is not:
- grey, palette and 1-bit images become RGB; an alpha channel is dropped; CMYK is converted without a colour profile;
  of 16-bit RGB the upper 8 bits are kept (`facts` says so, for `tools/data/check_data.py`).
- 16-bit grey and floating-point images are refused: nothing says what their range is.
- an EXIF orientation is ignored, also for JPEG from a phone: labels belong to the pixels as they are stored.
"""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from paddleseg_ext.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 89_478_485  # Pillow's own limit for its warning: 1 GiB of 24-bit pixels, times a quarter
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EXIF_ORIENTATION = 0x0112
_REFUSED_IMAGE_MODES = {"I": "32-bit integers", "F": "floating point"}


class ImageFacts(NamedTuple):
    """What the header of an image file says.

    Attributes:
        size: (H, W) in pixels.
        mode: Pillow's name: "RGB", "L", "P", "CMYK", "RGBA", "I;16" ...
        bit_depth: bits per channel of a PNG; 8 for other formats.
        orientation: EXIF orientation, 1 for upright.
    """

    size: tuple[int, int]
    mode: str
    bit_depth: int
    orientation: int


def read_facts(path: str | os.PathLike[str]) -> ImageFacts:
    """The header of an image, without decoding its pixels.

    Raises:
        DataError: if it is no image or too large.
    """
    with _opened(path) as image:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        return ImageFacts(image.size[::-1], image.mode, _bit_depth(path), int(orientation))


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture as (H, W, 3) uint8 RGB.

    Raises:
        DataError: if the file is missing, no image, truncated, too large, or 16-bit grey or floating point.
    """
    with _opened(path) as image:
        if image.mode.startswith("I;16") or image.mode in _REFUSED_IMAGE_MODES:
            kind = _REFUSED_IMAGE_MODES.get(image.mode, "16-bit grey")
            raise DataError(f"{path}: the image holds {kind} pixels; expected 8 bits per channel; convert it to 8 bits")
        if image.mode == "RGB":
            return np.array(image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow advises RGBA for a palette with transparency
            return np.array(image.convert("RGB"))


def read_label(path: str | os.PathLike[str]) -> np.ndarray:
    """The label map as (H, W) uint8 ids, exactly as stored: of a palette PNG the indices, never the colours.

    Raises:
        DataError: if the file is missing, no image, truncated, or holds colours or 16-bit values.
    """
    with _opened(path) as image:
        if image.mode == "1":
            return np.array(image).astype(np.uint8)
        if image.mode == "L":
            return _unscale(np.array(image), _bit_depth(path))
        if image.mode == "P":
            return np.array(image)
        if image.mode.startswith("I"):
            raise DataError(
                f"{path}: the label has 16-bit values; expected 8-bit class ids; "
                "is it an instance map (*_instanceIds.png) or a depth map?"
            )
        raise DataError(
            f"{path}: the label is a colour image ({image.mode}); expected one channel of class ids "
            "(grey or palette PNG); convert the colours to ids"
        )


def read_instances(path: str | os.PathLike[str]) -> np.ndarray:
    """A map of instance ids as (H, W) int32, from an 8-bit or 16-bit PNG.

    Raises:
        DataError: if the file is missing, no image, truncated, or holds colours.
    """
    with _opened(path) as image:
        if image.mode != "L" and not image.mode.startswith("I"):
            raise DataError(f"{path}: the instance map is {image.mode}; expected a grey PNG of 8 or 16 bits")
        return np.array(image).astype(np.int32)


def verify(path: str | os.PathLike[str]) -> None:
    """Checks what can be checked without decoding: the check sums of a PNG. Reading finds the rest.

    Raises:
        DataError: if the file is damaged.
    """
    with _opened(path) as image:
        image.verify()


def write_png(
    path: str | os.PathLike[str], array: np.ndarray, *, palette: np.ndarray | None = None, compression: int = 6
) -> None:
    """Writes a PNG; the file appears whole or not at all.

    Args:
        path: where to; its folder must exist.
        array: (H, W, 3) uint8 RGB, (H, W) uint8, or (H, W) int32 in 0..65535 (16-bit PNG).
        palette: (K, 3) uint8 RGB colours for an (H, W) uint8 array, which becomes a palette PNG.
        compression: zlib level, 0..9.
    """
    if array.dtype == np.int32:
        array = array.astype(np.uint16)
    image = Image.fromarray(array)
    if palette is not None:
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette(palette.astype(np.uint8).tobytes())
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", compress_level=compression)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def file_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what the operating system refuses in the block (rights, a full disk) into a DataError."""
    try:
        yield
    except OSError as e:
        reason = e.strerror or str(e)
        raise DataError(
            f"{e.filename or path}: {reason}; expected to read and write there; check rights and space"
        ) from e


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """An open image; whatever Pillow raises here or in the block becomes a DataError with the file's name."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: there is no such file; expected an image; check the path or the data set's root")
    if os.path.getsize(path) == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); expected an image; copy or extract it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image, _no_missing_pixels():
            _check_size(path, image)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise DataError(f"{path}: {e}; expected at most {MAX_PIXELS} pixels; cut it into tiles") from e
    except Image.UnidentifiedImageError as e:
        with open(path, "rb") as file:
            start = file.read(16)
        raise DataError(f"{path}: no image, it starts with {start!r}; expected {', '.join(FORMATS)}") from e
    except MemoryError:
        raise
    except Exception as e:  # Pillow's decoders raise OSError, SyntaxError, ValueError, zlib.error, EOFError ...
        raise DataError(f"{path}: damaged image ({type(e).__name__}: {e}); copy or extract the file again") from e


@contextlib.contextmanager
def _no_missing_pixels() -> Iterator[None]:
    """Turns off Pillow's switch, which other libraries turn on for everybody, to fill up truncated files with grey."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _check_size(path: str | os.PathLike[str], image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path}: {height} x {width} pixels; expected at most {MAX_PIXELS} in all; cut the image into tiles"
        )


def _bit_depth(path: str | os.PathLike[str]) -> int:
    """Bits per channel, from the header of a PNG; 8 for any other file."""
    with open(path, "rb") as file:
        header = file.read(26)
    if len(header) < 26 or not header.startswith(_PNG_SIGNATURE):
        return 8
    return struct.unpack("B", header[24:25])[0]


def _unscale(values: np.ndarray, bit_depth: int) -> np.ndarray:
    """Ids of a grey PNG with 2 or 4 bits, which Pillow stretches to 0..255."""
    return values if bit_depth >= 8 else values // (255 // (2**bit_depth - 1))
