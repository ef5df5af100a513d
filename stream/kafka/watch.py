"""What a consumer does not say by itself: a partition that stands still, a broker that is gone.

A consumer that returns nothing may be right. So the log is asked, seldom, for its last stable offsets: what
lies before them can be read, an open transaction does not. Only a partition that stands still before them is
stalled. The end that a consumer knows will not do: it comes with what is fetched, and a stalled partition is
not fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from stream.errors import BrokerError, StalledError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stream.events import Partition

    Ends: TypeAlias = "Callable[[], Mapping[Partition, int] | None]"

_POLLS = 10  # a partition is stalled only after so many chances to move
_ASKS = 4  # times the log is asked before a partition is called stalled


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition was read.

    Attributes:
        position: offset of the next record.
        end: offset after the newest record, transactions still open included; None before the first answer.
    """

    position: int
    end: int | None

    @property
    def lag(self) -> int | None:
        """Records between position and end, transaction markers included."""
        return None if self.end is None else max(0, self.end - self.position)


class Watch:
    """Told after every poll how far partitions were read.

    Args:
        ends: the log's last stable offsets; None when the broker does not answer. Only the watch asks.
        stall_s: seconds a partition may stand still before such an end; 0 never looks.
        outage_s: seconds the broker may be gone; 0 waits for it without a bound.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        ends: Ends,
        *,
        stall_s: float,
        outage_s: float = 0.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._ends = ends
        self._stall_s = stall_s
        self._outage_s = outage_s
        self._clock = clock
        self._at: dict[Partition, tuple[int, float]] = {}
        self._behind: dict[Partition, tuple[float, int]] = {}
        self._polls = 0
        self._asked = self._heard = clock()

    def rest(self) -> None:
        """Forget what stood still: nothing was polled on purpose."""
        self._at.clear()
        self._behind.clear()
        self._heard = self._clock()

    def polled(self, progress: Mapping[Partition, Progress], *, full: bool = False) -> None:
        """Compare with what was seen before.

        Args:
            progress: how far every partition was read.
            full: the poll returned as many records as it may: partitions without one wait for their turn, and a
                large backlog of the others may take longer than a stall.

        Raises:
            StalledError: a partition has readable records and does not move.
            BrokerError: the broker has been gone for longer than allowed.
        """
        if full:
            self.rest()
        now = self._clock()
        self._polls += 1
        still = self._still(progress, now)
        silent = 0 < self._outage_s <= now - self._heard
        if (not still and not silent) or now - self._asked < self._pause_s(silent=silent):
            return
        ends = self._ends()
        self._asked = self._clock()
        if ends is not None:
            self._heard = self._asked
            self._compare(still, ends, self._asked)
            return
        self._behind.clear()
        if silent:
            raise BrokerError(
                f"the broker has not answered for {now - self._heard:.0f} s, longer than kafka.outage_limit_s"
                " allows; start again when it is back"
            )

    def _pause_s(self, *, silent: bool) -> float:
        limits = [s for s in (self._stall_s, self._outage_s if silent else 0) if s > 0]
        return min(limits) / _ASKS

    def _still(self, progress: Mapping[Partition, Progress], now: float) -> dict[Partition, int]:
        """Positions of partitions that have not moved for a while."""
        still = {}
        for partition, found in progress.items():
            position, since = self._at.get(partition, (None, now))
            if position != found.position:
                self._at[partition] = found.position, now
                self._behind.pop(partition, None)
                self._heard = now
            elif 0 < self._stall_s <= _ASKS * (now - since):
                still[partition] = found.position
        return still

    def _compare(
        self, still: Mapping[Partition, int], ends: Mapping[Partition, int], now: float
    ) -> None:
        for partition, position in still.items():
            if ends.get(partition, 0) <= position:
                self._behind.pop(partition, None)
                continue
            since, polls = self._behind.setdefault(partition, (now, self._polls))
            if now - since >= self._stall_s and self._polls - polls >= _POLLS:
                raise StalledError(
                    f"{partition}: {ends[partition] - position} offsets from {position} on can be read and"
                    f" nothing arrived for {now - since:.0f} s; start again, a new connection reads on"
                )
