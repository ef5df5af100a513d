"""Slates in memory, for tests and programs that want them directly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream.errors import SinkError
from stream.slates import decode_slate

if TYPE_CHECKING:
    from stream.slates import Slate, SlateLines


class MemorySink:
    """Keeps slates in a list.

    Attributes:
        slates: everything written, in order.
    """

    def __init__(self) -> None:
        self.slates: list[Slate] = []
        self._closed = False

    def write(self, slates: SlateLines) -> None:
        """Append `slates`.

        Raises:
            SinkError: the sink is closed.
        """
        if self._closed:
            raise SinkError("the sink is closed; open another")
        self.slates.extend(map(decode_slate, slates.lines()))

    def close(self) -> None:
        """Take no more slates."""
        self._closed = True
