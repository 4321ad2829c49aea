"""What is accepted from the network: transfer syntaxes, SOP classes, and how much of it."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from contextlib import suppress
from socketserver import TCPServer
from typing import Any

from pydicom.pixels import get_decoder
from pydicom.uid import (
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from spider_bundle.dicom.ct_image import CT_CLASSES
from spider_bundle.dicom.header import SECONDARY_CAPTURE, SOP_CLASSES

LONGEST_PDU = 1 << 18
"""Longest PDU that is read, bytes, and all that is read before an association is accepted.

That is room for 128 presentation contexts with 20 transfer syntaxes each.
"""
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)

_log = logging.getLogger(__name__)


def accepted_transfer_syntaxes() -> list[str]:
    """Return the UIDs of the transfer syntaxes that can be decoded, uncompressed ones first.

    Deflated data sets are not among them: a small one can inflate to more than the memory.
    """
    compressed = []
    for uid in AllTransferSyntaxes:
        if uid in _NATIVE or uid == DeflatedExplicitVRLittleEndian:
            continue
        try:
            if get_decoder(uid).is_available:
                compressed.append(str(uid))
        except NotImplementedError:
            continue
    return [*map(str, _NATIVE), *compressed]


def accepted_sop_classes(allow_secondary_capture: bool = False) -> list[str]:
    """Return the UIDs of the SOP classes that :mod:`spider_bundle.dicom.film` takes.

    CT images are among them, for the sake of localisers.
    """
    radiographs = [
        uid
        for uid, kind in SOP_CLASSES.items()
        if kind != SECONDARY_CAPTURE or allow_secondary_capture
    ]
    return [*radiographs, *CT_CLASSES]


class Entity(AE):
    """An application entity whose limit of associations counts those that are established.

    Connections that have not said who they are could otherwise keep everybody out.
    """

    @property
    def active_associations(self) -> list[Association]:
        """Return established associations, and the one whose thread asks."""
        asking = threading.current_thread()
        return [a for a in super().active_associations if a.is_established or a is asking]


class BoundedSocket(AssociationSocket):
    """The socket of an association, which fails when a caller sends too much at a time.

    pynetdicom gathers PDUs and messages of whatever length the peer announces in memory. Until the
    association is accepted, anybody may have called, so only a request fits.

    Attributes:
        received: Bytes of the message so far.
        is_cut: Whether too much was announced.
        is_ended: Whether it was closed to make room.
    """

    server: BoundedServer
    received = 0
    is_cut = is_ended = False

    def recv(self, nr_bytes: int) -> bytearray:
        """Receive the head or the rest of a PDU.

        Args:
            nr_bytes: Its length.

        Returns:
            The bytes, fewer if the connection was closed.

        Raises:
            OSError: It is too long, or did not come in time.
        """
        assert self.socket is not None
        answer = self.assoc.acceptor.primitive
        is_accepted = answer is not None and answer.result == 0
        limit = self.server.message_limit if is_accepted else LONGEST_PDU
        self.received += nr_bytes
        message = self.assoc.dimse.message
        command = message.encoded_command_set.tell() if message else 0
        if self.received > limit or max(nr_bytes, command) > LONGEST_PDU:
            self.is_cut = True
            raise OSError(errno.EMSGSIZE, "message too long")
        deadline = time.monotonic() + self.server.receive_timeout
        data = bytearray()
        while len(data) < nr_bytes and (part := self.socket.recv(nr_bytes - len(data))):
            data += part
            if time.monotonic() > deadline:
                raise TimeoutError
        return data


class _Handler(RequestHandler):
    server: BoundedServer

    def _create_association(self) -> Association:
        association = super()._create_association()
        self.request.settimeout(self.server.receive_timeout)
        association.dul.socket = BoundedSocket(association, self.request)
        association.dul.socket.server = self.server
        association.dul.event_queue.get()  # the socket that it replaces told of the connection too
        return association


class BoundedServer(ThreadedAssociationServer):
    """An association server with bounded connections.

    Attributes:
        message_limit: Longest message of an accepted association, bytes.
        connection_limit: Most connections at a time.
        receive_timeout: Seconds that a PDU may take.
    """

    request_queue_size = 64
    message_limit = 0
    connection_limit = 0
    receive_timeout = 0.0

    def __init__(self, entity: AE, address: tuple[str, int], handlers: list[Any]) -> None:
        """Listen on an address; the arguments are those of pynetdicom's server."""
        super().__init__(
            entity,
            address,
            entity.ae_title,
            entity.supported_contexts,
            evt_handlers=handlers,
            request_handler=_Handler,
        )

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether there is room for one more connection.

        The oldest one that has not yet asked for an association makes room for it.
        """
        sockets = [association.dul.socket for association in self.active_associations]
        waiting = [s for s in sockets if isinstance(s, BoundedSocket) and not s.is_ended]
        if len(waiting) < self.connection_limit:
            return True
        for oldest in waiting:
            if oldest.assoc.requestor.primitive is None:
                oldest.is_ended = True
                with suppress(OSError, AttributeError):  # it may have ended by itself
                    oldest.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
                return True
        return False

    def shutdown(self) -> None:
        """End the loop and close the socket; running associations go on."""
        TCPServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell the kind of an error only; the text could hold anything."""
        _log.warning("a connection failed unexpectedly")
