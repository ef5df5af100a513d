"""A replay of another run: its journal says what applied where, so its slates come out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from storage import interactions, journal
from storage.journal import Draft, JournalEntry
from storage.records import PartitionKey
from stream.clock import from_ms
from stream.cuts import Cut
from stream.journals import APPLIED, PastEntry, applied, due_of, shed_ranges
from stream.passage import Passage
from stream.ticks import Plan, TickReport
from stream.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from storage.journal import Kind
    from stream.parts import Parts


class ByJournal(Passage):
    """Entries apply where they did in the recorded run; nothing else ticks.

    A run's groups are compressed where they became visible. What the recorded run shed gets no slate here either.

    Args:
        parts: of the pipeline.
        entries: the recorded journal.
        partitions: what the log has; entries wait until it is stored up to them.
    """

    announces = False  # the recorded run did

    def __init__(
        self, parts: Parts, entries: Sequence[PastEntry], partitions: Collection[PartitionKey]
    ) -> None:
        super().__init__(parts)
        parts.shared.scattered = True
        self._partitions = set(partitions)
        self._walk: Walk[JournalEntry | PastEntry] = Walk(parts.ahead, parts.cut, self._begin)
        done = sum(entry.kind in APPLIED for entry in journal.entries(parts.db))
        self._walk.announce([*self._beyond(), *applied(entries)[done:]])
        reached = parts.cut.next_offsets
        self._sheds = [one for one in shed_ranges(entries) if one[2] > reached.get(one[0], 0)]

    def answer(self, upto: Mapping[PartitionKey, int] | None, *, shed: bool, whole: bool) -> None:  # noqa: ARG002
        """Let everything stored pass that the recorded entries allow."""
        stored = self._parts.ingest.next_offsets
        held = self._open_sheds(stored, whole=whole)
        given = {} if whole else {key: stored.get(key, 0) for key in self._partitions} | held
        self._take(self._walk.by_entries(stored | held, given))

    def tick(self, now: datetime) -> TickReport:
        """Nothing: the recorded ticks are all there are."""
        return TickReport(now, 0, 0, 0.0)

    def _open_sheds(
        self, stored: Mapping[PartitionKey, int], *, whole: bool
    ) -> dict[PartitionKey, int]:
        """Leave out what was shed; a range that is not stored to its end is not begun: returns where those begin."""
        parts, held, waiting = self._parts, dict[PartitionKey, int](), []
        for key, first, after in self._sheds:
            if whole or after <= stored.get(key, 0):
                parts.answers.unanswered.add(
                    interactions.read_range(parts.db, *key, first, min(after, stored.get(key, 0)))
                )
            else:
                waiting.append((key, first, after))
                held[key] = min(first, held.get(key, stored.get(key, 0)))
        self._sheds = waiting
        return held

    def _begin(self, entry: JournalEntry | PastEntry) -> None:
        """Write down a recorded entry as this run's own, then let it apply."""
        if isinstance(entry, JournalEntry):
            self._apply(entry)
        elif entry.kind == "group_visible":
            self._compress(entry)
        else:
            detail = dict(entry.detail)
            if entry.kind == "popularity":
                detail["n_items"] = self._parts.cut.n_items  # as items are numbered here
            draft = Draft(
                kind=cast("Kind", entry.kind),
                ref=entry.ref,
                detail=detail,
                positions=entry.positions,
                at=from_ms(entry.at_ms),
            )
            with self._parts.db.transaction() as tx:
                (own,) = journal.append_all(tx, [draft])
            self._apply(own)

    def _compress(self, entry: PastEntry) -> None:
        """Make the groups that became visible, and make them visible."""
        parts, at = self._parts, from_ms(entry.at_ms)
        due = due_of(entry.groups, parts.identities)
        refresher = parts.refresher
        if refresher is None or entry.model_version != refresher.version or not due:
            return
        cut = Cut(parts.cut.lateness_ms, entry.positions, dict(parts.cut.newest_ms))
        wanted = refresher.wanted(cut.watermarks(), at, due)
        shown = [wanted.run] if wanted else []
        plan = Plan(at, cut, wanted, shown, renews=False)
        for own in parts.ticks.carry_out([plan]):
            self._apply(own)
        parts.summary.segments += sum(map(len, due))
