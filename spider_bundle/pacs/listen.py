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
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pynetdicom import evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from spider_bundle.batch.stop import StopRequest
from spider_bundle.dicom.ct_image import ct_image
from spider_bundle.dicom.header import MAXIMUM_READS, FilmStream, Header
from spider_bundle.dicom.studies import PUBLIC_KEY, study_key
from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import atomic_path, sync
from spider_bundle.logs import silenced, silent_pydicom
from spider_bundle.pacs.audit import ListenLog
from spider_bundle.pacs.peer import checked_title
from spider_bundle.pacs.server import (
    LONGEST_PDU,
    BoundedServer,
    BoundedSocket,
    Entity,
    accepted_sop_classes,
    accepted_transfer_syntaxes,
)
from spider_bundle.pseudonym import pseudonym

LISTEN_FOLDER = ".listen"
"""Folder in the spool with the lock and, if no other place is named, the audit log."""

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
NOT_AS_ANNOUNCED = 0xA900
CANNOT_UNDERSTAND = 0xC000

_PREAMBLE = 132  # 128 bytes and the prefix DICM
_GIBIBYTE = 1 << 30
_MEBIBYTE = 1 << 20
#: What a message holds beside its data set: command set and headers of its PDUs.
_OVERHEAD = _MEBIBYTE
#: Connections beyond the association limit that are heard out, to be told that it is reached.
_SPARE_CONNECTIONS = 8
_POLL_SECONDS = 0.1
#: Reads of a header that take no time; hardly any radiograph needs more.
_QUICK_READS = 20_000

_OUTCOMES = ("stored", "unchanged", "replaced")
_DROPPED = "dropped"
"""Outcome of a CT object that is no localiser: taken from its sender, counted, and not kept."""

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
    key: str = Field(default=PUBLIC_KEY, repr=False)
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


