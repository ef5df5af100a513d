"""How event times follow each other in a log: what is late, and what jumps ahead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from stream.verdicts import NEVER, future_dated, running_max

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

_BIN_EDGES = np.concatenate(([1.0], 1.02 ** np.arange(1, 1_500))).astype(np.float64)


@dataclass(slots=True)
class Order:
    """How event times follow each other, record by record.

    Attributes:
        jump_ms: records further ahead of the newest time are left out, as a replay leaves them
            out; None leaves out none.
        newest: largest event time so far, ms.
        late: records older than the newest one before them.
        largest_ms: how much older at most.
        furthest_ms: largest step ahead of the newest time.
        left_out: records left out.
        bins: late records by how late they are, bins 2 % wide.
    """

    jump_ms: int | None = None
    newest: int = NEVER
    late: int = 0
    largest_ms: int = 0
    furthest_ms: int = 0
    left_out: int = 0
    bins: Ints = field(default_factory=lambda: np.zeros(len(_BIN_EDGES) + 1, np.int64))

    def add(self, ts: Ints) -> None:
        """Go on with the next records' event times, ms."""
        if self.jump_ms is not None:
            ahead = future_dated(
                ts,
                np.full(len(ts), NEVER),
                max_event_ms=self.newest,
                lateness_ms=0,
                ahead_ms=0,
                jump_ms=self.jump_ms,
            )
            self.left_out += int(ahead.sum())
            ts = ts[~ahead]
        if not len(ts):
            return
        before = running_max(ts, self.newest)
        if before[0] == NEVER:
            before[0] = ts[0]
        behind = before - ts
        self.furthest_ms = max(self.furthest_ms, int(-behind.min()))
        late = behind[behind > 0]
        if len(late):
            self.late += len(late)
            self.largest_ms = max(self.largest_ms, int(late.max()))
            self.bins += np.bincount(np.searchsorted(_BIN_EDGES, late), minlength=len(self.bins))
        self.newest = max(self.newest, int(ts.max()))

    def quantile(self, share: float) -> int:
        """Return how late, ms, a share of the late records is at most; at most 2 % too large."""
        if not self.late:
            return 0
        at = int(np.searchsorted(np.cumsum(self.bins), share * self.late))
        return min(self.largest_ms, int(_BIN_EDGES[min(at, len(_BIN_EDGES) - 1)]))
