"""What client libraries log: never a whole request, and no line many times a second."""

from __future__ import annotations

import logging
from time import monotonic

# Where whole requests are written into the debug log, the password of a login among them.
_LOGGERS_OF_REQUESTS = ("kafka.net.connection", "kafka.protocol.parser", "aiokafka.conn")
_CLIENTS = ("kafka", "aiokafka", "faust", "mode")
_EVERY_S = 10.0


class OncePerWhile(logging.Filter):
    """Lets a message of a logger pass once in a while, and counts the others.

    While its broker is away, a client writes 40 to 80 error lines a second.

    Args:
        every_s: how long a message is not repeated.
    """

    def __init__(self, every_s: float = _EVERY_S) -> None:
        super().__init__()
        self._every_s = every_s
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether this one passes; it then says how many like it did not."""
        key, now = (record.name, str(record.msg)), monotonic()
        passed, held = self._last.get(key, (-self._every_s, 0))
        if now - passed < self._every_s:
            self._last[key] = (passed, held + 1)
            return False
        self._last[key] = (now, 0)
        if held:
            record.msg = f"{record.msg} ({held} more like it since)"
        return True


_limit = OncePerWhile()


def keep_requests_out_of_logs() -> None:
    """Drop the debug lines that hold whole requests, for as long as this process lives."""
    for name in _LOGGERS_OF_REQUESTS:
        logging.getLogger(name).addFilter(_not_debug)  # the same function is added once


def limit_client_logs() -> None:
    """Limit how often the client libraries that are loaded by now repeat a line."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _CLIENTS:
            logging.getLogger(name).addFilter(_limit)


def _not_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG
