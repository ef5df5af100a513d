"""What a running service shows of itself: figures in a Prometheus registry, logs as lines of one shape.

Code logs through the standard library (`logger.info("batch_stored", extra={...})`); structlog renders its records and
those of the libraries alike. Nothing a user did and no secret is ever written.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter as Tally
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from stream.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from structlog.typing import EventDict, Processor, WrappedLogger

    from stream.config import LogFormat, LogLevel
    from stream.metrics import Metric

CONTENT_TYPE: str = CONTENT_TYPE_LATEST
LIBRARIES = ("aiokafka", "apscheduler", "asyncio", "faust", "kafka", "mode")
"""Loggers of libraries, quieter than ours."""

_LINES_PER_WINDOW = 20
_WINDOW_S = 10.0
_HIDDEN = "***"


class PrometheusMetrics:
    """A registry that holds every metric of the table, and nothing else but the process's own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._counters: dict[Metric, Counter] = {}
        self._gauges: dict[Metric, Gauge] = {}
        self._histograms: dict[Metric, Histogram] = {}
        for metric in METRICS:
            named = (metric.name, metric.meaning, metric.labels)
            if metric.kind == "counter":
                self._counters[metric] = Counter(*named, registry=self.registry)
            elif metric.kind == "gauge":
                self._gauges[metric] = Gauge(*named, registry=self.registry)
            else:
                self._histograms[metric] = Histogram(
                    *named, registry=self.registry, buckets=metric.buckets
                )

    def add(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        """Let a counter grow."""
        child = self._counters[metric]
        (child.labels(**labels) if labels else child).inc(amount)

    def set(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Give a gauge its present value."""
        child = self._gauges[metric]
        (child.labels(**labels) if labels else child).set(value)

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Count one value in a histogram."""
        child = self._histograms[metric]
        (child.labels(**labels) if labels else child).observe(value)

    def page(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self.registry)


class Quiet(logging.Filter):
    """Lets a logger write so many lines in a while: a client that cannot reach its broker says so 40 times a second.

    The first line after a silence says how many were left out (field `left_out`).
    """

    def __init__(self, lines: int = _LINES_PER_WINDOW, window_s: float = _WINDOW_S) -> None:
        super().__init__()
        self._lines = lines
        self._window_s = window_s
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._written: Tally[str] = Tally()
        self._left_out: Tally[str] = Tally()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written."""
        now = monotonic()
        with self._lock:
            if now - self._since.get(record.name, -self._window_s) >= self._window_s:
                self._since[record.name] = now
                self._written[record.name] = 0
            self._written[record.name] += 1
            if self._written[record.name] > self._lines:
                self._left_out[record.name] += 1
                return False
            left_out = self._left_out.pop(record.name, 0)
        if left_out:
            record.left_out = left_out
        return True


def configure_logs(
    log_format: LogFormat,
    level: LogLevel,
    *,
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> logging.Handler:
    """Write every log line of this process to stderr in one shape; return the handler, for whoever takes it off.

    Args:
        log_format: JSON lines, or columns for people; "auto" is the latter on a terminal.
        level: least important lines that are written; libraries' below "warning" are never.
        stream: instead of stderr.
        secrets: texts that are replaced wherever they stand in a line.
    """
    out = stream or sys.stderr
    people = log_format == "console" or (log_format == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _common],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *_rendering([secret for secret in secrets if secret], people=people),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    quiet = Quiet()
    handler.addFilter(lambda record: _ours(record.name) or quiet.filter(record))
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    return handler


def _ours(name: str) -> bool:
    return name.partition(".")[0] in {"infra", "stream", "model", "storage"}


def _common(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Fields that every line has."""
    record: logging.LogRecord = event["_record"]
    return {
        "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "component": record.name,
        **event,
    }


def _rendering(secrets: Sequence[str], *, people: bool) -> list[Processor]:
    render: Processor = (
        structlog.dev.ConsoleRenderer(timestamp_key="at")
        if people
        else structlog.processors.JSONRenderer(default=str)
    )

    def hide(_logger: WrappedLogger, _name: str, line: str) -> str:
        for secret in secrets:
            line = line.replace(secret, _HIDDEN)
        return line

    return [render, hide] if secrets else [render]  # type: ignore[list-item]
