"""A C-STORE SCP that fills a spool for ``spider batch`` (DICOM PS3.4 annexes A and B).

An object goes to ``<study key>/<hash of SOPInstanceUID>.dcm`` with the data set as it came over
the network. It gets that name, complete and on disk, before the sender is told that it is stored.
The DICOM prefix of the hidden file before that is written last, so that a batch which looks at the
spool meanwhile never takes an unfinished file for a radiograph.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pydicom
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from spider_bundle.batch.records import AuditLog
from spider_bundle.dicom.header import Header
from spider_bundle.dicom.studies import PUBLIC_KEY, study_key
from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import atomic_path, sync
from spider_bundle.logs import silenced, silent_pydicom
from spider_bundle.pacs.peer import checked_title
from spider_bundle.pacs.server import (
    BoundedServer,
    accepted_sop_classes,
    accepted_transfer_syntaxes,
    connection_of,
)
from spider_bundle.pseudonym import pseudonym

LISTEN_FOLDER = ".listen"
"""Folder in the spool with the lock and, if no other place is named, the audit log."""

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
NOT_AS_ANNOUNCED = 0xA900
CANNOT_UNDERSTAND = 0xC000

_PREAMBLE = 132  # 128 bytes and the prefix DICM
_READ_KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")
_GIBIBYTE = 1 << 30
_MEBIBYTE = 1 << 20
_PDU = 1 << 18
#: What a message holds beside its data set: command set and headers of its PDUs.
_OVERHEAD = _MEBIBYTE
#: Connections beyond the association limit that are heard out, to be told that it is reached.
_SPARE_CONNECTIONS = 8
_POLL_SECONDS = 0.1

_OUTCOMES = ("stored", "unchanged", "replaced")

_log = logging.getLogger(__name__)


class ListenOptions(BaseModel):
    """Options of a listener.

    Attributes:
        spool: Folder for what arrives; created, readable by its owner only, if absent.
        port: TCP port; 0 takes any that is free.
        bind: Address of the network interface.
        ae_title: The listener's own AE title; callers must name it.
        allow: AE titles that may call.
        allow_any: Let everybody call.
        max_associations: Maximum number of simultaneous associations.
        min_free_gb: Space in GiB that must remain free on the disk of the spool.
        max_object_mb: Largest object in MiB.
        allow_secondary_capture: Accept secondary captures too.
        key: Secret of the site for the names in the spool; hidden in the repr.
        audit: Folder for the audit log; ``.listen`` in the spool if not given.
        timeout: Seconds after which a silent association is ended.
        grace: Seconds that running associations get to finish when the listener is stopped.

    Raises:
        ValueError: A value is out of range, or nobody may call.
        SpiderError: N01, an AE title is not valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    spool: Path
    port: int = Field(default=11112, ge=0, le=65535)
    bind: str = "127.0.0.1"
    ae_title: str = "SPIDER"
    allow: tuple[str, ...] = ()
    allow_any: bool = False
    max_associations: int = Field(default=8, ge=1)
    min_free_gb: float = Field(default=1.0, ge=0)
    max_object_mb: float = Field(default=512.0, gt=0)
    allow_secondary_capture: bool = False
    key: str = PUBLIC_KEY
    audit: Path | None = None
    timeout: float = Field(default=60.0, gt=0)
    grace: float = Field(default=60.0, ge=0)

    @model_validator(mode="after")
    def _check_titles(self) -> Self:
        if bool(self.allow) == self.allow_any:
            raise ValueError("name each AE title that may call with --allow, or give --allow-any")
        for title in (self.ae_title, *self.allow):
            checked_title(title)
        return self

    def __repr__(self) -> str:
        return f"ListenOptions({self.ae_title})"

    __str__ = __repr__  # pydantic's would show the key


class _RefusedError(Exception):
    """An object that is not stored; carries the status for its sender."""

    def __init__(self, code: Code, status: int) -> None:
        self.code = code
        self.status = status
        super().__init__(code, status)


