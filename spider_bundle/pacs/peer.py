"""AE titles and addresses of DICOM peers (DICOM PS3.5 table 6.2-1, PS3.8 section 9.3.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spider_bundle.errors import Code, SpiderError

_TITLE = re.compile(r"[ -\[\]-~]{1,16}")
_PORTS = range(1, 1 << 16)


def checked_title(title: str) -> str:
    """Return an AE title without leading and trailing spaces, which do not count.

    Raises:
        SpiderError: N01, it is not valid.
    """
    stripped = title.strip(" ")
    if not stripped or not _TITLE.fullmatch(stripped):
        raise SpiderError(Code.INVALID_ADDRESS, "not an AE title")
    return stripped


@dataclass(frozen=True)
class Peer:
    """A DICOM application entity on the network.

    Attributes:
        title: AE title.
        host: Name or address.
        port: TCP port.
    """

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Parse a peer written as ``AE@host:port``; an IPv6 address stands in brackets.

        Raises:
            SpiderError: N01, it is not of that form.
        """
        title, at, address = text.rpartition("@")
        host, colon, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (at and colon and host and port.isascii() and port.isdigit()):
            raise SpiderError(Code.INVALID_ADDRESS, "a peer is written AE@host:port")
        if int(port) not in _PORTS:
            raise SpiderError(Code.INVALID_ADDRESS, "the port is not between 1 and 65535")
        return cls(checked_title(title), host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.title}@{host}:{self.port}"
