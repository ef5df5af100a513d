"""What client libraries must not log: whole requests."""

from __future__ import annotations

import logging

# Where whole requests are written into the debug log, the password of a login among them.
_LOGGERS_OF_REQUESTS = ("kafka.net.connection", "kafka.protocol.parser", "aiokafka.conn")


def keep_requests_out_of_logs() -> None:
    """Drop the debug lines that hold whole requests, for as long as this process lives."""
    for name in _LOGGERS_OF_REQUESTS:
        logging.getLogger(name).addFilter(_not_debug)  # the same function is added once


def _not_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG
