"""A C-STORE SCU for results (DICOM PS3.4 annexes A and B) that resumes where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from filelock import FileLock, Timeout
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from spider_bundle.batch.records import append_line, log_damage, numbered_lines
from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import file_sha256
from spider_bundle.logs import silenced, silent_pydicom
from spider_bundle.outputs.report import REPORT_FILE
from spider_bundle.pacs.peer import Peer, checked_title

SENT_FILE = "sent.jsonl"
"""Record of what was sent, in the folder of results."""

CALLING_TITLE = "SPIDER"
SOP_CLASS_NOT_SUPPORTED = 0x0122

_LOCK = ".locks/send.lock"
_DICOM = "dicom/"
_REJECTED_PERMANENTLY = 1
_KEY_BYTES = 12
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """Retries and time limits of sending.

    Attributes:
        retries: Further attempts when a peer is away, busy or short of space. Every object that is
            stored starts the count again.
        pause: Seconds before the first of them; each next pause is twice as long.
        timeout: Seconds to wait for a connection or an answer.
    """

    retries: int = 3
    pause: float = 5.0
    timeout: float = 30.0


@dataclass
class StoreOutcome:
    """What became of files that were sent.

    Attributes:
        stored: Files that the peer has stored.
        refused: The others with the peer's last status; not shown, for a path may hold a name.
    """

    stored: list[Path] = field(default_factory=list, repr=False)
    refused: dict[Path, int] = field(default_factory=dict, repr=False)


def store_files(
    files: Sequence[Path],
    peer: Peer,
    calling_ae: str = CALLING_TITLE,
    *,
    retry: RetryPolicy | None = None,
    on_stored: Callable[[Path], None] | None = None,
) -> StoreOutcome:
    """Send DICOM files by C-STORE.

    Args:
        files: DICOM files.
        peer: Where to.
        calling_ae: Own AE title.
        retry: Retries and time limits.
        on_stored: Called for each file as soon as the peer says that it has stored it.

    Returns:
        What was stored and what was refused for good: another status than success, warning or
        "out of resources", or the latter to the last attempt.

    Raises:
        SpiderError: N01, the own title is not valid; N02, N03 or N06, the peer cannot be reached,
            rejects the association or does not answer, to the last attempt; N07, a file cannot be
            read.
    """
    sending = _Sending(files, peer, checked_title(calling_ae), retry or RetryPolicy(), on_stored)
    with silenced("pynetdicom"), silent_pydicom():
        return sending.run()


class _Sending:
    """The files that wait, over any number of associations."""

    def __init__(
        self,
        files: Sequence[Path],
        peer: Peer,
        calling_ae: str,
        retry: RetryPolicy,
        on_stored: Callable[[Path], None] | None,
    ) -> None:
        self._waiting = list(dict.fromkeys(files))
        self._peer = peer
        self._patience = retry
        self._on_stored = on_stored
        self._outcome = StoreOutcome()
        self._busy: dict[Path, int] = {}
        self._entity = AE(calling_ae)
        self._entity.acse_timeout = self._entity.dimse_timeout = retry.timeout
        self._entity.network_timeout = self._entity.connection_timeout = retry.timeout
        contexts: dict[tuple[str, str], None] = {}
        for path in self._waiting:
            sop_class, syntax = _kind(path)
            for wanted in _NATIVE if syntax in _NATIVE else (syntax,):
                contexts[sop_class, wanted] = None
        for context in contexts:
            # one syntax each: the peer must not choose one that the file is not in
            self._entity.add_requested_context(*context)

    def run(self) -> StoreOutcome:
        attempts = 0
        while self._waiting:
            before = len(self._waiting)
            problem = self._attempt()
            attempts = 1 if len(self._waiting) < before else attempts + 1
            if self._waiting and attempts > self._patience.retries:
                if problem is not None:
                    raise problem
                for path in list(self._waiting):
                    self._refuse(path, self._busy[path])
            if self._waiting:
                time.sleep(self._patience.pause * 2 ** (attempts - 1))
        return self._outcome

    def _attempt(self) -> SpiderError | None:
        """Send what waits by one association.

        What the peer has no resources for goes on waiting.

        Returns:
            N02, N03 or N06, if it may have passed at the next attempt.

        Raises:
            SpiderError: N03, the peer rejects it for good; N07.
        """
        self._busy.clear()
        peer = self._peer
        try:
            association = self._entity.associate(peer.host, peer.port, ae_title=peer.title)
        except (OSError, RuntimeError, ValueError):
            return SpiderError(Code.PEER_UNREACHABLE)
        if not association.is_established:
            return _rejection(association)
        try:
            for path in list(self._waiting):
                try:
                    dataset = pydicom.dcmread(path)
                except Exception as error:  # pydicom raises nearly every kind of exception
                    raise _unreadable(error) from None
                try:
                    status = association.send_c_store(dataset).get("Status")
                except ValueError:  # no presentation context was accepted, or it is not encodable
                    status = SOP_CLASS_NOT_SUPPORTED
                except RuntimeError:
                    status = None
                if status is None:
                    return SpiderError(Code.ASSOCIATION_LOST)
                self._settle(path, status)
        finally:
            if association.is_established:
                association.release()
        return None

    def _settle(self, path: Path, status: int) -> None:
        """Note what the peer answered (DICOM PS3.4 table B.2-1)."""
        if status >> 8 == 0xA7:
            self._busy[path] = status
        elif status == 0 or status >> 12 == 0xB:
            self._waiting.remove(path)
            self._outcome.stored.append(path)
            if self._on_stored is not None:
                self._on_stored(path)
        else:
            self._refuse(path, status)

    def _refuse(self, path: Path, status: int) -> None:
        self._waiting.remove(path)
        self._outcome.refused[path] = status


def _rejection(association: Association) -> SpiderError:
    """Return why there is no association (DICOM PS3.8 section 9.3.4).

    Raises:
        SpiderError: N03, it was rejected for good.
    """
    if not association.is_rejected:
        return SpiderError(Code.PEER_UNREACHABLE)
    answer: Any = association.acceptor.primitive
    reason = {(1, 3): ": it does not know this AE title", (1, 7): ": it has another AE title"}
    why = reason.get((answer.result_source, answer.diagnostic), "")
    error = SpiderError(Code.ASSOCIATION_REJECTED, f"the peer rejected the association{why}")
    if answer.result == _REJECTED_PERMANENTLY:
        raise error
    return error


def _unreadable(error: Exception) -> SpiderError:
    return SpiderError(Code.INVALID_RESULT, f"a file cannot be read ({type(error).__name__})")


def _kind(path: Path) -> tuple[str, UID]:
    """Return SOP class and transfer syntax of a file.

    Raises:
        SpiderError: N07.
    """
    try:
        meta = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return str(meta.SOPClassUID), UID(meta.file_meta.TransferSyntaxUID)
    except Exception as error:  # pydicom raises nearly every kind of exception
        raise _unreadable(error) from None


@dataclass
class SendOutcome:
    """How sending a folder of results went.

    Attributes:
        stored: Number of objects stored in this run.
        skipped: Number of objects that were stored before; their files are not looked at.
        refused: Numbers of objects by the status with which the peer refused them.
        damaged: Number of studies with unsent objects that are not what their reports say, of which
            nothing was sent.
        studies: Number of studies with DICOM results.
    """

    stored: int = 0
    skipped: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    damaged: int = 0
    studies: int = 0

    @property
    def problems(self) -> list[SpiderError]:
        """Errors to show to the operator."""
        found = []
        for status, number in sorted(self.refused.items()):
            if status == SOP_CLASS_NOT_SUPPORTED:
                code, what = Code.SOP_CLASS_REJECTED, "takes no object of the kind of"
            else:
                code, what = Code.OBJECT_REFUSED, "refused"
            message = f"the peer {what} {number} objects (status {status:04X})"
            found.append(SpiderError(code, message))
        if self.damaged:
            message = f"{self.damaged} studies are not what their reports say; nothing was sent"
            found.append(SpiderError(Code.INVALID_RESULT, message))
        return found


def send_results(
    results: Path,
    peer: Peer,
    calling_ae: str = CALLING_TITLE,
    *,
    retry: RetryPolicy | None = None,
) -> SendOutcome:
    """Send the DICOM results below an output folder of ``spider infer`` or ``spider batch``.

    What the peer stored is recorded in ``sent.jsonl`` by the file's hash, and is not sent to that
    peer again. What a report says is compared with the record, and only files that are to be sent
    are read. The record takes some 100 bytes of memory for each object of the studies that are
    there.

    Args:
        results: Output folder.
        peer: Where to.
        calling_ae: Own AE title.
        retry: Retries and time limits.

    Raises:
        SpiderError: N01, N02, N03, N06 or N07, see :func:`store_files`; N09, another process is
            sending from this folder.
        OSError: The record cannot be written.
    """
    (results / _LOCK).parent.mkdir(exist_ok=True)
    try:
        with FileLock(results / _LOCK, timeout=0):
            return _send_new(results, peer, calling_ae, retry)
    except Timeout:
        raise SpiderError(Code.FOLDER_IN_USE) from None


def _send_new(results: Path, peer: Peer, calling_ae: str, retry: RetryPolicy | None) -> SendOutcome:
    record = results / SENT_FILE
    reports = sorted(results.glob(f"*/{REPORT_FILE}"))
    before = _sent_before(record, str(peer), {report.parent.name for report in reports})
    outcome = SendOutcome()
    for report in reports:
        try:
            digests = _dicom_files(report)
            new = {results / n: n for n in digests if _key(n, digests[n]) not in before}
            is_whole = all(file_sha256(path) == digests[name] for path, name in new.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            outcome.studies += 1
            outcome.damaged += 1
            continue
        outcome.studies += bool(digests)
        outcome.skipped += len(digests) - len(new)
        outcome.damaged += not is_whole
        if not (new and is_whole):
            continue

        def note(
            path: Path, new: Mapping[Path, str] = new, digests: Mapping[str, str] = digests
        ) -> None:
            line = {"file": new[path], "sha256": digests[new[path]], "peer": str(peer)}
            append_line(record, line)

        stored = store_files(list(new), peer, calling_ae, retry=retry, on_stored=note)
        outcome.stored += len(stored.stored)
        for status in stored.refused.values():
            outcome.refused[status] = outcome.refused.get(status, 0) + 1
        _log.info("study %s: %d objects sent", report.parent.name, len(stored.stored))
    return outcome


def _sent_before(record: Path, peer: str, studies: Collection[str]) -> set[bytes]:
    """Return the keys of the objects of these studies that a peer has, read line by line."""
    keys: set[bytes] = set()
    damaged = []
    for number, line in numbered_lines(record):
        match line:
            case {"peer": str(to), "file": str(name), "sha256": str(digest)}:
                if to == peer and name.split("/", 1)[0] in studies:
                    keys.add(_key(name, digest))
            case _:
                damaged.append(number)
    log_damage(SENT_FILE, damaged)
    return keys


def _key(name: str, digest: str) -> bytes:
    """Return a short key of a file and its content: records hold hundreds of thousands."""
    text = f"{name}\0{digest}".encode(errors="surrogatepass")
    return hashlib.sha256(text).digest()[:_KEY_BYTES]


def _dicom_files(report: Path) -> dict[str, str]:
    """Return the SHA-256 of a study's DICOM files by its report.

    Names are relative to the folder of results, with forward slashes.

    Raises:
        Exception: It cannot be read, or is no report; of many kinds.
    """
    listed: list[dict[str, Any]] = json.loads(report.read_bytes())["files"]
    return {
        f"{report.parent.name}/{entry['name']}": str(entry["sha256"])
        for entry in listed
        if entry["name"].startswith(_DICOM) and ".." not in entry["name"]
    }
