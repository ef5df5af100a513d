"""What a check of a log found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from stream.check.columns import ColumnUse
    from stream.check.histories import HistoryFigures
    from stream.check.proposals import Proposal
    from stream.check.tally import BadRecords
    from stream.config import Role

Level = Literal["problem", "warning", "note"]

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to know, and what to do about it.

    Attributes:
        level: a "problem" must be solved before the log is used.
        what: is the case.
        remedy: what to do; empty where there is nothing to do.
    """

    level: Level
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeReport:
    """Event times.

    Attributes:
        written: how the file writes them, in words.
        evidence: why that is believed.
        first_ms: earliest, None without events.
        last_ms: latest.
    """

    written: str
    evidence: str
    first_ms: int | None
    last_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReport:
    """Order of the log.

    Attributes:
        out_of_order: share of events older than an earlier one.
        in_file: the same within each file.
        p50_ms: how late the late ones are.
        p99_ms: 99 % of them are at most this late.
        max_ms: all of them are.
        furthest_ms: largest step ahead of all events before.
        strays: records far ahead of all others.
    """

    out_of_order: float
    in_file: float
    p50_ms: int
    p99_ms: int
    max_ms: int
    furthest_ms: int
    strays: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthReport:
    """Lengths of histories: events that are remembered, so no returns and no types without a role.

    Attributes:
        users: with any event.
        events: in histories.
        quantiles: share of users -> longest history among the shortest histories.
        long: length that tokens need: n + r_min.
        long_users: share of users with that or more.
        long_events: share of events that are theirs.
        reach: events of one user that one slate can read: w token groups and r_max recents.
        beyond: share of events further back than that.
    """

    users: int
    events: int
    quantiles: dict[float, int]
    long: int
    long_users: float
    long_events: float
    reach: int
    beyond: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemReport:
    """Items.

    Attributes:
        items: distinct ones.
        once: share of them seen once.
        median: events of the middle one.
        top: share of events of the most frequent hundredth.
        most_frequent: some items with their events.
    """

    items: int
    once: float
    median: int
    top: float
    most_frequent: list[tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeReport:
    """One event type, and what it is proposed to do."""

    name: str
    events: int
    share: float
    role: Role
    weight: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Everything a check found.

    Attributes:
        files: read, in reading order.
        format: of them.
        records: rows or lines, a CSV header left out.
        interactions: good ones.
        item_records: lines that are items.
        blank: empty lines.
        bad_records: records that are nothing.
        bad: by reason.
        returns: interactions with a negative value.
        columns: and what they are.
        time: how times are written.
        order: of the log.
        lengths: of histories.
        items: and how often they are used.
        types: of events, the most frequent ones.
        distinct_types: how many there are.
        histories: figures over users' events side by side.
        sampled: 1 if they are of all users, k for one in k.
        proposals: settings that fit.
        advice: the gravest first.
        damage: what ended the reading early, empty if nothing did.
    """

    files: list[str]
    format: str
    records: int
    interactions: int
    item_records: int
    blank: int
    bad_records: int
    bad: list[BadRecords]
    returns: int
    columns: list[ColumnUse]
    time: TimeReport
    order: OrderReport
    lengths: LengthReport
    items: ItemReport
    types: list[TypeReport]
    distinct_types: int
    histories: HistoryFigures
    sampled: int
    proposals: list[Proposal]
    advice: list[Advice]
    damage: str

    @property
    def problems(self) -> list[Advice]:
        """What must be solved before the log is used."""
        return [one for one in self.advice if one.level == "problem"]
