"""Unpack zip archives that anybody may have made, within limits and without using their names."""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from spider_bundle.errors import Code, SpiderError

_MAGIC = b"PK\x03\x04"
_BLOCK = 1 << 20
_ENCRYPTED = 0x1
_END, _ZIP64 = b"PK\x05\x06", b"PK\x06\x07"
_END_BYTES = 22 + 65535
_DIRECTORY_BYTES = 4 << 20
"""Largest table of contents, which is read into memory as a whole and takes ten times as much."""
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
        return stream.read(4) in (_MAGIC, _END)


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
        stream.seek(-min(_END_BYTES + 20, os.fstat(stream.fileno()).st_size), os.SEEK_END)
        tail = stream.read()
    end = tail.rfind(_END)
    if not 0 <= end <= len(tail) - 22:
        raise SpiderError(Code.ARCHIVE_UNREADABLE, "the archive has no end: it is damaged")
    (size,) = struct.unpack("<I", tail[end + 12 : end + 16])
    if size > _DIRECTORY_BYTES or tail[max(end - 20, 0) :].startswith(_ZIP64):
        message = "the archive is larger than 4 GB or has too many files"
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
