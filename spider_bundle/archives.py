"""Unpack zip archives that anybody may have made, within limits and without using their names.

The layout is that of APPNOTE.TXT of PKWARE, sections 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from spider_bundle.errors import Code, SpiderError

_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x07\x08", b"PK00")
"""First bytes: a file, an empty archive, the same of ZIP64, and two marks of archives in parts."""
_BLOCK = 1 << 20
_ENCRYPTED = 0x1
_END, _LOCATOR, _END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_END64_BYTES = 56
_END_BYTES = 22 + 65535
_DIRECTORY_BYTES = 4 << 20
"""Largest table of contents, which is read into memory as a whole and takes ten times as much."""
_HEAD_BYTES = 132
"""What of a file is looked at to know its kind."""
_RATIO_FROM = 1 << 20
"""Bytes from which the compression of a member is looked at: short ones compress by chance."""


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may hold.

    Attributes:
        members: Number of files.
        member_bytes: Size of a file, unpacked.
        total_bytes: Size of all files, unpacked.
        ratio: Unpacked size of a file over its packed size; deflate reaches 1032 at most, and
            radiographs stay far below.
    """

    members: int = 10_000
    member_bytes: int = 2 << 30
    total_bytes: int = 4 << 30
    ratio: float = 500.0


def is_archive(path: Path) -> bool:
    """Whether a file starts as a zip archive does.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        return stream.read(4) in _MAGICS


def holds_member(path: Path, wanted: Callable[[bytes], bool]) -> bool:
    """Return whether a zip archive holds a wanted file, or another archive, or cannot be opened.

    Args:
        path: A file; what is no archive holds nothing.
        wanted: Tells a file by its first bytes.

    Raises:
        OSError: It cannot be read.
    """
    if not is_archive(path):
        return False
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as source:
            for member in source.infolist()[: ArchiveLimits.members]:
                with source.open(member) as stream:
                    head = stream.read(_HEAD_BYTES)
                if head[:4] in _MAGICS or wanted(head):
                    return True
    except Exception:  # zipfile and the decompressors each have their own
        return True
    return False


def unpack(
    archive: Path, folder: Path, limits: ArchiveLimits | None = None, reserve: int = 0
) -> None:
    """Unpack the files of an archive into a folder.

    They are named by number, so no name in the archive can lead anywhere, and links become plain
    files. Archives in the archive stay as they are. Sizes are counted while unpacking, whatever the
    archive declares.

    Args:
        archive: A zip archive.
        folder: An empty folder.
        limits: What it may hold.
        reserve: Bytes of the folder's disk that must stay free.

    Raises:
        SpiderError: A01, the archive is damaged or encrypted; A02, it exceeds the limits; A06, the
            disk has no room for it. Files may have been unpacked by then.
        OSError: The archive cannot be read, or the files cannot be written.
    """
    allowed = limits or ArchiveLimits()
    _check_directory(archive)
    try:
        source = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _damaged(error) from None
    with source:
        # not is_dir(), which trips over an empty name
        members = [member for member in source.infolist() if not member.filename.endswith("/")]
        if len(members) > allowed.members:
            raise SpiderError(Code.ARCHIVE_EXCEEDS_LIMITS, f"the archive has {len(members)} files")
        declared = sum(member.file_size for member in members)
        if declared > allowed.total_bytes:
            raise SpiderError(Code.ARCHIVE_EXCEEDS_LIMITS, "the archive declares too many bytes")
        if shutil.disk_usage(folder).free < declared + reserve:
            raise SpiderError(Code.NO_SPACE_TO_UNPACK)
        total = 0
        for number, member in enumerate(members, 1):
            if member.flag_bits & _ENCRYPTED:
                raise SpiderError(Code.ARCHIVE_UNREADABLE, "the archive is encrypted")
            # the other decompressors give all they have at once, however much it is
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise SpiderError(
                    Code.ARCHIVE_UNREADABLE, "the archive is not compressed by deflate"
                )
            target = folder / f"{number:06d}"
            with target.open("xb") as stream:
                most = min(allowed.member_bytes, allowed.total_bytes - total)
                total += _copy(source, member, stream, most, allowed.ratio)


def _check_directory(archive: Path) -> None:
    """Refuse a table of contents that would fill the memory.

    Raises:
        SpiderError: A01 or A02.
    """
    with archive.open("rb") as stream:
        most = _END_BYTES + 20 + _END64_BYTES
        stream.seek(-min(most, os.fstat(stream.fileno()).st_size), os.SEEK_END)
        tail = stream.read()
    end = tail.rfind(_END)
    if not 0 <= end <= len(tail) - 22:
        raise SpiderError(Code.ARCHIVE_UNREADABLE, "the archive has no end: it is damaged")
    (size,) = struct.unpack("<I", tail[end + 12 : end + 16])
    record = tail[max(end - 20 - _END64_BYTES, 0) : end]
    # streams end so, whatever their size; where it is not in this place, zipfile ignores it too
    if record.startswith(_END64) and record[_END64_BYTES:].startswith(_LOCATOR):
        (size,) = struct.unpack("<Q", record[40:48])
    if size > _DIRECTORY_BYTES:
        message = "the archive has too many files, or their names are too long"
        raise SpiderError(Code.ARCHIVE_EXCEEDS_LIMITS, message)


def _copy(
    source: zipfile.ZipFile, member: zipfile.ZipInfo, stream: IO[bytes], most: int, ratio: float
) -> int:
    """Unpack one member of at most ``most`` bytes; returns its size."""
    packed = max(member.compress_size, 1)
    size = 0
    reading = _open(source, member)
    with reading:
        while block := _read(reading):
            size += len(block)
            if size > most:
                raise SpiderError(
                    Code.ARCHIVE_EXCEEDS_LIMITS, "the archive unpacks to too many bytes"
                )
            if size > _RATIO_FROM and size > ratio * packed:
                raise SpiderError(
                    Code.ARCHIVE_EXCEEDS_LIMITS, "a file of the archive is compressed too far"
                )
            stream.write(block)
    return size


def _open(source: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return source.open(member)
    except Exception as error:  # zipfile and the decompressors each have their own
        raise _damaged(error) from None


def _read(reading: IO[bytes]) -> bytes:
    try:
        return reading.read(_BLOCK)
    except Exception as error:  # as above; an OSError of the disk looks no different to the user
        raise _damaged(error) from None


def _damaged(error: Exception) -> SpiderError:
    return SpiderError(
        Code.ARCHIVE_UNREADABLE, f"the archive cannot be read ({type(error).__name__})"
    )
