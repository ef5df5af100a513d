"""The ways in which latency beside a broker is measured: whose events come, and what the service is told."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

HOT, ROOM = 40, 100
"""Users that come again soon, and states that memory holds, where not all fit."""
ALL = 100
"""Active users where every state is to be in memory."""
_TICK_S = 8
"""The first tick comes after what warms up, and has all that is due to compress."""
PLAIN, HITS, BACKLOG = "baseline: no model", "every state in memory", "compressing a backlog"


@dataclass(frozen=True, slots=True)
class Case:
    """One way to be measured.

    Attributes:
        name: of it.
        hits: share of events whose user's state is to be found in memory; None for all of them.
        plain: the service without a model.
        backlog: with segments compressed meanwhile.
    """

    name: str
    hits: float | None = None
    plain: bool = False
    backlog: bool = False

    def users(self, events: int, active: int) -> list[int]:
        """Return whose event is which: users that come again soon, and users that come again too late."""
        if self.hits is None:
            return [number % min(active, ALL) for number in range(events)]
        hot, cold = count(), count()
        found = []
        for number in range(events):
            again = int((number + 1) * self.hits) > int(number * self.hits)
            found.append(next(hot) % HOT if again else HOT + next(cold) % (active - HOT))
        return found

    def settings(self) -> dict[str, object]:
        """Return what its service is told."""
        told: dict[str, object] = {} if self.hits is None else {"serving.max_users": ROOM}
        if self.backlog:
            told["live.tick_interval_s"] = _TICK_S
        return told


CASES = (
    Case(BACKLOG, backlog=True),
    Case(PLAIN, plain=True),
    Case(HITS),
    Case("95 % of states in memory", hits=0.95),
    Case("half of the states in memory", hits=0.5),
    Case("no state in memory", hits=0.0),
    Case(HITS),
    Case(PLAIN, plain=True),
)
"""In the order in which they are run; what comes twice counts together."""