class _RefusedError(Exception):
    """An object that is not stored; carries the status for its sender."""

    def __init__(self, code: Code, status: int) -> None:
        self.code = code
        self.status = status
        super().__init__(code, status)


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
        self._long_headers = threading.Lock()
        self._counts = dict.fromkeys((*_OUTCOMES, _DROPPED, "refused", "rejected"), 0)
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
            stack.enter_context(silent_pydicom())  # what its threads restore is silent too
            self._server = self._open()
            stack.callback(self._server.server_close)
            reserve = options.min_free_gb * _GIBIBYTE
            self._log = ListenLog(options.audit or private, self._settings(), reserve)
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
            self._log.record("end", is_always=True, counts=self.counts)

    def _open(self) -> BoundedServer:
        options = self._options
        entity = Entity(checked_title(options.ae_title))
        entity.require_called_aet = True
        entity.require_calling_aet = [] if options.allow_any else sorted(self._titles)
        entity.maximum_associations = options.max_associations
        entity.maximum_pdu_size = LONGEST_PDU // 2  # some callers send a little more
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
            server = BoundedServer(entity, (options.bind, options.port), handlers)
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
        left_out = {"spool", "key", "audit", "timeout", "grace"}
        return options.model_dump(exclude=left_out) | {
            "ae_title": checked_title(options.ae_title),
            "port": self._port,
            "allow": sorted(self._titles),
            "site_key": "public" if options.key == PUBLIC_KEY else "secret",
        }

    def _echo(self, event: evt.Event) -> int:
        self._log.record("echo", caller=self._caller(event), status=f"{SUCCESS:04X}")
        return SUCCESS

    def _message(self, event: evt.Event) -> None:
        """Count from 0 again after a whole message; cut off who sends on without waiting."""
        transport = event.assoc.dul.socket
        if isinstance(transport, BoundedSocket):
            waiting = event.assoc.dimse.msg_queue.qsize()
            transport.received = 0 if waiting <= 1 else self._server.message_limit

    def _rejected(self, event: evt.Event) -> None:
        with self._lock:
            self._counts["rejected"] += 1
        self._note("rejected", event, Code.CALLER_REJECTED, "association rejected")

    def _closed(self, event: evt.Event) -> None:
        dul = event.assoc.dul
        if event.assoc.requestor.primitive is None and dul.to_user_queue.empty():
            ends: Any = None  # the thread, which would wait for a request until its time is up
            dul.to_user_queue.put(ends)
        if isinstance(dul.socket, BoundedSocket) and dul.socket.is_cut:
            self._note("cut", event, Code.MESSAGE_TOO_LARGE, "a message was too large")

    def _note(self, kind: str, event: evt.Event, code: Code, message: str) -> None:
        """Log what a caller has caused, unless there was too much of it."""
        if self._log.record(kind, code=code.value, caller=self._caller(event)):
            _log.warning("%s %s", code.value, message)

    def _store(self, event: evt.Event) -> int:
        """Handle a C-STORE request; the answer is the status of DICOM PS3.4 table B.2-1."""
        names: dict[str, str] = {}
        try:
            outcome, code, status = self._keep(event, names), None, SUCCESS
        except _RefusedError as refusal:
            outcome, code, status = "refused", refusal.code.value, refusal.status
        with self._lock:
            self._counts[outcome] += 1
        caller = self._caller(event)
        is_written = self._log.record(
            "object",
            is_always=outcome in ("stored", "replaced"),
            caller=caller,
            outcome=outcome,
            status=f"{status:04X}",
            code=code,
            **names,
        )
        if code is None:
            _log.info("study %s: object %s from %s", names["study_key"], outcome, caller)
        elif is_written:
            _log.warning("%s an object was refused (status %04X)", code, status)
        return status

    def _keep(self, event: evt.Event, names: dict[str, str]) -> str:
        """Write the object of a request.

        Args:
            event: The request.
            names: Receives the hashes that name the study and the object.

        Returns:
            ``stored``, ``unchanged``, ``replaced`` or ``dropped``.

        Raises:
            _RefusedError: It is not stored.
        """
        try:
            content = event.encoded_dataset()
            try:
                identifiers = _identifiers(content, event, _QUICK_READS)
            except SpiderError:
                # in turn: each takes as much as a batch allows, and callers with others do not wait
                with self._long_headers:
                    identifiers = _identifiers(content, event, MAXIMUM_READS)
        except _RefusedError:
            raise
        except Exception:  # pydicom raises nearly every kind of exception on damaged data
            raise _RefusedError(Code.INVALID_OBJECT, CANNOT_UNDERSTAND) from None
        study, instance, is_wanted = identifiers
        key = self._options.key
        names["study_key"] = study_key(study or instance, key)
        names["object"] = pseudonym(key, instance)[:32]
        if not is_wanted:
            return _DROPPED
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


def _identifiers(content: bytes, event: evt.Event, reads: int) -> tuple[str, str, bool]:
    """Return StudyInstanceUID, empty if absent, SOPInstanceUID, and whether an object is wanted.

    Raises:
        SpiderError: E01 or E02, a batch could not read it with so many reads.
        _RefusedError: N12, it is not the object that was announced.
    """
    with FilmStream(BytesIO(content), reads) as stream:
        header = Header(stream.parse("radiograph", pixels=False))
    identifiers = header.identifiers()
    announced: Any = event.request
    if (header.text("SOPClassUID"), identifiers.instance) != (
        str(announced.AffectedSOPClassUID),
        str(announced.AffectedSOPInstanceUID),
    ):
        raise _RefusedError(Code.INVALID_OBJECT, NOT_AS_ANNOUNCED)
    image = ct_image(header)
    return identifiers.study, identifiers.instance, image is None or image.is_localiser


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
    stop = StopRequest("associations")
    with stop.listening():
        listener = Listener(options)
        if started is not None:
            started(listener)
        while not stop.is_requested():
            stop.sleep(_POLL_SECONDS)
        listener.stop(lambda: stop.requests > 1)
    counts = listener.counts
    return sum(counts[outcome] for outcome in _OUTCOMES)
