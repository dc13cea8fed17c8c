"""Extraction of ZIP archives from others, which are hostile until shown otherwise."""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from paddleseg_ext.data.image_io import replacing
from paddleseg_ext.errors import DataError

MAX_MEMBERS = 500_000
MAX_MEMBER_BYTES = 256 * 2**20
MAX_RATIO = 1000  # unpacked : packed; a label map of one class reaches about 500


def extract_zip(
    archive: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    wanted: re.Pattern[str],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Extracts the wanted files of a ZIP archive; each appears whole or not at all, and one that is there is kept.

    The whole list of members is checked before anything is written.

    Args:
        archive: the ZIP file.
        target: folder to extract into.
        wanted: full-match pattern of member names.
        progress: called with the number of members done, and of all.

    Returns:
        How many files were extracted, and how many were there already with the right size.

    Raises:
        DataError: if the archive is damaged or hostile: absolute paths, `..`, links, devices, bombs.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = _checked_members(source, archive, wanted)
            _check_room(members, Path(target), archive)
            return _extract(source, members, Path(target), progress)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as e:
        raise DataError(f"{archive}: damaged or unsupported archive ({e}); download it again") from e
    except FileNotFoundError as e:
        raise DataError(f"{archive}: there is no such file; expected a ZIP archive") from e


def _checked_members(
    source: zipfile.ZipFile, archive: str | os.PathLike[str], wanted: re.Pattern[str]
) -> list[zipfile.ZipInfo]:
    members = source.infolist()
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{archive}: {len(members)} members; expected at most {MAX_MEMBERS}; is it the right archive?")
    for member in members:
        problem = _problem(member)
        if problem:
            raise DataError(
                f"{archive}: member {member.filename!r} {problem}; expected plain files below the archive's root; "
                "nothing was extracted"
            )
    return [member for member in members if wanted.fullmatch(member.filename)]


def _problem(member: zipfile.ZipInfo) -> str | None:
    """Why a member is refused, or None."""
    name, mode = member.filename, member.external_attr >> 16
    if "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name) or PurePosixPath(name).is_absolute():
        return "has an absolute or Windows path"
    if ".." in PurePosixPath(name).parts:
        return "leaves the archive's root"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.file_size > MAX_MEMBER_BYTES:
        return f"unpacks to {member.file_size} bytes, more than {MAX_MEMBER_BYTES}"
    if member.file_size > 2**20 and member.file_size > MAX_RATIO * max(member.compress_size, 1):
        return f"unpacks to {member.file_size} bytes from {member.compress_size}"
    return None


def _check_room(members: list[zipfile.ZipInfo], target: Path, archive: str | os.PathLike[str]) -> None:
    missing = sum(member.file_size for member in members if not _is_there(target / member.filename, member))
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if missing > free:
        raise DataError(f"{target}: {archive} needs {missing} bytes but {free} are free; make room or choose another")


def _extract(
    source: zipfile.ZipFile,
    members: list[zipfile.ZipInfo],
    target: Path,
    progress: Callable[[int, int], None] | None,
) -> tuple[int, int]:
    extracted = kept = 0
    for member in members:
        path = target / member.filename
        if _is_there(path, member):
            kept += 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open(member) as packed, replacing(path) as temporary, open(temporary, "wb") as plain:
                shutil.copyfileobj(packed, plain, 2**20)  # zipfile stops at the size and checks the CRC
            extracted += 1
        if progress:
            progress(extracted + kept, len(members))
    return extracted, kept


def _is_there(path: Path, member: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == member.file_size
