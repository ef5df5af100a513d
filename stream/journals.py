"""The journal of another run, for a replay that is to give that run's slates.

Its entries come from a database file of freshet or from JSON lines; a replay applies them at their positions instead of
ticking by event time. A run that became visible is made again: the same segments of the same users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from storage import journal, visibility
from stream.errors import JournalError
from stream.segments import Due

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from storage.identities import Identities
    from storage.records import PartitionKey, Reader

APPLIED = ("group_visible", "popularity", "availability")
"""Kinds of entries that begin to apply at their positions."""


class PastEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One journal entry without anything internal to its database; a line of JSON.

    Attributes:
        kind: what changed.
        ref: what it refers to.
        detail: further values.
        at_ms: when it was written.
        places: (topic, partition, offset of the first event it applies to).
        model_version: of a run that became visible.
        groups: (user, segment) of the token groups of that run.
    """

    kind: str
    ref: str
    detail: dict[str, Any]
    at_ms: int
    places: list[tuple[str, int, int]]
    model_version: str = ""
    groups: list[tuple[str, int]] = []

    @property
    def positions(self) -> dict[PartitionKey, int]:
        """Per partition the offset of the first event it applies to."""
        return {(topic, part): off for topic, part, off in self.places}


def past_entries(reader: Reader) -> Iterator[PastEntry]:
    """Return the entries of a database's journal, as they were written."""
    made = visibility.groups_by_run(reader)
    for entry in journal.entries(reader):
        run = int(entry.ref) if entry.kind == "group_visible" else 0
        version, groups = made.get(run, ("", []))
        yield PastEntry(
            kind=entry.kind,
            ref=entry.ref,
            detail=entry.detail,
            at_ms=entry.at_ms,
            places=[(topic, part, off) for (topic, part), off in entry.positions.items()],
            model_version=version,
            groups=groups,
        )


def write_journal(entries: Iterable[PastEntry], path: Path) -> int:
    """Write entries as JSON lines; returns their number."""
    lines = [msgspec.json.encode(entry) + b"\n" for entry in entries]
    path.write_bytes(b"".join(lines))
    return len(lines)


def read_journal(path: Path) -> list[PastEntry]:
    """Return the entries of a file of JSON lines.

    Raises:
        JournalError: it is missing, or a line is no entry.
    """
    try:
        return msgspec.json.Decoder(PastEntry).decode_lines(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise JournalError(f"{path}: {error}; export the journal of the run again") from error


def applied(entries: Iterable[PastEntry]) -> list[PastEntry]:
    """The entries that begin to apply somewhere, in the order in which they do."""
    found = [one for one in entries if one.kind in APPLIED]
    order = sorted(range(len(found)), key=lambda i: (sum(off for *_, off in found[i].places), i))
    return [found[i] for i in order]


def shed_ranges(entries: Iterable[PastEntry]) -> list[tuple[PartitionKey, int, int]]:
    """Partition, first and exclusive last offset of what was shed, in order."""
    found = []
    for entry in entries:
        if entry.kind == "shed":
            topic, _, part = entry.ref.rpartition("/")
            found.append(((topic, int(part)), int(entry.detail["from"]), int(entry.detail["to"])))
    return sorted(found)


def due_of(groups: Sequence[tuple[str, int]], identities: Identities) -> list[Due]:
    """The segments of a run, by user.

    Raises:
        JournalError: a user of the run is not in the log.
    """
    segments: dict[int, list[int]] = {}
    for user_id, segment in groups:
        user = identities.find_user(user_id)
        if user is None:
            raise JournalError(
                f"the journal compresses user {user_id!r}, who is not in the log; replay the log it is of"
            )
        segments.setdefault(user, []).append(segment)
    return [Due(user, min(own), max(own)) for user, own in sorted(segments.items())]
