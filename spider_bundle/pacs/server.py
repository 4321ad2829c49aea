"""What is accepted from the network: transfer syntaxes, SOP classes, and how much of it."""

from __future__ import annotations

import errno
import logging
import socket
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
from pynetdicom import evt
from pynetdicom.transport import ThreadedAssociationServer

from spider_bundle.dicom.header import SECONDARY_CAPTURE, SOP_CLASSES

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
    """Return the UIDs of the SOP classes that :mod:`spider_bundle.dicom.film` takes."""
    return [
        uid
        for uid, kind in SOP_CLASSES.items()
        if kind != SECONDARY_CAPTURE or allow_secondary_capture
    ]


class BoundedConnection(socket.socket):
    """A TCP connection that fails when one message is longer than allowed.

    pynetdicom gathers PDUs and messages of whatever length the peer announces in memory.
    """

    limit: int
    received = 0
    is_cut = False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive as usual; OSError if the message is too long."""
        data = super().recv(size, flags)
        self.received += len(data)
        if self.received > self.limit:
            self.is_cut = True
            raise OSError(errno.EMSGSIZE, "message too long")
        return data


class BoundedServer(ThreadedAssociationServer):
    """An association server with bounded connections."""

    message_limit = 0
    connection_limit = 0
    receive_timeout: float | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection and bound it."""
        client, address = super().get_request()
        bounded = BoundedConnection(
            client.family, client.type, client.proto, fileno=client.detach()
        )
        bounded.limit = self.message_limit
        bounded.settimeout(self.receive_timeout)  # half a PDU and then silence must not hold us
        return bounded, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether there is room for one more connection."""
        return len(self.active_associations) < self.connection_limit

    def shutdown(self) -> None:
        """End the loop and close the socket; running associations go on."""
        TCPServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell the kind of an error only; the text could hold anything."""
        _log.warning("a connection failed unexpectedly")


def connection_of(event: evt.Event) -> BoundedConnection | None:
    """Return the connection of an event, or None if it is closed."""
    transport = event.assoc.dul.socket
    connection = transport.socket if transport is not None else None
    return connection if isinstance(connection, BoundedConnection) else None