class ListenLog(AuditLog):
    """The audit log of a listener; several threads may write to it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()
        super().__init__(folder, settings)

    def record(self, kind: str, **values: Any) -> None:
        """Append a line; a disk that refuses it must not stop the listener."""
        with self._lock:
            try:
                self._write(kind, values)
            except OSError:
                _log.warning("the audit log cannot be written")


class Listener:
    """A running C-STORE and C-ECHO SCP.

    Args:
        options: What to do.

    Raises:
        SpiderError: N08, the address cannot be listened on; N09, another listener has this spool.
        OSError: The spool cannot be written to.
    """

    def __init__(self, options: ListenOptions) -> None:
        self._options = options
        self._spool = options.spool
        self._titles = {checked_title(title) for title in options.allow}
        self._lock = threading.Lock()
        self._counts = dict.fromkeys((*_OUTCOMES, "refused", "rejected"), 0)
        private = self._spool / LISTEN_FOLDER
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stack = ExitStack()
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(private / "lock", timeout=0))
            except Timeout:
                raise SpiderError(Code.FOLDER_IN_USE) from None
            for partial in self._spool.glob("*/.*-partial-*.dcm"):
                partial.unlink(missing_ok=True)
            stack.enter_context(silenced("pynetdicom"))
            self._server = self._open()
            stack.callback(self._server.server_close)
            self._log = ListenLog(options.audit or private, self._settings())
            thread = threading.Thread(
                target=self._server.serve_forever, args=(_POLL_SECONDS,), daemon=True
            )
            thread.start()
            self._stack = stack.pop_all()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._port

    @property
    def counts(self) -> dict[str, int]:
        """Objects by what became of them, and rejected associations."""
        with self._lock:
            return dict(self._counts)

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Take no further connection, let running associations finish, and end.

        Args:
            hurry: Asked again and again; True ends at once what still runs.
        """
        with self._stack:
            self._server.shutdown()
            deadline = time.monotonic() + self._options.grace
            while running := self._server.active_associations:
                if time.monotonic() > deadline or hurry():
                    for association in running:
                        association.abort()
                    break
                time.sleep(_POLL_SECONDS)
            self._log.record("end", counts=self.counts)

    def _open(self) -> BoundedServer:
        options = self._options
        entity = AE(checked_title(options.ae_title))
        entity.require_called_aet = True
        entity.require_calling_aet = [] if options.allow_any else sorted(self._titles)
        entity.maximum_associations = options.max_associations
        entity.maximum_pdu_size = _PDU
        entity.network_timeout = entity.dimse_timeout = options.timeout
        entity.acse_timeout = min(options.timeout, 30.0)
        entity.add_supported_context(Verification)
        syntaxes = accepted_transfer_syntaxes()
        for uid in accepted_sop_classes(options.allow_secondary_capture):
            entity.add_supported_context(uid, syntaxes)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_DIMSE_RECV, self._message),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            server = BoundedServer(
                entity,
                (options.bind, options.port),
                checked_title(options.ae_title),
                entity.supported_contexts,
                evt_handlers=handlers,
            )
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            message = f"the address cannot be listened on ({reason})"
            raise SpiderError(Code.CANNOT_LISTEN, message) from None
        server.message_limit = int(options.max_object_mb * _MEBIBYTE) + _OVERHEAD
        server.connection_limit = options.max_associations + _SPARE_CONNECTIONS
        server.receive_timeout = options.timeout
        self._port = int(server.socket.getsockname()[1]) if server.socket else options.port
        return server

    def _settings(self) -> dict[str, Any]:
        options = self._options
        return {
            "ae_title": checked_title(options.ae_title),
            "bind": options.bind,
            "port": self._port,
            "allow": sorted(self._titles),
            "allow_any": options.allow_any,
            "max_associations": options.max_associations,
            "min_free_gb": options.min_free_gb,
            "max_object_mb": options.max_object_mb,
            "allow_secondary_capture": options.allow_secondary_capture,
            "site_key": "public" if options.key == PUBLIC_KEY else "secret",
        }

    def _echo(self, event: evt.Event) -> int:
        self._log.record("echo", caller=self._caller(event), status=f"{SUCCESS:04X}")
        return SUCCESS

    def _message(self, event: evt.Event) -> None:
        """Count from 0 again after a whole message; cut off who sends on without waiting."""
        connection = connection_of(event)
        if connection is not None:
            waiting = event.assoc.dimse.msg_queue.qsize()
            connection.received = 0 if waiting <= 1 else connection.limit

    def _rejected(self, event: evt.Event) -> None:
        with self._lock:
            self._counts["rejected"] += 1
        _log.warning("%s association rejected", Code.CALLER_REJECTED.value)
        self._log.record("rejected", code=Code.CALLER_REJECTED.value, caller=self._caller(event))

    def _closed(self, event: evt.Event) -> None:
        connection = connection_of(event)
        if connection is not None and connection.is_cut:
            _log.warning("%s a message was too large", Code.MESSAGE_TOO_LARGE.value)
            self._log.record("cut", code=Code.MESSAGE_TOO_LARGE.value, caller=self._caller(event))

    def _store(self, event: evt.Event) -> int:
        """Handle a C-STORE request; the answer is the status of DICOM PS3.4 table B.2-1."""
        names: dict[str, str] = {}
        try:
            outcome, code, status = self._keep(event, names), None, SUCCESS
        except _RefusedError as refusal:
            outcome, code, status = "refused", refusal.code.value, refusal.status
            _log.warning("%s an object was refused (status %04X)", code, status)
        else:
            _log.info(
                "study %s: object %s from %s", names["study_key"], outcome, self._caller(event)
            )
        with self._lock:
            self._counts[outcome] += 1
        self._log.record(
            "object",
            caller=self._caller(event),
            outcome=outcome,
            status=f"{status:04X}",
            code=code,
            **names,
        )
        return status

    def _keep(self, event: evt.Event, names: dict[str, str]) -> str:
        """Write the object of a request.

        Args:
            event: The request.
            names: Receives the hashes that name the study and the object.

        Returns:
            ``stored``, ``unchanged`` or ``replaced``.

        Raises:
            _RefusedError: It is not stored.
        """
        try:
            content = event.encoded_dataset()
            with self._lock:  # silent_pydicom() changes the warning filters of the whole process
                identifiers = _identifiers(content, event)
        except _RefusedError:
            raise
        except Exception:  # pydicom raises nearly every kind of exception on damaged data
            raise _RefusedError(Code.INVALID_OBJECT, CANNOT_UNDERSTAND) from None
        study, instance = identifiers
        key = self._options.key
        names["study_key"] = study_key(study or instance, key)
        names["object"] = pseudonym(key, instance)[:32]
        path = self._spool / names["study_key"] / f"{names['object']}.dcm"
        try:
            return self._write(path, content)
        except OSError:
            raise _RefusedError(Code.SPOOL_WRITE_FAILED, OUT_OF_RESOURCES) from None

    def _write(self, path: Path, content: bytes) -> str:
        """Let a file appear, complete and on disk.

        Raises:
            _RefusedError: N10, the disk is nearly full.
            OSError: The disk refused.
        """
        outcome = "replaced" if path.exists() else "stored"
        if outcome == "replaced" and path.read_bytes() == content:
            return "unchanged"
        free = shutil.disk_usage(self._spool).free - len(content)
        if free < self._options.min_free_gb * _GIBIBYTE:
            raise _RefusedError(Code.SPOOL_FULL, OUT_OF_RESOURCES)
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            sync(self._spool)
        with atomic_path(path) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(bytes(_PREAMBLE))
                stream.write(memoryview(content)[_PREAMBLE:])
                stream.flush()
                os.fsync(stream.fileno())
                stream.seek(0)
                stream.write(content[:_PREAMBLE])
        return outcome

    def _caller(self, event: evt.Event) -> str:
        """Return the caller's title if it is known; any other is untrusted text."""
        requestor = event.assoc.requestor
        title = str(requestor.ae_title or "").strip()
        return title if title in self._titles else f"unnamed at {requestor.address}"


