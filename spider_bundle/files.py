"""Write files that appear only when complete and on disk; hash files; walk folders."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: ``errno`` of a disk that is full, or on which this user may use no more.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def reason(error: OSError) -> str:
    """Return why the operating system refused something, without the path, for messages."""
    return error.strerror or type(error).__name__


def sync(path: Path) -> None:
    """Force a file's contents, or a folder's entries, to disk.

    Args:
        path: An existing file or folder.

    Raises:
        OSError: The path cannot be opened or written back.
    """
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders, and journals their entries itself
    # Windows flushes only handles that may write; folders open only for reading.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force everything below a folder, and the folder itself, to disk.

    Args:
        folder: An existing folder.

    Raises:
        OSError: Something cannot be opened or written back.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name and rename it when it is complete.

    Yields a hidden path in the same folder with the same suffixes, which the body must create.
    Afterwards the file is forced to disk and renamed over ``path``, so that a reader sees the old
    file or the new one, never a part. On any exception the temporary file is removed and an
    existing ``path`` stays as it was.

    Args:
        path: Final path; its folder must exist.

    Yields:
        The temporary path.

    Raises:
        FileNotFoundError: The body did not create the file.
        OSError: The file cannot be written or renamed.
    """
    target = Path(path)
    suffixes = "".join(target.suffixes)
    stem = target.name[: len(target.name) - len(suffixes)]
    temporary = target.with_name(f".{stem}-partial-{secrets.token_hex(8)}{suffixes}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync(target.parent)


def write_text(path: str | os.PathLike[str], text: str, errors: str = "strict") -> None:
    """Write a text as UTF-8, atomically; see :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_below(root: Path, excluded: Path | None = None) -> Iterator[Path]:
    """Yield all files below a folder in a fixed order, then the folders that cannot be listed.

    Folders are entered through links too, each once. Pipes and devices are left out, as reading
    them could block. Files that cannot be examined and links that lead nowhere are included;
    opening them tells why.

    Args:
        root: The folder.
        excluded: A folder to leave out, resolved.
    """
    closed: list[Path] = []
    entered: set[Path] = set()
    for folder, folders, names in os.walk(
        root, onerror=lambda error: closed.append(Path(error.filename)), followlinks=True
    ):
        place = Path(folder).resolve()
        if place in entered:  # a link may lead back
            folders.clear()
            continue
        entered.add(place)
        folders[:] = sorted(
            name for name in folders if excluded is None or Path(folder, name).resolve() != excluded
        )
        yield from (path for name in sorted(names) if _may_be_read(path := Path(folder, name)))
    yield from closed


def _may_be_read(path: Path) -> bool:
    try:
        # editors lock files by hidden links that lead nowhere
        is_dangling = path.is_symlink() and not path.exists() and not path.name.startswith(".")
        return is_dangling or path.is_file()
    except OSError:
        return True
