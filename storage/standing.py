"""How far a database goes in each partition of its log."""

from __future__ import annotations

from dataclasses import dataclass

from storage import positions
from storage.records import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a database goes in one partition: the log continues it at `next_off`, slates at `scored_off`."""

    topic: str
    part: int
    next_off: int
    scored_off: int


def standing(reader: Reader) -> list[Standing]:
    """Return how far a database goes, one row per partition, sorted."""
    scored = positions.scored_offsets(reader)
    return [
        Standing(topic=topic, part=part, next_off=off, scored_off=scored.get((topic, part), 0))
        for (topic, part), off in sorted(positions.next_offsets(reader).items())
    ]