def _identifiers(content: bytes, event: evt.Event) -> tuple[str, str]:
    """Return StudyInstanceUID, empty if absent, and SOPInstanceUID of an object.

    Raises:
        _RefusedError: N12, it is not the object that was announced.
    """
    with silent_pydicom():
        dataset = pydicom.dcmread(
            BytesIO(content), stop_before_pixels=True, specific_tags=list(_READ_KEYWORDS)
        )
        header = Header(dataset)
        identifiers = header.identifiers()
    announced: Any = event.request
    if (header.text("SOPClassUID"), identifiers.instance) != (
        str(announced.AffectedSOPClassUID),
        str(announced.AffectedSOPInstanceUID),
    ):
        raise _RefusedError(Code.INVALID_OBJECT, NOT_AS_ANNOUNCED)
    return identifiers.study, identifiers.instance


def listen(options: ListenOptions, started: Callable[[Listener], None] | None = None) -> int:
    """Listen until SIGTERM or SIGINT; a second signal ends running associations at once.

    Signals reach the main thread only, so it must be called there.

    Args:
        options: What to do.
        started: Called when the listener takes calls.

    Returns:
        Number of objects that are now in the spool because of this run.

    Raises:
        SpiderError: N08 or N09.
        OSError: The spool cannot be written to.
    """
    signals: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        signals.append(number)

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        listener = Listener(options)
        if started is not None:
            started(listener)
        while not signals:
            time.sleep(_POLL_SECONDS)
        listener.stop(lambda: len(signals) > 1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    counts = listener.counts
    return sum(counts[outcome] for outcome in _OUTCOMES)
