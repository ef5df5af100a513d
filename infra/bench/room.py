"""What a benchmark is given: a folder to work in, its size, and a way to say what it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


def _silent(text: str) -> None:
    del text


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where and how large a benchmark runs.

    Attributes:
        folder: an empty folder of its own; removed afterwards.
        quick: the reduced form: it shows that the benchmark works, not what freshet can do.
        note: told what happens, for a progress line.
        bootstrap: a running broker for benchmarks that need one; empty lets them start their own.
    """

    folder: Path
    quick: bool = False
    note: Callable[[str], None] = _silent
    bootstrap: str = ""

    def size(self, full: T, quick: T) -> T:
        """Return one of two sizes."""
        return quick if self.quick else full
