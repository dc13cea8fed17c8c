"""Maps from files, for evaluation: most of its time goes into decoding PNG.

The readers give the values that those in `data.image_io` and `data.panoptic_format` give, in less time: OpenCV decodes
what is plain, and Pillow, through those, everything else. OpenCV alone would give the colours of a palette instead of
its ids, and stretch 4-bit ids to 0..255; old versions return half an image where a file is cut off. So it is handed
the header and the pixels alone, of files whose check sums are right and whose end is there.

`read_ahead` decodes the files of the next images in threads while this one is counted.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Union

import cv2
import numpy as np

from paddleseg_ext.data import image_io, panoptic_format

PathLike = Union[str, "os.PathLike[str]"]
Reader = Callable[[PathLike], np.ndarray]

MAX_THREADS = 4  # beyond these, counting takes longer than decoding
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3  # colour types
_PILLOW = threading.Lock()  # `image_io` turns warnings and Pillow's switches, which all threads share


def read_label(path: PathLike) -> np.ndarray:
    """The label map as (H, W) uint8 ids, as `image_io.read_label`: of a palette PNG the indices, never the colours.

    Raises:
        DataError: if the file is missing, no image, truncated, or holds colours or 16-bit values.
    """
    found = _decode(path, {(_GREY, 8), (_PALETTE, 8)})
    return _with_pillow(image_io.read_label, path) if found is None else found


def read_instances(path: PathLike) -> np.ndarray:
    """A map of instance ids as (H, W) integers of 8, 16 or 32 bits, as `image_io.read_instances`.

    Raises:
        DataError: if the file is missing, no image, truncated, or holds colours.
    """
    found = _decode(path, {(_GREY, 8), (_GREY, 16)})
    return _with_pillow(image_io.read_instances, path) if found is None else found


def read_ids(path: PathLike) -> np.ndarray:
    """(H, W) uint32 ids of a panoptic PNG, as `panoptic_format.read_ids`.

    Raises:
        DataError: if the file is missing or damaged.
    """
    found = _decode(path, {(_RGB, 8)})
    if found is None:
        return _with_pillow(panoptic_format.read_ids, path)
    ids = cv2.cvtColor(found, cv2.COLOR_BGR2RGBA).view("<u4")[..., 0]
    ids &= panoptic_format.LARGEST_ID
    return ids


def read_ahead(
    images: Iterable[Sequence[tuple[Reader, PathLike]]], *, threads: int | None = None
) -> Iterator[list[np.ndarray]]:
    """The maps of each image, in order.

    Args:
        images: for each image (reader, path) of its maps.
        threads: that decode; by default one for each core, up to 4. One decodes in this thread and reads nothing
            ahead.

    Raises:
        DataError: from a reader, when it is the image's turn.
    """
    threads = min(_cores(), MAX_THREADS) if threads is None else threads
    if threads <= 1:
        yield from ([reader(path) for reader, path in jobs] for jobs in images)
        return
    waiting: deque[list[Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for jobs in images:
                waiting.append([pool.submit(reader, path) for reader, path in jobs])
                if len(waiting) > threads:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            for future in (future for futures in waiting for future in futures):
                future.cancel()


def _with_pillow(reader: Reader, path: PathLike) -> np.ndarray:
    with _PILLOW:
        return reader(path)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode(path: PathLike, kinds: set[tuple[int, int]]) -> np.ndarray | None:
    """The pixels as they are stored, colours as BGR; None if the file is not plain.

    Args:
        path: of the file.
        kinds: colour types and bits per channel to decode.
    """
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    plain = _pixels_alone(data, kinds)
    return None if plain is None else cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)


def _pixels_alone(data: bytes, kinds: set[tuple[int, int]]) -> bytes | None:
    """A PNG with nothing but header and pixels, a palette's indices being grey; None if the file is not plain."""
    chunks = _chunks(data)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        return None
    width, height, depth, colour, compression, filters, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if (colour, depth) not in kinds or interlaced or not 0 < width * height <= image_io.MAX_PIXELS:
        return None
    # an unknown chunk with a capital letter in front is needed to understand the pixels
    if any(name[:1].isupper() and name not in (b"IHDR", b"PLTE", b"IDAT", b"IEND") for name, _ in chunks):
        return None
    colour = _GREY if colour == _PALETTE else colour
    header = struct.pack(">IIBBBBB", width, height, depth, colour, compression, filters, interlaced)
    pixels = b"".join(body for name, body in chunks if name == b"IDAT")
    return _SIGNATURE + b"".join(map(_chunk, (b"IHDR", b"IDAT", b"IEND"), (header, pixels, b"")))


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and body of each chunk of a PNG up to its end; none if it is no PNG, damaged, or cut off."""
    found, place = [], len(_SIGNATURE)
    if not data.startswith(_SIGNATURE):
        return []
    while data[place + 4 : place + 8] and (not found or found[-1][0] != b"IEND"):
        size = int.from_bytes(data[place : place + 4], "big")
        named = data[place + 4 : place + 8 + size]
        if zlib.crc32(named) != int.from_bytes(data[place + 8 + size : place + 12 + size], "big"):
            return []
        found.append((named[:4], named[4:]))
        place += 12 + size
    return found if found and found[-1][0] == b"IEND" else []


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
