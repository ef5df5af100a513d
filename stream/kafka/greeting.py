"""One connection by hand: reach a broker, encrypt, ask it what it speaks.

Client libraries retry all of it in the background and end with one and the same timeout, whatever the
cause was; a socket says which step failed.
"""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

# ApiVersions, version 0, correlation 1, no client name: the one request that a broker answers to anybody.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
_LARGEST_ANSWER = 1 << 20


class NoAnswerError(OSError):
    """The other side was reached, and then said nothing that a broker says."""


def greet(host: str, port: int, *, context: ssl.SSLContext | None, timeout_s: float) -> None:
    """Return when a broker has answered over a connection of its own, encrypted if a context is given.

    Raises:
        ssl.SSLError: the encrypted connection does not come about.
        NoAnswerError: connected, and no broker's answer came.
        OSError: not reached.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((host, port), timeout=timeout_s))
        if context is not None:
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname=host))
        # With TLS 1.3 a refused client certificate shows only when something is read.
        try:
            connection.sendall(_API_VERSIONS)
            head = connection.recv(8)
        except (TimeoutError, ConnectionError) as err:
            raise NoAnswerError(str(err)) from err
        size, correlation = struct.unpack(">ii", head) if len(head) == 8 else (0, 0)
        if correlation != 1 or not 4 < size < _LARGEST_ANSWER:
            raise NoAnswerError("closed without an answer" if not head else "not a broker's answer")
