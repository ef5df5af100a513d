"""Sinks: where slates go."""

from __future__ import annotations

from typing import Protocol

from stream.slates import SlateLines


class Sink(Protocol):
    """Takes slates and makes them durable."""

    def write(self, slates: SlateLines) -> None:
        """Write `slates` in order; they are durable when this returns.

        Raises:
            SinkError: not all of them could be written. The caller may write the same slates
                again: ids tell repeats apart.
        """
        ...

    def close(self) -> None:
        """Release what the sink holds; safe to call twice."""
        ...
